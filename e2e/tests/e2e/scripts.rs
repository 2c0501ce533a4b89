//! Scripts: signals to a worker and its end, by the real way of a step; and numbers that a plan expects.

use e2e::{Lab, Running, World, has_namespaces, loopback_hosts};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::{Duration, Instant};
use tuplelab_domain::report::Report;
use tuplelab_domain::run::Outcome;
use tuplelab_domain::script::Answer;
use tuplelab_domain::verdict::Finding;

/// A listener `l` on this port of the server.
fn listening(port: u16) -> String {
    format!("server socket l tcp reuseaddr\nserver bind l self:{port}\nserver listen l 37\n")
}

/// A plan of one script and expectations.
fn plan(world: &World, steps: &str, expectations: &[&str]) -> String {
    let expectations: String =
        expectations.iter().map(|answer| format!("[[expect]]\nanswer = \"{answer}\"\n")).collect();
    world.write("plan.toml", format!("steps = \"\"\"\n{steps}\"\"\"\n{expectations}"))
}

fn answer<'a>(report: &'a Report, label: &str) -> &'a Answer {
    let mut steps = report.scripts.iter().flat_map(|script| &script.steps);
    &steps.find(|step| step.label.as_deref() == Some(label)).expect(label).answer
}

/// Waits until one of the test's workers is stopped; which.
pub fn stopped_worker(world: &World) -> u32 {
    let late = Instant::now() + Duration::from_secs(30);
    loop {
        // The state stands behind the name, which is in brackets: `proc_pid_stat(5)`.
        let stopped = world.processes("worker").into_iter().find(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
        if let Some(pid) = stopped {
            return pid;
        }
        assert!(Instant::now() < late, "no worker was stopped");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A run whose server is stopped and whose next step takes a minute.
fn stopped_for_long(world: &World, port: u16) -> Running {
    let plan = plan(world, &format!("{}server stop\nclient wait 60s\n", listening(port)), &[]);
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]);
    stopped_worker(world);
    run
}

#[test]
fn a_server_is_stopped_goes_on_and_ends_and_its_client_sees_each() {
    loopback_hosts();
    let world = World::new();
    let steps = listening(7700)
        + "server stop -> stopped
client socket a tcp
client connect a server:7700 -> handshake
client send a 5
client receive a within 200ms -> unanswered
server continue -> continued
server accept b l
server receive b
server send b 7
client receive a -> answered
client many q 3 connect server:7700 -> queued
server sockets 7700 -> queue
server end -> ended
client receive q -> reset
client receive a -> left
";
    let expectations = [
        "stopped = ok",
        "handshake = ok",
        "unanswered = pending",
        "continued = ok",
        "answered = 7",
        "queued = 3",
        "queue:queued = 3",
        "ended = ok",
        "reset:ECONNRESET = 3",
        // An accepted connection whose data was read ends with a FIN.
        "left = eof",
    ];
    let plan = plan(&world, &steps, &expectations);
    let ran = world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(0);
    world.is_quiet();
    let report = ran.report();
    assert_eq!(report.verdicts.len(), expectations.len());
    assert_eq!(answer(&report, "ended").details["how"], "the worker exited with code 0");
}

#[test]
fn a_worker_that_its_script_leaves_stopped_does_not_survive_the_case() {
    loopback_hosts();
    let world = World::new();
    // The second case binds the port of the first: what was stopped is gone by then.
    let steps = listening(7710) + "server stop -> stopped\n";
    let text = format!(
        "[[case]]\nname = \"a\"\nsteps = \"\"\"\n{steps}\"\"\"\n[[case]]\nname = \"b\"\nsteps = \"\"\"\n{steps}\"\"\"\n\
         [[expect]]\nanswer = \"stopped = ok\"\n"
    );
    let plan = world.write("plan.toml", text.replace("listen l 37", "listen l 37 -> listening"));
    let ran = world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(0);
    world.is_quiet();
    let report = ran.report();
    let listened = report.scripts.iter().flat_map(|script| &script.steps);
    let listened = listened.filter(|step| step.label.as_deref() == Some("listening"));
    assert!(listened.clone().all(|step| step.answer.is_ok()) && listened.count() == 2, "{report:?}");
}

#[test]
fn ctrl_c_while_a_worker_is_stopped_cancels_the_run_and_leaves_nothing() {
    loopback_hosts();
    let world = World::new();
    let run = stopped_for_long(&world, 7720);
    let begun = Instant::now();
    run.signal(Signal::SIGINT);
    run.wait().exits(130);
    world.is_quiet();
    assert!(begun.elapsed() < Duration::from_secs(30), "the step under way was waited for");
    let report = world.run(["show", "last", "--db", "x.db", "--json"]).exits(0).report();
    assert_eq!(report.outcome, Some(Outcome::Cancelled));
}

#[test]
fn a_stopped_worker_does_not_outlive_an_agent_that_is_killed() {
    loopback_hosts();
    let world = World::new();
    let run = stopped_for_long(&world, 7730);
    let agents = world.processes("server-1");
    assert_eq!(agents.len(), 1);
    let worker = stopped_worker(&world);
    kill(Pid::from_raw(agents[0].cast_signed()), Signal::SIGKILL).expect("it is ours");
    // At once, and not only when its lab ends.
    let late = Instant::now() + Duration::from_secs(5);
    while world.processes("worker").contains(&worker) {
        assert!(Instant::now() < late, "the stopped worker outlives its agent");
        std::thread::sleep(Duration::from_millis(5));
    }
    let report = run.wait().exits(7).report();
    let Some(Outcome::AgentLost { agent, .. }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert_eq!(agent.as_str(), "server-1");
    world.is_quiet();
}

#[test]
fn a_stopped_worker_that_is_killed_ends_the_run_with_its_cause() {
    loopback_hosts();
    let world = World::new();
    let run = stopped_for_long(&world, 7740);
    let worker = Pid::from_raw(stopped_worker(&world).cast_signed());
    kill(worker, Signal::SIGKILL).expect("it is ours");
    let report = run.wait().exits(7).report();
    let Some(Outcome::AgentLost { why, .. }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(why.contains("SIGKILL"), "{why}");
    world.is_quiet();
}

/// A queue of 37 places that somaxconn cuts to 20, so that one more is held; and what a plan expects.
fn queue(world: &World, expectation: &str) -> String {
    let steps = listening(7000)
        + "client many c 30 connect server:7000 within 500ms -> held
server sockets 7000 -> queue
";
    let plan = plan(world, &steps, &[expectation]);
    let text = std::fs::read_to_string(world.path(&plan)).expect("written just now");
    world.write("plan.toml", format!("servers.sysctls.somaxconn = 20\n{text}"))
}

#[test]
fn a_backlog_of_37_under_a_somaxconn_of_20_holds_21_and_a_plan_that_expects_38_is_wrong() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let lab = Lab::start(&world, &["--clients", "1"]);
    for (expectation, code, finding) in [
        ("held = 21", 0, Finding::Held),
        ("queue:queued = 21", 0, Finding::Held),
        ("held = 38", 1, Finding::Missed),
        ("held:open = 21", 4, Finding::Inconclusive),
    ] {
        let plan = queue(&world, expectation);
        let report = lab.run(&world, &["run", &plan, "--json"]).exits(code).report();
        let verdict = report.verdicts.first().expect("one expectation");
        assert_eq!(verdict.verdict, finding, "{expectation}: {}", verdict.because);
        if finding == Finding::Missed {
            assert!(verdict.because.contains("it is 21"), "{}", verdict.because);
        }
        assert_eq!(answer(&report, "queue").details["backlog"], "20");
    }
    lab.stop().exits(0);
}

#[test]
fn a_script_over_ipv6_has_the_same_queues_and_a_raw_peer_too() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let steps = listening(7740)
        + "client many c 60 connect server:7740 within 300ms
server sockets 7740 -> queue
server socket m tcp
server bind m self:7741
server listen m 5
client syn 20 server:7741 from [fd66::2:fb]:1024 never
server sockets 7741 -> half
";
    let settings = "[load]\nfamily = \"ipv6\"\n[servers.sysctls]\ntcp_syncookies = 0\nsomaxconn = 20\n";
    let plan = world.write(
        "v6.toml",
        format!(
            "steps = '''\n{steps}'''\n{settings}[[expect]]\nanswer = \"queue = 21\"\n\
             [[expect]]\nanswer = \"half:syn_received = 6\"\n"
        ),
    );
    world.run(["run", &plan, "--db", "x.db"]).exits(0);
}
