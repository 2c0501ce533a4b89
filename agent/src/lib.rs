//! The daemon on a host.
//!
//! What lives here: what one host's kernel offers (`facts`), what it says of a run (`census`,
//! `readings`), what a plan sets on it (`sysctls`). What does not: decisions (the domain's) and
//! flows (the worker's). Where to start: `facts::host_facts`, then `census::census`.

pub mod census;
pub mod diag;
pub mod facts;
pub mod netlink;
pub mod readings;
pub mod sysctls;

#[cfg(test)]
mod testing;
