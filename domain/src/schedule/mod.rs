//! Concrete work: what every host does, with no choices left.

mod assignment;
mod choose;
mod inventory;
mod place;
mod placed;
mod queue;
mod reach;
#[cfg(test)]
mod reach_tests;
mod share;
mod shortfall;
mod stretch;
#[cfg(test)]
mod tests;
mod way;

pub use assignment::*;
pub use inventory::{Host, Inventory};
pub use place::{CaseSchedule, Schedule, place};
pub use placed::PlacedStep;
pub use shortfall::Shortfall;
pub use stretch::{span, stretches};
