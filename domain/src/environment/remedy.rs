//! The command that lifts a limit, by the kind of place that the host is.
//!
//! In a container `/proc/sys` is read-only: its settings are given when it is made, and only those
//! of its own network namespace. What belongs to the whole kernel is set on the machine below.

use super::Kind;
use crate::capacity::Limit;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One way to lift a limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Remedy {
    /// Where it is done, in words: "here", "on the machine below the container".
    pub at: String,
    /// What is typed there, or written into a file; the value in it is an example that lifts.
    pub command: String,
}

impl Remedy {
    /// What lifts a limit that the plan itself sets, in words.
    pub(super) fn of_the_plan(limit: Limit) -> Self {
        way("in the plan", limit.remedy())
    }
}

fn way(at: &str, command: &str) -> Remedy {
    Remedy { at: at.to_owned(), command: command.to_owned() }
}

/// A setting of a network namespace, by its name below `net`.
fn setting(kind: Kind, name: &str, value: &str) -> Vec<Remedy> {
    match kind {
        Kind::Unknown | Kind::Machine | Kind::Namespace => {
            let at = if kind == Kind::Namespace { "inside this network namespace" } else { "here" };
            vec![way(at, &format!("sysctl -w {name}=\"{value}\""))]
        }
        Kind::Container => vec![
            way("when the container is made", &format!("docker run --sysctl {name}=\"{value}\"")),
            way("compose.yaml, under the service", &format!("sysctls: {{ {name}: \"{value}\" }}")),
        ],
        Kind::Pod => vec![way(
            "the pod's spec (the kubelet must allow it where it is not a safe sysctl)",
            &format!("securityContext: {{ sysctls: [{{ name: {name}, value: \"{value}\" }}] }}"),
        )],
    }
}

/// A setting of the whole kernel.
fn kernel_wide(kind: Kind, name: &str, value: &str) -> Vec<Remedy> {
    let at = match kind {
        Kind::Unknown | Kind::Machine => "here",
        Kind::Namespace => "in the machine's first network namespace",
        Kind::Container => "on the machine below the container",
        Kind::Pod => "on the node",
    };
    vec![way(at, &format!("sysctl -w {name}={value}"))]
}

/// What lifts `limit` on a host of this kind; nothing where no command does (the plan's own number).
pub fn remedies(limit: Limit, kind: Kind) -> Vec<Remedy> {
    match limit {
        Limit::FourTuples => setting(kind, "net.ipv4.ip_local_port_range", "1024 65535"),
        Limit::AcceptQueue => setting(kind, "net.core.somaxconn", "65535"),
        Limit::Conntrack => kernel_wide(kind, "net.netfilter.nf_conntrack_max", "4194304"),
        Limit::SystemFiles => kernel_wide(kind, "fs.file-max", "4194304"),
        Limit::OpenFiles => match kind {
            Kind::Unknown | Kind::Machine | Kind::Namespace => vec![
                way(
                    "in the shell that starts the agent; above the hard limit only with CAP_SYS_RESOURCE",
                    "ulimit -n 1048576",
                ),
                way("in the agent's systemd unit, under [Service]", "LimitNOFILE=1048576"),
            ],
            Kind::Container => vec![
                way("when the container is made", "docker run --ulimit nofile=1048576:1048576"),
                way("compose.yaml, under the service", "ulimits: { nofile: 1048576 }"),
            ],
            Kind::Pod => vec![way(
                "in the systemd unit of the node's container runtime, under [Service]",
                "LimitNOFILE=1048576",
            )],
        },
        Limit::Memory => match kind {
            Kind::Unknown | Kind::Machine | Kind::Namespace => {
                vec![way("in the agent's systemd unit, under [Service]", "MemoryMax=infinity")]
            }
            Kind::Container => vec![
                way("when the container is made", "docker run --memory 8g"),
                way("compose.yaml, under the service", "mem_limit: 8g"),
            ],
            Kind::Pod => vec![way("the container's spec", "resources: { limits: { memory: 8Gi } }")],
        },
        Limit::Plan | Limit::Unknown => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(limit: Limit, kind: Kind) -> String {
        remedies(limit, kind).first().map(|remedy| remedy.command.clone()).unwrap_or_default()
    }

    #[test]
    fn each_limit_has_its_command_in_each_kind_of_place() {
        let table = [
            (Limit::FourTuples, Kind::Machine, "sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\""),
            (
                Limit::FourTuples,
                Kind::Container,
                "docker run --sysctl net.ipv4.ip_local_port_range=\"1024 65535\"",
            ),
            (Limit::AcceptQueue, Kind::Namespace, "sysctl -w net.core.somaxconn=\"65535\""),
            (
                Limit::AcceptQueue,
                Kind::Pod,
                "securityContext: { sysctls: [{ name: net.core.somaxconn, value: \"65535\" }] }",
            ),
            (Limit::OpenFiles, Kind::Machine, "ulimit -n 1048576"),
            (Limit::OpenFiles, Kind::Container, "docker run --ulimit nofile=1048576:1048576"),
            (Limit::SystemFiles, Kind::Container, "sysctl -w fs.file-max=4194304"),
            (Limit::Memory, Kind::Pod, "resources: { limits: { memory: 8Gi } }"),
            (Limit::Plan, Kind::Machine, ""),
        ];
        for (limit, kind, command) in table {
            assert_eq!(first(limit, kind), command, "{limit} in {kind}");
        }
    }

    #[test]
    fn no_limit_of_a_host_is_without_a_remedy_in_any_place() {
        use Limit::{AcceptQueue, Conntrack, FourTuples, Memory, OpenFiles, SystemFiles};
        for limit in [FourTuples, OpenFiles, SystemFiles, Memory, Conntrack, AcceptQueue] {
            for kind in Kind::ALL {
                assert!(!remedies(limit, kind).is_empty(), "{limit} in {kind}");
                assert_eq!(Kind::named(kind.name()), Some(kind));
            }
        }
    }

    #[test]
    fn in_a_container_nobody_is_told_to_write_a_read_only_file() {
        for kind in [Kind::Container, Kind::Pod] {
            for limit in [Limit::FourTuples, Limit::AcceptQueue] {
                assert!(remedies(limit, kind).iter().all(|r| !r.command.starts_with("sysctl -w")));
            }
            let below = remedies(Limit::SystemFiles, kind);
            assert!(below.iter().all(|remedy| remedy.at.starts_with("on the")), "{below:?}");
        }
    }
}
