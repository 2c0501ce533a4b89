//! The one binary: arguments in, calls to a controller or a lab, text out; and the programs that labs
//! and agents start again from the same file.
//!
//! What lives here: the command line, tables, exit codes. What does not: anything that decides or
//! measures. Where to start: `args.rs`, then the file in `commands/` that is named like the command.

mod args;
mod client;
mod commands;
mod exit;
mod interrupt;
mod local_lab;
mod name;
mod output;
mod place;
mod progress;
mod table;

use clap::Parser as _;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before any thread or runtime: a lab's holder makes a user namespace, which the kernel allows
    // only to a process with a single thread.
    let first = std::env::args().nth(1);
    if first.as_deref() == Some(tuplelab_lab::HOLDER_COMMAND) {
        return tuplelab_lab::hold();
    }
    // A limit on file sizes (ulimit -f) must show as an error of the write, not end the process.
    let mut sizes = nix::sys::signal::SigSet::empty();
    sizes.add(nix::sys::signal::Signal::SIGXFSZ);
    let _ = sizes.thread_block();
    // Children are started from /proc/self/exe, which process lists would show as "exe".
    let _ = nix::sys::prctl::set_name(c"tuplelab");
    if first.as_deref() == Some("worker") {
        return match tuplelab_worker::main_loop(std::io::stdin(), std::io::stdout()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => exit::Exit::Failed.into(),
        };
    }
    let cli = args::Cli::parse();
    start_log(&cli);
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complain(&format!("failed to start the runtime: {error}"));
            return exit::Exit::Failed.into();
        }
    };
    let done = runtime.block_on(commands::perform(cli));
    // Blocking reads of standard input must not keep the program.
    runtime.shutdown_background();
    match done {
        Ok(exit) => exit.into(),
        Err(stop) => {
            output::complain(&stop.message);
            stop.exit.into()
        }
    }
}

/// Logs go to standard error, results to standard output; daemons say more than commands.
fn start_log(cli: &args::Cli) {
    let daemon = matches!(cli.command, args::Command::Controller(_) | args::Command::Agent(_));
    let level = if daemon { "info" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let colour = anstream::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    match cli.log {
        args::LogForm::Text => log.with_target(false).init(),
        args::LogForm::Json => log.json().init(),
    }
}
