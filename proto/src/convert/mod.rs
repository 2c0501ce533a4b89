//! The only conversions between the wire and the domain, one file per part of `common.proto`.
//!
//! Outward: `From<&domain>` for the message. Inward: `TryFrom` the message, with [`WireError`]
//! (`From` where any message has a meaning). What comes in is checked for its form: whether a text
//! is an address, a name is known, a number fits. Whether an assignment can be done is for the one
//! who does it (`tuplelab-worker`), and whether facts suffice is for the schedule.
//!
//! Older and newer peers: a message's unknown fields are ignored (protobuf's rule); so are settings
//! that facts name and this version does not know. Nothing else unknown is taken.

mod assignment;
mod error;
mod facts;
mod sample;
mod script;

pub use assignment::MAX_FLOW_BLOCKS;
pub use error::{WireError, required};
