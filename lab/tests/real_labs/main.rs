//! Labs that are real: namespaces, processes, connections.
//!
//! This executable plays every part. Without arguments it is the test; started again as `lab-holder` it
//! holds a lab, as `sleepy ...` it is a controller or an agent, as `scene NAME` one test in a process that
//! may spoil itself. So it has its own `main`, and no thread when it begins.

mod scenes;
mod sleepy;

use std::env;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        [tuplelab_lab::HOLDER_COMMAND] => tuplelab_lab::hold(),
        ["sleepy", part, rest @ ..] => sleepy::play(part, rest),
        ["scene", "refused"] => scenes::refused_from_the_inside(),
        ["--list", ..] => {
            scenes::ALL.iter().for_each(|(name, _)| report(&format!("{name}: test")));
            ExitCode::SUCCESS
        }
        options => test(options.iter().copied().find(|option| !option.starts_with('-'))),
    }
}

/// What a scene found.
pub enum Outcome {
    /// As its name says.
    Held,
    /// This machine lacks what the scene needs.
    Skipped(String),
}

fn test(filter: Option<&str>) -> ExitCode {
    let chosen = || scenes::ALL.iter().filter(|(name, _)| filter.is_none_or(|part| name.contains(part)));
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    report(&format!("\nrunning {} tests", chosen().count()));
    for (name, scene) in chosen() {
        let began = Instant::now();
        match scene() {
            Ok(Outcome::Held) => {
                passed += 1;
                report(&format!("test {name} ... ok ({} ms)", began.elapsed().as_millis()));
            }
            Ok(Outcome::Skipped(why)) => {
                ignored += 1;
                report(&format!("test {name} ... skipped: {why}"));
            }
            Err(why) => {
                failed += 1;
                report(&format!("test {name} ... FAILED\n  {why}"));
            }
        }
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let out = scenes::ALL.len() - chosen().count();
    report(&format!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {out} filtered out\n"
    ));
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[expect(clippy::print_stdout, reason = "a test without a harness reports by itself")]
fn report(line: &str) {
    println!("{line}");
}
