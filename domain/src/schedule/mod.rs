//! Concrete work: what every host does, with no choices left.

mod assignment;

pub use assignment::*;
