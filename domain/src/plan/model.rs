//! A plan that has been checked: if you hold one, every value is in range and every default is set.
//! The serialised form of a `Setup` is the form of a plan file.

use super::accept::Accept;
use crate::capacity::Limit;
use crate::id::PlanDigest;
use crate::ports::PortSet;
use crate::sysctl::Sysctls;
use crate::units::{Count, Ppm, Rate, Span};
use crate::verdict::ClaimId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Words that an agent carries and a cohort may ask for: `role = "server"`, `rack = "b"`.
pub type Labels = BTreeMap<String, String>;

/// One question, and how it is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The plan's name: the digest of its source.
    pub digest: PlanDigest,
    /// The text that the plan was read from.
    pub source: String,
    /// The question, in one sentence.
    pub question: String,
    /// How often each case is repeated.
    pub trials: u32,
    /// What is set for every case before its own values: shown by `tuplelab check`.
    pub base: Setup,
    /// The cases, in the order of the file.
    pub cases: Vec<Case>,
    /// Sentences that can be false.
    pub expectations: Vec<Expectation>,
    /// The common statements that this plan's evidence bears on.
    pub claims: Vec<ClaimId>,
}

/// One point of a plan's sweep: a whole setup.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// What people call it; made from its parameters where the plan gives none.
    pub name: String,
    /// What sets it apart from the base: key and value, as in the file.
    pub parameters: BTreeMap<String, String>,
    /// Everything about it.
    pub setup: Setup,
}

/// Who serves, who connects, how much.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setup {
    /// The passive openers.
    pub servers: Servers,
    /// The active openers.
    pub clients: Clients,
    /// The load.
    pub load: Load,
}

/// A cohort of passive openers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Servers {
    /// How many hosts.
    pub hosts: u32,
    /// Addresses used on each host; more than one makes it multi-homed.
    pub addresses: u32,
    /// Ports listened on at each address.
    pub ports: PortSet,
    /// The backlog given to `listen`.
    pub backlog: u32,
    /// What is done with finished handshakes.
    pub accept: Accept,
    /// The descriptors that one table of a host may hold; `None` is as many as the host allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Labels that a host must carry.
    pub labels: Labels,
    /// Kernel settings that a host is given for the case.
    pub sysctls: Sysctls,
}

/// A cohort of active openers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clients {
    /// How many hosts.
    pub hosts: u32,
    /// Source addresses used on each host.
    pub addresses: u32,
    /// How source ports are chosen.
    pub source_ports: SourcePorts,
    /// The descriptors that one table of a host may hold; `None` is as many as the host allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<u64>,
    /// Labels that a host must carry.
    pub labels: Labels,
    /// Kernel settings that a host is given for the case.
    pub sysctls: Sysctls,
}

/// How source ports are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourcePorts {
    /// By the plan: an explicit `bind` to each.
    Explicit(PortSet),
    /// By the kernel at `connect`, from ip_local_port_range.
    Kernel,
}

/// The load.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Load {
    /// The address family.
    pub family: Family,
    /// How many connections.
    pub connections: Connections,
    /// Whether a connection counts once the server's application has answered on it; else, once its
    /// handshake is over.
    pub answered: bool,
    /// Connects begun per second over all clients.
    pub rate: Rate,
    /// How long all connections are held once the last one is up.
    pub hold: Span,
    /// How long one connection may take to be answered.
    pub timeout: Span,
}

/// The address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4
    Ipv4,
    /// IPv6
    Ipv6,
}

impl Family {
    /// Whether an address is of this family.
    pub fn has(self, address: &IpAddr) -> bool {
        match self {
            Self::Ipv4 => address.is_ipv4(),
            Self::Ipv6 => address.is_ipv6(),
        }
    }

    /// Its name in a plan.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }
}

/// How many connections a case asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// As many as the capacity model says the hosts can hold.
    Max,
    /// Exactly this many.
    Exactly(u64),
}

/// A sentence of a plan that can be false.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expectation {
    /// Every case holds exactly as many connections as the capacity model predicted.
    EstablishedAsPredicted,
    /// Every case holds at least this many connections.
    Established(u64),
    /// At most this share of the flows begun failed.
    Failed(Ppm),
    /// Connections are established at least at this rate.
    Rate(u64),
    /// This limit is the one that bound.
    BoundBy(Limit),
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EstablishedAsPredicted => f.write_str("established = \"predicted\""),
            Self::Established(count) => write!(f, "established = \"{}\"", Count(*count)),
            Self::Failed(ppm) => write!(f, "failed = \"{ppm}\""),
            Self::Rate(rate) => write!(f, "rate = \"{}\"", Rate::PerSecond(*rate)),
            Self::BoundBy(limit) => write!(f, "bound_by = \"{}\"", limit.name()),
        }
    }
}

/// A text form that reads and prints; used for values that are a word or something else.
macro_rules! word_or {
    ($name:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = toml::Value::deserialize(deserializer)?;
                let text = match value {
                    toml::Value::String(text) => text,
                    other => other.to_string(),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!($schema)
            }
        }
    };
}

pub(super) use word_or;

impl std::str::FromStr for SourcePorts {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "kernel" => Ok(Self::Kernel),
            "" => Err("no source port given: write \"kernel\" or ports, as in \"1024-65535\"".into()),
            ports => ports.parse().map(Self::Explicit).map_err(|error: crate::ports::BadPorts| {
                format!("{error}, or \"kernel\" to leave the choice to connect()")
            }),
        }
    }
}

impl fmt::Display for SourcePorts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => f.write_str("kernel"),
            Self::Explicit(ports) => write!(f, "{ports}"),
        }
    }
}

word_or!(SourcePorts, {
    "type": ["string", "integer"],
    "description": "\"kernel\" leaves the choice to connect(); ports such as \"1024-65535\" are bound explicitly."
});

impl std::str::FromStr for Connections {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "max" {
            return Ok(Self::Max);
        }
        let count: Count =
            text.parse().map_err(|error| format!("{error}, or \"max\" for what the hosts can hold"))?;
        Ok(Self::Exactly(count.0))
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Max => f.write_str("max"),
            Self::Exactly(count) => write!(f, "{}", Count(*count)),
        }
    }
}

word_or!(Connections, {
    "type": ["string", "integer"], "description": "\"max\", or a count: 64512, \"250k\", \"1m\"."
});
