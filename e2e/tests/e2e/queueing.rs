//! Several people at one controller: who waits, for how long, and who may not.

use e2e::{Running, World, loopback_hosts};
use tuplelab_domain::run::Outcome;

#[test]
fn users_share_the_queue_limits_are_named_and_a_run_that_waits_is_cancelled_at_once() {
    loopback_hosts();
    let world = World::new();
    let limits = ["--queue-limit", "3", "--user-queue-limit", "2"];
    let listen = ["controller", "--listen", "127.0.0.1:0", "--db", "x.db"];
    let controller = world.start(listen.iter().chain(&limits));
    let said = controller.notes("results in");
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).expect("an address");
    let url = url.trim_end_matches(',').to_owned();
    let agents = [("a", "127.0.0.2"), ("b", "127.0.0.3")].map(|(name, address)| {
        let of = ["--name", name, "--address", address];
        world.start(["agent", "--controller", &url].iter().chain(&of))
    });
    agents.iter().for_each(|agent: &Running| drop(agent.notes("attached")));
    let plan = |hold: &str| {
        let text = format!(
            "[servers]\nports = 7830\n[clients]\nsource_ports = \"24300-24309\"\n[load]\nhold = \"{hold}\"\n"
        );
        world.write(&format!("plan-{hold}.toml"), text)
    };
    let (long, short) = (plan("60s"), plan("1ms"));
    let at = |args: &[&str]| world.run(["--controller", &url].iter().chain(args));
    let submit = |name: &str| at(&["run", &short, "--detach", "--as", name]);
    let under_way = world.start(["--controller", &url, "run", &long, "--as", "ann"]);
    under_way.notes("holding");

    let [first, second] = [(); 2].map(|()| submit("ann").exits(0).stdout.trim().to_owned());
    let refused = submit("ann").exits(6);
    assert!(
        refused.stderr.contains("2 runs of ann wait") && refused.stderr.contains("--user-queue-limit"),
        "{}",
        refused.told()
    );
    let bob = submit("bob").exits(0);
    assert!(
        bob.stderr.contains("waits behind 2 others"),
        "the run under way and one of ann's: {}",
        bob.told()
    );
    let refused = submit("cid").exits(6);
    assert!(
        refused.stderr.contains("3 runs wait") && refused.stderr.contains("--queue-limit"),
        "{}",
        refused.told()
    );

    at(&["cancel", &second]).exits(0);
    let cancelled = at(&["show", &second, "--json"]).exits(0).report();
    assert_eq!(cancelled.outcome, Some(Outcome::Cancelled), "though another run is still under way");
    let again = at(&["cancel", &second]);
    assert!(again.stderr.contains("has finished already"), "{}", again.told());

    under_way.signal(nix::sys::signal::Signal::SIGINT);
    under_way.wait().exits(130);
    for run in [first.as_str(), bob.stdout.trim()] {
        at(&["watch", run]).exits(0);
        assert_eq!(at(&["show", run, "--json"]).exits(0).report().outcome, Some(Outcome::Completed));
    }
    drop(agents);
    controller.stop().exits(0);
}
