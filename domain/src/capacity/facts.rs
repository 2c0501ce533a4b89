//! What was read from one host before anything is scheduled on it, as numbers.

use crate::environment::Place;
use crate::ports::PortSet;
use crate::sample::TcpState;
use crate::sysctl::{Sysctl, Sysctls};
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The limits of one host, read by its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostFacts {
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// /proc/sys/kernel/random/boot_id: hosts with the same one share a kernel and its memory.
    pub boot_id: String,
    /// Inode of the network namespace: hosts with the same one share its ports and counters.
    pub network_namespace: u64,
    /// Processors that this host may use.
    pub cpus: u32,
    /// Memory that can still be had, in bytes: MemAvailable, or less where a cgroup says less.
    pub memory_available: u64,
    /// Descriptors.
    pub open_files: OpenFiles,
    /// The addresses that it offers for data, in order.
    pub addresses: Vec<IpAddr>,
    /// The networks that these addresses lie on. An address that is in none of them is reached by
    /// routes alone (AnyIP, a /32), or its agent does not say.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub networks: Vec<IpNet>,
    /// The kernel settings as they stand, as the kernel writes them.
    pub sysctls: Sysctls,
    /// TCP sockets that hold a port in its namespace now, those of a run excepted.
    pub bound: Vec<BoundSocket>,
    /// Connection tracking, where rules make it active in this namespace.
    pub conntrack: Option<Conntrack>,
    /// The same table as it stands once a plan makes tracking active here; absent where the kernel
    /// has no connection tracking, or its agent could not read the table.
    pub conntrack_available: Option<Conntrack>,
    /// Whether its agent may set kernel settings for a plan (a lab's may).
    pub may_set_sysctls: bool,
    /// Where it runs; unknown in facts that were stored before agents said so.
    #[serde(default)]
    pub place: Place,
}

/// Limits on descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenFiles {
    /// The hard RLIMIT_NOFILE: how many one descriptor table (a process, or a lane) may hold.
    pub per_table: u64,
    /// fs.file-max: how many the kernel gives out in all.
    pub system: u64,
    /// fs.file-nr: how many are given out now.
    pub allocated: u64,
    /// Whether fs.file-max does not stop this agent (CAP_SYS_ADMIN in the first user namespace).
    pub exempt: bool,
    /// How many threads one process tree may have more (min of RLIMIT_NPROC, pids.max,
    /// kernel.threads-max): each lane is one.
    pub threads: u64,
}

/// A TCP socket that holds a local port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BoundSocket {
    /// Its local address; unspecified (0.0.0.0, ::) is a wildcard.
    pub address: IpAddr,
    /// Its local port.
    pub port: u16,
    /// Its state.
    pub state: TcpState,
}

/// Connection tracking of a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Conntrack {
    /// Entries now.
    pub count: u64,
    /// nf_conntrack_max.
    pub max: u64,
}

impl HostFacts {
    fn number(&self, sysctl: Sysctl) -> Option<u64> {
        self.sysctls.get(&sysctl)?.trim().parse().ok()
    }

    /// The range from which the kernel chooses source ports; its default (32768-60999,
    /// Documentation/networking/ip-sysctl.rst) where the host did not say.
    pub fn port_range(&self) -> PortSet {
        let text = self.sysctls.get(&Sysctl::IpLocalPortRange);
        let bounds = text.and_then(|text| {
            let mut words = text.split_whitespace().map(str::parse::<u16>);
            Some((words.next()?.ok()?, words.next()?.ok()?))
        });
        let (low, high) = bounds.unwrap_or((32768, 60999));
        PortSet::range(low, high)
    }

    /// Ports that the kernel does not choose by itself.
    pub fn reserved_ports(&self) -> PortSet {
        let text = self.sysctls.get(&Sysctl::IpLocalReservedPorts);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or_default()
    }

    /// The bound of a listener's backlog; 4096 (since Linux 5.4) where the host did not say.
    pub fn somaxconn(&self) -> u32 {
        self.number(Sysctl::Somaxconn).and_then(|n| u32::try_from(n).ok()).unwrap_or(4096)
    }

    /// The smallest port that needs no privilege to bind; 1024 where the host did not say.
    pub fn unprivileged_port_start(&self) -> u16 {
        self.number(Sysctl::IpUnprivilegedPortStart).and_then(|n| u16::try_from(n).ok()).unwrap_or(1024)
    }

    /// These facts with tables of at most so many descriptors.
    pub fn with_files(mut self, files: Option<u64>) -> Self {
        if let Some(files) = files {
            self.open_files.per_table = self.open_files.per_table.min(files);
        }
        self
    }

    /// These facts as they will be once the plan's settings are made.
    pub fn with(&self, sysctls: &Sysctls) -> Self {
        let mut facts = self.clone();
        facts.sysctls.extend(sysctls.iter().map(|(sysctl, value)| (*sysctl, value.clone())));
        facts
    }

    /// These facts as they will be once the plan makes connection tracking active here.
    pub fn tracking(mut self) -> Self {
        self.conntrack = self.conntrack.or(self.conntrack_available);
        self
    }
}
