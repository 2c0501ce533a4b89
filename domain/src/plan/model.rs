//! A plan that has been checked: if you hold one, every value is in range and every default is set.
//! The serialised form of a `Setup` is the form of a plan file.

use super::accept::Accept;
use super::activity::Activity;
use super::close::Close;
use super::route::Route;
use super::stage::Stage;
use crate::capacity::Limit;
use crate::id::PlanDigest;
use crate::ports::PortSet;
use crate::script::Step;
use crate::sysctl::Sysctls;
use crate::units::{Count, Ppm, Rate, Span};
use crate::verdict::ClaimId;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
    /// Whether cases that do not fit on the hosts are left out, instead of the plan being refused.
    pub partial: bool,
    /// Networks that reach each other, beside those that hold both ends.
    pub routes: Vec<Route>,
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
    /// The script that is done in place of the load; empty where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "lines")]
    pub steps: Vec<Step>,
}

fn lines<S: serde::Serializer>(steps: &[Step], serializer: S) -> Result<S::Ok, S::Error> {
    let lines: Vec<String> = steps.iter().map(ToString::to_string).collect();
    serializer.serialize_str(&lines.join("\n"))
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
    /// Whether connection tracking is made active on each host for the case.
    pub conntrack: bool,
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
    /// Whether connection tracking is made active on each host for the case.
    pub conntrack: bool,
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
    /// How many more than the model says the hosts can hold are tried, to see what becomes of them.
    pub excess: u32,
    /// Whether a connection counts once the server's application has answered on it; else, once its
    /// handshake is over.
    pub answered: bool,
    /// Connects begun per second over all clients; where there are stages, they say it.
    pub rate: Rate,
    /// The ramp, stage by stage, over all clients; empty where the rate says it all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
    /// Connections replaced per second over all clients while they are held: the oldest is closed, a
    /// new one opened in its place. `None` is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub churn: Option<Rate>,
    /// How a connection that is replaced is closed.
    #[serde(skip_serializing_if = "is_default")]
    pub close: Close,
    /// What is sent, and sent back, on each connection while it is held; `None` is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// How long all connections are held once the last one is up.
    pub hold: Span,
    /// How long one connection may take to be answered.
    pub timeout: Span,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
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

    /// No address in particular.
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::Ipv6 => Ipv6Addr::UNSPECIFIED.into(),
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
    /// Of all connects, 99 in a hundred take at most this long.
    ConnectP99(Span),
    /// In no full second is the rate of the plan missed by more than this share of it.
    RampError(Ppm),
    /// This limit is the one that bound.
    BoundBy(Limit),
    /// Every step of this label answers this.
    Answer(AnswerIs),
}

/// What a step is to answer: `queue = 21`, `again = EADDRINUSE`, `wire:rst_out = 0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerIs {
    /// The step's label.
    pub label: String,
    /// The detail that is looked at; without one it is the value, if `is` is a number, or the outcome.
    pub detail: Option<String>,
    /// What it is to be.
    pub is: String,
}

impl AnswerIs {
    /// What the answer has there; `None` where it has nothing of that name.
    pub fn of(&self, answer: &crate::script::Answer) -> Option<String> {
        match &self.detail {
            Some(detail) => answer.details.get(detail).cloned(),
            None if self.is.parse::<u64>().is_ok() => answer.value.map(|value| value.to_string()),
            None => Some(answer.outcome.clone()),
        }
    }
}

impl fmt::Display for Expectation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EstablishedAsPredicted => f.write_str("established = \"predicted\""),
            Self::Established(count) => write!(f, "established = \"{}\"", Count(*count)),
            Self::Failed(ppm) => write!(f, "failed = \"{ppm}\""),
            Self::Rate(rate) => write!(f, "rate = \"{}\"", Rate::PerSecond(*rate)),
            Self::ConnectP99(most) => write!(f, "connect_p99 = \"{most}\""),
            Self::RampError(most) => write!(f, "ramp_error = \"{most}\""),
            Self::BoundBy(limit) => write!(f, "bound_by = \"{}\"", limit.name()),
            Self::Answer(answer) => write!(f, "answer = \"{answer}\""),
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

impl std::str::FromStr for AnswerIs {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let word =
            |word: &str| !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c.is_control());
        // A detail may be two words: `held:connect EADDRNOTAVAIL = 64`.
        let part = |of: &str| match of.split_once(':') {
            Some((label, detail)) => word(label) && detail.split(' ').all(word),
            None => word(of),
        };
        let found = text.split_once('=').map(|(of, is)| (of.trim(), is.trim()));
        let Some((of, is)) = found.filter(|(of, is)| part(of) && word(is)) else {
            return Err(format!(
                "'{text}' is no answer: write a step's label and what it answers, as in \"held = 21\", \"again = EADDRINUSE\" or \"wire:rst_out = 0\""
            ));
        };
        let (label, detail) = match of.split_once(':') {
            Some((label, detail)) => (label, Some(detail.to_owned())),
            None => (of, None),
        };
        Ok(Self { label: label.to_owned(), detail, is: is.to_owned() })
    }
}

impl fmt::Display for AnswerIs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}:{detail} = {}", self.label, self.is),
            None => write!(f, "{} = {}", self.label, self.is),
        }
    }
}

word_or!(AnswerIs, {
    "type": "string", "description": "A step's label and what it answers: \"held = 21\", \"again = EADDRINUSE\", \"wire:rst_out = 0\"."
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
