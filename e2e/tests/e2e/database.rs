//! What is kept: copied, checked, on a disk that is full.

use e2e::{Running, World, has_program, loopback_hosts, skip, tuplelab};
use std::path::{Path, PathBuf};
use tuplelab_domain::run::Outcome;

fn plan(world: &World, port: u16, hold: &str) -> String {
    let text = format!(
        "[servers]\nports = {port}\n[clients]\nsource_ports = \"24100-24199\"\n[load]\nhold = \"{hold}\"\n"
    );
    world.write(&format!("plan-{hold}.toml"), text)
}

#[test]
fn a_backup_is_a_database_and_a_check_says_what_is_in_it() {
    loopback_hosts();
    let world = World::new();
    let plan = plan(&world, 7810, "1ms");
    world.run(["run", &plan, "--lab", "loopback", "--db", "x.db"]).exits(0);
    let checked = world.run(["db", "check", "x.db", "--json"]).exits(0).json();
    assert_eq!(checked["rows"]["run"], 1);
    assert_eq!(checked["problems"], serde_json::json!([]));
    let copied = world.run(["db", "backup", "copy.db", "--db", "x.db"]).exits(0);
    assert!(copied.stdout.starts_with("copy.db: ok, schema "), "{}", copied.told());
    let show = |db: &str| world.run(["show", "last", "--json", "--db", db]).exits(0).json();
    assert_eq!(show("copy.db"), show("x.db"));
    let again = world.run(["db", "backup", "copy.db", "--db", "x.db"]).exits(8);
    assert!(again.stderr.contains("copy.db is there already"), "{}", again.told());
    let missing = world.run(["db", "check", "none.db"]).exits(8);
    assert!(missing.stderr.contains("there is no database none.db"), "{}", missing.told());

    let path = world.path("copy.db");
    let mut bytes = std::fs::read(&path).expect("reads");
    let page = bytes.len() - 2 * 4_096;
    bytes[page..page + 64].fill(0xa5);
    std::fs::write(&path, bytes).expect("writes");
    let damaged = world.run(["db", "check", "copy.db"]).exits(8);
    assert!(
        damaged.stderr.contains("damaged") && damaged.stderr.contains("restore a backup"),
        "{}",
        damaged.told()
    );
    world.write("notes.db", "my notes");
    let notes = world.run(["db", "check", "notes.db"]).exits(8);
    assert!(notes.stderr.contains("is not a SQLite database"), "{}", notes.told());
}

/// A controller whose database is on a file system of 3 MiB that only it sees.
fn on_a_small_disk(world: &World) -> Option<Running> {
    if !has_program("unshare") || !has_program("mount") {
        return None;
    }
    std::fs::create_dir(world.path("small")).expect("made");
    let script = "mount -t tmpfs -o size=3m none small || exit 77
        exec \"$0\" controller --listen 127.0.0.1:0 --db small/lab.db";
    let mut command = world.command("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(tuplelab());
    let mut tried = world.command("unshare");
    let tried = tried.args(["--user", "--map-root-user", "--mount", "sh", "-c", "mount -t tmpfs none small"]);
    let tried = tried.output().expect("unshare can be started");
    if !tried.status.success() {
        skip(&format!("no file system can be mounted: {}", String::from_utf8_lossy(&tried.stderr).trim()));
        return None;
    }
    Some(Running::start(command))
}

/// Leaves no room on the disk; the file that takes it.
fn fill(folder: &Path) -> PathBuf {
    use std::io::Write as _;
    let ballast = folder.join("ballast");
    let mut file = std::fs::File::create(&ballast).expect("the disk can be reached");
    while file.write_all(&[0; 4_096]).is_ok() {}
    ballast
}

#[test]
fn a_full_disk_refuses_new_runs_by_name_stops_and_reads_go_on_and_room_is_all_it_takes() {
    loopback_hosts();
    let world = World::new();
    let Some(controller) = on_a_small_disk(&world) else { return };
    let said = controller.notes("results in");
    let url = said.split_whitespace().find(|word| word.starts_with("http://")).expect("an address");
    let url = url.trim_end_matches(',').to_owned();
    let agents: Vec<Running> = [("a", "127.0.0.2"), ("b", "127.0.0.3")]
        .map(|(name, address)| {
            world.start(["agent", "--controller", &url, "--name", name, "--address", address])
        })
        .into();
    agents.iter().for_each(|agent| drop(agent.notes("attached")));
    let at = |args: &[&str]| world.run(["--controller", &url].iter().chain(args));
    let (long, short) = (plan(&world, 7820, "60s"), plan(&world, 7821, "1ms"));
    let run = world.start(["--controller", &url, "run", &long]);
    run.notes("holding");
    let waiting = at(&["run", &short, "--detach"]).exits(0).stdout.trim().to_owned();

    let ballast =
        fill(&PathBuf::from(format!("/proc/{}/root{}", controller.pid(), world.path("small").display())));
    // What the log had room for is taken at last.
    let refused = (0..200).map(|_| at(&["run", &short, "--detach"])).find(|ended| ended.code != Some(0));
    let refused = refused.expect("it is full").exits(8);
    assert!(
        refused.stderr.contains("no room to write") && refused.stderr.contains("free disk space"),
        "{}",
        refused.told()
    );
    at(&["runs"]).exits(0);
    at(&["show", "last"]).exits(0);
    // The stop does not wait for the disk: nothing is held any more.
    let under_way = run.notes("holding");
    assert!(!under_way.is_empty());
    run.signal(nix::sys::signal::Signal::SIGINT);
    while !world.processes("worker").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }

    std::fs::remove_file(ballast).expect("can be removed");
    let ended = run.wait();
    assert!([Some(7), Some(130)].contains(&ended.code), "{}", ended.told());
    // What was acknowledged before has its turn, and new runs are taken.
    let waited = at(&["watch", &waiting]);
    assert_eq!(waited.code, Some(0), "{}", waited.told());
    let new = at(&["run", &short, "--json"]).exits(0).report();
    assert_eq!(new.outcome, Some(Outcome::Completed));
    drop(agents);
    controller.stop().exits(0);
}
