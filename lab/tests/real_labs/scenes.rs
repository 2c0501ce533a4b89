//! The scenes, named as sentences.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getegid, geteuid};
use tuplelab_lab::{ExitNotice, HostSpec, Lab, LabError, LabKind, LabSpec, ProcessSpec};

use crate::Outcome;

type Found = Result<Outcome, String>;
type Scene = fn() -> Found;

pub const ALL: &[(&str, Scene)] = &[
    ("hosts_in_namespaces_reach_each_other_from_every_address", namespaces_reach_each_other),
    ("hosts_on_loopback_reach_each_other_from_every_address", loopback_reach_each_other),
    ("a_host_with_more_addresses_than_a_block_has_is_reached_at_all_of_them", many_addresses),
    ("five_hosts_come_up_within_three_seconds", five_hosts),
    ("thirty_hosts_come_up", thirty_hosts),
    ("placeholders_reach_the_processes", placeholders),
    ("a_process_that_dies_is_told_of_with_the_end_of_its_log", deaths_are_told),
    ("a_lab_that_does_not_listen_ends_within_its_bound", deaf_lab_ends),
    ("an_orphan_of_an_agent_ends_with_the_lab", orphans_end),
    ("a_killed_holder_leaves_nobody_behind_and_is_told_of", killed_holder),
    ("a_terminated_holder_ends_the_lab", terminated_holder),
    ("a_dropped_lab_is_ended", dropped_lab),
    ("a_program_that_does_not_exist_fails_with_its_name", missing_program),
    ("a_machine_without_room_for_namespaces_refuses_with_the_remedy", refused),
];

/// A spec with this executable as program, and the directory of its logs.
struct Stage {
    spec: LabSpec,
    logs: tempfile::TempDir,
}

impl Stage {
    fn new(kind: LabKind, hosts: &[(&str, u32, &[&str])]) -> Result<Self, String> {
        let logs = tempfile::tempdir().map_err(text)?;
        let program = std::env::current_exe().map_err(text)?;
        let host = |(name, addresses, args): &(&str, u32, &[&str])| HostSpec {
            name: (*name).to_owned(),
            addresses: *addresses,
            args: sleepy(args),
        };
        let spec = LabSpec {
            kind,
            program,
            log_dir: logs.path().join("lab"),
            inherit_stderr: false,
            controller: ProcessSpec { args: sleepy(&["serve", "{control}"]) },
            hosts: hosts.iter().map(host).collect(),
        };
        Ok(Self { spec, logs })
    }

    fn log(&self, name: &str) -> PathBuf {
        self.logs.path().join("lab").join(format!("{name}.log"))
    }

    /// Waits until a log has a line that begins so, and gives the rest of that line.
    fn logged(&self, name: &str, start: &str) -> Result<String, String> {
        let path = self.log(name);
        let line = || {
            let log = fs::read_to_string(&path).ok()?;
            log.lines().find_map(|line| line.strip_prefix(start)).map(|rest| rest.trim().to_owned())
        };
        eventually(Duration::from_secs(10), line).ok_or_else(|| {
            format!("{name} never logged {start:?}, but: {}", fs::read_to_string(&path).unwrap_or_default())
        })
    }
}

fn sleepy(args: &[&str]) -> Vec<String> {
    std::iter::once("sleepy").chain(args.iter().copied()).map(str::to_owned).collect()
}

/// A lab, or a reason to skip the scene.
enum Started {
    Lab(Lab),
    Refused(String),
}

fn start(stage: &Stage) -> Result<Started, String> {
    match Lab::start(&stage.spec) {
        Ok(lab) => Ok(Started::Lab(lab)),
        Err(LabError::Refused(why)) => Ok(Started::Refused(why)),
        Err(why) => Err(text(why)),
    }
}

/// The lab, or the scene ends as skipped.
macro_rules! started {
    ($stage:expr) => {
        match start($stage)? {
            Started::Lab(lab) => lab,
            Started::Refused(why) => return Ok(Outcome::Skipped(why)),
        }
    };
}

fn namespaces_reach_each_other() -> Found {
    reach_each_other(LabKind::Namespaces, "10.66.2.1,10.66.2.2,fd66::2:1,fd66::2:2", 4)
}

fn loopback_reach_each_other() -> Found {
    reach_each_other(LabKind::Loopback, "127.66.2.1,127.66.2.2", 2)
}

/// b serves on its two addresses per family; a and c dial them from their two, three each.
fn reach_each_other(kind: LabKind, targets: &str, listeners: u32) -> Found {
    let dial: &[&str] = &["dial", "{addresses}", targets];
    let stage = Stage::new(kind, &[("a", 2, dial), ("b", 2, &["serve", "{addresses}"]), ("c", 3, dial)])?;
    let lab = started!(&stage);
    let families = if lab.up().hosts.iter().any(|host| host.v6.is_empty()) { 1 } else { 2 };
    let listeners = if families == 1 { 2 } else { listeners };
    same("bound at b", &stage.logged("b", "bound")?, &listeners.to_string())?;
    same_or_log(&stage, "a", &(2 * 2 * families).to_string())?;
    same_or_log(&stage, "c", &(3 * 2 * families).to_string())?;
    same("bound at the controller", &stage.logged("controller", "bound")?, "1")?;
    let pids = pids(&lab);
    let began = Instant::now();
    lab.stop().map_err(text)?;
    at_most("stopping", began, Duration::from_secs(2))?;
    same("b drained", &stage.logged("b", "drained")?, "")?;
    nobody_left(&pids)
}

fn many_addresses() -> Found {
    // The blocks of one host: its own and those after all hosts' own.
    let targets = "10.66.2.1,10.66.2.250,10.66.3.1,10.66.4.100,fd66::2:1,fd66::2:258";
    let stage = Stage::new(
        LabKind::Namespaces,
        &[("a", 1, &["dial", "{addresses}", targets]), ("b", 600, &["serve", "{addresses}"])],
    )?;
    let lab = started!(&stage);
    let families = if lab.up().hosts[1].v6.is_empty() { 1 } else { 2 };
    same("bound", &stage.logged("b", "bound")?, &(600 * families).to_string())?;
    let expected = if families == 1 { 4 } else { 6 };
    same_or_log(&stage, "a", &expected.to_string())?;
    end(lab)
}

fn five_hosts() -> Found {
    let wait: &[&str] = &["wait"];
    let stage = Stage::new(LabKind::Namespaces, &["a", "b", "c", "d", "e"].map(|name| (name, 4, wait)))?;
    let began = Instant::now();
    let lab = started!(&stage);
    at_most("coming up", began, Duration::from_secs(3))?;
    crate::report(&format!(
        "  5 hosts of 4 addresses: {} ms from spec to last start, {} ms for the caller, rootless: {}",
        lab.up().took_ms,
        began.elapsed().as_millis(),
        lab.up().rootless
    ));
    end(lab)
}

fn thirty_hosts() -> Found {
    let names: Vec<String> = (0..30).map(|number| format!("host-{number}")).collect();
    let hosts: Vec<(&str, u32, &[&str])> =
        names.iter().map(|name| (name.as_str(), 4, &["wait"] as &[&str])).collect();
    let stage = Stage::new(LabKind::Namespaces, &hosts)?;
    let lab = started!(&stage);
    crate::report(&format!("  30 hosts of 4 addresses: {} ms", lab.up().took_ms));
    end(lab)
}

fn placeholders() -> Found {
    let show: &[&str] = &["show", "seen", "{name}", "{control}", "[{addresses}]"];
    let stage = Stage::new(LabKind::Loopback, &[("a-1", 2, show)])?;
    let lab = started!(&stage);
    same("arguments", &stage.logged("a-1", "seen")?, "a-1 127.0.0.1 [127.66.1.1,127.66.1.2]")?;
    let host = &lab.up().hosts[0];
    let name = fs::read_to_string(format!("/proc/{}/cmdline", host.pid)).map_err(text)?;
    same("argv[0]", name.split('\0').next().unwrap_or_default(), "tuplelab")?;
    end(lab)
}

fn deaths_are_told() -> Found {
    let stage = Stage::new(LabKind::Loopback, &[("a", 1, &["die", "3"]), ("b", 1, &["wait"])])?;
    let mut lab = started!(&stage);
    let told = next_exit(&mut lab)?;
    same("a's end", &format!("{told:?}"), &format!("{:?}", exit("a", "exit code 3", "dying with 3")))?;
    let b = lab.up().hosts[1].pid;
    kill(pid(b), Signal::SIGKILL).map_err(text)?;
    same("b's end", &format!("{:?}", next_exit(&mut lab)?), &format!("{:?}", exit("b", "signal 9", "")))?;
    if Path::new(&format!("/proc/{b}")).exists() {
        return Err(format!("b ({b}) is a zombie"));
    }
    end(lab)
}

fn deaf_lab_ends() -> Found {
    let stage = Stage::new(LabKind::Loopback, &[("a", 1, &["deaf"]), ("b", 1, &["wait"])])?;
    let lab = started!(&stage);
    stage.logged("a", "SIGTERM blocked: Ok")?;
    let began = Instant::now();
    let outcome = end(lab);
    at_most("ending a deaf lab", began, Duration::from_secs(10))?;
    outcome
}

fn orphans_end() -> Found {
    let stage = Stage::new(LabKind::Loopback, &[("a", 1, &["parent"])])?;
    let mut lab = started!(&stage);
    let child: u32 = stage.logged("a", "child ")?.parse().map_err(text)?;
    kill(pid(lab.up().hosts[0].pid), Signal::SIGKILL).map_err(text)?;
    same("a's end", &next_exit(&mut lab)?.status, "signal 9")?;
    if !alive(child) {
        return Err("the orphan ended too early for this scene".to_owned());
    }
    lab.stop().map_err(text)?;
    nobody_left(&[child])
}

fn killed_holder() -> Found {
    let stage = Stage::new(LabKind::Namespaces, &[("a", 1, &["serve", "{addresses}"]), ("b", 1, &["wait"])])?;
    let mut lab = started!(&stage);
    stage.logged("a", "bound")?;
    let pids = pids(&lab);
    kill(pid(lab.holder_pid()), Signal::SIGKILL).map_err(text)?;
    same("the holder's end", &next_exit(&mut lab)?.name, "lab-holder")?;
    if lab.try_exited().is_some() {
        return Err("the holder's end was told twice".to_owned());
    }
    nobody_left(&pids[1..])?;
    end(lab)
}

fn terminated_holder() -> Found {
    let stage = Stage::new(LabKind::Loopback, &[("a", 1, &["wait"])])?;
    let mut lab = started!(&stage);
    let pids = pids(&lab);
    kill(pid(lab.holder_pid()), Signal::SIGTERM).map_err(text)?;
    same("the holder's end", &next_exit(&mut lab)?.name, "lab-holder")?;
    nobody_left(&pids[1..])?;
    end(lab)
}

fn dropped_lab() -> Found {
    let stage = Stage::new(LabKind::Loopback, &[("a", 1, &["wait"])])?;
    let lab = started!(&stage);
    let pids = pids(&lab);
    drop(lab);
    nobody_left(&pids)
}

fn missing_program() -> Found {
    let mut stage = Stage::new(LabKind::Loopback, &[("a", 1, &["wait"])])?;
    stage.spec.program = "/nonexistent/tuplelab".into();
    match Lab::start(&stage.spec) {
        Err(why @ LabError::Holder { .. }) if text(&why).contains("/nonexistent/tuplelab") => {
            Ok(Outcome::Held)
        }
        other => Err(format!("{other:?}")),
    }
}

fn refused() -> Found {
    let program = std::env::current_exe().map_err(text)?;
    let scene = Command::new(program).args(["scene", "refused"]).output().map_err(text)?;
    match scene.status.code() {
        Some(0) => Ok(Outcome::Held),
        Some(2) => Ok(Outcome::Skipped("no user namespaces here to limit".to_owned())),
        _ => Err(String::from_utf8_lossy(&scene.stderr).into_owned()),
    }
}

/// In a process of its own: a user namespace in which no further network namespace may be made.
pub fn refused_from_the_inside() -> ExitCode {
    let (uid, gid) = (geteuid(), getegid());
    if unshare(CloneFlags::CLONE_NEWUSER).is_err() {
        return ExitCode::from(2);
    }
    let files = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
        ("/proc/sys/user/max_net_namespaces", "0".to_owned()),
    ];
    if files.into_iter().any(|(path, value)| fs::write(path, value).is_err()) {
        return ExitCode::from(2);
    }
    let stage = Stage::new(LabKind::Namespaces, &[("a", 1, &["wait"])]);
    match stage.map(|stage| Lab::start(&stage.spec)) {
        Ok(Err(LabError::Refused(why))) if why.contains("max_net_namespaces") => ExitCode::SUCCESS,
        other => {
            eprintln!("{other:?}");
            ExitCode::FAILURE
        }
    }
}

// What the scenes share.

fn end(lab: Lab) -> Found {
    let pids = pids(&lab);
    lab.stop().map_err(text)?;
    nobody_left(&pids)
}

/// The holder first, then controller and agents.
fn pids(lab: &Lab) -> Vec<u32> {
    let up = lab.up();
    [lab.holder_pid(), up.controller_pid].into_iter().chain(up.hosts.iter().map(|host| host.pid)).collect()
}

fn nobody_left(pids: &[u32]) -> Found {
    let gone = || pids.iter().all(|pid| !alive(*pid)).then_some(());
    match eventually(Duration::from_secs(5), gone) {
        Some(()) => Ok(Outcome::Held),
        None => Err(format!("still alive: {:?}", pids.iter().filter(|pid| alive(**pid)).collect::<Vec<_>>())),
    }
}

/// A zombie whose parent was killed waits for init, and is no longer ours.
fn alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

fn next_exit(lab: &mut Lab) -> Result<ExitNotice, String> {
    eventually(Duration::from_secs(10), || lab.try_exited()).ok_or_else(|| "no exit was told".to_owned())
}

fn exit(name: &str, status: &str, log_tail: &str) -> ExitNotice {
    ExitNotice { name: name.to_owned(), status: status.to_owned(), log_tail: log_tail.to_owned() }
}

fn eventually<T>(limit: Duration, mut found: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        match found() {
            Some(value) => return Some(value),
            None if Instant::now() >= deadline => return None,
            None => thread::sleep(Duration::from_millis(10)),
        }
    }
}

fn same(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?}, expected {expected:?}")) }
}

fn at_most(what: &str, began: Instant, limit: Duration) -> Result<(), String> {
    let took = began.elapsed();
    if took <= limit { Ok(()) } else { Err(format!("{what} took {took:?}, at most {limit:?} expected")) }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed())
}

fn text(why: impl std::fmt::Display) -> String {
    why.to_string()
}

/// A dialler's count, with its whole log where it is another.
fn same_or_log(stage: &Stage, name: &str, expected: &str) -> Result<(), String> {
    let found = stage.logged(name, "connected")?;
    let log = || fs::read_to_string(stage.log(name)).unwrap_or_default();
    same(&format!("connected from {name}"), &found, expected)
        .map_err(|why| format!("{why}; its log:\n{}", log()))
}
