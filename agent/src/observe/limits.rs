//! The limits that bind this host's connections, and what names the host.

use crate::readings::readings;
use crate::sysctls;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use tuplelab_domain::script::Answer;
use tuplelab_domain::sysctl::Sysctl;

/// Settings of the namespace that bound what listens, and what connects.
const SETTINGS: [Sysctl; 4] =
    [Sysctl::Somaxconn, Sysctl::IpLocalPortRange, Sysctl::TcpMaxSynBacklog, Sysctl::TcpSyncookies];

/// What is read from a file: `file_nr` is the first of its three numbers, descriptors in use.
const FILES: [(&str, &str); 5] = [
    ("nr_open", "/proc/sys/fs/nr_open"),
    ("file_max", "/proc/sys/fs/file-max"),
    ("file_nr", "/proc/sys/fs/file-nr"),
    ("boot_id", "/proc/sys/kernel/random/boot_id"),
    ("kernel", "/proc/sys/kernel/osrelease"),
];

/// What the host's memory and its tracking of connections are called among the readings.
const READINGS: [(&str, &str); 3] = [
    ("nf_conntrack_max", "conntrack.max"),
    ("nf_conntrack_count", "conntrack.count"),
    ("memory_available", "meminfo.MemAvailable"),
];

/// Each limit is a detail, and absent where the host does not have or show it. `nofile_soft` and
/// `nofile_hard` are the agent's own, which its worker starts with; `memory_available` is the whole host's,
/// in bytes; `namespace` is the inode of the calling thread's network namespace.
///
/// That `nf_conntrack_max` is there says that the module is loaded, not that this namespace tracks.
pub fn limits() -> Answer {
    let mut answer = Answer::of("ok");
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        answer = answer.detail("nofile_soft", number(soft)).detail("nofile_hard", number(hard));
    }
    for (name, path) in FILES {
        if let Ok(text) = fs::read_to_string(path)
            && let Some(word) = text.split_whitespace().next()
        {
            answer = answer.detail(name, word);
        }
    }
    let settings = sysctls::read();
    for sysctl in SETTINGS {
        if let Some(value) = settings.get(&sysctl) {
            // As a plan writes a range: "32768-60999".
            answer = answer.detail(sysctl.name(), value.replace(' ', "-"));
        }
    }
    let readings = readings();
    for (name, reading) in READINGS {
        if let Some(value) = readings.get(reading) {
            answer = answer.detail(name, value);
        }
    }
    match fs::metadata("/proc/thread-self/ns/net") {
        Ok(namespace) => answer.detail("namespace", namespace.ino()),
        Err(_) => answer,
    }
}

fn number(limit: u64) -> String {
    if limit == RLIM_INFINITY { "unlimited".into() } else { limit.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_own_namespace;

    #[test]
    fn the_limits_are_those_that_the_facts_are_made_of() {
        let offered = ["127.66.73.1".parse().expect("an address")];
        let facts = crate::host_facts(&offered, None, false).expect("read");
        let limits = limits();
        for (name, expected) in [
            ("kernel", facts.kernel.clone()),
            ("boot_id", facts.boot_id.clone()),
            ("namespace", facts.network_namespace.to_string()),
            ("file_max", facts.open_files.system.to_string()),
            ("somaxconn", facts.somaxconn().to_string()),
        ] {
            assert_eq!(limits.details[name], expected, "{name}");
        }
        for name in ["nofile_soft", "nofile_hard", "nr_open", "file_nr", "memory_available"] {
            assert!(limits.number(name).is_some_and(|number| number > 0), "{name}: {limits:?}");
        }
        let range = limits.details["ip_local_port_range"].split_once('-').expect("two numbers");
        assert!(range.0.parse::<u16>().expect("a port") <= range.1.parse::<u16>().expect("a port"));
        let tracks = std::path::Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists();
        assert_eq!(limits.details.contains_key("nf_conntrack_max"), tracks);
    }

    #[test]
    fn the_settings_are_those_of_the_namespace_that_asks() {
        let name = "observe::limits::tests::the_settings_are_those_of_the_namespace_that_asks";
        if in_own_namespace(name, "echo 77 > /proc/sys/net/core/somaxconn") {
            assert_eq!(limits().details["somaxconn"], "77");
        }
    }
}
