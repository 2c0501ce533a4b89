//! Why a plan does not fit on the hosts that there are.

use crate::capacity::Limit;
use crate::id::AgentName;
use crate::plan::Labels;
use crate::sysctl::Sysctl;
use crate::units::thousands;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

fn wanted(labels: &Labels) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let words: Vec<_> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    format!(" with {}", words.join(", "))
}

/// One margin that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shortfall {
    /// Too few agents.
    #[error("case '{case}' asks for {asked} {role} host(s){}, {offered} fit: start agents with the labels and addresses it needs{}", wanted(labels), nearest.as_deref().map(|n| format!(" ({n})")).unwrap_or_default())]
    Hosts {
        /// The case.
        case: String,
        /// `server` or `client`.
        role: String,
        /// The labels asked for.
        labels: Labels,
        /// How many hosts are asked for.
        asked: u32,
        /// How many there are.
        offered: u32,
        /// Why the nearest other host does not fit.
        nearest: Option<String>,
    },
    /// An agent may not make the kernel settings of the plan.
    #[error("case '{case}' sets {} on host {agent}, whose agent may not set kernel settings: start it with --allow-sysctls (on this machine: --lab namespaces), or set it there by hand and leave it out of the plan", sysctl.name())]
    Setting {
        /// The case.
        case: String,
        /// The host.
        agent: AgentName,
        /// The setting.
        sysctl: Sysctl,
    },
    /// An agent may not make connection tracking active.
    #[error(
        "case '{case}' makes connection tracking active on host {agent}, whose agent may not change its kernel: start it with --allow-sysctls (on this machine: --lab namespaces), or leave conntrack out of the plan"
    )]
    MayNotTrack {
        /// The case.
        case: String,
        /// The host.
        agent: AgentName,
    },
    /// A host's kernel has no connection tracking.
    #[error(
        "case '{case}' makes connection tracking active on host {agent}, which shows no net.netfilter.nf_conntrack_max: load the module there (`modprobe nf_conntrack`), or leave conntrack out of the plan"
    )]
    NoTracking {
        /// The case.
        case: String,
        /// The host.
        agent: AgentName,
    },
    /// A host's own limit on descriptors is below the one that it is to give itself.
    #[error("case '{case}' gives the tables of host {agent} {} descriptors, its own limit is {} (ulimit -Hn): ask for fewer files, or raise the hard limit on open files", thousands(*asked), thousands(*offered))]
    Files {
        /// The case.
        case: String,
        /// The host.
        agent: AgentName,
        /// What the plan asks for.
        asked: u64,
        /// What the host allows.
        offered: u64,
    },
    /// A limit is tighter than what is asked.
    #[error("case '{case}': {} connections are possible by {limit} on {place} ({}), {} asked: {}", thousands(*offered), limit.source(), thousands(*asked), limit.remedy())]
    Capacity {
        /// The case.
        case: String,
        /// The limit.
        limit: Limit,
        /// Where it applies.
        place: String,
        /// What the plan asks for.
        asked: u64,
        /// What the limit allows.
        offered: u64,
    },
    /// Addresses that the case uses have no way to each other.
    #[error(
        "case '{case}': {sources} in {from} cannot reach {destinations} in {to}: join the hosts to one network, or, where a router joins these two, declare it in the plan: [[route]] with from = \"{from}\" and to = \"{to}\""
    )]
    Unreachable {
        /// The case.
        case: String,
        /// Addresses of clients, with their hosts.
        sources: String,
        /// The network that they lie on.
        from: IpNet,
        /// Addresses of servers, with their hosts.
        destinations: String,
        /// The network that these lie on.
        to: IpNet,
    },
    /// A step is for a host or an address that there is not.
    #[error("case '{case}': {why}")]
    Step {
        /// The case.
        case: String,
        /// Which.
        why: String,
    },
    /// Nothing at all can be opened.
    #[error("case '{case}': no connection is possible by {limit} on {place} ({}): {}", limit.source(), limit.remedy())]
    Nothing {
        /// The case.
        case: String,
        /// The limit.
        limit: Limit,
        /// Where it applies.
        place: String,
    },
}
