//! What a step's call answered.

use crate::id::AgentName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The answer to one step.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Answer {
    /// `ok`, an errno's name (`EADDRINUSE`), `eof`, or `pending` where the call was still waiting when
    /// its time was up. Of a step over many sockets: `ok` if all of them were, else the first other.
    pub outcome: String,
    /// The step's number, if it has one: bytes, a port, how many sockets.
    pub value: Option<u64>,
    /// Whatever else there is to know, by name.
    pub details: BTreeMap<String, String>,
}

impl Answer {
    /// An answer without a number.
    pub fn of(outcome: impl Into<String>) -> Self {
        Self { outcome: outcome.into(), ..Self::default() }
    }

    /// The same with a number.
    pub fn value(self, value: u64) -> Self {
        Self { value: Some(value), ..self }
    }

    /// The same with a detail.
    pub fn detail(mut self, name: &str, value: impl ToString) -> Self {
        self.details.insert(name.to_owned(), value.to_string());
        self
    }

    /// A detail as a number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.details.get(name)?.parse().ok()
    }

    /// Whether the script is at fault, and not the kernel's to blame: the words with which a worker, or
    /// its agent, says that a step could not be tried at all.
    pub fn is_fault(&self) -> bool {
        const FAULTS: [&str; 8] =
            ["UNKNOWN", "TAKEN", "GROUP", "FULL", "UNRESOLVED", "AGENT", "ENDED", "STOPPED"];
        FAULTS.contains(&self.outcome.as_str())
    }

    /// Whether the call did what it was asked.
    pub fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

/// One step of a trial with its answer: evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Observation {
    /// The step's position in the case, from 0.
    pub step: u32,
    /// Who did it.
    pub agent: AgentName,
    /// The step, as it was carried out: with addresses.
    pub text: String,
    /// The name under which the judge looks for it.
    pub label: Option<String>,
    /// What was answered.
    pub answer: Answer,
}
