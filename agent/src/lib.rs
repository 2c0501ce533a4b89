//! The daemon on a host.
//!
//! What lives here: the stream to the controller (`session`), the trial at hand (`duty`) and its
//! worker process (`engine`); what one host's kernel offers (`facts`), what it says of a run
//! (`census`, `readings`), what a plan sets on it (`sysctls`). What does not: decisions (the
//! domain's) and flows (the worker's). Where to start: [`serve`].
//!
//! ```text
//! controller <==stream==> session --orders--> duty --JSON lines--> worker process
//!                            ^                 | census, readings, settings
//!                            +----- spool <----+
//! ```

mod backoff;
pub mod census;
mod clock;
pub mod diag;
mod duty;
mod engine;
pub mod facts;
mod lease;
pub mod netlink;
pub mod observe;
pub mod readings;
mod session;
mod spool;
pub mod sysctls;
mod tracking;

#[cfg(test)]
mod testing;

pub use clock::boottime_nanos;
pub use facts::{AddressSelector, host_facts};
pub use session::{AgentConfig, AgentError, SpoolPlace, serve};
pub use spool::JournalError;
