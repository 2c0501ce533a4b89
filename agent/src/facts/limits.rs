//! Processors, memory, descriptors, threads: what this process may use of its host.

use super::cgroup::{Cgroups, Resource};
use super::{namespace, read};
use crate::readings::meminfo;
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity};
use nix::sys::resource::{RLIM_INFINITY, Resource as Rlimit, getrlimit};
use nix::unistd::Pid;
use std::io;
use tuplelab_domain::capacity::facts::OpenFiles;

/// The inode of the first user namespace (`PROC_USER_INIT_INO`, `include/linux/proc_ns.h`): fixed,
/// where a map of all users can be that of a namespace below it.
const FIRST_USER_NAMESPACE: u64 = 0xEFFF_FFFD;
/// `include/uapi/linux/capability.h`.
const CAP_SYS_ADMIN: u32 = 21;

/// Why a limit is not known.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// A file of the kernel's cannot be read.
    #[error("failed to read {path}: {source}; the agent needs a /proc mounted that shows this host")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of the kernel's says something else than expected.
    #[error(
        "failed to find a number in {path}, which says '{text}': this kernel is not known to us; please report it"
    )]
    Odd {
        /// The file.
        path: &'static str,
        /// Its text.
        text: String,
    },
    /// A resource limit cannot be read.
    #[error(
        "failed to read the limit {name} of this process: {source}; getrlimit(2) must be allowed to the agent"
    )]
    Rlimit {
        /// The limit.
        name: &'static str,
        /// What the kernel said.
        source: Errno,
    },
}

/// Processors: those that this process may run on, or as much time of theirs as a group may use.
pub fn cpus() -> u32 {
    let allowed = sched_getaffinity(Pid::from_raw(0))
        .map(|set| (0..CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).count());
    // A host with more processors than a `CpuSet` holds is EINVAL there; the standard library reads
    // any number, but rounds a group's quota down.
    let allowed = allowed.ok().or_else(|| std::thread::available_parallelism().map(usize::from).ok());
    let allowed = u32::try_from(allowed.unwrap_or(1)).unwrap_or(u32::MAX);
    Cgroups::own().cpus().map_or(allowed, |quota| quota.min(allowed)).max(1)
}

/// Memory that can still be had, in bytes.
pub fn memory_available() -> Result<u64, LimitError> {
    const PATH: &str = "/proc/meminfo";
    let text = read(PATH)?;
    let host = meminfo(&text, "MemAvailable").ok_or(LimitError::Odd { path: PATH, text })?;
    Ok(Cgroups::own().headroom(Resource::Memory).map_or(host, |group| group.min(host)))
}

/// Descriptors and threads.
pub fn open_files() -> Result<OpenFiles, LimitError> {
    Ok(OpenFiles {
        per_table: rlimit(Rlimit::RLIMIT_NOFILE, "RLIMIT_NOFILE")?.1,
        system: first_number("/proc/sys/fs/file-max")?,
        allocated: first_number("/proc/sys/fs/file-nr")?,
        exempt: exempt()?,
        threads: threads()?,
    })
}

/// Whether fs.file-max does not stop this process: `alloc_empty_file` (`fs/file_table.c`) asks for
/// CAP_SYS_ADMIN in the first user namespace, so root inside a container or lab is stopped.
fn exempt() -> Result<bool, LimitError> {
    const PATH: &str = "/proc/thread-self/status";
    let text = read(PATH)?;
    let capabilities = effective_capabilities(&text).ok_or(LimitError::Odd { path: PATH, text })?;
    Ok(capabilities >> CAP_SYS_ADMIN & 1 == 1
        && namespace("/proc/thread-self/ns/user")? == FIRST_USER_NAMESPACE)
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let word = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(word.trim(), 16).ok()
}

/// How many threads more one process may start: an upper bound, because RLIMIT_NPROC counts the
/// threads of this user that run already, and they are not looked for.
fn threads() -> Result<u64, LimitError> {
    let running = running_threads(&read("/proc/loadavg")?).unwrap_or(0);
    let of_user = rlimit(Rlimit::RLIMIT_NPROC, "RLIMIT_NPROC")?.0;
    let of_host = first_number("/proc/sys/kernel/threads-max")?.saturating_sub(running);
    let of_numbers = first_number("/proc/sys/kernel/pid_max")?.saturating_sub(running);
    // A thread maps its stack and a guard page below it.
    let of_maps = first_number("/proc/sys/vm/max_map_count")? / 2;
    let of_group = Cgroups::own().headroom(Resource::Threads).unwrap_or(u64::MAX);
    Ok(of_user.min(of_host).min(of_numbers).min(of_maps).min(of_group))
}

/// The threads of the whole host: "0.20 0.18 0.12 1/80 11206" says 80 (`man 5 proc_loadavg`).
fn running_threads(loadavg: &str) -> Option<u64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// The soft and the hard limit.
fn rlimit(limit: Rlimit, name: &'static str) -> Result<(u64, u64), LimitError> {
    let (soft, hard) = getrlimit(limit).map_err(|source| LimitError::Rlimit { name, source })?;
    let number = |value| if value == RLIM_INFINITY { u64::MAX } else { value };
    Ok((number(soft), number(hard)))
}

fn first_number(path: &'static str) -> Result<u64, LimitError> {
    let text = read(path)?;
    let number = text.split_whitespace().next().and_then(|word| word.parse().ok());
    number.ok_or(LimitError::Odd { path, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_own_namespace;

    #[test]
    fn the_kernels_texts_are_read() {
        let status = "Name:\tagent\nCapPrm:\t000001fffeffffff\nCapEff:\t0000000000200000\nCapBnd:\t0\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_SYS_ADMIN));
        assert_eq!(effective_capabilities("CapEff:\tx\n"), None);
        assert_eq!(running_threads("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(running_threads(""), None);
    }

    #[test]
    fn a_user_namespace_of_its_own_is_not_exempt_though_its_root_has_all_capabilities() {
        let name = "facts::limits::tests::\
                    a_user_namespace_of_its_own_is_not_exempt_though_its_root_has_all_capabilities";
        if in_own_namespace(name, "true") {
            assert!(!exempt().expect("read"));
        }
    }

    #[test]
    fn limits_are_positive_and_no_more_than_the_hosts() {
        let files = open_files().expect("read");
        assert!(files.per_table > 0 && files.system > 0 && files.threads > 0, "{files:?}");
        let text = read("/proc/meminfo").expect("read");
        assert!(memory_available().expect("read") <= meminfo(&text, "MemTotal").expect("there"));
        assert!(cpus() >= 1);
    }
}
