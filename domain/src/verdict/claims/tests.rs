//! Every claim on golden evidence: what a real run of its plan gave (`tuplelab show RUN --evidence`),
//! and the same with every observation changed or taken away. A verdict that no number can change is none.

use super::*;
use crate::evidence::TrialEvidence;
use crate::plan::{PlanFile, check};
use crate::script::Answer;
use crate::verdict::{Bearing, judge};

/// A claim's plan, the evidence that Linux 6.18 gave, and what follows from it.
struct Golden {
    claim: ClaimId,
    plan: &'static str,
    evidence: &'static str,
    finding: Finding,
}

/// One entry a claim, in order.
const GOLDEN: &[Golden] = &[
    Golden {
        claim: ClaimId::C1,
        plan: include_str!("../../../../plans/claims/c1-five-tuple.toml"),
        evidence: include_str!("golden/c1.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C2,
        plan: include_str!("../../../../plans/claims/c2-ports-of-both-ends.toml"),
        evidence: include_str!("golden/c2.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C8,
        plan: include_str!("../../../../plans/claims/c8-passive-active.toml"),
        evidence: include_str!("golden/c8.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C5,
        plan: include_str!("../../../../plans/claims/c5-descriptors.toml"),
        evidence: include_str!("golden/c5.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C6,
        plan: include_str!("../../../../plans/claims/c6-backlog.toml"),
        evidence: include_str!("golden/c6.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C7,
        plan: include_str!("../../../../plans/claims/c7-fails-after-handshake.toml"),
        evidence: include_str!("golden/c7.json"),
        finding: Finding::Qualified,
    },
];

/// The verdict on golden evidence in which an answer's detail (or its value or outcome, if that is the
/// word) is another one.
pub(super) fn changed(claim: ClaimId, changes: &[(&str, &str, &str)]) -> Verdict {
    let golden = GOLDEN.iter().find(|golden| golden.claim == claim).expect("it has an entry");
    let (plan, mut trials) = given(golden);
    for (label, part, value) in changes {
        let mut observations = trials.iter_mut().flat_map(|trial| &mut trial.observations);
        let of = observations.find(|observation| observation.label.as_deref() == Some(label));
        let answer = &mut of.expect("an answer of that label").answer;
        match *part {
            "outcome" => answer.outcome = (*value).into(),
            "value" => answer.value = Some(value.parse().expect("a number")),
            detail => {
                answer.details.insert(detail.into(), (*value).into());
            }
        }
    }
    found(golden, &plan, &trials)
}

/// Each change refutes the claim, and the reason names the number.
pub(super) fn refuted_by(claim: ClaimId, changes: &[(&str, &str, &str, &str)]) {
    for (label, part, value, named) in changes {
        let verdict = changed(claim, &[(label, part, value)]);
        assert_eq!(verdict.verdict, Finding::Refuted, "{label} {part} {value}: {}", verdict.because);
        assert!(verdict.because.contains(named), "{label}: {}", verdict.because);
    }
}

/// Each change leaves the claim open, and the reason says why.
pub(super) fn left_open_by(claim: ClaimId, changes: &[(&str, &str, &str, &str)]) {
    for (label, part, value, named) in changes {
        let verdict = changed(claim, &[(label, part, value)]);
        assert_eq!(verdict.verdict, Finding::Inconclusive, "{label} {part} {value}: {}", verdict.because);
        assert!(verdict.because.contains(named), "{label}: {}", verdict.because);
    }
}

/// A claim's verdict where the answers of some labels had been others.
pub(super) fn had_been(claim: ClaimId, labels: &[&str], change: impl Fn(&mut Answer)) -> Verdict {
    let golden = GOLDEN.iter().find(|golden| golden.claim == claim).expect("golden evidence");
    let (plan, mut trials) = given(golden);
    let mut count = 0;
    for observation in trials.iter_mut().flat_map(|trial| &mut trial.observations) {
        if observation.label.as_deref().is_some_and(|label| labels.contains(&label)) {
            change(&mut observation.answer);
            count += 1;
        }
    }
    assert_eq!(count, labels.len(), "{labels:?}");
    found(golden, &plan, &trials)
}

fn given(golden: &Golden) -> (Plan, Vec<TrialEvidence>) {
    let plan = PlanFile::parse(golden.plan).and_then(check).expect("a plan");
    (plan, serde_json::from_str(golden.evidence).expect("evidence"))
}

fn found(golden: &Golden, plan: &Plan, trials: &[TrialEvidence]) -> Verdict {
    let verdicts = judge(plan, trials, true);
    verdicts.into_iter().find(|verdict| verdict.subject == golden.claim.to_string()).expect("a verdict")
}

#[test]
fn what_linux_showed_gives_the_verdict_and_nothing_is_missing() {
    for golden in GOLDEN {
        let (plan, trials) = given(golden);
        let verdict = found(golden, &plan, &trials);
        assert_eq!(verdict.verdict, golden.finding, "{}: {}", verdict.subject, verdict.because);
        assert!(verdict.points.iter().all(|point| point.bearing != Bearing::Missing));
        assert!(!verdict.because.is_empty());
    }
}

/// The labels that points of the verdict rest on.
fn used(verdict: &Verdict) -> Vec<String> {
    verdict.points.iter().map(|point| point.evidence.clone()).collect()
}

#[test]
fn a_change_of_any_answer_that_a_point_rests_on_changes_the_point() {
    for golden in GOLDEN {
        let (plan, trials) = given(golden);
        let before = found(golden, &plan, &trials);
        let labels = used(&before);
        for (trial, observation) in positions(&trials, &labels) {
            let mut changed = trials.clone();
            let answer = &mut changed[trial].observations[observation].answer;
            // Every part of it: what a point looks at is among them.
            answer.outcome = if answer.is_ok() { "ECHANGED".into() } else { "ok".into() };
            answer.value = answer.value.map(|value| value * 3 + 7);
            let text = |value: &String| match value.parse::<u64>() {
                Ok(number) => (number * 3 + 7).to_string(),
                Err(_) => format!("{value},1"),
            };
            answer.details = answer.details.iter().map(|(name, value)| (name.clone(), text(value))).collect();
            let label = trials[trial].observations[observation].label.clone().expect("it has one");
            let after = found(golden, &plan, &changed);
            assert_ne!(after.points, before.points, "{}: {label} bears on nothing", golden.claim);
        }
    }
}

#[test]
fn an_answer_that_is_missing_makes_the_claim_inconclusive_and_is_named() {
    for golden in GOLDEN {
        let (plan, trials) = given(golden);
        let labels = used(&found(golden, &plan, &trials));
        for (trial, observation) in positions(&trials, &labels) {
            let mut changed = trials.clone();
            let label = changed[trial].observations.remove(observation).label.expect("it has one");
            let after = found(golden, &plan, &changed);
            assert_eq!(after.verdict, Finding::Inconclusive, "{}: without {label}", golden.claim);
            let missing = after.points.iter().filter(|point| point.bearing == Bearing::Missing);
            assert!(missing.clone().any(|point| point.evidence == label), "{}: {label}", golden.claim);
        }
    }
}

/// Where the answers are that points rest on: trial and position.
fn positions(trials: &[TrialEvidence], labels: &[String]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (trial, evidence) in trials.iter().enumerate() {
        for (position, observation) in evidence.observations.iter().enumerate() {
            if observation.label.as_ref().is_some_and(|label| labels.contains(label)) {
                found.push((trial, position));
            }
        }
    }
    found
}

#[test]
fn every_claim_tells_how_it_works_and_where_to_read_on() {
    for claim in GOLDEN.iter().map(|golden| golden.claim) {
        let Explanation { mechanism, experiment, changes, reading } = claim.explanation();
        assert!(mechanism.len() > 80 && experiment.len() > 80 && changes.len() > 40, "{claim}");
        assert!(reading.iter().any(|place| place.starts_with("RFC")), "{claim}");
        assert!(reading.iter().any(|place| place.contains(".c")), "{claim}: no kernel file");
    }
}

#[test]
fn a_plan_that_tries_nothing_of_a_claim_leaves_it_open() {
    for claim in ClaimId::ALL {
        let text = format!("claims = [\"{claim}\"]\nsteps = \"client wait 1ms\"");
        let plan = PlanFile::parse(&text).and_then(check).expect("a plan");
        let verdicts = judge(&plan, &[], true);
        assert_eq!(verdicts[0].verdict, Finding::Inconclusive, "{claim}: {}", verdicts[0].because);
    }
}
