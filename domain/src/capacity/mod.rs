//! The capacity model: what one set of hosts can hold, and which limit binds first.

pub mod facts;
mod limit;
mod predict;
#[cfg(test)]
mod tests;
mod tuples;

pub use limit::{Limit, Margin, Prediction};
pub use predict::{BYTES_PER_END, DESCRIPTORS_KEPT, Part, predict};
pub use tuples::usable_ports;
