//! How a run ended; whether its expectations hold is another question.

use crate::id::AgentName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Outcome {
    /// Every trial was taken to its end.
    Completed,
    /// Somebody stopped it.
    Cancelled,
    /// It did not fit on the hosts that there were when its turn came.
    Refused {
        /// The shortfalls.
        why: String,
    },
    /// An agent fell away, or its worker did.
    AgentLost {
        /// Who.
        agent: AgentName,
        /// What is known of it.
        why: String,
    },
    /// It could not be gone on with.
    Failed {
        /// Why.
        why: String,
    },
    /// The controller ended while it was under way.
    Interrupted,
}

impl Outcome {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
            Self::Refused { .. } => "refused",
            Self::AgentLost { .. } => "agent_lost",
            Self::Failed { .. } => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed => f.write_str("completed"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Refused { why } => write!(f, "refused: {why}"),
            Self::AgentLost { agent, why } => write!(f, "incomplete: agent {agent} was lost ({why})"),
            Self::Failed { why } => write!(f, "failed: {why}"),
            Self::Interrupted => f.write_str("interrupted: the controller ended while it was under way"),
        }
    }
}
