//! The gRPC services: decode, call, encode; nothing else.

mod agents;
mod lab;

pub use agents::AgentsService;
pub use lab::LabService;
