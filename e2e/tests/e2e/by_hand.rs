//! A controller and agents that are started by hand on loopback addresses, as in the README.

use e2e::{Running, World, loopback_hosts};
use std::net::TcpListener;
use tuplelab_domain::run::Outcome;

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// A controller and one agent per (name, address, role).
fn start(world: &World, agents: &[(&str, &str, &str)]) -> (String, Vec<Running>) {
    let url = format!("http://127.0.0.1:{}", free_port());
    let listen = url.trim_start_matches("http://");
    let mut running = vec![world.start(["controller", "--listen", listen, "--db", "lab.db"])];
    running[0].notes("controller at");
    for (name, address, role) in agents {
        let label = format!("role={role}");
        let agent = world.start([
            "agent",
            "--controller",
            &url,
            "--name",
            name,
            "--address",
            address,
            "--label",
            &label,
        ]);
        agent.notes("attached");
        running.push(agent);
    }
    (url, running)
}

fn plan(world: &World, port: u16, more: &str) -> String {
    world.write(
        "plan.toml",
        format!("[servers]\nports = \"{port}\"\n[clients]\nsource_ports = \"21000-21499\"\n[load]\nhold = \"0s\"\n{more}[[expect]]\nestablished = \"predicted\"\n"),
    )
}

#[test]
fn agents_in_terminals_of_their_own_run_a_plan_from_yet_another_one() {
    loopback_hosts();
    let world = World::new();
    let (url, running) = start(&world, &[("a", "127.66.40.1", "server"), ("b", "127.66.40.2", "client")]);
    let plan = plan(&world, 7300, "");
    let at = |args: &[&str]| world.run(["--controller", &url].iter().chain(args));

    let report = at(&["run", &plan, "--json"]).exits(0).report();
    assert_eq!(report.cases.first().map(|case| case.kernel.server), Some(Some(500)));
    assert_eq!(at(&["show", "last", "--json"]).exits(0).report(), report);

    // What the agents offer is an inventory that a plan can be checked against.
    let inventory = at(&["agents", "--json"]).exits(0);
    world.write("hosts.json", &inventory.stdout);
    let checked = world.run(["check", &plan, "--inventory", "hosts.json", "--json"]).exits(0).json();
    assert_eq!(checked["cases"][0]["prediction"]["connections"], 500);

    // Without waiting: its name is printed, and others can follow it.
    let detached = at(&["run", &plan, "--detach"]).exits(0);
    at(&["watch", detached.stdout.trim()]).exits(0);
    for daemon in running {
        daemon.stop().exits(0);
    }
}

#[test]
fn agents_by_hand_do_a_script_and_a_cancel_frees_them_from_a_worker_that_is_stopped() {
    loopback_hosts();
    let world = World::new();
    let (url, running) = start(&world, &[("a", "127.66.45.1", "server"), ("b", "127.66.45.2", "client")]);
    let at = |args: &[&str]| world.run(["--controller", &url].iter().chain(args));
    let listen = "server socket l tcp reuseaddr\nserver bind l self:7350\nserver listen l 5\n";
    let script = |name: &str, steps: &str, expected: &str| {
        let expect = format!("[[expect]]\nanswer = \"{expected}\"\n");
        world.write(name, format!("steps = \"\"\"\n{listen}{steps}\"\"\"\n{expect}"))
    };
    let queue = "client many c 6 connect server:7350 -> held\nserver sockets 7350 -> queue\n";
    let plan = script("queue.toml", queue, "queue:queued = 6");
    let report = at(&["run", &plan, "--json"]).exits(0).report();
    let steps = &report.scripts.first().expect("a script").steps;
    let by: Vec<&str> = steps.iter().map(|step| step.agent.as_str()).collect();
    assert_eq!(by, ["a", "a", "a", "b", "a"]);
    assert_eq!(steps[3].text, "many c 6 connect 127.66.45.1:7350 within 1000ms");
    assert_eq!(at(&["show", "last", "--json"]).exits(0).report(), report);

    let wrong = script("wrong.toml", queue, "held = 5");
    at(&["run", &wrong]).exits(1);

    let long = script("long.toml", "server stop -> stopped\nclient wait 60s\n", "stopped = ok");
    let submitted = at(&["run", &long, "--detach"]).exits(0);
    let run = submitted.stdout.trim();
    let watching = world.start(["--controller", &url, "watch", run]);
    crate::scripts::stopped_worker(&world);
    at(&["cancel", run]).exits(0);
    assert!(watching.wait().exits(130).stdout.contains("cancelled"));
    assert!(world.processes("worker").is_empty(), "a worker is left");
    at(&["run", &plan]).exits(0);
    for daemon in running {
        daemon.stop().exits(0);
    }
}

#[test]
fn a_second_agent_of_the_same_name_is_refused_and_the_first_goes_on() {
    loopback_hosts();
    let world = World::new();
    let (url, running) = start(&world, &[("a", "127.66.41.1", "server"), ("b", "127.66.41.2", "client")]);
    let second =
        world.run(["agent", "--controller", &url, "--name", "a", "--address", "127.66.41.3"]).exits(70);
    assert!(second.stderr.contains("an agent named a is attached already"), "{}", second.told());
    let plan = plan(&world, 7310, "");
    world.run(["--controller", &url, "run", &plan]).exits(0);
    for daemon in running {
        daemon.stop().exits(0);
    }
}

#[test]
fn what_does_not_fit_on_the_agents_is_refused_with_every_shortfall() {
    loopback_hosts();
    let world = World::new();
    let (url, running) = start(&world, &[("a", "127.66.42.1", "server"), ("b", "127.66.42.2", "client")]);
    let refused = |more: &str, words: &[&str]| {
        let plan = plan(&world, 7320, more);
        let ended = world.run(["--controller", &url, "run", &plan]).exits(6);
        for word in words {
            assert!(ended.stderr.contains(word), "no '{word}' in {}", ended.told());
        }
    };
    refused("connections = 501\n", &["four_tuples", "500", "501", "add a destination"]);
    refused("[[case]]\n\"clients.hosts\" = 2\n\"servers.hosts\" = 2\n", &["2 client host(s)", "0 fit"]);
    refused("[[case]]\n\"clients.addresses\" = 2\n", &["offers 1", "addresses"]);
    refused("[[case]]\n\"clients.sysctls\" = { somaxconn = 20 }\n", &["somaxconn", "--allow-sysctls"]);
    for daemon in running {
        daemon.stop().exits(0);
    }
}

#[test]
fn a_run_is_cancelled_from_another_terminal_and_the_agents_are_free_again() {
    loopback_hosts();
    let world = World::new();
    let (url, running) = start(&world, &[("a", "127.66.43.1", "server"), ("b", "127.66.43.2", "client")]);
    let plan = plan(&world, 7330, "");
    let at = |args: &[&str]| world.run(["--controller", &url].iter().chain(args));
    let submitted = at(&["run", &plan, "--hold", "60s", "--detach"]).exits(0);
    let run = submitted.stdout.trim();
    let watching = world.start(["--controller", &url, "watch", run]);
    watching.notes("holding");
    assert!(at(&["cancel", run]).exits(0).stdout.contains(run));
    assert!(watching.wait().exits(130).stdout.contains("cancelled"));
    at(&["cancel", "nonsense"]).exits(9);
    at(&["run", &plan]).exits(0);
    for daemon in running {
        daemon.stop().exits(0);
    }
}

#[test]
fn a_controller_that_is_ended_by_ctrl_c_keeps_its_run_as_interrupted() {
    loopback_hosts();
    let world = World::new();
    let (url, mut running) = start(&world, &[("a", "127.66.44.1", "server"), ("b", "127.66.44.2", "client")]);
    let plan = plan(&world, 7340, "");
    let run = world.start(["--controller", &url, "run", &plan, "--hold", "60s"]);
    run.notes("holding");
    let controller = running.remove(0);
    controller.signal(nix::sys::signal::Signal::SIGINT);
    controller.wait().exits(0);
    let lost = run.wait().exits(5);
    assert!(lost.stderr.contains("tuplelab show"), "{}", lost.told());
    let report = world.run(["show", "last", "--db", "lab.db", "--json"]).exits(0).report();
    assert_eq!(report.outcome, Some(Outcome::Interrupted));
    // Agents that are told to end take their workers with them.
    for agent in running {
        agent.stop().exits(0);
    }
}
