//! The engine of tuplelab: opens, accepts, holds and closes real TCP connections, and counts.
//!
//! What lives here: everything that touches a flow's socket, in lanes (threads with a descriptor
//! table each). What does not: choices (the order names every address, port and count), async
//! runtimes, the network to the controller. Where to start: [`main_loop`] in `engine.rs`, then
//! `connector.rs` and `acceptor.rs`, the two kinds of lane.
//!
//! ```text
//!  stdin: WorkerOrder              engine (main thread)               stdout: WorkerReport
//!  ---order.rs----------------->  hears orders, lanes, clock  ------------------------------->
//!                                  |  Signals, eventfd    ^  Notice, Tally
//!                                  v  (lane.rs)           |  (tally.rs)
//!            +---------------------+----------------------+------------------+
//!            | lane 0              | lane 1               | lane 2 ...       |  threads
//!            | own table: flows,   | own table            | own table        |
//!            | listeners it serves |                      |                  |
//!            +---------------------+----------------------+------------------+
//!  client:   connector.rs: turn (turns.rs), pace (pacer.rs), window (window.rs) of flow.rs, times (timing.rs)
//!  server:   acceptor.rs:  turn (turns.rs), rate (gate.rs), pending greetings (flow.rs)
//!                                  |
//!                                  v  trait Net (net/mod.rs): linux.rs, or fake.rs in tests
//!                                kernel
//! ```
//! A flow costs four bytes of user memory: its descriptor. Only counters leave a lane.

mod acceptor;
mod check;
mod connector;
mod engine;
mod flow;
mod gate;
mod held;
mod lane;
mod lease;
mod net;
mod order;
mod pacer;
mod process;
mod rounds;
pub mod script;
mod slots;
mod tally;
mod timing;
mod trial;
mod turns;
mod window;

pub use check::BadWork;
pub use engine::main_loop;

use nix::errno::Errno;
use std::net::SocketAddr;

/// Why a worker ended before it was released. A flow's failure is none: it is counted.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A line is no order.
    #[error("failed to understand the order '{line}': send one JSON order on each line")]
    Malformed {
        /// The line, shortened.
        line: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// An order that needs prepared work came before it.
    #[error("failed to obey '{0}': no work is prepared; send 'prepare' first")]
    OutOfTurn(&'static str),
    /// A worker lives for one trial.
    #[error("failed to prepare twice: a worker does the work of one trial; start another one")]
    PreparedTwice,
    /// The work cannot be done by anybody.
    #[error("failed to take on the work: {0}")]
    BadWork(#[from] BadWork),
    /// An endpoint cannot be listened on.
    #[error("failed to listen on {endpoint}: {call} said {errno:?}; {}", remedy(*.errno))]
    Listener {
        /// The endpoint.
        endpoint: SocketAddr,
        /// The call that was refused.
        call: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A lane cannot be started.
    #[error("failed to start lane {lane}: {what} was refused with {errno:?}; {}", remedy(*.errno))]
    Lane {
        /// Its position.
        lane: usize,
        /// What it lacks.
        what: &'static str,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The limit on descriptors cannot be what the order says.
    #[error(
        "failed to give the worker {files} descriptors a table: setrlimit said {errno:?}; choose a number up to the hard limit (ulimit -Hn)"
    )]
    Files {
        /// The limit.
        files: u64,
        /// The kernel's reason.
        errno: Errno,
    },
    /// A lane has a fault of ours.
    #[error("failed to go on: lane {lane} has panicked; its message is on standard error")]
    LanePanicked {
        /// Its position.
        lane: usize,
    },
    /// The thread that reads orders cannot be started.
    #[error("failed to start the thread that reads orders; raise the limit on processes (ulimit -u)")]
    Reader(#[source] std::io::Error),
    /// Nobody renewed it: the agent is stopped, cut off or dead.
    #[error("the lease ended: the agent did not renew it")]
    LeaseEnded,
    /// Nobody reads the reports.
    #[error("failed to write a report")]
    Output(#[source] std::io::Error),
}

impl WorkerError {
    /// The error and what caused it, on one line.
    fn in_full(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) if !matches!(self, Self::BadWork(_)) => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// What a person can do about it.
fn remedy(errno: Errno) -> &'static str {
    match errno {
        Errno::EADDRINUSE => "another socket has this endpoint: stop its process or choose another port",
        Errno::EADDRNOTAVAIL => "the address is not this host's: add it to an interface or choose another",
        Errno::EACCES => "choose a port from 1024 on, or lower net.ipv4.ip_unprivileged_port_start",
        Errno::EPERM => "a security profile (seccomp) forbids the call: allow it there",
        Errno::EMFILE => "raise the hard limit on open files (ulimit -Hn)",
        Errno::ENFILE => "raise fs.file-max",
        Errno::EAGAIN => "raise the limit on processes (ulimit -u, pids.max)",
        Errno::ENOSYS => "Linux 5.9 or later is needed, with close_range allowed",
        _ => "see the manual page of the call",
    }
}
