//! What the holder tells its caller: one line of JSON each.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use crate::spec::LabKind;

/// One line of the holder's standard output. The first is `up`, `refused` or `failed`; then only `exited`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// All processes are started (not: ready).
    Up(LabUp),
    /// This machine does not allow such a lab; a lab of another kind may still come up.
    Refused {
        /// The reason and its remedy.
        why: String,
    },
    /// The lab cannot come up as it was asked for, of whatever kind.
    Failed {
        /// The reason and its remedy.
        why: String,
    },
    /// A process ended without having been told to.
    Exited(ExitNotice),
}

/// The lab as it came up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabUp {
    /// What the hosts are.
    pub kind: LabKind,
    /// Whether the namespaces are owned by a user namespace, which is how they exist without privilege.
    pub rootless: bool,
    /// Where the controller can be reached by the agents.
    pub control: Ipv4Addr,
    /// The controller's process.
    pub controller_pid: u32,
    /// The hosts in the order of the spec.
    pub hosts: Vec<HostUp>,
    /// What the lab lacks, in sentences: no IPv6, say.
    pub notes: Vec<String>,
    /// How long it took from reading the spec to having started the last process.
    pub took_ms: u64,
}

/// One host as it came up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostUp {
    /// The host's name.
    pub name: String,
    /// Its agent's process; `/proc/PID/ns/net` is the way into its namespace.
    pub pid: u32,
    /// Its IPv4 data addresses.
    pub v4: Vec<Ipv4Addr>,
    /// Its IPv6 data addresses; empty where the lab has no IPv6.
    pub v6: Vec<Ipv6Addr>,
    /// Its address on the control network.
    pub control: Ipv4Addr,
}

/// A process of the lab ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitNotice {
    /// The host's name, `controller`, or `lab-holder`.
    pub name: String,
    /// `exit code 1` or `signal 9`.
    pub status: String,
    /// The end of its log, empty where it had none.
    pub log_tail: String,
}
