//! Local labs: several hosts on one machine, without root, an engine, or the `ip` program.
//!
//! # What lives here
//!
//! A **lab** is one controller process and one agent process per host. A host is a network namespace with
//! addresses of its own, or, where namespaces are forbidden, a set of loopback addresses. This crate decides
//! the addresses, builds the network, starts the processes, says which of them died, and ends them all.
//!
//! ```text
//!   caller (tuplelab run ...)
//!     | stdin: one LabSpec, then kept open; its end is the end of the lab
//!     | stdout: up | refused | failed, later exited
//!   holder (tuplelab lab-holder) = the hub's namespace
//!     |
//!     |  controller        data0 10.66.0.1/16, fd66::1/64       control0 10.67.0.1/16
//!     |                    (bridge)   |        |                (bridge)  |        |
//!     |                            d0 |     d1 |                       c0 |     c1 |     veth pairs
//!     |                               |        |                          |        |
//!     +- agent 0 = namespace   data0 10.66.1.1..N, fd66::1:1..N   control0 10.67.1.1
//!     +- agent 1 = namespace            data0 10.66.2.1..N, fd66::2:1..N   control0 10.67.2.1
//! ```
//!
//! Control has a bridge of its own, so that cutting the data network is not cutting the controller off.
//!
//! # What does not
//!
//! The code of controller and agents: the holder starts the same program again with the arguments of the
//! spec. Nor whether these processes are ready to work: the caller asks them over their own interface.
//!
//! # Where to start
//!
//! [`spec`] is what a caller asks for and [`notice`] what it is told; [`Lab`] is its hand on the lab. [`hold`]
//! is the other side: the life of a lab on one page. [`addressing`] is pure; `namespace` and `network` are the
//! only modules that touch the kernel's network, `process` and `family` the only ones that start and end
//! processes.

pub mod addressing;
mod family;
mod handle;
mod holder;
mod namespace;
mod netlink;
mod network;
pub mod notice;
mod process;
pub mod spec;

pub use handle::{Lab, LabError};
pub use holder::{HOLDER_COMMAND, hold};
pub use notice::{ExitNotice, HostUp, LabUp};
pub use spec::{HostSpec, LabKind, LabSpec, ProcessSpec};
