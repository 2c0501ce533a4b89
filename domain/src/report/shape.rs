//! What became of a load that is more than a ramp and a hold.

use crate::evidence::TrialEvidence;
use crate::plan::Load;
use crate::schedule::Role;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of a load beyond "as fast as it goes, then hold".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShapeReport {
    /// The ramp's stages, as the plan writes them; empty where it has none.
    #[serde(default)]
    pub stages: Vec<String>,
    /// Connects that began more than one interval after they were due.
    pub late: u64,
}

impl ShapeReport {
    /// The shape of a trial, if it has one.
    pub(super) fn new(trial: &TrialEvidence, load: &Load) -> Option<Self> {
        let stages: Vec<String> = load.stages.iter().map(ToString::to_string).collect();
        let late = trial.ends_of(Role::Client).map(|end| end.counters.late).sum();
        (!stages.is_empty()).then_some(Self { stages, late })
    }

    /// What a person reads of it, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.stages.is_empty() {
            let late = crate::units::thousands(self.late);
            lines.push(format!("stages: {}; {late} connects began late", self.stages.join(", ")));
        }
        lines
    }
}
