//! The limits of this process's control groups, of version 1 and 2.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a container or a distribution mounts them (`man 7 cgroups`).
const ROOT: &str = "/sys/fs/cgroup";

/// This process's group and all those above it: a limit of any of them binds.
pub struct Cgroups {
    root: PathBuf,
    /// The lines of `/proc/self/cgroup`: `id:controllers:path`.
    membership: String,
}

impl Cgroups {
    /// Those of this process.
    pub fn own() -> Self {
        Self { root: ROOT.into(), membership: fs::read_to_string("/proc/self/cgroup").unwrap_or_default() }
    }

    /// The least that may still be had: over all groups, the limit minus what is used.
    pub fn headroom(&self, resource: Resource) -> Option<u64> {
        let (controller, names) = resource.files();
        self.folders(controller)
            .filter_map(|folder| {
                let [limit, used, stat, reclaimable] =
                    names.iter().find(|[limit, ..]| folder.join(limit).exists())?;
                let limit = number(&folder.join(limit))?;
                let used = number(&folder.join(used))?;
                let back = field(&folder.join(stat), reclaimable).unwrap_or(0);
                Some(limit.saturating_sub(used.saturating_sub(back)))
            })
            .min()
    }

    /// The tightest limit over all groups; `None` where none is set.
    pub fn limit(&self, resource: Resource) -> Option<u64> {
        let (controller, names) = resource.files();
        self.folders(controller)
            .filter_map(|folder| names.iter().find_map(|[limit, ..]| number(&folder.join(limit))))
            // Version 1 writes "no limit" as the largest multiple of a page.
            .filter(|limit| *limit < NO_LIMIT)
            .min()
    }

    /// How many processors' time may be used, rounded up; `None` where no group has a quota.
    pub fn cpus(&self) -> Option<u32> {
        let quotas = self.folders("cpu").filter_map(|folder| {
            let text = fs::read_to_string(folder.join("cpu.max")).ok().or_else(|| {
                let quota = fs::read_to_string(folder.join("cpu.cfs_quota_us")).ok()?;
                let period = fs::read_to_string(folder.join("cpu.cfs_period_us")).ok()?;
                Some(format!("{quota} {period}"))
            })?;
            // "max" (version 2) and "-1" (version 1) mean no quota, and are no u64.
            let mut words = text.split_whitespace().map(str::parse::<u64>);
            let (quota, period) = (words.next()?.ok()?, words.next()?.ok()?);
            u32::try_from(quota.checked_add(period.checked_sub(1)?)?.checked_div(period)?).ok()
        });
        quotas.min().map(|cpus| cpus.max(1))
    }

    /// The folders that may speak of a controller: the group's, then each above it up to the mount.
    /// Where the mount shows a container's own group as its root, the upper ones do not exist, and
    /// the mount itself is the group.
    fn folders(&self, controller: &str) -> impl Iterator<Item = PathBuf> {
        let mut folders = Vec::new();
        for line in self.membership.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let mounts = if controllers.is_empty() {
                vec![self.root.clone(), self.root.join("unified")]
            } else if controllers.split(',').any(|name| name == controller) {
                vec![self.root.join(controllers), self.root.join(controller)]
            } else {
                continue;
            };
            for mount in mounts {
                let group = Path::new(path.trim_start_matches('/'));
                folders.extend(group.ancestors().map(|above| mount.join(above)));
            }
        }
        folders.into_iter()
    }
}

/// What a control group limits.
#[derive(Debug, Clone, Copy)]
pub enum Resource {
    /// In bytes.
    Memory,
    /// Threads and processes.
    Threads,
}

impl Resource {
    /// Its controller, and the files that speak of it.
    fn files(self) -> (&'static str, &'static [[&'static str; 4]]) {
        match self {
            Self::Memory => ("memory", MEMORY),
            Self::Threads => ("pids", PIDS),
        }
    }
}

/// From here on a number of version 1 means no limit (`PAGE_COUNTER_MAX`, include/linux/page_counter.h,
/// with the largest page).
const NO_LIMIT: u64 = (i64::MAX as u64) - (1 << 20);

/// Files of limit and use, and the field that says how much of the use the kernel takes back when
/// it is needed: pages of files that nobody looked at for a while count as used, and are not.
const MEMORY: &[[&str; 4]] = &[
    ["memory.max", "memory.current", "memory.stat", "inactive_file"],
    ["memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"],
];
const PIDS: &[[&str; 4]] = &[["pids.max", "pids.current", "", ""]];

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cgroups(membership: &str, files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroups) {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, text).expect("written");
        }
        let cgroups = Cgroups { root: root.path().into(), membership: membership.into() };
        (root, cgroups)
    }

    #[test]
    fn the_tightest_group_of_version_2_binds_wherever_it_is() {
        let (_root, cgroups) = cgroups(
            "0::/lab/a\n",
            &[
                ("lab/a/memory.max", "max\n"),
                ("lab/a/memory.current", "100\n"),
                ("lab/memory.max", "1000\n"),
                ("lab/memory.current", "700\n"),
                ("lab/memory.stat", "anon 400\ninactive_file 200\n"),
                ("lab/a/pids.max", "50\n"),
                ("lab/a/pids.current", "60\n"),
                ("lab/a/cpu.max", "150000 100000\n"),
                ("lab/cpu.max", "max 100000\n"),
            ],
        );
        assert_eq!(cgroups.headroom(Resource::Memory), Some(500));
        assert_eq!(cgroups.headroom(Resource::Threads), Some(0), "never below zero");
        assert_eq!(cgroups.limit(Resource::Memory), Some(1000));
        assert_eq!(cgroups.limit(Resource::Threads), Some(50));
        assert_eq!(cgroups.cpus(), Some(2), "one and a half, rounded up");
    }

    #[test]
    fn version_1_has_a_tree_for_each_controller() {
        let (_root, cgroups) = cgroups(
            "4:memory:/docker/x\n2:cpu,cpuacct:/\n8:pids:/\n0::/\n",
            &[
                // A container's mount shows its own group as the root.
                ("memory/memory.limit_in_bytes", "4096\n"),
                ("memory/memory.usage_in_bytes", "1096\n"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
                ("pids/pids.current", "3\n"),
            ],
        );
        assert_eq!(cgroups.headroom(Resource::Memory), Some(3000));
        assert_eq!(cgroups.headroom(Resource::Threads), None);
        assert_eq!(cgroups.cpus(), None);
    }

    #[test]
    fn odd_membership_and_odd_quotas_bind_nothing() {
        for membership in ["", "x", "0:", "0::\n"] {
            let (_root, cgroups) = cgroups(membership, &[("cpu.max", "5 0\n"), ("memory.max", "\n")]);
            assert_eq!((cgroups.headroom(Resource::Memory), cgroups.cpus()), (None, None), "{membership:?}");
        }
    }
}
