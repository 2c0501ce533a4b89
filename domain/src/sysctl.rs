//! The kernel settings that a plan may set on a host, and that a run records: all of them belong to
//! a network namespace, so setting one in a lab's host touches nothing else.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A setting below `/proc/sys/net`, by its last name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sysctl {
    /// The range from which the kernel chooses source ports.
    IpLocalPortRange,
    /// Ports that the kernel does not choose by itself.
    IpLocalReservedPorts,
    /// The smallest port that needs no privilege to bind.
    IpUnprivilegedPortStart,
    /// The upper bound of a listener's backlog.
    Somaxconn,
    /// Half-open connections that a listener remembers before it drops or sends cookies.
    TcpMaxSynBacklog,
    /// Whether a full accept queue answers a final ACK with RST.
    TcpAbortOnOverflow,
    /// SYN cookies: 0 never, 1 when the queue is full, 2 always.
    TcpSyncookies,
    /// Whether `connect` may take over a port in TIME_WAIT.
    TcpTwReuse,
    /// How many sockets in TIME_WAIT the namespace keeps.
    TcpMaxTwBuckets,
    /// Seconds that an orphaned socket stays in FIN_WAIT_2.
    TcpFinTimeout,
}

/// Settings and the values that they are to have or had, as the kernel writes them.
pub type Sysctls = BTreeMap<Sysctl, String>;

impl Sysctl {
    /// Every setting, in the order of the file tree.
    pub const ALL: [Self; 10] = [
        Self::Somaxconn,
        Self::IpLocalPortRange,
        Self::IpLocalReservedPorts,
        Self::IpUnprivilegedPortStart,
        Self::TcpAbortOnOverflow,
        Self::TcpFinTimeout,
        Self::TcpMaxSynBacklog,
        Self::TcpMaxTwBuckets,
        Self::TcpSyncookies,
        Self::TcpTwReuse,
    ];

    /// Its last name, as in `/proc/sys` and in a plan: `somaxconn`.
    pub fn name(self) -> &'static str {
        match self {
            Self::IpLocalPortRange => "ip_local_port_range",
            Self::IpLocalReservedPorts => "ip_local_reserved_ports",
            Self::IpUnprivilegedPortStart => "ip_unprivileged_port_start",
            Self::Somaxconn => "somaxconn",
            Self::TcpMaxSynBacklog => "tcp_max_syn_backlog",
            Self::TcpAbortOnOverflow => "tcp_abort_on_overflow",
            Self::TcpSyncookies => "tcp_syncookies",
            Self::TcpTwReuse => "tcp_tw_reuse",
            Self::TcpMaxTwBuckets => "tcp_max_tw_buckets",
            Self::TcpFinTimeout => "tcp_fin_timeout",
        }
    }

    /// The setting of that last name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// Its file: `/proc/sys/net/core/somaxconn`.
    pub fn path(self) -> String {
        let folder = if self == Self::Somaxconn { "core" } else { "ipv4" };
        format!("/proc/sys/net/{folder}/{}", self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_plan_is_the_name_in_proc() {
        for sysctl in Sysctl::ALL {
            let json = serde_json::to_string(&sysctl).expect("an enum serialises");
            assert_eq!(json, format!("\"{}\"", sysctl.name()));
            assert_eq!(Sysctl::named(sysctl.name()), Some(sysctl));
        }
    }
}
