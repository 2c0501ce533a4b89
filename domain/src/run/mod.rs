//! One execution of a plan: where it is, and how it ended.

mod machine;
mod outcome;

pub use machine::{Deadline, Effect, Party, Phase, Run, RunEvent, TrialPlan};
pub use outcome::Outcome;
