//! What this machine allows, and how a test says that it was left out.

use crate::world::World;
use nix::fcntl::{Flock, FlockArg};
use std::fs::File;
use std::io::Write as _;
use std::sync::OnceLock;

/// Says that the test of this thread was left out, past the capture of test output.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

/// Whether labs of namespaces can be made here; says that the test is skipped if not.
pub fn has_namespaces() -> bool {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let refusal = REFUSAL.get_or_init(|| {
        let world = World::new();
        let plan = "question = \"?\"\n[clients]\nsource_ports = \"20000\"\n[load]\nhold = \"1ms\"\n";
        let plan = world.write("plan.toml", plan);
        let tried = world.run(["run", &plan, "--lab", "namespaces", "--db", "try.db"]);
        (tried.code == Some(70) && tried.stderr.contains("refused")).then(|| tried.stderr.trim().to_owned())
    });
    if let Some(why) = refusal {
        skip(why);
    }
    refusal.is_none()
}

/// Whether a program of the system is there; says that the test is skipped if not.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
    if !found {
        skip(&format!("there is no program '{name}'"));
    }
    found
}

/// The loopback addresses of this machine, for labs whose hosts they are: one process of tests at a
/// time has them, and each of its tests keeps to ports of its own.
pub fn loopback_hosts() {
    static LOCK: OnceLock<Flock<File>> = OnceLock::new();
    LOCK.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("tuplelab-e2e-{}.lock", nix::unistd::Uid::current()));
        let file = File::create(path).expect("the lock's file");
        Flock::lock(file, FlockArg::LockExclusive).unwrap_or_else(|(_, error)| panic!("flock: {error}"))
    });
}
