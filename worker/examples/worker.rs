//! A worker by itself: orders on standard input, reports on standard output.
//!
//! `cargo run --release -p tuplelab-worker --example worker`

fn main() -> Result<(), tuplelab_worker::WorkerError> {
    tuplelab_worker::main_loop(std::io::stdin(), std::io::stdout())
}
