//! What the tests of the real binary share.
//!
//! What lives here: finding the binary ([`tuplelab`]), a place for each test ([`World`]) that checks
//! at its end that nothing is left running, a started program with its output so far ([`Running`]), how
//! it ended ([`Ended`]), a lab to connect to ([`Lab`]). What does not: any knowledge of what the right
//! answers are; that is in `tests/`. Where to start: `tests/e2e/main.rs`.

mod binary;
mod lab;
mod process;
mod skip;
mod world;

pub use binary::tuplelab;
pub use lab::{Host, Lab};
pub use process::{Ended, Running};
pub use skip::{has_namespaces, has_program, loopback_hosts, skip};
pub use world::{World, processes_of};
