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
        claim: ClaimId::C3,
        plan: include_str!("../../../../plans/claims/c3-64k.toml"),
        evidence: include_str!("golden/c3.json"),
        finding: Finding::Qualified,
    },
    Golden {
        claim: ClaimId::C4,
        plan: include_str!("../../../../plans/claims/c4-multiply.toml"),
        evidence: include_str!("golden/c4.json"),
        finding: Finding::Confirmed,
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
    Golden {
        claim: ClaimId::C8,
        plan: include_str!("../../../../plans/claims/c8-passive-active.toml"),
        evidence: include_str!("golden/c8.json"),
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

/// What is found of a claim where one answer of the golden evidence is another one.
fn with(claim: ClaimId, label: &str, change: impl Fn(&mut crate::script::Answer)) -> (Finding, String) {
    let golden = GOLDEN.iter().find(|golden| golden.claim == claim).expect("it has evidence");
    let (plan, mut trials) = given(golden);
    let observations = trials.iter_mut().flat_map(|trial| &mut trial.observations);
    let mut found_one = false;
    for observation in observations.filter(|one| one.label.as_deref() == Some(label)) {
        change(&mut observation.answer);
        found_one = true;
    }
    assert!(found_one, "no step is labelled '{label}'");
    let verdict = found(golden, &plan, &trials);
    (verdict.verdict, verdict.because)
}

#[test]
fn a_kernel_that_gives_another_number_of_ports_refutes_c3_with_it() {
    for (label, value, shown) in [
        ("wire.handshakes", 65_535, "65,535 of 65,536"),
        ("wire.held", 65_535, "65,535"),
        ("law.listener", 2_000, "2,000 of 2,100, then connect EADDRNOTAVAIL; the law gives 1,999"),
        ("law.other_address", 1_999, "the law gives 1,998"),
        ("law.time_wait", 1_997, "the law gives 1,996"),
        ("law.udp", 1_995, "the law gives 1,996"),
        ("law.reserved", 999, "the law gives 949"),
        ("explicit.other_address", 999, "the law gives 1,000"),
        ("explicit.wildcard", 1_000, "the law gives 999"),
        ("bind0.second", 1_000, "the law gives 0"),
        ("no_port.third", 0, "the law gives 1,000"),
        ("own_range.inside", 1_000, "the law gives 50"),
    ] {
        let (finding, because) = with(ClaimId::C3, label, |answer| answer.value = Some(value));
        assert_eq!(finding, Finding::Refuted, "{label}: {because}");
        assert!(because.contains(shown) && because.ends_with(&format!("({label})")), "{because}");
    }
    for (label, outcome, call) in [
        ("ceiling.connect", "EADDRINUSE", "connect"),
        ("ceiling.explicit", "EADDRNOTAVAIL", "connect"),
        ("ceiling.bind0", "EADDRINUSE", "connect"),
        ("wire.zero", "ok", "accept"),
    ] {
        let (finding, because) = with(ClaimId::C3, label, |answer| {
            answer.outcome = outcome.into();
            answer.details.insert("call".into(), call.into());
        });
        assert_eq!(finding, Finding::Refuted, "{label}: {because}");
        assert!(because.contains(outcome), "{because}");
    }
}

#[test]
fn what_only_looks_like_fewer_ports_leaves_c3_open() {
    let pending = |answer: &mut crate::script::Answer| {
        answer.value = Some(1_990);
        answer.details.insert("pending".into(), "10".into());
    };
    let files = |answer: &mut crate::script::Answer| {
        (answer.outcome, answer.value) = ("EMFILE".into(), Some(1_000));
        answer.details.insert("call".into(), "socket".into());
    };
    let unheard = |answer: &mut crate::script::Answer| answer.value = Some(0);
    let dropped = |answer: &mut crate::script::Answer| {
        answer.value = Some(65_000);
        answer.details.insert("dropped".into(), "9".into());
    };
    assert_eq!(with(ClaimId::C3, "law.listener", pending).0, Finding::Inconclusive);
    assert_eq!(with(ClaimId::C3, "law.listener", files).0, Finding::Inconclusive);
    assert_eq!(with(ClaimId::C3, "wire.handshakes", unheard).0, Finding::Inconclusive);
    assert_eq!(with(ClaimId::C3, "wire.handshakes", dropped).0, Finding::Inconclusive);
}

#[test]
fn c3_reads_the_law_of_its_numbers_from_the_case() {
    // The kernel of a plan whose range is 100 ports wide, 10 of them reserved, and another one has one.
    let text = "claims = ['C3']\n[[case]]\nname = 's'\n\
        'clients.sysctls.ip_local_port_range' = '20000-20099'\n\
        'clients.sysctls.ip_local_reserved_ports' = '20010-20019'\n\
        steps = '''\nclient socket x tcp\nclient bind x self:20005\nclient many a 200 connect server:7000 -> law.listener\n'''";
    let plan = PlanFile::parse(text).and_then(check).expect("a plan");
    let golden = GOLDEN.iter().find(|golden| golden.claim == ClaimId::C3).expect("it has evidence");
    let (_, mut trials) = given(golden);
    trials.retain(|trial| trial.observations.iter().any(|one| one.label.as_deref() == Some("law.listener")));
    trials[0].case = 0;
    let template = trials[0].observations[0].clone();
    let says = |value: u64, bind: &str| {
        let mut trials = trials.clone();
        let step = |step, label: Option<&str>, answer| crate::script::Observation {
            step,
            label: label.map(str::to_owned),
            answer,
            ..template.clone()
        };
        let of = crate::script::Answer::of;
        trials[0].observations = vec![
            step(1, None, of(bind).value(20_005)),
            step(
                2,
                Some("law.listener"),
                of("EADDRNOTAVAIL").value(value).detail("call", "connect").detail("pending", 0),
            ),
        ];
        let verdict = judge(&plan, &trials, true).remove(0);
        let point = verdict.points.into_iter().find(|point| point.evidence == "law.listener");
        point.expect("a point").bearing
    };
    assert_eq!(says(89, "ok"), Bearing::Supports);
    assert_eq!(says(90, "ok"), Bearing::Contradicts);
    assert_eq!(says(90, "EADDRINUSE"), Bearing::Missing, "nobody held the port");
}

#[test]
fn a_port_that_a_second_destination_does_not_get_refutes_c4() {
    for (label, value) in [("ports.other_port", 1_999), ("ports.other_source", 0)] {
        let (finding, because) = with(ClaimId::C4, label, |answer| answer.value = Some(value));
        assert_eq!(finding, Finding::Refuted, "{because}");
        assert!(because.contains("the law gives 2,000"), "{because}");
    }
    let (finding, because) = with(ClaimId::C4, "ports.other_address", |answer| {
        let ports = answer.details.get_mut("ports").expect("a list");
        *ports = ports.replacen(char::is_numeric, "9", 1);
    });
    assert_eq!(finding, Finding::Refuted);
    assert!(because.contains("1,999 of 2,000 are the same"), "{because}");
}

#[test]
fn a_load_that_holds_another_sum_refutes_c4_and_c3() {
    for (claim, case) in [(ClaimId::C4, 1), (ClaimId::C3, 1)] {
        let golden = GOLDEN.iter().find(|golden| golden.claim == claim).expect("it has evidence");
        let (plan, mut trials) = given(golden);
        let trial = trials.iter_mut().find(|trial| trial.case == case).expect("it was run");
        trial.prediction.connections += 1;
        let digest = trial.ends[0].census.as_ref().expect("one").digest;
        for end in &mut trial.ends {
            end.census.as_mut().expect("one").digest = digest;
        }
        let failures =
            &mut trial.ends.iter_mut().find(|end| end.beyond.is_some()).expect("a client").counters;
        failures.failures.add(crate::sample::Call::Connect, "EADDRNOTAVAIL", 1);
        let verdict = found(golden, &plan, &trials);
        assert_eq!(verdict.verdict, Finding::Refuted, "{}", verdict.because);
    }
}
