use super::{Comparison, Difference, Report, RunRecord, compare, report_schema};
use crate::environment::Kind;
use crate::id::RunId;
use crate::run::{Outcome, Phase};
use crate::sample::Readings;
use crate::sample_lab::{agreeing_run, plan, three_hosts};
use crate::schedule::place;
use crate::sysctl::Sysctl;
use crate::verdict::judge;

const PLAN: &str = "question = \"Do two addresses hold twice as many?\"\nclaims = [\"c4\"]\n\
    [clients]\nsource_ports = \"20000-20099\"\n[sweep]\nclients.addresses = [1, 2]\n[[expect]]\nestablished = \"predicted\"";

/// A run of this plan in which everything went as it should.
fn record(id: &str, source: &str) -> RunRecord {
    let plan = plan(source);
    let mut evidence = agreeing_run(&plan);
    let readings = |overflows| {
        Some(Readings(
            [("TcpExt.ListenOverflows".into(), overflows), ("meminfo.Slab".into(), 1 << 20)].into(),
        ))
    };
    (evidence[0].ends[0].before, evidence[0].ends[0].after) = (readings(1), readings(3));
    let hosts = three_hosts();
    RunRecord {
        id: RunId(id.into()),
        plan_source: source.into(),
        submitter: "ada@example".into(),
        submitted_micros: 1_767_225_600_000_000,
        phase: Phase::Finished,
        outcome: Some(Outcome::Completed),
        schedule: Some(place(&plan, &hosts).expect("it fits")),
        hosts: hosts.hosts,
        verdicts: judge(&plan, &evidence, true),
        evidence,
        late: 0,
    }
}

#[test]
fn a_report_has_every_number_of_the_run() {
    let report = Report::new(&record("0198-a", PLAN));
    let json = serde_json::to_value(&report).expect("serialises");
    let validator = jsonschema::validator_for(&report_schema()).expect("a schema");
    let errors: Vec<_> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(serde_json::from_value::<Report>(json).expect("reads back"), report);
    insta::assert_json_snapshot!(report, @r#"
{
  "run": "0198-a",
  "plan": "9b70d956341019a7b925e19fb6845cd41d0842ef5767b371f4fe9cff1f047291",
  "question": "Do two addresses hold twice as many?",
  "submitter": "ada@example",
  "submitted_micros": 1767225600000000,
  "phase": "finished",
  "outcome": {
    "kind": "completed"
  },
  "kernels": {
    "host-1": "6.18.0",
    "host-2": "6.18.0",
    "host-3": "6.18.0"
  },
  "cases": [
    {
      "name": "clients.addresses=1",
      "trial": 1,
      "parameters": {
        "clients.addresses": "1"
      },
      "clients": {
        "hosts": 1,
        "addresses": 1,
        "ports": "20000-20099"
      },
      "servers": {
        "hosts": 1,
        "addresses": 1,
        "ports": "7000"
      },
      "predicted": 100,
      "accept": "all",
      "answered": true,
      "established": {
        "client": 100,
        "server": 100
      },
      "kernel": {
        "client": 100,
        "server": 100
      },
      "digests_equal": true,
      "failed": {},
      "rate_per_second": 100.0,
      "connect": null,
      "ramp": null,
      "start": null,
      "bound_by": "four_tuples",
      "next_bound": "system_files",
      "beyond": {
        "connect EADDRNOTAVAIL": 8
      },
      "cpu_micros_per_connection": 10000.0,
      "user_bytes_per_connection": 167772.16,
      "slab_bytes_per_connection": null,
      "counters": {
        "host-1": {
          "TcpExt.ListenOverflows": 2
        }
      },
      "gaps": []
    },
    {
      "name": "clients.addresses=2",
      "trial": 1,
      "parameters": {
        "clients.addresses": "2"
      },
      "clients": {
        "hosts": 1,
        "addresses": 2,
        "ports": "20000-20099"
      },
      "servers": {
        "hosts": 1,
        "addresses": 1,
        "ports": "7000"
      },
      "predicted": 200,
      "accept": "all",
      "answered": true,
      "established": {
        "client": 200,
        "server": 200
      },
      "kernel": {
        "client": 200,
        "server": 200
      },
      "digests_equal": true,
      "failed": {},
      "rate_per_second": 200.0,
      "connect": null,
      "ramp": null,
      "start": null,
      "bound_by": "four_tuples",
      "next_bound": "system_files",
      "beyond": {
        "connect EADDRNOTAVAIL": 8
      },
      "cpu_micros_per_connection": 5000.0,
      "user_bytes_per_connection": 83886.08,
      "slab_bytes_per_connection": null,
      "counters": {},
      "gaps": []
    }
  ],
  "scripts": [],
  "verdicts": [
    {
      "subject": "established = \"predicted\"",
      "verdict": "held",
      "because": "in 2 of 2 trials, up to 200 connections; both ends' kernels agree"
    },
    {
      "subject": "C4",
      "verdict": "confirmed",
      "because": "one pair held 100, and more of them 200 = 2 sources x 1 ip:port of 100 ports: exactly the sum of usable source ports over all pairs",
      "points": [
        {
          "what": "1 source x 1 ip:port hold the sum of their usable source ports",
          "measured": "100",
          "bearing": "supports",
          "evidence": "clients.addresses=1"
        },
        {
          "what": "2 sources x 1 ip:port hold the sum of their usable source ports",
          "measured": "200",
          "bearing": "supports",
          "evidence": "clients.addresses=2"
        }
      ]
    }
  ]
}
"#);
}

#[test]
fn late_words_are_counted_where_there_are_any() {
    let none = serde_json::to_value(Report::new(&record("0198-a", PLAN))).expect("serialises");
    assert_eq!(none.get("late"), None);
    let report = Report::new(&RunRecord { late: 3, ..record("0198-a", PLAN) });
    let json = serde_json::to_value(&report).expect("serialises");
    assert_eq!(json["late"], 3);
    assert_eq!(serde_json::from_value::<Report>(json).expect("reads back"), report);
}

#[test]
fn a_run_that_was_never_placed_and_one_whose_plan_is_not_understood_still_have_a_report() {
    let queued = RunRecord {
        phase: Phase::Queued,
        outcome: None,
        hosts: Vec::new(),
        schedule: None,
        evidence: Vec::new(),
        verdicts: Vec::new(),
        ..record("0198-a", PLAN)
    };
    let report = Report::new(&queued);
    assert_eq!((report.phase.as_str(), report.outcome, report.cases.len()), ("queued", None, 0));
    let foreign = RunRecord { plan_source: "of = \"another version\"".into(), ..record("0198-a", PLAN) };
    let report = Report::new(&foreign);
    assert_eq!((report.cases[1].name.as_str(), report.cases[1].established.client), ("case 2", 200));
    let validator = jsonschema::validator_for(&report_schema()).expect("a schema");
    assert!(validator.is_valid(&serde_json::to_value(&report).expect("serialises")));
}

#[test]
fn a_comparison_names_the_kernel_the_setting_and_the_plan_value_that_differ() {
    let first = record("0198-a", PLAN);
    let mut second =
        record("0198-b", &PLAN.replace("20099", "20199").replace("[1, 2]", "[1, 2]\nload.hold = [\"1s\"]"));
    second.hosts[1].facts.kernel = "6.19.0".into();
    second.hosts[2].facts.sysctls.insert(Sysctl::Somaxconn, "128".into());
    let comparison = compare(&first, &second);
    insta::assert_json_snapshot!(comparison, @r#"
{
  "first": "0198-a",
  "second": "0198-b",
  "place": [
    {
      "name": "kernel release",
      "first": "3 x 6.18.0",
      "second": "2 x 6.18.0, 1 x 6.19.0"
    },
    {
      "name": "somaxconn",
      "first": null,
      "second": "1 x 128, 2 x unknown"
    }
  ],
  "cases": [],
  "unmatched": [
    [
      "clients.addresses=1",
      "first"
    ],
    [
      "clients.addresses=2",
      "first"
    ],
    [
      "clients.addresses=1 load.hold=1s",
      "second"
    ],
    [
      "clients.addresses=2 load.hold=1s",
      "second"
    ]
  ],
  "plan": [
    {
      "name": "clients.source_ports",
      "first": "20000-20099",
      "second": "20000-20199"
    }
  ],
  "hosts": [
    {
      "name": "host-2: kernel",
      "first": "6.18.0",
      "second": "6.19.0"
    },
    {
      "name": "host-3: somaxconn",
      "first": null,
      "second": "128"
    }
  ]
}
"#);
}

#[test]
fn runs_in_namespaces_and_in_containers_differ_in_their_place_and_not_host_by_host() {
    let (mut first, mut second) = (record("0198-a", PLAN), record("0198-b", PLAN));
    first.hosts.iter_mut().for_each(|host| host.facts.place.kind = Kind::Namespace);
    for (host, name) in second.hosts.iter_mut().zip(["x", "y", "z"]) {
        host.name = name.parse().expect("a name");
        host.facts.place.kind = Kind::Container;
    }
    let Comparison { place, hosts, .. } = compare(&first, &second);
    let differ = |d: &Difference| (d.name.clone(), d.first.clone(), d.second.clone());
    let words = |text: &str| Some(text.to_owned());
    assert_eq!(
        place.iter().map(differ).collect::<Vec<_>>(),
        [("kind".into(), words("3 x namespace"), words("3 x container"))]
    );
    assert_eq!(hosts, []);
}

#[test]
fn cases_of_one_name_are_compared_number_by_number_and_in_what_they_ask() {
    let text = |ports: &str| format!("[[case]]\nname = \"few\"\nclients.source_ports = \"{ports}\"");
    let comparison = compare(&record("a", &text("20000-20009")), &record("b", &text("20000-20019")));
    let differing: Vec<_> =
        comparison.plan.iter().map(|d| (d.name.as_str(), d.first.as_deref(), d.second.as_deref())).collect();
    assert_eq!(differing, [("few: clients.source_ports", Some("20000-20009"), Some("20000-20019"))]);
    let [few] = comparison.cases.as_slice() else { panic!("one case") };
    assert_eq!(few.measures[1], ("established".into(), Some(10.0), Some(20.0)));
    assert!(comparison.unmatched.is_empty() && comparison.hosts.is_empty());
}

#[test]
fn a_run_compared_with_itself_differs_in_nothing() {
    let same = compare(&record("a", PLAN), &record("b", PLAN));
    assert!(same.plan.is_empty() && same.hosts.is_empty() && same.unmatched.is_empty());
    assert!(same.cases.iter().flat_map(|case| &case.measures).all(|(_, a, b)| a == b));
}
