//! How runs end before their time: by Ctrl-C, by the death of a process.

use e2e::{Lab, Running, World, has_namespaces, loopback_hosts};
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
fn ctrl_c_before_the_lab_is_up_leaves_nothing() {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, 7530, "hold = \"60s\"\n");
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db"]);
    while world.processes("lab-holder").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    run.signal(Signal::SIGINT);
    run.wait().exits(130);
    world.is_quiet();
    assert!(!world.files().iter().any(|file| file.starts_with("tmp")), "{:?}", world.files());
}

#[test]
fn a_second_ctrl_c_waits_no_longer_and_the_run_still_has_an_end() {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, 7540, "hold = \"60s\"\n");
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db"]);
    run.notes("holding");
    run.signal(Signal::SIGINT);
    run.notes("press Ctrl-C again");
    run.signal(Signal::SIGINT);
    run.wait().exits(130);
    world.is_quiet();
    let outcome = world.run(["show", "last", "--db", "x.db", "--json"]).exits(0).report().outcome;
    assert!(matches!(outcome, Some(Outcome::Cancelled | Outcome::Interrupted)), "{outcome:?}");
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
    kill(Pid::from_raw(workers[0].cast_signed()), Signal::SIGKILL).expect("it is ours");
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
    loses_client_1(&world, lab.host("client-1").pid, run);
    let lab = lab.stop();
    assert!(lab.stderr.contains("client-1 ended (signal 9)"), "{}", lab.told());
}

#[test]
fn an_agent_on_loopback_addresses_that_is_killed_in_the_ramp_is_named() {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, 7550, "rate = \"10/s\"\n");
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]);
    run.notes("ramping");
    let agents = world.processes("client-1");
    assert_eq!(agents.len(), 1);
    loses_client_1(&world, agents[0], run);
}

/// Kills this agent of two, whose run then ends as lost.
fn loses_client_1(world: &World, agent: u32, run: Running) {
    assert_eq!(world.processes("worker").len(), 2);
    kill(Pid::from_raw(agent.cast_signed()), Signal::SIGKILL).expect("it is ours");
    let report = run.wait().exits(7).report();
    let Some(Outcome::AgentLost { agent, .. }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(agent.as_str(), "client-1");
    assert!(world.processes("worker").is_empty(), "a worker is left");
    assert!(!report.cases.is_empty(), "what was measured is kept");
}

#[test]
fn a_terminate_or_a_hangup_clears_away_what_was_made_like_ctrl_c() {
    loopback_hosts();
    for (port, signal) in [(7480, Signal::SIGTERM), (7481, Signal::SIGHUP)] {
        let world = World::new();
        let text = format!(
            "[servers]\nports = {port}\n[clients]\nsource_ports = \"23000-23049\"\n[load]\nhold = \"60s\"\n"
        );
        let plan = world.write("p.toml", text);
        let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db"]);
        run.notes("holding");
        run.signal(signal);
        run.wait().exits(130);
        world.is_quiet();
        let left: Vec<String> = world.files().into_iter().filter(|file| file.starts_with("tmp/")).collect();
        assert!(left.is_empty(), "{signal}: {left:?}");
    }
}
