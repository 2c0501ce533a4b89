//! The controller: where agents attach, runs wait their turn, and results are kept.
//!
//! What lives here: the registry of agents (`hub`), the queue of runs (`queue`), the conductor of a
//! run (`conductor`, its `decision`s, the `performance` at hand and its `gathering` of evidence; `adoption`
//! takes it up after a restart), all SQL (`store`), the services (`rpc`). What does not: decisions (the
//! domain's) and sockets of flows (the worker's). Where to start: [`serve`], then `conductor`.
//!
//! ```text
//!  people --rpc/lab--> queue --+                    +--> store (SQLite: one writer)
//!                              +--> conductor ------+
//!  agents --rpc/agents--> hub -+        |  await, decide (domain::run), store, perform
//!         <------- orders -----+<-------+
//! ```

mod adoption;
mod app;
mod clock;
mod conductor;
mod decision;
mod gathering;
mod hub;
mod patience;
mod performance;
mod queue;
mod rpc;
pub mod store;

pub use app::{ControllerConfig, ControllerError, Ending, serve};
pub use patience::{BadPatience, Patience};
