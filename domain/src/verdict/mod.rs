//! What was found of an expectation or a claim, and why. A verdict is computed from evidence and can
//! be computed again; nothing in it is a constant.

mod bound;
mod chance;
mod claims;
mod expectation;
mod point;

pub use bound::bound_by;
pub use claims::{ClaimId, Explanation};
pub use point::{Bearing, Point};

use crate::evidence::TrialEvidence;
use crate::plan::Plan;
use crate::schedule::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Which rules made a verdict; stored beside it, raised whenever a rule changes.
pub const JUDGE_VERSION: u32 = 2;

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// An expectation holds.
    Held,
    /// An expectation does not hold: one contrary instant is enough.
    Missed,
    /// A claim is true as it is said.
    Confirmed,
    /// A claim is true with a condition.
    Qualified,
    /// A claim is false.
    Refuted,
    /// The evidence does not suffice; the reason names what is missing.
    Inconclusive,
}

impl Finding {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Missed => "missed",
            Self::Confirmed => "confirmed",
            Self::Qualified => "qualified",
            Self::Refuted => "refuted",
            Self::Inconclusive => "inconclusive",
        }
    }

    /// The finding of that name.
    pub fn named(name: &str) -> Option<Self> {
        use Finding::*;
        [Held, Missed, Confirmed, Qualified, Refuted, Inconclusive].into_iter().find(|f| f.name() == name)
    }
}

/// A finding with its subject and its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The expectation as the plan writes it, or the claim's name (`C3`).
    pub subject: String,
    /// What was found.
    pub verdict: Finding,
    /// One sentence with this run's numbers; what is missing where it is inconclusive.
    pub because: String,
    /// What each line of a claim's experiment showed; an expectation has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub points: Vec<Point>,
}

/// Judges every expectation and claim of a plan on the evidence of all its trials.
///
/// `trials` must hold one piece of evidence per case and trial that was begun; `complete` says that
/// the run went to its end, so that nothing is missing by interruption.
pub fn judge(plan: &Plan, trials: &[TrialEvidence], complete: bool) -> Vec<Verdict> {
    let planned = plan.cases.len() * plan.trials as usize;
    let missing = match (complete, trials.len() < planned) {
        (true, false) => None,
        _ => Some(format!(
            "the run was not completed: {} of {planned} trials were begun",
            trials.len().min(planned)
        )),
    };
    let expectations = plan.expectations.iter().map(|expectation| Verdict {
        subject: expectation.to_string(),
        ..expectation::judge(expectation, plan, trials, missing.as_deref())
    });
    let claims = plan.claims.iter().map(|claim| claims::judge(*claim, plan, trials, missing.as_deref()));
    expectations.chain(claims).collect()
}

fn verdict(finding: Finding, because: impl Into<String>) -> Verdict {
    Verdict { subject: String::new(), verdict: finding, because: because.into(), points: Vec::new() }
}

/// How a trial is named in a reason.
fn name_of<'a>(plan: &'a Plan, trial: &TrialEvidence) -> &'a str {
    plan.cases
        .get(trial.case as usize)
        .map_or("a case that the plan does not have", |case| case.name.as_str())
}

/// What makes a trial's count worthless as evidence, if anything does.
fn flaw(plan: &Plan, trial: &TrialEvidence) -> Option<String> {
    let name = name_of(plan, trial);
    if let Some(gap) = trial.gaps.first() {
        return Some(format!("'{name}': {gap}"));
    }
    if let Some(case) = plan.cases.get(trial.case as usize) {
        let asked = [(Role::Client, case.setup.clients.hosts), (Role::Server, case.setup.servers.hosts)];
        for (role, asked) in asked {
            let heard = trial.ends_of(role).count();
            if heard != asked as usize {
                return Some(format!("'{name}': {heard} of {asked} {} hosts were heard", role.name()));
            }
        }
    }
    let counts = (trial.kernel(Role::Client), trial.kernel(Role::Server));
    match counts {
        (Some(client), Some(server)) if client == server && trial.digests_equal() == Some(false) => {
            Some(format!(
                "'{name}': both kernels count {client} connections but under other four-tuples: an address was translated between the ends"
            ))
        }
        (Some(_), Some(_)) => None,
        _ => Some(format!("'{name}': an end's kernel was not counted")),
    }
}

#[cfg(test)]
mod tests;
