//! The common statements about TCP and scale: what each says, how it is tried, and how evidence bears
//! on it. One file a claim; `Points` gathers what its experiment showed.

mod c1;
mod c2;
mod c3;
mod c4;
mod c5;
mod c6;
mod c7;
mod c8;
mod law;

use super::point::Points;
use super::{Finding, Verdict};
use crate::evidence::TrialEvidence;
use crate::plan::{Case, Plan};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::fmt;

#[cfg(test)]
pub(super) mod tests;

/// A common statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClaimId {
    /// A connection is its 5-tuple.
    #[serde(alias = "c1")]
    C1,
    /// A server listens and talks on the same port; clients take different, random source ports.
    #[serde(alias = "c2")]
    C2,
    /// One client address has at most 64K connections to one server address and port.
    #[serde(alias = "c3")]
    C3,
    /// More client addresses, server ports or server addresses multiply it.
    #[serde(alias = "c4")]
    C4,
    /// The real limit is file descriptors.
    #[serde(alias = "c5")]
    C5,
    /// Requests wait in a backlog of 5 to 10.
    #[serde(alias = "c6")]
    C6,
    /// A connection can fail after a successful handshake, with a FIN.
    #[serde(alias = "c7")]
    C7,
    /// One passive socket a port, many active ones.
    #[serde(alias = "c8")]
    C8,
}

/// What a reader is told of a claim beside a run's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// How it works.
    pub mechanism: &'static str,
    /// How it is tried.
    pub experiment: &'static str,
    /// What would change the verdict.
    pub changes: &'static str,
    /// Where to read on: RFC sections, man pages, kernel files.
    pub reading: &'static [&'static str],
}

impl ClaimId {
    /// Every claim, in order.
    pub const ALL: [Self; 8] =
        [Self::C1, Self::C2, Self::C3, Self::C4, Self::C5, Self::C6, Self::C7, Self::C8];

    /// The statement, as people say it.
    pub fn statement(self) -> &'static str {
        match self {
            Self::C1 => "a connection is its 5-tuple: protocol, source and destination address and port",
            Self::C2 => {
                "a server listens and talks on the same port; clients take different, random source ports"
            }
            Self::C3 => "one client address has at most 64K connections to one server ip:port",
            Self::C4 => "more client addresses, server ports and server addresses multiply it",
            Self::C5 => "the real limit is file descriptors",
            Self::C6 => "requests wait in a backlog of 5 to 10",
            Self::C7 => "a connection can fail after a successful handshake: accept fails, and a FIN is sent",
            Self::C8 => "there is one passive socket a port, and many active ones",
        }
    }

    /// The claim of that name (`C3`, `c3`).
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|claim| claim.to_string().eq_ignore_ascii_case(name))
    }

    /// How it works, how it is tried, what would change the verdict, where to read on.
    pub fn explanation(self) -> Explanation {
        match self {
            Self::C1 => c1::EXPLANATION,
            Self::C2 => c2::EXPLANATION,
            Self::C3 => c3::EXPLANATION,
            Self::C4 => c4::EXPLANATION,
            Self::C5 => c5::EXPLANATION,
            Self::C6 => c6::EXPLANATION,
            Self::C7 => c7::EXPLANATION,
            Self::C8 => c8::EXPLANATION,
        }
    }
}

impl JsonSchema for ClaimId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let names = Self::ALL.map(|claim| claim.to_string());
        let small = names.clone().map(|name| name.to_lowercase());
        let all: Vec<String> = names.into_iter().chain(small).collect();
        json_schema!({ "enum": all, "description": "A common statement." })
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Judges a claim; `missing` says what the whole run lacks, if anything.
pub(super) fn judge(claim: ClaimId, plan: &Plan, trials: &[TrialEvidence], missing: Option<&str>) -> Verdict {
    let mut points = Points::new(plan, trials);
    let stands = match claim {
        ClaimId::C1 => c1::judge(&mut points),
        ClaimId::C2 => c2::judge(&mut points),
        ClaimId::C3 => c3::judge(&mut points),
        ClaimId::C4 => c4::judge(&mut points),
        ClaimId::C5 => c5::judge(&mut points),
        ClaimId::C6 => c6::judge(&mut points),
        ClaimId::C7 => c7::judge(&mut points),
        ClaimId::C8 => c8::judge(&mut points),
    };
    let (finding, because, points) = points.conclude(stands);
    let (verdict, because) = match (finding, missing) {
        // One contrary instant refutes, however much is missing beside it.
        (Finding::Refuted, _) | (_, None) => (finding, because),
        (_, Some(missing)) => (Finding::Inconclusive, missing.to_owned()),
    };
    Verdict { subject: claim.to_string(), verdict, because, points }
}

/// How many pairs of source address and destination a case has.
fn pairs(case: &Case) -> u64 {
    let setup = &case.setup;
    u64::from(setup.clients.hosts)
        * u64::from(setup.clients.addresses)
        * u64::from(setup.servers.hosts)
        * u64::from(setup.servers.addresses)
        * u64::from(setup.servers.ports.len())
}
