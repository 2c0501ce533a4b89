//! A plan from its text to its verdicts, in both kinds of lab; what is kept of it; what is printed where.

use e2e::{World, has_namespaces, loopback_hosts};
use tuplelab_domain::report::{Comparison, Report};
use tuplelab_domain::run::Outcome;
use tuplelab_domain::verdict::Finding;

/// Three cases of 1,000 to 2,000 connections.
fn plan(port: u16) -> String {
    let next = port + 1;
    format!(
        "question = \"Does every client address and every server port bring as many connections again?\"

[servers]
ports = \"{port}\"

[clients]
source_ports = \"20000-20799\"

[load]
hold = \"100ms\"

[[case]]
name = \"one address\"
[[case]]
name = \"two addresses\"
\"clients.addresses\" = 2
[[case]]
name = \"two ports\"
\"servers.ports\" = \"{port}-{next}\"

[[expect]]
established = \"predicted\"
[[expect]]
failed = \"0ppm\"
[[expect]]
bound_by = \"four_tuples\"
"
    )
}

fn is_whole(report: &Report) {
    assert_eq!(report.outcome, Some(Outcome::Completed));
    let predicted: Vec<u64> = report.cases.iter().map(|case| case.predicted).collect();
    assert_eq!(predicted, [800, 1600, 1600]);
    for case in &report.cases {
        let counts =
            (case.established.client, case.established.server, case.kernel.client, case.kernel.server);
        let all = case.predicted;
        assert_eq!(counts, (all, all, Some(all), Some(all)), "{}", case.name);
        assert_eq!(case.digests_equal, Some(true), "{}", case.name);
        assert!(case.failed.is_empty(), "{}: {:?}", case.name, case.failed);
        assert!(case.gaps.is_empty(), "{}: {:?}", case.name, case.gaps);
    }
    assert_eq!(report.verdicts.len(), 3);
    assert!(report.verdicts.iter().all(|verdict| verdict.verdict == Finding::Held), "{:?}", report.verdicts);
}

fn from_text_to_verdicts(kind: &str, port: u16) {
    let world = World::new();
    let plan = world.write("plan.toml", plan(port));
    let run = || world.run(["run", &plan, "--lab", kind, "--db", "runs.db", "--json"]).exits(0);
    let (first, second) = (run(), run());
    assert!(first.stderr.contains("[2/3] two addresses: holding 1,600 of 1,600"), "{}", first.told());
    world.is_quiet();
    let files: Vec<String> =
        world.files().into_iter().filter(|file| !file.ends_with("-wal") && !file.ends_with("-shm")).collect();
    assert_eq!(files, ["plan.toml", "runs.db"], "nothing else is left");

    let schema = world.run(["schema", "report"]).exits(0).json();
    let schema = jsonschema::validator_for(&schema).expect("the schema is one");
    for run in [&first, &second] {
        let problems: Vec<String> = schema.iter_errors(&run.json()).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{problems:?}");
        is_whole(&run.report());
    }

    let (first, second) = (first.report(), second.report());
    let read = |args: &[&str]| world.run(args.iter().chain(&["--db", "runs.db", "--json"])).exits(0);
    let listed = read(&["runs"]).json();
    let listed: Vec<&str> =
        listed["runs"].as_array().into_iter().flatten().filter_map(|r| r["run"].as_str()).collect();
    assert_eq!(listed, [&*second.run, &*first.run], "newest first");
    assert_eq!(read(&["show", "last"]).report(), second);
    // The front of an id is its time: both runs may share much of it.
    let front =
        (1..first.run.len()).find(|&n| !second.run.starts_with(&first.run[..n])).expect("they differ");
    assert_eq!(read(&["show", &first.run[..front]]).report(), first);
    let compared = read(&["compare", &first.run, "last"]);
    let compared: Comparison = serde_json::from_str(&compared.stdout).expect("a comparison");
    assert_eq!(compared.cases.len(), 3);
    let shown = world.run(["compare", &first.run, &second.run, "--db", "runs.db"]).exits(0);
    assert!(shown.stdout.contains("two addresses"), "{}", shown.told());
}

#[test]
fn a_plan_comes_from_its_text_to_its_verdicts_between_namespaces() {
    if has_namespaces() {
        from_text_to_verdicts("namespaces", 7000);
    }
}

#[test]
fn a_plan_comes_from_its_text_to_its_verdicts_between_loopback_hosts() {
    loopback_hosts();
    from_text_to_verdicts("loopback", 7100);
}
