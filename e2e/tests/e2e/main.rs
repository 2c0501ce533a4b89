//! The real binary on real addresses.
//!
//! Each test has a [`e2e::World`] of its own and fails if a process of it is left. What needs
//! namespaces says so by name where they are forbidden, and is tried on loopback addresses as well.

mod accepting;
mod by_hand;
mod claims;
mod hosts;
mod leases;
mod ports;
mod refusals;
mod scripts;
mod shapes;
mod stopping;
mod timing;
mod tracking;
