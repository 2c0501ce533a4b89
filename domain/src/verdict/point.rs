//! What the lines of a claim's experiment showed, one point each: the table behind a claim's verdict.

use super::{Finding, flaw};
use crate::evidence::TrialEvidence;
use crate::plan::{Case, Plan};
use crate::script::{Answer, Observation};
use crate::units::thousands;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a point says of its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bearing {
    /// It is as the claim says.
    Supports,
    /// It holds, and limits what the claim may say.
    Qualifies,
    /// It is not as the claim says.
    Contradicts,
    /// It could not be seen.
    Missing,
}

impl Bearing {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Supports => "supports",
            Self::Qualifies => "qualifies",
            Self::Contradicts => "contradicts",
            Self::Missing => "missing",
        }
    }
}

/// One line of a claim's experiment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Point {
    /// What was tried, and what the claim or its mechanism says of it.
    pub what: String,
    /// What was measured; why there is nothing, where it is missing.
    pub measured: String,
    /// What that says of the claim.
    pub bearing: Bearing,
    /// Where it was measured: a step's label or a case's name.
    pub evidence: String,
}

/// How much hangs on a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weight {
    /// The claim stands on it: a plan without it says nothing of the claim.
    Must,
    /// The claim's mechanism says so: where it is tried it has to hold.
    Law,
    /// Where it holds, the claim holds with a condition.
    Limit,
}

/// An answer with the case that it was given in.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) label: &'a str,
    pub(super) answer: &'a Answer,
    pub(super) case: &'a Case,
    pub(super) trial: &'a TrialEvidence,
}

/// The points of one claim while they are made, on one run's evidence.
pub(super) struct Points<'a> {
    pub(super) plan: &'a Plan,
    pub(super) trials: &'a [TrialEvidence],
    points: Vec<Point>,
}

/// Why what comes at this step and later was not tried as the plan means it: a `bind` that only prepares (it
/// has no label) was refused, as where somebody else on the host has the port. listen() on such a socket would
/// take any port, and the claim would be judged by a listener that nobody connects to.
fn unprepared(observations: &[Observation], step: u32) -> Option<String> {
    let refused = observations.iter().filter(|earlier| earlier.step < step).find(|earlier| {
        earlier.label.is_none() && earlier.text.starts_with("bind ") && !earlier.answer.is_ok()
    })?;
    Some(format!(
        "step {} on {} ({}) was refused: {}; if somebody else has that port there, end that or use hosts of their own",
        refused.step + 1,
        refused.agent.as_str(),
        refused.text,
        refused.answer.outcome
    ))
}

impl<'a> Points<'a> {
    pub(super) fn new(plan: &'a Plan, trials: &'a [TrialEvidence]) -> Self {
        Self { plan, trials, points: Vec::new() }
    }

    /// Whether a step of the plan has the label: whether the plan asks.
    pub(super) fn asks(&self, label: &str) -> bool {
        self.labels().any(|(_, known)| known == label)
    }

    /// All labels of the plan that begin so, in order, once.
    pub(super) fn labels_of(&self, prefix: &str) -> Vec<&'a str> {
        let mut labels: Vec<&str> =
            self.labels().map(|(_, label)| label).filter(|label| label.starts_with(prefix)).collect();
        let mut seen = std::collections::BTreeSet::new();
        labels.retain(|label| seen.insert(*label));
        labels
    }

    fn labels(&self) -> impl Iterator<Item = (usize, &'a str)> + use<'a> {
        let cases: &'a [Case] = &self.plan.cases;
        cases.iter().enumerate().flat_map(|(index, case)| {
            case.setup.steps.iter().filter_map(move |step| Some((index, step.label.as_deref()?)))
        })
    }

    /// What the step of this label answered, or why it is not known.
    ///
    /// Of several trials the last one counts: what differs between trials is for `trials` to see.
    pub(super) fn given(&self, label: &str) -> Result<Given<'a>, String> {
        let mut why = None;
        for (trial, case) in self.scripts() {
            for observation in &trial.observations {
                let Some(own) = observation.label.as_deref().filter(|own| *own == label) else { continue };
                let answer = &observation.answer;
                if let Some(taken) = unprepared(&trial.observations, observation.step) {
                    why = Some(format!("{}: {taken}", case.name));
                    continue;
                }
                let fault = answer.is_fault();
                let forbidden = ["EPERM", "EACCES", "EUNSUPPORTED"].contains(&answer.outcome.as_str())
                    && answer.details.contains_key("why");
                if fault || forbidden {
                    let reason = ["why", "remedy"].iter().filter_map(|name| answer.details.get(*name));
                    let reason: Vec<&str> = reason.map(String::as_str).collect();
                    why = Some(format!("{}: {} {}", case.name, answer.outcome, reason.join("; ")));
                    continue;
                }
                return Ok(Given { label: own, answer, case, trial });
            }
        }
        let asked = self.labels().find(|(_, known)| *known == label).map(|(index, _)| index);
        let gap = asked.and_then(|case| {
            let of_case = self.trials.iter().find(|trial| trial.case as usize == case)?;
            of_case.gaps.first().cloned()
        });
        Err(why.or(gap).unwrap_or_else(|| match asked {
            Some(_) => "the step was not done".into(),
            None => format!("no step of the plan is labelled '{label}'"),
        }))
    }

    /// The trials that are scripts, the latest first, each with its case.
    fn scripts(&self) -> impl Iterator<Item = (&'a TrialEvidence, &'a Case)> + use<'a> {
        let plan = self.plan;
        self.trials.iter().rev().filter_map(move |trial| {
            let case = plan.cases.get(trial.case as usize)?;
            (!case.setup.steps.is_empty()).then_some((trial, case))
        })
    }

    /// The trials that are loads, each with its case.
    pub(super) fn loads(&self) -> impl Iterator<Item = (&'a TrialEvidence, &'a Case)> + use<'a> {
        let plan = self.plan;
        self.trials.iter().filter_map(move |trial| {
            let case = plan.cases.get(trial.case as usize)?;
            case.setup.steps.is_empty().then_some((trial, case))
        })
    }

    /// The count on which all witnesses of a load agree, or why there is none.
    pub(super) fn counted(&self, trial: &TrialEvidence, case: &Case) -> Result<u64, String> {
        if let Some(why) = flaw(self.plan, trial) {
            return Err(why);
        }
        trial.agreed().ok_or_else(|| format!("'{}': the witnesses differ", case.name))
    }

    /// Adds a point: `seen` is what was measured and whether it is as it should be, or why it is not
    /// known. Returns whether it holds.
    pub(super) fn add(
        &mut self,
        weight: Weight,
        evidence: &str,
        what: impl Into<String>,
        seen: Result<(String, bool), String>,
    ) -> bool {
        let (measured, bearing) = match (seen, weight) {
            (Err(why), _) => (why, Bearing::Missing),
            (Ok((measured, true)), Weight::Limit) => (measured, Bearing::Qualifies),
            (Ok((measured, true)), Weight::Must | Weight::Law) | (Ok((measured, false)), Weight::Limit) => {
                (measured, Bearing::Supports)
            }
            (Ok((measured, false)), Weight::Must | Weight::Law) => (measured, Bearing::Contradicts),
        };
        let holds = match weight {
            Weight::Limit => bearing == Bearing::Qualifies,
            Weight::Must | Weight::Law => bearing == Bearing::Supports,
        };
        self.points.push(Point { what: what.into(), measured, bearing, evidence: evidence.into() });
        holds
    }

    /// A point about the answer of one label. Left out where the plan does not ask and the claim does
    /// not stand on it. `look` gives what was measured and whether it is as it should be, or what the
    /// answer lacks.
    pub(super) fn point(
        &mut self,
        weight: Weight,
        label: &str,
        what: impl Into<String>,
        look: impl FnOnce(Given<'a>) -> Result<(String, bool), String>,
    ) -> bool {
        if weight != Weight::Must && !self.asks(label) {
            return false;
        }
        let seen = self.given(label).and_then(look);
        self.add(weight, label, what, seen)
    }

    /// The outcome of a step is one of these words.
    pub(super) fn outcome(&mut self, weight: Weight, label: &str, what: &str, words: &[&str]) -> bool {
        self.point(weight, label, what, |given| {
            let outcome = given.answer.outcome.as_str();
            Ok((said(given.answer), words.contains(&outcome)))
        })
    }

    /// The value of a step is this number.
    pub(super) fn value(&mut self, weight: Weight, label: &str, what: &str, number: u64) -> bool {
        self.point(weight, label, what, |given| {
            let value = given.value()?;
            Ok((thousands(value), value == number))
        })
    }

    /// The points, and what they come to.
    pub(super) fn conclude(self, stands: String) -> (Finding, String, Vec<Point>) {
        let of = |bearing| self.points.iter().filter(move |point| point.bearing == bearing);
        let line = |point: &Point| format!("{}: {} ({})", point.what, point.measured, point.evidence);
        let (finding, because) = if let Some(point) = of(Bearing::Contradicts).next() {
            (Finding::Refuted, line(point))
        } else if self.points.is_empty() {
            (Finding::Inconclusive, "no step and no case of the plan bears on it".into())
        } else if of(Bearing::Missing).next().is_some() {
            // The same reason for many points is said once.
            let mut reasons: Vec<&str> = of(Bearing::Missing).map(|point| point.measured.as_str()).collect();
            let count = reasons.len();
            reasons.dedup();
            let shown: Vec<&str> = reasons.iter().take(3).copied().collect();
            let more = if reasons.len() > shown.len() { "; ..." } else { "" };
            let known = self.points.len() - count;
            (
                Finding::Inconclusive,
                format!("{count} of {} points are missing: {}{more}", known + count, shown.join("; ")),
            )
        } else if of(Bearing::Qualifies).next().is_some() {
            (Finding::Qualified, stands)
        } else {
            (Finding::Confirmed, stands)
        };
        (finding, because, self.points)
    }
}

impl<'a> Given<'a> {
    /// The answer's number.
    pub(super) fn value(&self) -> Result<u64, String> {
        self.answer
            .value
            .ok_or_else(|| format!("'{}' answered {} without a number", self.label, self.answer.outcome))
    }

    /// A detail.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, String> {
        let text = self.answer.details.get(name).map(String::as_str);
        text.ok_or_else(|| format!("'{}' says no {name}", self.label))
    }

    /// The two ends of a connected socket: its own and its peer.
    pub(super) fn ends(&self) -> Result<(SocketAddr, SocketAddr), String> {
        let end = |name| {
            let text = self.text(name)?;
            text.parse().map_err(|_| format!("'{text}' of {name} is no address"))
        };
        Ok((end("local")?, end("peer")?))
    }

    /// A detail that is a number.
    pub(super) fn number(&self, name: &str) -> Result<u64, String> {
        self.answer.number(name).ok_or_else(|| format!("'{}' says no {name}", self.label))
    }

    /// A detail that is a list of numbers.
    pub(super) fn numbers(&self, name: &str) -> Result<Vec<u64>, String> {
        let words = self.text(name)?.split(',').filter(|word| !word.is_empty());
        words.map(|word| word.parse().map_err(|_| format!("'{word}' of {name} is no number"))).collect()
    }
}

/// An answer in a few words.
pub(super) fn said(answer: &Answer) -> String {
    match (answer.details.get("call"), answer.value) {
        (Some(call), _) => format!("{call} {}", answer.outcome),
        (None, Some(value)) => format!("{} {}", answer.outcome, thousands(value)),
        (None, None) => answer.outcome.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(step: u32, text: &str, label: Option<&str>, outcome: &str) -> Observation {
        Observation {
            step,
            agent: "server-1".parse().expect("a name"),
            text: text.into(),
            label: label.map(str::to_owned),
            answer: Answer::of(outcome),
        }
    }

    #[test]
    fn what_comes_after_a_refused_bind_without_a_label_was_not_tried() {
        let bind = |label, outcome| observed(1, "bind l 127.66.1.1:7100", label, outcome);
        let listen = observed(2, "listen l 64", Some("talk.listener"), "ok");
        let why = unprepared(&[bind(None, "EADDRINUSE"), listen.clone()], 2).expect("a reason");
        assert!(
            why.starts_with("step 2 on server-1 (bind l 127.66.1.1:7100) was refused: EADDRINUSE"),
            "{why}"
        );
        assert_eq!(unprepared(&[bind(None, "EADDRINUSE"), listen.clone()], 1), None);
        assert_eq!(unprepared(&[bind(None, "ok"), listen.clone()], 2), None);
        assert_eq!(unprepared(&[bind(Some("plain.bind"), "EADDRINUSE"), listen], 2), None);
    }
}
