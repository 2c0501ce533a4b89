//! The common statements about TCP and scale, and how evidence bears on them.

use super::bound::refused_for_ports;
use super::{Finding, Verdict, bound_by, flaw, name_of};
use crate::capacity::Limit;
use crate::evidence::TrialEvidence;
use crate::plan::{Case, Plan, SourcePorts};
use crate::units::thousands;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A common statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ClaimId {
    /// One client address has at most 64K connections to one server address and port.
    #[serde(alias = "c3")]
    C3,
    /// More client addresses, server ports or server addresses multiply it.
    #[serde(alias = "c4")]
    C4,
}

impl ClaimId {
    /// The statement, as people say it.
    pub fn statement(self) -> &'static str {
        match self {
            Self::C3 => "one client address has at most 64K connections to one server ip:port",
            Self::C4 => "more client addresses, server ports and server addresses multiply it",
        }
    }
}

impl JsonSchema for ClaimId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ClaimId".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["C3", "C4", "c3", "c4"], "description": "A common statement." })
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Every source port that TCP has, port 0 included (RFC 9293, 3.1: 16 bits).
const PORTS: u64 = 65_536;

pub(super) fn judge(claim: ClaimId, plan: &Plan, trials: &[TrialEvidence], missing: Option<&str>) -> Verdict {
    let found = match claim {
        ClaimId::C3 => c3(plan, trials),
        ClaimId::C4 => c4(plan, trials),
    };
    let (verdict, because) = match (found, missing) {
        // One contrary instant refutes, however much is missing beside it.
        (found @ (Finding::Refuted, _), _) => found,
        (_, Some(missing)) => (Finding::Inconclusive, missing.to_owned()),
        (found, None) => found,
    };
    Verdict { subject: claim.to_string(), verdict, because }
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

/// The count on which all witnesses agree, or why there is none.
fn counted(plan: &Plan, trial: &TrialEvidence) -> Result<u64, String> {
    if let Some(why) = flaw(plan, trial) {
        return Err(why);
    }
    trial.agreed().ok_or_else(|| format!("'{}': the witnesses differ", name_of(plan, trial)))
}

/// The error with which the kernel refused every connect more; `None` where it was not asked, or
/// did not refuse for want of a port.
fn refused_beyond(trial: &TrialEvidence) -> Option<String> {
    let mut error = None;
    for beyond in trial.ends.iter().filter_map(|end| end.beyond.as_ref()) {
        if beyond.tried == 0 || !refused_for_ports(beyond) {
            return None;
        }
        error = beyond.refused.first().map(|(failure, _)| failure.to_string());
    }
    error
}

fn c3(plan: &Plan, trials: &[TrialEvidence]) -> (Finding, String) {
    let mut ceiling: Option<(u64, String, &SourcePorts)> = None;
    let mut most = 0;
    let mut spoiled = None;
    for trial in trials {
        let Some(case) = plan.cases.get(trial.case as usize) else { continue };
        let count = match counted(plan, trial) {
            Ok(count) => count,
            Err(why) => {
                spoiled.get_or_insert(why);
                continue;
            }
        };
        most = most.max(count);
        if pairs(case) != 1 {
            continue;
        }
        if count > PORTS {
            return (
                Finding::Refuted,
                format!(
                    "'{}' held {} connections over one pair of addresses and one server port",
                    case.name,
                    thousands(count)
                ),
            );
        }
        if let Some(error) = refused_beyond(trial)
            && ceiling.as_ref().is_none_or(|(held, ..)| count > *held)
        {
            ceiling = Some((count, error, &case.setup.clients.source_ports));
        }
    }
    let Some((held, error, ports)) = ceiling else {
        let why = spoiled.unwrap_or_else(|| {
            "no case takes one client address to one server ip:port up to the kernel's refusal".into()
        });
        return (Finding::Inconclusive, why);
    };
    let chosen = match ports {
        SourcePorts::Kernel => "chosen by the kernel".to_owned(),
        SourcePorts::Explicit(ports) => format!("bound from {ports}"),
    };
    let first = format!(
        "one address held {} connections to one ip:port with ports {chosen}, the next was refused ({error})",
        thousands(held)
    );
    if most > PORTS {
        (
            Finding::Qualified,
            format!("{first}; it is no limit of the server: the same run held {}", thousands(most)),
        )
    } else {
        (
            Finding::Qualified,
            format!("{first}; the number is that of the usable source ports, up to {}", thousands(PORTS)),
        )
    }
}

fn c4(plan: &Plan, trials: &[TrialEvidence]) -> (Finding, String) {
    let mut single = None;
    let mut multiplied: Vec<String> = Vec::new();
    let mut spoiled = None;
    for trial in trials {
        let Some(case) = plan.cases.get(trial.case as usize) else { continue };
        if trial.prediction.bound_by != Limit::FourTuples {
            spoiled.get_or_insert(format!(
                "'{}' is bound by {}, not by four-tuples",
                case.name, trial.prediction.bound_by
            ));
            continue;
        }
        let law = trial.prediction.connections;
        match counted(plan, trial) {
            Ok(count) if count == law && pairs(case) == 1 => single = Some(count),
            Ok(count) if count == law => multiplied.push(thousands(count)),
            // The law holds until another limit binds: to stay below it for another reason is no
            // contrary instant.
            Ok(count) if count < law && bound_by(trial) != Limit::FourTuples => {
                spoiled.get_or_insert(format!(
                    "'{}' held {} of {} and was bound by {}, not by four-tuples",
                    case.name,
                    thousands(count),
                    thousands(law),
                    bound_by(trial)
                ));
            }
            Ok(count) => {
                return (
                    Finding::Refuted,
                    format!(
                        "'{}' held {} where the sum of usable source ports over all pairs is {}",
                        name_of(plan, trial),
                        thousands(count),
                        thousands(law)
                    ),
                );
            }
            Err(why) => drop(spoiled.get_or_insert(why)),
        }
    }
    match (single, spoiled) {
        (_, Some(why)) => (Finding::Inconclusive, why),
        (None, None) => (
            Finding::Inconclusive,
            "no case with a single pair of address and ip:port to multiply from".into(),
        ),
        (Some(_), None) if multiplied.is_empty() => {
            (Finding::Inconclusive, "no case with more than one pair".into())
        }
        (Some(one), None) => {
            multiplied.dedup();
            (
                Finding::Confirmed,
                format!(
                    "{} for one pair became {}: exactly the sum of usable source ports over all pairs",
                    thousands(one),
                    multiplied.join(", ")
                ),
            )
        }
    }
}
