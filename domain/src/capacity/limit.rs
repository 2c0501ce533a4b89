//! The limits that the model knows, and what it says of a case.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A bound on how many connections a case can hold. The set is closed: a run that is bound by
/// something else says so as `Unknown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Source address x source port x destination address x destination port (RFC 9293, 3.3.1).
    FourTuples,
    /// Descriptors of one host's engine: tables (lanes) times RLIMIT_NOFILE.
    OpenFiles,
    /// Descriptors of a whole kernel: fs.file-max.
    SystemFiles,
    /// Kernel memory for sockets.
    Memory,
    /// Entries of connection tracking: nf_conntrack_max.
    Conntrack,
    /// Connections that wait to be accepted: min(backlog, somaxconn) + 1 at each listener. A margin
    /// only where the servers do not accept all.
    AcceptQueue,
    /// The plan's own number.
    Plan,
    /// The run stopped short of all these, for a reason outside the model.
    Unknown,
}

impl Limit {
    /// Its name in plans, tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::FourTuples => "four_tuples",
            Self::OpenFiles => "open_files",
            Self::SystemFiles => "system_files",
            Self::Memory => "memory",
            Self::Conntrack => "conntrack",
            Self::AcceptQueue => "accept_queue",
            Self::Plan => "plan",
            Self::Unknown => "unknown",
        }
    }

    /// Where it is set and read.
    pub fn source(self) -> &'static str {
        match self {
            Self::FourTuples => "addresses, listening ports, net.ipv4.ip_local_port_range",
            Self::OpenFiles => "ulimit -Hn (RLIMIT_NOFILE), kernel.threads-max",
            Self::SystemFiles => "fs.file-max",
            Self::Memory => "/proc/meminfo MemAvailable, the cgroup's memory.max",
            Self::Conntrack => "net.netfilter.nf_conntrack_max",
            Self::AcceptQueue => "listen(backlog), net.core.somaxconn",
            Self::Plan => "load.connections in the plan",
            Self::Unknown => "not known to the model",
        }
    }

    /// What lifts it.
    pub fn remedy(self) -> &'static str {
        match self {
            Self::FourTuples => "add a destination (server port or address) or a source address",
            Self::OpenFiles => "raise the hard limit on open files, or add hosts",
            Self::SystemFiles => "raise fs.file-max",
            Self::Memory => "free memory, raise the cgroup's limit, or add hosts with kernels of their own",
            Self::Conntrack => "raise nf_conntrack_max, or take the lab's traffic out of connection tracking",
            Self::AcceptQueue => "raise the backlog and net.core.somaxconn, or accept more",
            Self::Plan => "ask for more connections, or for \"max\"",
            Self::Unknown => "see the failures and the events of the run",
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one limit offers to a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Margin {
    /// Which limit.
    pub limit: Limit,
    /// Where it applies: a host's name, or the hosts that share a kernel.
    pub place: String,
    /// How many connections the whole case can have before this limit binds.
    pub offered: u64,
}

/// What the model says of a case on a set of hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Prediction {
    /// How many connections the case will hold.
    pub connections: u64,
    /// The limit that binds there.
    pub bound_by: Limit,
    /// The limit that binds next, once that one is lifted.
    pub next_bound: Option<Limit>,
    /// Every limit, the tightest first.
    pub margins: Vec<Margin>,
    /// How many connections can wait at one listener until they are accepted.
    pub accept_queue: u64,
}

impl Prediction {
    /// Of a script the model says nothing.
    pub fn none() -> Self {
        Self {
            connections: 0,
            bound_by: Limit::Unknown,
            next_bound: None,
            margins: Vec::new(),
            accept_queue: 0,
        }
    }
}
