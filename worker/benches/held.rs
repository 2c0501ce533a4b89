//! Connections held, the engine beside a bare loop of the same system calls, in turn, in one run.
//!
//! `cargo bench -p tuplelab-worker --bench held` (`-- 64512 250000 1000000` for other numbers,
//! `--trials 5` for more trials). Both have the same schedule: one client, one server, lanes of one
//! descriptor table each, one acceptor and as many connectors at a time as the engine has, a token of 16 bytes echoed on every
//! connection, explicit source ports. All happens in a network namespace of its own. What is printed are
//! medians, and medians of ratios; a single figure of a shared machine says little.
//!
//! Variants of the engine stand beside each other with `--connectors 1,2` (lanes that connect at a time)
//! and `--window 64,16,256` (unanswered connections of each): the first of them is what the others are
//! compared with, and gives the others both. `--with-uring` adds the bare loop's work through io_uring, at
//! the client only and at both ends. A tokio program beside them is the agent's bench
//! of the same name, since no runtime comes near this crate.
#![allow(unsafe_code, reason = "the bare loop is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod common;
mod uring_peer;

use common::held::Peer;

const URING: &str = "--uring";

fn main() {
    if std::env::args().nth(1).as_deref() == Some(URING) {
        uring_peer::main();
    } else if !common::is_process() {
        let peer =
            |name, server| Peer { flag: "--with-uring", name, kinds: [server, URING], one_table: false };
        common::held::main(&[peer("uring client", "--bare"), peer("uring both", URING)]);
    }
}
