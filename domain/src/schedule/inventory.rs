//! The hosts that a plan can be placed on.

use crate::capacity::facts::HostFacts;
use crate::id::AgentName;
use crate::plan::Labels;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One host: its agent's name, labels and limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The agent's name.
    pub name: AgentName,
    /// The agent's labels.
    pub labels: Labels,
    /// The host's limits.
    pub facts: HostFacts,
}

/// The facts of all hosts that may be used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Inventory {
    /// The hosts, in any order.
    pub hosts: Vec<Host>,
}
