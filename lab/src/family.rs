//! All processes of the lab, and their end. The only place that reaps, so a pid in the table is never
//! another process's.
//!
//! The holder is the *subreaper* of its descendants: a worker whose agent was killed becomes the holder's
//! child, is reaped here, and is ended with the lab. No process and no zombie outlives [`Family::end`].

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::notice::ExitNotice;
use crate::process::{Process, ended};

/// After the end of their stdin processes may finish what they have begun: send samples, close flows.
const DRAIN: Duration = Duration::from_secs(5);
/// After SIGTERM only what must not be cut off, such as a commit.
const TERM: Duration = Duration::from_secs(2);
/// After SIGKILL the kernel frees what they held; a million sockets take their time.
const KILL: Duration = Duration::from_secs(2);
/// How often the table is looked at while it empties.
const LOOK: Duration = Duration::from_millis(5);

/// The processes that have not been reaped.
#[derive(Debug)]
pub struct Family(BTreeMap<Pid, Process>);

impl Family {
    /// An empty one. From here on orphans of this process's children become its own.
    pub fn new() -> Self {
        // Refused only by kernels before 3.4; then orphans go to init as everywhere else.
        let _ = prctl::set_child_subreaper(true);
        Self(BTreeMap::new())
    }

    /// Takes a process in.
    pub fn add(&mut self, process: Process) {
        self.0.insert(process.pid, process);
    }

    /// Reaps whatever has ended and tells of the lab's own processes among it.
    pub fn reap(&mut self) -> Vec<ExitNotice> {
        let mut gone = Vec::new();
        while let Reaped::One(status) = reap_one() {
            let (Some(pid), Some(status)) = (status.pid(), ended(status)) else { continue };
            // A pid that is not in the table was an orphan's.
            if let Some(process) = self.0.remove(&pid) {
                let log_tail = process.log_tail();
                gone.push(ExitNotice { name: process.name, status, log_tail });
            }
        }
        gone
    }

    /// Ends every process: asks, then insists, then kills, each only for so long.
    pub fn end(mut self) {
        for process in self.0.values_mut() {
            process.close_stdin();
        }
        if gone_within(DRAIN) {
            return;
        }
        signal_children(Signal::SIGTERM);
        if gone_within(TERM) {
            return;
        }
        let deadline = Instant::now() + KILL;
        while Instant::now() < deadline {
            // Again and again: the children of a killed child become this process's own.
            signal_children(Signal::SIGKILL);
            if gone_within(LOOK) {
                return;
            }
        }
    }
}

/// Signals every child by its id, orphans that this process was given included.
fn signal_children(signal: Signal) {
    for pid in children() {
        // Nobody else reaps, so the id is still the child's. A program that changed its user may refuse.
        let _ = kill(pid, signal);
    }
}

/// Reaps until no child of any kind is left or the time is over.
fn gone_within(time: Duration) -> bool {
    let deadline = Instant::now() + time;
    loop {
        match reap_one() {
            Reaped::One(_) => {}
            Reaped::NoChildren => return true,
            Reaped::NobodyYet if Instant::now() >= deadline => return false,
            Reaped::NobodyYet => thread::sleep(LOOK),
        }
    }
}

enum Reaped {
    One(WaitStatus),
    NobodyYet,
    NoChildren,
}

fn reap_one() -> Reaped {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return Reaped::NobodyYet,
            Ok(status) => return Reaped::One(status),
            Err(Errno::EINTR) => {}
            Err(_) => return Reaped::NoChildren,
        }
    }
}

/// This process's children as the kernel has them, orphans that it was given included.
fn children() -> Vec<Pid> {
    let threads = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .map(Pid::from_raw)
        .collect()
}
