//! Shapes of load: waves, churn, activity. Counts only: how fast they were is no test's business.

use e2e::{World, has_namespaces, loopback_hosts};
use tuplelab_domain::report::{CaseReport, Report, ShapeReport};

const PLAN: &str = "[load]
connections = 300
hold = \"500ms\"
[[case]]
name = \"waves\"
load.stages = [\"100 at 1k/s\", \"pause 100ms\", \"rest at unlimited\"]
[[case]]
name = \"activity\"
load.activity = \"64B every 200ms\"
[[case]]
name = \"reset\"
load.churn = \"400/s\"
[[case]]
name = \"fin\"
load.churn = \"400/s\"
load.close = \"fin\"
[[expect]]
established = 300
[[expect]]
failed = \"0ppm\"
";

fn shape<'a>(report: &'a Report, name: &str) -> (&'a CaseReport, &'a ShapeReport) {
    let case = report.cases.iter().find(|case| case.name == name).expect(name);
    assert!(case.gaps.is_empty(), "{name}: {:?}", case.gaps);
    assert_eq!(case.digests_equal, Some(true), "{name}");
    assert_eq!((case.established.client, case.established.server), (300, 300), "{name}");
    assert_eq!((case.kernel.client, case.kernel.server), (Some(300), Some(300)), "{name}");
    (case, case.shape.as_ref().expect(name))
}

/// What is true on any hosts.
fn sound(report: &Report) {
    let (_, waves) = shape(report, "waves");
    assert_eq!(waves.stages, ["100 at 1k/s", "pause 100ms", "rest at unlimited"]);
    let (_, activity) = shape(report, "activity");
    let activity = activity.activity.as_ref().expect("rounds");
    assert!(activity.rounds >= 300 && activity.answered == activity.rounds, "{activity:?}");
    assert_eq!(activity.round_trips.count(), activity.rounds);
    assert!(activity.p50_micros <= activity.p99_micros && activity.p99_micros <= activity.max_micros);
    for (name, close) in [("reset", "rst"), ("fin", "fin")] {
        let (case, churn) = shape(report, name);
        let churn = churn.churn.as_ref().expect("churn");
        assert!(churn.close == close && churn.closed > 0, "{churn:?}");
        assert_eq!((churn.opened, churn.let_go), (churn.closed, churn.closed), "{churn:?}");
        assert_eq!(case.cpu_micros_per_connection, None, "it was spent on churn, too");
    }
}

#[test]
fn every_shape_ends_with_as_many_connections_as_were_asked_for_by_both_kernels() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let plan = world.write("plan.toml", format!("[clients]\nhosts = 2\n{PLAN}"));
    let ran = world.run(["run", &plan, "--lab", "namespaces", "--db", "x.db", "--json"]).exits(0);
    world.is_quiet();
    let report = ran.report();
    sound(&report);
    let waiting = |name| shape(&report, name).1.churn.clone().expect("churn");
    assert_eq!(waiting("reset").time_wait, Some(0));
    assert_eq!(waiting("fin").time_wait, Some(waiting("fin").closed), "each closed one");
    let shown = world.run(["show", "last", "--db", "x.db"]).exits(0);
    for line in [
        "waves: stages: 100 at 1k/s, pause 100ms",
        "activity: 64B every 200ms: ",
        "fin: churn 400/s by fin: ",
    ] {
        assert!(shown.stdout.contains(line), "{line}: {}", shown.stdout);
    }
}

#[test]
fn the_shapes_are_the_same_on_loopback_addresses() {
    loopback_hosts();
    let world = World::new();
    let text = format!("[servers]\nports = 7630\n[clients]\nsource_ports = \"29000-29999\"\n{PLAN}");
    let plan = world.write("plan.toml", text);
    sound(&world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(0).report());
}
