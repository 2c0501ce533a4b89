//! Network namespaces: making them, keeping them, running code inside them.
//!
//! A namespace belongs to a *thread*. One that nobody runs in lives as long as a descriptor of it, so nothing
//! is ever mounted or named, and nothing is left when the holder ends, however it ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::thread;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getegid, geteuid};

/// Why a namespace cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The kernel or its guards said no.
    #[error("the kernel refused a user and a network namespace ({errno}): {}", remedy(*.errno))]
    Refused {
        /// What it answered.
        errno: Errno,
    },
    /// The namespace exists, but this user could not become its root.
    #[error("could not write {path} in a new user namespace ({source}); a security module may forbid it")]
    Map {
        /// The file of the mapping.
        path: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// A further namespace, for a host.
    #[error("could not make a network namespace for a host ({0}); see user.max_net_namespaces")]
    Host(io::Error),
    /// Entering one that exists.
    #[error("could not enter a host's network namespace ({0})")]
    Enter(io::Error),
}

fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => {
            "unprivileged user namespaces are forbidden here; allow them (kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns, the container's seccomp profile) or use loopback hosts"
        }
        Errno::ENOSPC => {
            "user.max_user_namespaces or user.max_net_namespaces is reached; raise it or use loopback hosts"
        }
        Errno::EINVAL => "the process has a second thread, or the kernel has no user namespaces",
        _ => "use loopback hosts",
    }
}

/// Moves this process into a network namespace of its own, the hub. Says whether it took a user namespace to
/// do so. The process must still have a single thread: the kernel refuses CLONE_NEWUSER to others.
pub fn enter_hub() -> Result<bool, NamespaceError> {
    // Root needs no user namespace, and without one the processes keep their real user.
    if unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(false);
    }
    let (uid, gid) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|errno| NamespaceError::Refused { errno })?;
    // "deny" first: only then may an unprivileged process write its gid_map (user_namespaces(7)).
    let maps = [
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ];
    for (path, text) in maps {
        std::fs::write(path, text).map_err(|source| NamespaceError::Map { path, source })?;
    }
    Ok(true)
}

/// A host's network namespace, which exists as long as this value or a process inside it.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, with nothing in it but a loopback link that is down.
    pub fn new() -> Result<Self, NamespaceError> {
        on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        })
        .map_err(NamespaceError::Host)
    }

    /// Runs `work` on a thread inside the namespace. A process that it starts is born there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        on_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        })
        .map_err(NamespaceError::Enter)
    }

    /// For a netlink message that names the namespace; valid while `self` is.
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A thread is the smallest thing that has a network namespace, and ends with its changes of it.
fn on_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("tuplelab".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}
