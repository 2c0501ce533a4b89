//! One execution of a plan: where it is, and how it ended.

mod machine;
mod outcome;

pub use machine::{Course, Deadline, Effect, Party, Phase, Run, RunEvent, TrialPlan, Turn};
pub use outcome::Outcome;
