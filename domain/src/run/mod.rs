//! One execution of a plan: where it is, and how it ended.

mod event;
mod machine;
mod outcome;

pub use event::{Course, Deadline, Effect, Party, Phase, RunEvent, TrialPlan, Turn};
pub use machine::Run;
pub use outcome::Outcome;
