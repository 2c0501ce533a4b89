use super::*;
use crate::capacity::Limit;
use crate::plan::Expectation;
use crate::sample::{Beyond, Call, Failure, Occupancy, Ramp, Readings, Recorder};
use crate::sample_lab::{agreeing_run, plan};
use crate::script::{Answer, Observation};
use crate::units::{Ppm, Span};

/// One client address to one port, then two addresses, then two addresses and two ports.
const CASES: &str = "claims = [\"c3\", \"c4\"]\n[clients]\nsource_ports = \"20000-20099\"\n\
    [[case]]\n[[case]]\nclients.addresses = 2\n[[case]]\nclients.addresses = 2\nservers.ports = \"7000-7001\"";

/// The evidence of CASES where everything went as predicted.
fn good() -> (Plan, Vec<TrialEvidence>) {
    let plan = plan(CASES);
    let trials = agreeing_run(&plan);
    (plan, trials)
}

fn end(trials: &mut [TrialEvidence], case: usize, role: Role) -> &mut crate::evidence::End {
    trials[case].ends.iter_mut().find(|end| end.role == role).expect("an end")
}

/// What is found of an expectation on this evidence.
fn found(expectation: Expectation, trials: &[TrialEvidence], complete: bool) -> (Finding, String) {
    let plan = Plan { expectations: vec![expectation], claims: Vec::new(), ..plan(CASES) };
    let verdicts = judge(&plan, trials, complete);
    (verdicts[0].verdict, verdicts[0].because.clone())
}

fn claim(id: ClaimId, trials: &[TrialEvidence], complete: bool) -> (Finding, String) {
    let verdicts = judge(&plan(CASES), trials, complete);
    let verdict = verdicts.into_iter().find(|verdict| verdict.subject == id.to_string()).expect("a verdict");
    (verdict.verdict, verdict.because)
}

/// Every expectation that the good evidence holds.
fn expectations() -> Vec<Expectation> {
    vec![
        Expectation::EstablishedAsPredicted,
        Expectation::Established(100),
        Expectation::Failed(Ppm(0)),
        Expectation::Rate(100),
        Expectation::BoundBy(Limit::FourTuples),
    ]
}

/// A way to spoil evidence.
type Change<'a> = &'a dyn Fn(&mut Vec<TrialEvidence>);

fn changed(change: Change<'_>) -> Vec<TrialEvidence> {
    let (_, mut trials) = good();
    change(&mut trials);
    trials
}

#[test]
fn evidence_that_agrees_holds_every_expectation_and_confirms() {
    let (plan, trials) = good();
    let lines: Vec<_> = expectations()
        .into_iter()
        .map(|expectation| (expectation.to_string(), found(expectation, &trials, true)))
        .map(|(subject, (finding, because))| format!("{subject}: {}: {because}", finding.name()))
        .chain(
            judge(&plan, &trials, true)
                .into_iter()
                .map(|v| format!("{}: {}: {}", v.subject, v.verdict.name(), v.because)),
        )
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
established = "predicted": held: in 3 of 3 trials, up to 400 connections; both ends' kernels agree
established = "100": held: in 3 of 3 trials, up to 400 connections; both ends' kernels agree
failed = "0ppm": held: 0 of 700 flows failed
rate = "100/s": held: the slowest of 3 trials reached 100/s
bound_by = "four_tuples": held: four_tuples bound in 3 of 3 trials
C3: qualified: one address held 100 (ports bound from 20000-20099) connections to one ip:port, the next was refused (connect EADDRNOTAVAIL); it is no limit of the server: the same run held 400
C4: confirmed: one pair held 100, and more of them 200 = 2 sources x 1 ip:port of 100 ports, 400 = 2 sources x 2 ip:ports of 100 ports: exactly the sum of usable source ports over all pairs
"#);
}

#[test]
fn what_is_missing_makes_everything_inconclusive_and_is_named() {
    let no_census: Change<'_> = &|trials| end(trials, 1, Role::Server).census = None;
    let translated: Change<'_> = &|trials| {
        let census = end(trials, 1, Role::Server).census.as_mut().expect("a census");
        census.digest.add(([192, 0, 2, 1], 1).into(), ([10, 66, 1, 1], 7000).into());
    };
    let gap: Change<'_> = &|trials| trials[1].gaps.push("3 samples of host-2 are missing".into());
    let no_server: Change<'_> = &|trials| trials[1].ends.retain(|end| end.role == Role::Client);
    let no_end: Change<'_> = &|trials| trials[1].ends.clear();
    let no_trial: Change<'_> = &|trials| drop(trials.pop());
    for (change, why) in [
        (no_census, "'clients.addresses=2': an end's kernel was not counted"),
        (
            translated,
            "'clients.addresses=2': both kernels count 200 connections but under other four-tuples: an address was translated between the ends",
        ),
        (gap, "'clients.addresses=2': 3 samples of host-2 are missing"),
        (no_server, "'clients.addresses=2': 0 of 1 server hosts were heard"),
        (no_end, "'clients.addresses=2': 0 of 1 client hosts were heard"),
        (no_trial, "the run was not completed: 2 of 3 trials were begun"),
    ] {
        let trials = changed(change);
        for expectation in expectations() {
            assert_eq!(found(expectation, &trials, true), (Finding::Inconclusive, why.to_owned()));
        }
        let (finding, because) = claim(ClaimId::C4, &trials, true);
        assert_eq!(finding, Finding::Inconclusive);
        assert!(because.ends_with(why), "{because}");
    }
    let (_, trials) = good();
    let why = "the run was not completed: 3 of 3 trials were begun";
    for expectation in expectations() {
        assert_eq!(found(expectation, &trials, false), (Finding::Inconclusive, why.to_owned()));
    }
    assert_eq!(claim(ClaimId::C3, &trials, false), (Finding::Inconclusive, why.to_owned()));
    assert_eq!(found(Expectation::Rate(1), &[], true).0, Finding::Inconclusive);
}

#[test]
fn a_gap_in_the_case_at_the_ceiling_leaves_c3_open() {
    let trials = changed(&|trials| trials[0].gaps.push("the kernel of host-2 was not counted".into()));
    assert_eq!(
        claim(ClaimId::C3, &trials, true),
        (
            Finding::Inconclusive,
            "1 of 1 points are missing: 'case 1': the kernel of host-2 was not counted".into()
        )
    );
}

/// All witnesses agree that this case held so many, and the rest of its flows failed so.
fn held(trials: &mut [TrialEvidence], case: usize, count: u64, error: &str) {
    for end in &mut trials[case].ends {
        let rest = end.counters.established.saturating_sub(count);
        end.counters.established = count;
        let census = end.census.as_mut().expect("a census");
        (census.established, census.digest) = (count, Default::default());
        if end.role == Role::Client {
            end.counters.failures.add(Call::Connect, error, rest);
        }
    }
}

#[test]
fn one_trial_against_an_expectation_is_a_miss() {
    let trials = changed(&|trials| held(trials, 2, 399, "EADDRNOTAVAIL"));
    let missed = |expectation| {
        let (finding, because) = found(expectation, &trials, false);
        assert_eq!(finding, Finding::Missed, "{because}");
        because
    };
    let case = "'clients.addresses=2 servers.ports=7000-7001'";
    assert_eq!(
        missed(Expectation::EstablishedAsPredicted),
        format!("{case}: 399 connections held, 400 predicted")
    );
    assert_eq!(missed(Expectation::Established(400)), "'case 1': 100 connections held, 400 expected");
    assert_eq!(missed(Expectation::Failed(Ppm(2_499))), format!("{case}: 1 of 400 flows failed (2500ppm)"));
    assert_eq!(missed(Expectation::Rate(400)), "'case 1': 100/s");
    assert_eq!(missed(Expectation::BoundBy(Limit::Memory)), "'case 1': bound by four_tuples");
    assert_eq!(found(Expectation::Failed(Ppm(2_500)), &trials, true).0, Finding::Held);
}

#[test]
fn connects_are_within_a_time_where_99_of_100_are_and_open_where_one_client_did_not_tell() {
    let timed = |micros: &'static [u64]| {
        move |trials: &mut Vec<TrialEvidence>| {
            for trial in trials {
                let mut recorder = Recorder::default();
                micros.iter().for_each(|micros| recorder.record(Occupancy::of(0, 1), *micros));
                let clients = trial.ends.iter_mut().filter(|end| end.role == Role::Client);
                clients.for_each(|end| end.connect_times = Some(recorder.times()));
            }
        }
    };
    let p99 = |micros, trials: &[TrialEvidence]| {
        found(Expectation::ConnectP99(Span(std::time::Duration::from_micros(micros))), trials, true)
    };
    let trials = changed(&timed(&[90, 100]));
    assert_eq!(p99(100, &trials), (Finding::Held, "at most 100 us in 3 trials".into()));
    assert_eq!(p99(99, &trials), (Finding::Missed, "'case 1': 100 us".into()));
    assert_eq!(p99(99, &changed(&timed(&[]))).1, "'case 1': no connect was timed");
    assert_eq!(p99(99, &good().1).0, Finding::Inconclusive);
}

#[test]
fn a_rate_is_met_where_every_full_second_was_seen_and_none_was_too_far_off() {
    let expect = "[[expect]]\nramp_error = \"10000ppm\"\n[[case]]\nload.rate = \"1k/s\"\n[[case]]\n";
    let judged = |text: &str, ramp: Option<Ramp>| {
        let plan = plan(text);
        let mut trials = agreeing_run(&plan);
        trials[0].ramp = ramp;
        let verdict = judge(&plan, &trials, true).remove(0);
        (verdict.verdict, verdict.because)
    };
    let ramped = |seen, worst, error_ppm| {
        judged(expect, Some(Ramp { asked: 1_000, seconds: 5, seen, worst, error_ppm }))
    };
    assert_eq!(
        ramped(5, 990, 10_000),
        (Finding::Held, "at most 10000ppm off in each of 5 full seconds".into()),
        "the case without a rate has none to miss"
    );
    let missed = "'load.rate=1k/s': 1,000/s asked, 989 in the worst full second (10001ppm)";
    assert_eq!(ramped(4, 989, 10_001), (Finding::Missed, missed.into()));
    let unseen = "'load.rate=1k/s': 4 of 5 full seconds were seen";
    assert_eq!(ramped(4, 1_000, 0), (Finding::Inconclusive, unseen.into()));
    assert_eq!(judged(expect, None).0, Finding::Inconclusive);
    let unpaced = expect.replace("load.rate = \"1k/s\"", "");
    assert_eq!(judged(&unpaced, None), (Finding::Inconclusive, "no trial that it is about was run".into()));
}

#[test]
fn witnesses_that_differ_are_a_miss_only_where_even_the_largest_claim_would_be_too_few() {
    let more = changed(&|trials| end(trials, 0, Role::Client).counters.established += 1);
    let (finding, because) = found(Expectation::EstablishedAsPredicted, &more, true);
    assert_eq!(finding, Finding::Inconclusive);
    assert_eq!(
        because,
        "'case 1': the witnesses differ: established 101 and 100, kernels 100 and 100 (client, server)"
    );
    let fewer = changed(&|trials| end(trials, 0, Role::Server).counters.established -= 1);
    assert_eq!(found(Expectation::EstablishedAsPredicted, &fewer, true).0, Finding::Missed);
    assert_eq!(found(Expectation::Established(90), &fewer, true).0, Finding::Inconclusive);
}

#[test]
fn a_server_that_does_not_keep_all_is_no_witness_of_all() {
    let as_seen_with = |accept: &str, answered, change: Change<'_>| {
        let trials = changed(&|trials| {
            trials.iter_mut().for_each(|trial| {
                (trial.accept, trial.answered) = (accept.parse().expect("a way to accept"), answered);
                trial.ends.iter_mut().filter(|end| end.role == Role::Server).for_each(|end| {
                    end.counters.established = 0;
                });
            });
            change(trials);
        });
        found(Expectation::EstablishedAsPredicted, &trials, true)
    };
    let nothing: Change<'_> = &|_| ();
    for accept in ["never", "until 5", "close", "200/s"] {
        assert_eq!(as_seen_with(accept, false, nothing).0, Finding::Held, "{accept}");
    }
    for (accept, answered) in [("all", true), ("all", false), ("200/s", true)] {
        assert_eq!(as_seen_with(accept, answered, nothing).0, Finding::Missed, "{accept}");
    }
    // The others are heard all the same, and say what they are.
    let gone: Change<'_> = &|trials| {
        for end in &mut trials[0].ends {
            *end.census.as_mut().expect("one") = Default::default();
        }
    };
    assert_eq!(as_seen_with("close", false, gone), (
        Finding::Missed,
        "'case 1': the witnesses differ: established 100 and (no witness), kernels 0 and 0 (client, server); 100 predicted".into()
    ));
    let one_less: Change<'_> =
        &|trials| end(trials, 0, Role::Server).census.as_mut().expect("one").established = 99;
    assert_eq!(as_seen_with("never", false, one_less).0, Finding::Missed);
}

#[test]
fn connects_beyond_a_full_queue_are_bound_by_it() {
    let bound = |accept: &str, predicted| {
        let trials = changed(&|trials| {
            held(trials, 0, 21, "ETIMEDOUT");
            trials[0].accept = accept.parse().expect("a way to accept");
            trials[0].answered = false;
            (trials[0].prediction.connections, trials[0].prediction.bound_by) =
                (predicted, Limit::AcceptQueue);
            trials[0].ends.iter_mut().for_each(|end| end.beyond = None);
            let readings = |count| Some(Readings([("TcpExt.ListenOverflows".into(), count)].into()));
            let server = end(trials, 0, Role::Server);
            (server.before, server.after) = (readings(1), readings(9));
            server.counters.established = 0;
        });
        bound_by(&trials[0])
    };
    assert_eq!(bound("never", 21), Limit::AcceptQueue, "as the model says");
    assert_eq!(bound("never", 22), Limit::AcceptQueue, "or as the overflows say");
}

#[test]
fn what_the_server_saw_of_a_failed_flow_is_no_second_failure() {
    let trials = changed(&|trials| {
        end(trials, 0, Role::Client).counters.failures.add(Call::Receive, "NO_ANSWER", 1);
        end(trials, 0, Role::Server).counters.failures.add(Call::Accept, "EMFILE", 5_000);
    });
    assert_eq!(found(Expectation::Failed(Ppm(10_000)), &trials, true).0, Finding::Held, "1 of 100");
    assert_eq!(found(Expectation::Failed(Ppm(9_999)), &trials, true).0, Finding::Missed);
}

#[test]
fn every_number_of_the_evidence_bears_on_a_verdict() {
    let numbers: [(&str, Change<'_>); 8] = [
        ("predicted", &|trials| trials[0].prediction.connections += 1),
        ("the client's count", &|trials| end(trials, 0, Role::Client).counters.established -= 1),
        ("the server's count", &|trials| end(trials, 0, Role::Server).counters.established -= 1),
        ("the client's kernel", &|trials| {
            end(trials, 0, Role::Client).census.as_mut().expect("one").established -= 1
        }),
        ("the server's kernel", &|trials| {
            end(trials, 0, Role::Server).census.as_mut().expect("one").established -= 1
        }),
        ("the client's digest", &|trials| {
            end(trials, 0, Role::Client).census.as_mut().expect("one").digest = Default::default()
        }),
        ("the server's digest", &|trials| {
            end(trials, 0, Role::Server).census.as_mut().expect("one").digest = Default::default()
        }),
        ("refused beyond", &|trials| {
            end(trials, 0, Role::Client).beyond.as_mut().expect("one").refused.clear()
        }),
    ];
    for (name, change) in numbers {
        let trials = changed(change);
        assert_ne!(found(Expectation::BoundBy(Limit::FourTuples), &trials, true).0, Finding::Held, "{name}");
        if name != "refused beyond" {
            assert_ne!(found(Expectation::EstablishedAsPredicted, &trials, true).0, Finding::Held, "{name}");
            assert_ne!(claim(ClaimId::C4, &trials, true).0, Finding::Confirmed, "{name}");
        }
        if name != "predicted" {
            assert_ne!(claim(ClaimId::C3, &trials, true).0, Finding::Qualified, "{name}");
        }
    }
    let slow = changed(&|trials| end(trials, 0, Role::Client).last_micros = Some(2_001_000));
    assert_eq!(found(Expectation::Rate(100), &slow, true).0, Finding::Missed);
    let none_begun = changed(&|trials| end(trials, 0, Role::Client).counters.attempted = 0);
    assert_eq!(found(Expectation::Failed(Ppm(0)), &none_begun, true).0, Finding::Inconclusive);
}

#[test]
fn c3_is_refuted_by_more_connections_than_there_are_ports() {
    let trials = changed(&|trials| held(trials, 0, 65_537, ""));
    assert_eq!(claim(ClaimId::C3, &trials, false).0, Finding::Refuted);
}

#[test]
fn c3_is_refuted_where_ports_are_out_early_but_not_where_hosts_share_them_with_others() {
    let early = changed(&|trials| {
        held(trials, 0, 99, "EADDRNOTAVAIL");
        end(trials, 0, Role::Client).beyond = None;
    });
    let (finding, because) = claim(ClaimId::C3, &early, true);
    assert_eq!(finding, Finding::Refuted);
    assert!(because.contains("99, then connect EADDRNOTAVAIL"), "{because}");
    let mut shared = early;
    let endpoint = "127.66.1.1:7000".parse().expect("an endpoint");
    let listener = crate::sample::ListenerQueue { endpoint, queued: 0, backlog: 4096 };
    end(&mut shared, 0, Role::Server).census.as_mut().expect("one").listeners.push(listener);
    assert_eq!(claim(ClaimId::C3, &shared, true), (
        Finding::Inconclusive,
        "1 of 1 points are missing: 'case 1' held 99 of 100: its hosts share a network namespace, where others bind ports too".into()
    ));
}

#[test]
fn c3_needs_the_refusal_of_a_port() {
    let refused = |error: &str| {
        let refusal = (Failure { call: Call::Connect, error: error.into() }, 1);
        changed(&|trials| {
            end(trials, 0, Role::Client).beyond = Some(Beyond { tried: 1, refused: vec![refusal.clone()] })
        })
    };
    assert_eq!(claim(ClaimId::C3, &refused("EADDRINUSE"), true).0, Finding::Qualified);
    assert_eq!(
        claim(ClaimId::C3, &refused("EMFILE"), true),
        (
            Finding::Inconclusive,
            "1 of 1 points are missing: 'case 1': the kernel was not asked for one more, or did not refuse for want of a port".into()
        )
    );
    assert_eq!(bound_by(&refused("EMFILE")[0]), Limit::Unknown);
}

#[test]
fn c4_is_refuted_where_the_ports_were_out_before_the_law_says_and_open_where_something_else_bound() {
    let early = changed(&|trials| held(trials, 2, 300, "EADDRNOTAVAIL"));
    assert_eq!(claim(ClaimId::C4, &early, true), (
        Finding::Refuted,
        "2 sources x 2 ip:ports hold the sum of their usable source ports: 300, the sum is 400 (clients.addresses=2 servers.ports=7000-7001)".into()
    ));
    let more = changed(&|trials| held(trials, 2, 500, ""));
    assert_eq!(claim(ClaimId::C4, &more, true).0, Finding::Refuted);
    let files = changed(&|trials| held(trials, 2, 300, "EMFILE"));
    assert_eq!(claim(ClaimId::C4, &files, true), (
        Finding::Inconclusive,
        "1 of 3 points are missing: 'clients.addresses=2 servers.ports=7000-7001' held 300 of 400 and was bound by open_files, not by four-tuples".into()
    ));
    let planned = changed(&|trials| trials[2].prediction.bound_by = Limit::Plan);
    assert_eq!(claim(ClaimId::C4, &planned, true).0, Finding::Inconclusive);
    assert_eq!(claim(ClaimId::C4, &good().1[..1], true).0, Finding::Inconclusive);
}

#[test]
fn the_most_frequent_failure_names_the_limit_that_bound() {
    let readings =
        |pairs: &[(&str, u64)]| Some(Readings(pairs.iter().map(|(k, v)| ((*k).into(), *v)).collect()));
    let full = readings(&[("conntrack.count", 9), ("conntrack.max", 9), ("TcpExt.ListenOverflows", 1)]);
    let before = readings(&[("TcpExt.ListenOverflows", 1)]);
    let overflowed = readings(&[("TcpExt.ListenOverflows", 2), ("conntrack.count", 8), ("conntrack.max", 9)]);
    for (error, after, limit) in [
        ("EADDRNOTAVAIL", None, Limit::FourTuples),
        ("EADDRINUSE", None, Limit::FourTuples),
        ("EMFILE", None, Limit::OpenFiles),
        ("ENFILE", None, Limit::SystemFiles),
        ("ENOMEM", None, Limit::Memory),
        ("ENOBUFS", None, Limit::Memory),
        ("ETIMEDOUT", full.clone(), Limit::Conntrack),
        ("NO_ANSWER", full, Limit::Conntrack),
        ("NO_ANSWER", overflowed, Limit::AcceptQueue),
        ("NO_ANSWER", before.clone(), Limit::Unknown),
        ("NO_ANSWER", None, Limit::Unknown),
        ("ECONNREFUSED", None, Limit::Unknown),
    ] {
        let trials = changed(&|trials| {
            held(trials, 0, 10, error);
            let server = end(trials, 0, Role::Server);
            (server.before, server.after) = (before.clone(), after.clone());
        });
        assert_eq!(bound_by(&trials[0]), limit, "{error}");
    }
    let (_, trials) = good();
    assert_eq!(bound_by(&trials[0]), Limit::FourTuples);
    for (target, table, limit) in
        [(100, 8, Limit::Conntrack), (110, 8, Limit::Unknown), (110, 9, Limit::Conntrack)]
    {
        let tracked = changed(&|trials| {
            (trials[0].prediction.bound_by, trials[0].target) = (Limit::Conntrack, target);
            let after = readings(&[("conntrack.count", table), ("conntrack.max", 9)]);
            end(trials, 0, Role::Server).after = after;
        });
        assert_eq!(bound_by(&tracked[0]), limit, "{table} of 9 entries, {target} tried");
    }
    let memory = changed(&|trials| trials[0].prediction.bound_by = Limit::Memory);
    assert_eq!(bound_by(&memory[0]), Limit::Memory, "met exactly: the predicted limit");
}

/// A plan of one script and one load, and what its labelled step answered.
fn scripted(answer: &str, given: Option<Answer>) -> (Finding, String) {
    let text = format!(
        "[[case]]\nname = \"s\"\nsteps = 'client fill a -> x'\n[[case]]\nname = \"l\"\n[[expect]]\nanswer = '{answer}'"
    );
    let plan = plan(&text);
    let mut trials = agreeing_run(&plan);
    let step = |answer| Observation {
        step: 0,
        agent: "host-2".parse().expect("a name"),
        text: "name a".into(),
        label: Some("x".into()),
        answer,
    };
    trials[0].observations = given.into_iter().map(step).collect();
    let verdict = judge(&plan, &trials, true).remove(0);
    (verdict.verdict, verdict.because)
}

#[test]
fn what_a_step_answers_holds_or_misses_an_expectation_about_it() {
    let answer = || Answer::of("ok").value(21).detail("even", 3);
    for held in ["x = 21", "x = ok", "x:even = 3"] {
        assert_eq!(scripted(held, Some(answer())).0, Finding::Held, "{held}");
    }
    assert_eq!(scripted("x = 22", Some(answer())), (Finding::Missed, "'s': it is 21".into()));
    assert_eq!(scripted("x = EPERM", Some(answer())), (Finding::Missed, "'s': it is ok".into()));
    for open in ["x:odd = 3", "x = 1"] {
        let (finding, because) = scripted(open, Some(Answer { value: None, ..answer() }));
        assert_eq!(finding, Finding::Inconclusive, "{open}");
        assert!(because.contains("no such part"), "{because}");
    }
    assert_eq!(scripted("x = 21", None), (Finding::Inconclusive, "'s': it was not asked".into()));
}
