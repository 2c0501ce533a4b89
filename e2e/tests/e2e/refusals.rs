//! Bad input: each is refused with its own exit code, names the thing and the remedy, and leaves
//! nothing running and nothing changed.

use e2e::World;

const MISSED: i32 = 1;
const USAGE: i32 = 2;
const PLAN_REFUSED: i32 = 3;
const UNREACHABLE: i32 = 5;
const CAPACITY_SHORT: i32 = 6;
const STORE: i32 = 8;
const NOT_FOUND: i32 = 9;

fn refused(world: &World, args: &[&str], code: i32, words: &[&str]) {
    let ended = world.run(args).exits(code);
    assert!(ended.stdout.is_empty(), "something on standard output: {}", ended.told());
    for word in words {
        assert!(ended.stderr.contains(word), "{args:?}: no '{word}' in {}", ended.told());
    }
    world.is_quiet();
}

#[test]
fn a_plan_that_is_none_is_refused_by_name() {
    let world = World::new();
    let plan = |name: &str, text: &[u8]| world.write(name, text);
    refused(&world, &["run", "nowhere.toml"], NOT_FOUND, &["nowhere.toml", "plans/demo.toml"]);
    refused(&world, &["run", "home"], NOT_FOUND, &["home"]);
    refused(
        &world,
        &["run", &plan("binary.toml", &[0xff, 0xfe, 0, 1])],
        PLAN_REFUSED,
        &["binary.toml", "no text"],
    );
    refused(
        &world,
        &["run", &plan("long.toml", &b"#".repeat(300 * 1024))],
        PLAN_REFUSED,
        &["long.toml", "longer"],
    );
    refused(&world, &["check", &plan("open.toml", b"[servers\n")], PLAN_REFUSED, &["open.toml:1", "no TOML"]);
    for (name, text, words) in [
        ("hosts.toml", "[clients]\nhosts = 0\n", ["hosts.toml:2", "1 to 10000"]),
        ("port.toml", "[servers]\nports = 70000\n", ["port.toml:2", "70000"]),
        ("many.toml", "[load]\nconnections = 1000000000000\n", ["many.toml:2", "1000000000000"]),
        ("key.toml", "[clients]\nadresses = 2\n", ["key.toml:2", "did you mean 'addresses'?"]),
        ("sweep.toml", "[sweep]\n\"clients.hosts\" = [1, 0]\n", ["sweep.toml:2", "out of range"]),
    ] {
        let name = plan(name, text.as_bytes());
        refused(&world, &["check", &name], PLAN_REFUSED, &words);
        refused(&world, &["run", &name], PLAN_REFUSED, &words);
    }
}

#[test]
fn all_problems_of_a_plan_are_shown_at_once() {
    let world = World::new();
    let name = world.write(
        "p.toml",
        "[servers]\nhosts = 0\nprots = 1\n[load]\nrate = \"fast\"\n[[expect]]\nfailed = 3\n",
    );
    refused(
        &world,
        &["check", &name],
        PLAN_REFUSED,
        &["4 problems", "p.toml:2", "p.toml:3", "p.toml:5", "p.toml:7"],
    );
}

#[test]
fn more_than_a_pair_can_hold_is_refused_before_anything_is_started() {
    let world = World::new();
    let name = world.write("p.toml", "[load]\nconnections = \"100k\"\n");
    refused(
        &world,
        &["check", &name],
        CAPACITY_SHORT,
        &["64,512", "100,000", "four_tuples", "add a destination"],
    );
    // A fleet that no machine's lab can be.
    let name = world.write("q.toml", "[clients]\nhosts = 9000\n");
    refused(&world, &["check", &name], CAPACITY_SHORT, &["lab on this machine"]);
}

#[test]
fn a_controller_that_is_not_there_or_is_no_address_is_named() {
    let world = World::new();
    for url in ["http://127.0.0.1:1", "unix:nowhere.sock"] {
        refused(&world, &["--controller", url, "agents"], UNREACHABLE, &[url, "tuplelab controller"]);
        refused(&world, &["--controller", url, "show", "last"], UNREACHABLE, &[url]);
    }
    refused(
        &world,
        &["--controller", "127.0.0.1:1", "agents"],
        USAGE,
        &["127.0.0.1:1", "http://127.0.0.1:7600"],
    );
    refused(&world, &["agents"], USAGE, &["--controller"]);
}

#[test]
fn a_file_that_is_no_database_of_ours_is_refused_and_left_as_it_is() {
    let world = World::new();
    let plan = world.write("plan.toml", "[clients]\nsource_ports = \"2000-2009\"\n");
    world.write("text.db", "not a database, but somebody's text");
    world.write("empty.db", "");
    // The first page of a database with another program's number in it.
    world.write("foreign.db", [b"SQLite format 3\0".as_slice(), &[0; 84]].concat());
    for db in ["text.db", "empty.db", "foreign.db"] {
        let before = std::fs::read(world.path(db)).expect("is there");
        refused(&world, &["runs", "--db", db], STORE, &[db, "--db"]);
        refused(&world, &["run", &plan, "--db", db], STORE, &[db]);
        refused(&world, &["controller", "--listen", "127.0.0.1:0", "--db", db], STORE, &[db]);
        assert_eq!(std::fs::read(world.path(db)).expect("is there still"), before, "{db} was changed");
    }
    for command in [&["runs"][..], &["run", &plan]] {
        refused(&world, &[command, &["--db", "home"]].concat(), STORE, &["home", "no regular file", "--db"]);
    }
    // A folder in which not even root can make a file.
    refused(&world, &["run", &plan, "--db", "/sys/x.db"], STORE, &["/sys/x.db", "cannot be written"]);
    refused(&world, &["show", "last", "--db", "nowhere.db"], STORE, &["nowhere.db"]);
    refused(&world, &["runs"], NOT_FOUND, &["no results yet", "tuplelab demo"]);
}

#[test]
fn a_controller_that_others_could_reach_needs_to_be_told_so() {
    let world = World::new();
    refused(
        &world,
        &["controller", "--listen", "0.0.0.0:0", "--db", "x.db"],
        USAGE,
        &["0.0.0.0", "--insecure"],
    );
    refused(&world, &["controller", "--db", "x.db"], USAGE, &["--listen", "--unix"]);
}

#[test]
fn an_agent_with_a_bad_name_label_or_address_says_which() {
    let world = World::new();
    let agent = |more: &[&'static str]| [&["--controller", "http://127.0.0.1:1", "agent"], more].concat();
    refused(&world, &agent(&["--name", "a b"]), USAGE, &["a b", "1 to 64 letters"]);
    refused(&world, &agent(&["--name", "a", "--label", "x"]), USAGE, &["'x'", "key=value"]);
    refused(&world, &agent(&["--name", "a", "--address", "192.0.2.1"]), USAGE, &["192.0.2.1"]);
    refused(&world, &agent(&["--name", "a", "--address", "nonsense"]), USAGE, &["nonsense", "10.66.0.0/16"]);
}

#[test]
fn an_expectation_that_is_missed_is_an_exit_code() {
    e2e::loopback_hosts();
    let world = World::new();
    let name = world.write("p.toml", "[servers]\nports = 7400\n[clients]\nsource_ports = \"22000-22099\"\n[load]\nhold = \"0s\"\n[[expect]]\nbound_by = \"memory\"\n");
    let ended = world.run(["run", &name, "--lab", "loopback", "--db", "x.db"]).exits(MISSED);
    assert!(ended.stdout.contains("missed       bound_by = \"memory\""), "{}", ended.told());
    assert!(!ended.stdout.contains('\u{1b}'), "colours in a pipe");
    let shown = world.run(["show", "nonsense", "--db", "x.db"]).exits(NOT_FOUND);
    assert!(shown.stderr.contains("tuplelab runs"), "{}", shown.told());
}

#[test]
fn colours_are_forced_or_for_terminals_and_never_against_no_color() {
    let world = World::new();
    let coloured = |variables: &[&str]| {
        let mut command = world.command(e2e::tuplelab());
        command.args(["run", "nowhere.toml"]).envs(variables.iter().map(|name| (name, "1")));
        e2e::Running::start(command).wait().exits(NOT_FOUND).stderr.contains('\u{1b}')
    };
    assert!(!coloured(&[]));
    assert!(coloured(&["CLICOLOR_FORCE"]));
    assert!(!coloured(&["CLICOLOR_FORCE", "NO_COLOR"]));
}
