//! How runs end before their time: by Ctrl-C, by the death of a process.

use e2e::{Lab, World, has_namespaces, loopback_hosts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tuplelab_domain::run::Outcome;

fn plan(world: &World, port: u16, load: &str) -> String {
    let text =
        format!("[servers]\nports = {port}\n[clients]\nsource_ports = \"23000-23999\"\n[load]\n{load}");
    world.write("plan.toml", text)
}

/// Ctrl-C in this phase ends the run as cancelled, at once, and leaves nothing.
fn cancelled_while(phase: &str, port: u16, load: &str) {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, port, load);
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db"]);
    run.notes(phase);
    run.signal(Signal::SIGINT);
    run.wait().exits(130);
    world.is_quiet();
    let report = world.run(["show", "last", "--db", "x.db", "--json"]).exits(0).report();
    assert_eq!(report.outcome, Some(Outcome::Cancelled));
}

#[test]
fn ctrl_c_in_the_ramp_cancels_the_run() {
    cancelled_while("ramping", 7500, "rate = \"50/s\"\n");
}

#[test]
fn ctrl_c_in_the_hold_cancels_the_run() {
    cancelled_while("holding 1,000 of 1,000", 7510, "hold = \"60s\"\n");
}

#[test]
fn a_worker_that_is_killed_ends_the_run_with_its_cause() {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, 7520, "hold = \"60s\"\n");
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]);
    run.notes("holding");
    let workers = world.processes("worker");
    assert_eq!(workers.len(), 2, "a worker at each end");
    kill(Pid::from_raw(workers[0] as i32), Signal::SIGKILL).expect("it is ours");
    let report = run.wait().exits(7).report();
    let Some(Outcome::AgentLost { why, .. }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(why.contains("SIGKILL"), "{why}");
    let case = report.cases.first().expect("what was measured is kept");
    assert!(!case.gaps.is_empty());
}

#[test]
fn an_agent_that_is_killed_is_named_and_its_worker_does_not_outlive_it() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let plan = plan(&world, 7000, "hold = \"120s\"\n");
    let lab = Lab::start(&world, &["--clients", "1"]);
    let run = lab.begin(&world, &["run", &plan, "--json"]);
    run.notes("holding");
    assert_eq!(world.processes("worker").len(), 2);
    kill(Pid::from_raw(lab.host("client-1").pid as i32), Signal::SIGKILL).expect("it is ours");
    let report = run.wait().exits(7).report();
    let Some(Outcome::AgentLost { agent, .. }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(agent.as_str(), "client-1");
    assert!(world.processes("worker").is_empty(), "a worker is left");
    let lab = lab.stop();
    assert!(lab.stderr.contains("client-1 ended (signal 9)"), "{}", lab.told());
}
