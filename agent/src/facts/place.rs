//! Where this host runs: read from the marks that engines leave in the places that they make.

use super::cgroup::{Cgroups, Resource};
use super::namespace;
use std::path::Path;
use tuplelab_domain::environment::{Kind, Place};

/// This host's place.
pub fn own() -> Place {
    let groups = Cgroups::own();
    Place {
        kind: kind(&marks()),
        virtual_machine: std::fs::read_to_string("/proc/cpuinfo")
            .ok()
            .and_then(|text| virtual_machine(&text)),
        memory_max: groups.limit(Resource::Memory),
        pids_max: groups.limit(Resource::Threads),
    }
}

/// What was seen.
#[derive(Debug, Default, Clone)]
struct Marks {
    /// Kubernetes sets KUBERNETES_SERVICE_HOST in every container of a pod.
    pod: bool,
    /// Docker leaves /.dockerenv, Podman /run/.containerenv.
    engine: bool,
    /// `/proc/self/cgroup`.
    membership: String,
    /// Whether the first process that this one sees is in another network namespace; absent where
    /// that must not be read.
    apart_from_init: Option<bool>,
}

fn marks() -> Marks {
    let network = |path| namespace(path).ok();
    Marks {
        pod: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
        engine: ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists()),
        membership: std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default(),
        apart_from_init: network("/proc/1/ns/net")
            .zip(network("/proc/thread-self/ns/net"))
            .map(|(init, own)| init != own),
    }
}

fn kind(marks: &Marks) -> Kind {
    let grouped = |words: &[&str]| words.iter().any(|word| marks.membership.contains(word));
    if marks.apart_from_init == Some(true) {
        // The innermost counts: a lab inside a container.
        Kind::Namespace
    } else if marks.pod || grouped(&["kubepods"]) {
        Kind::Pod
    } else if marks.engine || grouped(&["/docker", "/libpod", "/lxc", "containerd"]) {
        Kind::Container
    } else if marks.apart_from_init == Some(false) {
        Kind::Machine
    } else {
        Kind::Unknown
    }
}

/// Whether the processor says that a hypervisor is below (the flag `hypervisor`, CPUID 1, ECX 31);
/// a processor that lists no flags (arm64) says nothing.
fn virtual_machine(cpuinfo: &str) -> Option<bool> {
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")?.split_once(':'))?.1;
    Some(flags.split_whitespace().any(|flag| flag == "hypervisor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_place_is_told_by_its_marks() {
        let plain = Marks { apart_from_init: Some(false), ..Marks::default() };
        let group = |text: &str| Marks { membership: text.into(), ..plain.clone() };
        let table = [
            (plain.clone(), Kind::Machine),
            (Marks { apart_from_init: None, ..plain.clone() }, Kind::Unknown),
            (Marks { apart_from_init: Some(true), engine: true, ..plain.clone() }, Kind::Namespace),
            (Marks { engine: true, ..plain.clone() }, Kind::Container),
            (Marks { engine: true, pod: true, ..plain.clone() }, Kind::Pod),
            (group("0::/system.slice/ssh.service\n"), Kind::Machine),
            (group("4:memory:/docker/0af3\n"), Kind::Container),
            (group("0::/kubepods/burstable/pod1\n"), Kind::Pod),
        ];
        for (marks, expected) in table {
            assert_eq!(kind(&marks), expected, "{marks:?}");
        }
    }

    #[test]
    fn a_virtual_machine_is_told_by_a_whole_word_among_the_flags() {
        assert_eq!(virtual_machine("processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n"), Some(true));
        assert_eq!(virtual_machine("flags\t\t: fpu hypervisory\n"), Some(false));
        assert_eq!(virtual_machine("Features\t: fp asimd\n"), None);
    }
}
