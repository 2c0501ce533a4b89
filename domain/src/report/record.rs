//! All that is known of one run, as the store gives it back.

use crate::evidence::TrialEvidence;
use crate::id::RunId;
use crate::run::{Outcome, Phase};
use crate::schedule::{Host, Schedule};
use crate::verdict::Verdict;

/// One run with everything that was kept of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunRecord {
    /// The run.
    pub id: RunId,
    /// The plan's source text.
    pub plan_source: String,
    /// Who submitted it (user@host, as the client says).
    pub submitter: String,
    /// When, in microseconds since 1970 (UTC), on the controller's clock.
    pub submitted_micros: i64,
    /// Where it is.
    pub phase: Phase,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// The hosts' facts when it was placed.
    pub hosts: Vec<Host>,
    /// What was to be done; `None` before it is placed.
    pub schedule: Option<Schedule>,
    /// What was found, one entry per trial that was begun.
    pub evidence: Vec<TrialEvidence>,
    /// The judge's words.
    pub verdicts: Vec<Verdict>,
    /// What agents said of it when it, or the trial in question, was over: kept apart, in no evidence.
    pub late: u64,
}
