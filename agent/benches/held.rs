//! Connections held, with what a user would write instead beside the engine and the bare loop.
//!
//! `cargo bench -p tuplelab-agent --bench held -- --with-tokio` is the worker's bench of the same name
//! (all its flags), and one row more. The row is here because it needs a runtime, and none comes near the
//! worker, not even its benches (domain/tests/wall.rs); the agent has one anyway.
#![allow(unsafe_code, reason = "the bare loop is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

#[path = "../../worker/benches/common/mod.rs"]
mod common;
mod tokio_peer;

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--tokio") {
        tokio_peer::main();
    } else if !common::is_process() {
        common::held::main(&[common::held::Peer {
            flag: "--with-tokio",
            name: "tokio",
            kinds: ["--tokio"; 2],
            one_table: true,
        }]);
    }
}
