//! What servers do with finished handshakes: nothing, slowly, only so many, or a close at once. What is
//! held then is what the kernel's queue holds, to the last place.

use e2e::{World, has_namespaces, loopback_hosts};
use tuplelab_domain::capacity::Limit;
use tuplelab_domain::report::{CaseReport, Report};
use tuplelab_domain::verdict::Finding;

/// Predicted; by each end's application; by each end's kernel.
fn counts(case: &CaseReport) -> [u64; 5] {
    let kernel = |count: Option<u64>| count.unwrap_or(u64::MAX);
    let (applications, kernels) = (case.established, case.kernel);
    [case.predicted, applications.client, applications.server, kernel(kernels.client), kernel(kernels.server)]
}

fn case<'a>(report: &'a Report, name: &str) -> &'a CaseReport {
    let case = report.cases.iter().find(|case| case.name == name).expect(name);
    assert!(case.gaps.is_empty(), "{name}: {:?}", case.gaps);
    assert_eq!(case.digests_equal, Some(true), "{name}");
    case
}

#[test]
fn a_queue_that_nobody_empties_holds_one_more_than_somaxconn_by_both_kernels() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let plan = world.write(
        "plan.toml",
        "load.hold = \"200ms\"
load.answered = false
load.timeout = \"1500ms\"
[servers]
backlog = 37
accept = \"never\"
[servers.sysctls]
somaxconn = 20
[[case]]
name = \"full\"
[[case]]
name = \"beyond\"
load.connections = 30
[[case]]
name = \"until\"
servers.accept = \"until 5\"
servers.ports = \"7000-7001\"
[[expect]]
established = \"predicted\"
[[expect]]
bound_by = \"accept_queue\"
",
    );
    let ran = world.run(["run", &plan, "--lab", "namespaces", "--db", "x.db", "--json"]).exits(0);
    world.is_quiet();
    let report = ran.report();
    assert!(report.verdicts.iter().all(|verdict| verdict.verdict == Finding::Held), "{:?}", report.verdicts);
    let full = case(&report, "full");
    assert_eq!((counts(full), full.failed.total()), ([21, 21, 0, 21, 21], 0));
    assert_eq!((full.accept.as_str(), full.answered, full.bound_by), ("never", false, Limit::AcceptQueue));
    let beyond = case(&report, "beyond");
    assert_eq!(counts(beyond), [21, 21, 0, 21, 21]);
    assert_eq!(serde_json::json!(beyond.failed), serde_json::json!({ "connect ETIMEDOUT": 9 }));
    let until = case(&report, "until");
    assert_eq!((counts(until), until.failed.total()), ([47, 47, 5, 47, 47], 0), "two queues and five");

    let shown = world.run(["show", "last", "--db", "x.db"]).exits(0);
    assert!(shown.stdout.contains("full: servers accept: never; a flow is established once its handshake"));
}

#[test]
fn slow_closing_and_unanswering_servers_are_reported_as_what_they_are() {
    loopback_hosts();
    let world = World::new();
    let plan = world.write(
        "plan.toml",
        "[servers]
ports = 7620
files = 200
[clients]
source_ports = \"28000-28999\"
files = 300
[load]
hold = \"200ms\"
connections = 100
[[case]]
name = \"slow\"
servers.accept = \"200/s\"
[[case]]
name = \"unanswered\"
load.answered = false
[[case]]
name = \"close\"
servers.accept = \"close\"
load.answered = false
[[expect]]
failed = \"0ppm\"
[[expect]]
established = \"predicted\"
",
    );
    let ran = world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(1);
    let report = ran.report();
    for name in ["slow", "unanswered"] {
        assert_eq!(counts(case(&report, name)), [100; 5], "{name}");
    }
    let rate = case(&report, "slow").rate_per_second.expect("a rate");
    assert!(rate < 210.0, "{rate}");
    assert_eq!(counts(case(&report, "close")), [100, 100, 100, 0, 0]);
    let findings: Vec<_> =
        report.verdicts.iter().map(|verdict| (verdict.verdict, verdict.because.as_str())).collect();
    assert_eq!(findings[0].0, Finding::Held, "{findings:?}");
    assert_eq!(findings[1].0, Finding::Missed);
    assert!(findings[1].1.contains("kernels 0 and 0"), "{findings:?}");
}
