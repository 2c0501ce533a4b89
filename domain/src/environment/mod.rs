//! Where a host runs, and what that means for those who want to lift one of its limits.

mod examine;
mod place;
mod remedy;

pub use examine::{Diagnosis, diagnose, examine, lifts};
pub use place::{Kind, Place};
pub use remedy::{Remedy, remedies};
