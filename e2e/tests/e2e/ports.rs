//! The numbers: what reserved ports, strangers' sockets and descriptor limits do to them, exactly.

use e2e::{Lab, Running, World, has_namespaces, has_program, loopback_hosts};
use std::path::Path;
use tuplelab_domain::report::Report;

const LISTENER: &str = env!("CARGO_BIN_EXE_listener");

/// Three clients with two addresses each, two server addresses, three ports, 200 source ports of
/// which ten are reserved: 36 pairs.
fn plan(world: &World, source_ports: &str) -> String {
    world.write(
        &format!("{source_ports}.toml"),
        format!(
            "question = \"How many ports are left?\"
[servers]
addresses = 2
ports = \"7000-7002\"
[clients]
hosts = 3
addresses = 2
source_ports = \"{source_ports}\"
[clients.sysctls]
ip_local_port_range = \"20000-20199\"
ip_local_reserved_ports = \"20100-20109\"
[load]
hold = \"0s\"
[[expect]]
established = \"predicted\"
[[expect]]
bound_by = \"four_tuples\"
"
        ),
    )
}

fn all_witnesses_say(report: &Report, count: u64) {
    let case = report.cases.first().expect("a case");
    let said = (
        case.predicted,
        case.established.client,
        case.established.server,
        case.kernel.client,
        case.kernel.server,
    );
    assert_eq!(said, (count, count, count, Some(count), Some(count)), "{report:?}");
    assert_eq!(case.digests_equal, Some(true));
}

#[test]
fn reserved_ports_and_a_strangers_listener_cost_exactly_what_the_kernel_takes_for_them() {
    if !has_namespaces() || !has_program("nsenter") {
        return;
    }
    let world = World::new();
    let (explicit, kernel) = (plan(&world, "20000-20199"), plan(&world, "kernel"));
    let lab = Lab::start(&world, &["--servers", "1", "--clients", "3", "--addresses", "2"]);
    let count = |plan: &str, sum: u64| {
        all_witnesses_say(&lab.run(&world, &["run", plan, "--json"]).exits(0).report(), sum)
    };

    // Nobody else is there: explicit ports ignore reservations, the kernel's choice does not.
    count(&explicit, 36 * 200);
    count(&kernel, 36 * 190);

    let own = lab.host("client-1").addresses.first().expect("an address").to_string();
    for (stranger, lost_explicit) in [
        // On every address: both of this host's addresses lose the port towards six destinations.
        ("0.0.0.0:20050".to_owned(), 12),
        // On one address: the other one keeps it.
        (format!("{own}:20050"), 6),
        // On an address that is not used: explicit ports keep it all.
        ("127.0.0.1:20050".to_owned(), 0),
    ] {
        let mut listener = lab.start_on(&world, "client-1", LISTENER, &[&stranger]);
        listener.says("listening");
        count(&explicit, 36 * 200 - lost_explicit);
        // The kernel passes the port over on every address of the host.
        count(&kernel, 36 * 190 - 12);
        listener.tell("");
        listener.wait().exits(0);
    }
    lab.stop().exits(0);
}

#[test]
fn a_strangers_listener_costs_hosts_on_loopback_addresses_the_same() {
    loopback_hosts();
    let world = World::new();
    // Two hosts with two addresses each that share one namespace, and 100 ports: four pairs.
    let text = "[servers]\nports = 7600\n[clients]\nhosts = 2\naddresses = 2\nsource_ports = \"26000-26099\"\n[load]\nhold = \"0s\"\n";
    let plan = world.write("plan.toml", text);
    for (stranger, lost) in [("0.0.0.0:26050", 4), ("127.66.2.1:26050", 1), ("127.66.9.9:26050", 0)] {
        let mut command = world.command(LISTENER);
        command.arg(stranger);
        let mut listener = Running::start(command);
        listener.says("listening");
        let ran = world.run(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]).exits(0);
        all_witnesses_say(&ran.report(), 400 - lost);
        listener.tell("");
        listener.wait().exits(0);
    }
}

#[test]
fn one_address_holds_64_512_connections_under_a_limit_of_20_000_descriptors() {
    if !has_namespaces() {
        return;
    }
    let world = World::new();
    let plan = world.write(
        "plan.toml",
        "[load]\nhold = \"0s\"\n[[expect]]\nestablished = \"predicted\"\n[[expect]]\nfailed = \"0ppm\"\n",
    );
    let program = e2e::tuplelab().display().to_string();
    let mut command = world.command("sh");
    command.args(["-c", "ulimit -n 20000 && exec \"$0\" run \"$1\" --json --db runs.db", &program, &plan]);
    let ran = Running::start(command).wait().exits(0);
    all_witnesses_say(&ran.report(), 64_512);
}

#[test]
fn an_independent_count_during_the_hold_agrees_with_the_report() {
    if !has_namespaces() || !has_program("nsenter") {
        return;
    }
    let world = World::new();
    let plan =
        world.write("plan.toml", "[clients]\nsource_ports = \"30000-30999\"\n[load]\nhold = \"60s\"\n");
    let lab = Lab::start(&world, &["--clients", "1"]);
    let mut run = lab.begin(&world, &["run", &plan]);
    run.notes("holding 1,000 of 1,000");
    let pid = lab.host("server-1").pid;
    // The file is of the namespace of the process that it is read through.
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("the server's table");
    let established = table.lines().filter(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1).is_some_and(|local| local.ends_with(":1B58")) && words.get(3) == Some(&"01")
    });
    assert_eq!(established.count(), 1_000, "port 7000 (1B58), state ESTABLISHED (01)");
    assert!(!run.has_ended());
    run.signal(nix::sys::signal::Signal::SIGINT);
    run.wait().exits(130);
    lab.stop().exits(0);
}

#[test]
fn an_independent_count_of_loopback_hosts_agrees_with_the_report() {
    loopback_hosts();
    let world = World::new();
    let text = "[servers]\nports = 7610\n[clients]\nsource_ports = \"27000-27999\"\n[load]\nhold = \"60s\"\n";
    let plan = world.write("plan.toml", text);
    let run = world.start(["run", &plan, "--lab", "loopback", "--db", "x.db", "--json"]);
    run.notes("holding 1,000 of 1,000");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("this host's table");
    // 127.66.1.1:7610 as the kernel writes it on either byte order, in its column for one end.
    let server = format!("{:08X}:1DBA", u32::from_ne_bytes([127, 66, 1, 1]));
    let at = |column: usize| {
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        lines.filter(|w| w.get(column) == Some(&server.as_str()) && w.get(3) == Some(&"01")).count()
    };
    assert_eq!((at(1), at(2)), (1_000, 1_000), "the servers' sockets, the clients' sockets");
    run.signal(nix::sys::signal::Signal::SIGINT);
    run.wait().exits(130);
}

#[test]
fn an_ordinary_user_gets_the_same_numbers() {
    if !nix::unistd::Uid::effective().is_root() {
        return e2e::skip("the tests run as an ordinary user anyway");
    }
    if !has_namespaces() || !has_program("setpriv") {
        return;
    }
    // Somewhere that everybody may go, unlike a checkout of root's.
    let folder = tempfile::Builder::new().prefix("tuplelab-user-").tempdir().expect("a folder");
    let open = |path: &Path| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("opened");
    };
    open(folder.path());
    let program = folder.path().join("tuplelab");
    std::fs::copy(e2e::tuplelab(), &program).expect("copied");
    open(&program);
    std::fs::write(folder.path().join("plan.toml"), "[clients]\nhosts = 2\nsource_ports = \"30000-30999\"\n[load]\nhold = \"0s\"\n[[expect]]\nestablished = \"predicted\"\n").expect("written");
    let world = World::new();
    let mut command = world.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&program)
        .args(["run", "plan.toml", "--json", "--db", "runs.db"])
        .current_dir(folder.path())
        // A home that cannot be written is no error.
        .env("HOME", "/root")
        .env_remove("XDG_DATA_HOME")
        .env("TMPDIR", folder.path());
    let ran = Running::start(command).wait().exits(0);
    all_witnesses_say(&ran.report(), 2_000);
}
