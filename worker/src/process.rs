//! The worker as a process: its limits and priorities, and what it costs.

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeValLike;

/// Raises the soft limit on descriptors to the hard one, and steps back behind the agent: lower
/// priority, and the first to go when memory ends. What is refused here is missed by nobody but the
/// schedule, whose figures then show it.
pub(crate) fn prepare() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    crate::net::linux::lower_priority();
    let _ = std::fs::write("/proc/self/oom_score_adj", "500");
}

/// Lowers the soft limit on descriptors, once all lanes are up: what they have stays, and each table
/// takes new ones only below this number (`alloc_fd`, fs/file.c). The engine's own table may be past
/// it by then, if there are very many lanes; then the set size can no longer be read.
pub(crate) fn limit_files(files: u64) -> Result<(), nix::errno::Errno> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, files, hard)
}

/// User and system time so far, in microseconds.
pub(crate) fn cpu_micros() -> u64 {
    getrusage(UsageWho::RUSAGE_SELF)
        .map_or(0, |usage| (usage.user_time() + usage.system_time()).num_microseconds().unsigned_abs())
}

/// Proportional set size in bytes, where the kernel tells.
pub(crate) fn pss_bytes() -> Option<u64> {
    pss(&std::fs::read_to_string("/proc/self/smaps_rollup").ok()?)
}

fn pss(rollup: &str) -> Option<u64> {
    let value = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_size_is_read_from_its_own_line() {
        let text =
            "55d-7ff ---p 00000000 00:00 0 [rollup]\nRss:  2188 kB\nPss:     512 kB\nPss_Dirty: 9 kB\n";
        assert_eq!(pss(text), Some(512 * 1024));
        assert_eq!(pss("Rss: 1 kB\n"), None);
    }
}
