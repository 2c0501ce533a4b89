//! How long connects take, whether they begin at their rate, and together: that each is counted, and
//! that what is shown of it hangs together. How fast this machine is, is nobody's expectation.

use e2e::{World, loopback_hosts};
use tuplelab_domain::report::CaseReport;
use tuplelab_domain::verdict::Finding;

#[test]
fn connects_are_timed_paced_and_begun_together_and_that_is_kept() {
    loopback_hosts();
    let world = World::new();
    let plan = world.write(
        "plan.toml",
        "[servers]
ports = 7640
[clients]
hosts = 2
source_ports = \"30000-30999\"
[load]
hold = \"200ms\"
[[case]]
name = \"paced\"
load.rate = \"400/s\"
load.connections = 1000
[[case]]
name = \"handshakes\"
load.answered = false
load.connections = 500
[[expect]]
connect_p99 = \"60s\"
[[expect]]
connect_p99 = \"0ms\"
[[expect]]
ramp_error = \"1000000ppm\"
",
    );
    let ran = world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(1);
    world.is_quiet();
    let report = ran.report();
    let named = |name: &str| report.cases.iter().find(|case| case.name == name).expect("a case");
    let timed = |case: &CaseReport, count: u64| {
        let times = case.connect.clone().expect("times");
        assert_eq!((times.count, case.established.client), (count, count), "each connect has its time");
        assert_eq!(times.by_occupancy.iter().map(|at| at.count).sum::<u64>(), count);
        let order =
            [times.p50_micros, times.p90_micros, times.p99_micros, times.p999_micros, times.max_micros];
        assert!(order.is_sorted(), "{order:?}");
        let start = case.start.expect("both said when they began");
        assert_eq!((start.clients, start.start_skew_bound_micros), (2, 0), "one kernel has one clock");
    };
    timed(named("paced"), 1_000);
    timed(named("handshakes"), 500);
    let ramp = named("paced").ramp.expect("a ramp");
    assert_eq!(ramp.asked_per_second, 400);
    assert!(ramp.seconds >= 2 && (1..=ramp.seconds).contains(&ramp.seconds_seen), "{ramp:?}");
    assert!(ramp.late <= 1_000 && named("handshakes").ramp.is_none());
    let findings: Vec<_> = report.verdicts.iter().map(|verdict| verdict.verdict).collect();
    assert_eq!(findings[..2], [Finding::Held, Finding::Missed], "{:?}", report.verdicts);
    assert_ne!(findings[2], Finding::Missed, "nobody is off by all of it");

    let again = world.run(["show", "last", "--db", "x.db", "--json"]).exits(0).report();
    assert_eq!(again.cases, report.cases, "the database has it all");
    let shown = world.run(["show", "last", "--db", "x.db"]).exits(0).stdout;
    for words in
        ["connect time, us", "paced: ramp: asked 400/s, worst full second", "paced: start: 2 clients"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}
