//! The kind of place that a host is, and the limits that its control groups set.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of place a host is. The innermost counts: a container on a virtual machine is a
/// container, and `Place::virtual_machine` says the rest.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Its agent did not say: facts that were stored before agents did.
    #[default]
    Unknown,
    /// A machine's first network namespace.
    Machine,
    /// A network namespace below it, made by a lab or by `ip netns`.
    Namespace,
    /// A container of Docker, Podman or another engine.
    Container,
    /// A container of a Kubernetes pod.
    Pod,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Unknown, Self::Machine, Self::Namespace, Self::Container, Self::Pod];

    /// Its name on the wire and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Machine => "machine",
            Self::Namespace => "namespace",
            Self::Container => "container",
            Self::Pod => "pod",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Where a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Place {
    /// What it is.
    pub kind: Kind,
    /// Whether a hypervisor is below its kernel; absent where the processor does not say.
    pub virtual_machine: Option<bool>,
    /// The tightest `memory.max` over its control groups, in bytes.
    pub memory_max: Option<u64>,
    /// The tightest `pids.max`.
    pub pids_max: Option<u64>,
}
