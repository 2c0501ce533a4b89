//! One execution of a plan: where it is, and how it ended.

mod event;
mod longest;
mod machine;
mod outcome;
mod replay;

pub use event::{Course, Deadline, Effect, Party, Phase, RunEvent, TrialPlan, Turn};
pub use machine::Run;
pub use outcome::Outcome;
pub use replay::{Replayed, replay};
