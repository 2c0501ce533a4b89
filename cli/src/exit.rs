//! What the program's exit code says. These numbers are part of its interface: README.md lists them.

use std::process::ExitCode;
use tuplelab_domain::report::Report;
use tuplelab_domain::run::Outcome;
use tuplelab_domain::verdict::Finding;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what it was asked; every expectation held.
    Held = 0,
    /// An expectation was missed; `health`: not healthy.
    Missed = 1,
    /// The command line is wrong (clap's own code).
    Usage = 2,
    /// The plan has problems, or is no plan.
    PlanRefused = 3,
    /// A verdict is inconclusive.
    Inconclusive = 4,
    /// The controller cannot be reached.
    Unreachable = 5,
    /// The plan does not fit on the hosts.
    CapacityShort = 6,
    /// The run is incomplete: an agent was lost, the run failed or was interrupted.
    Incomplete = 7,
    /// The database cannot be used.
    Store = 8,
    /// There is no such run, file or agent.
    NotFound = 9,
    /// Anything else, with its reason on standard error.
    Failed = 70,
    /// The run was cancelled (128 + SIGINT, as shells count).
    Cancelled = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// What a report says: how the run ended comes first, then its verdicts.
    pub fn of(report: &Report) -> Self {
        match &report.outcome {
            Some(Outcome::Completed) => {}
            Some(Outcome::Cancelled) => return Self::Cancelled,
            Some(Outcome::Refused { .. }) => return Self::CapacityShort,
            Some(Outcome::AgentLost { .. } | Outcome::Failed { .. } | Outcome::Interrupted) | None => {
                return Self::Incomplete;
            }
        }
        let found = |finding| report.verdicts.iter().any(|verdict| verdict.verdict == finding);
        match (found(Finding::Missed), found(Finding::Inconclusive)) {
            (true, _) => Self::Missed,
            (false, true) => Self::Inconclusive,
            (false, false) => Self::Held,
        }
    }
}

/// An error with the exit code that it ends the program with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Stop {
    /// The code.
    pub exit: Exit,
    /// What is printed: thing, value, remedy.
    pub message: String,
}

impl Stop {
    /// An end with this code and these words.
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// What commands give back.
pub type Done = Result<Exit, Stop>;
