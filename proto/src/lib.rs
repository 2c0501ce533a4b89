//! The wire of tuplelab: its protobuf messages, its gRPC services, and the way to and from the domain.
//!
//! What lives here: [`v1`], generated from `tuplelab/v1/*.proto` when the crate is built (without
//! protoc); [`convert`], the only conversions between a message and a domain type; and [`dial`], how
//! a controller is reached. What does not: servers, streams, retries (agent, controller, cli), and
//! any decision (domain).
//! Where to start: `tuplelab/v1/agent.proto`, where the exchange is drawn; then [`convert`].
//!
//! Outward a conversion cannot fail: `v1::Assignment::from(&assignment)`. Inward it can, since
//! anybody may send anything: `Assignment::try_from(message)` gives a [`WireError`] that names the
//! field and what it holds. Nothing that a peer sends makes this crate panic.

pub mod convert;
pub mod dial;

pub use convert::{MAX_FLOW_BLOCKS, WireError, required};

/// The messages and services of package `tuplelab.v1`, generated.
#[allow(missing_docs, clippy::all, clippy::unwrap_used, reason = "generated")]
pub mod v1 {
    tonic::include_proto!("tuplelab.v1");
}

/// The encoded `FileDescriptorSet` of [`v1`], for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The major version of the exchange between agent and controller: both must have the same.
pub const PROTOCOL: u32 = 1;

/// The metadata of an error that says whose fault it is, where that is not the caller's.
pub const CAUSE: &str = "tuplelab-cause";
/// The value of [`CAUSE`] where the controller's database could not do what it was asked.
pub const CAUSE_DATABASE: &str = "database";
