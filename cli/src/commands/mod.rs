//! One file per command, or per few that belong together.

mod check;
mod claims;
mod db;
mod doctor;
mod health;
mod history;
mod lab;
mod operate;
mod run;
mod serve;

pub use claims::Row;

use crate::args::{Cli, Command, SchemaOf};
use crate::exit::{Done, Exit, Stop};
use crate::output::print_json;
use std::io::Read as _;
use std::path::Path;
use tuplelab_proto::dial::Address;

/// Does what the command line says.
pub async fn perform(cli: Cli) -> Done {
    let controller = cli.controller;
    match cli.command {
        Command::Demo(args) => run::demo(args).await,
        Command::Run(args) => run::run(args, controller).await,
        Command::Claims(args) => claims::claims(args, controller).await,
        Command::Check(args) => check::check(args, controller).await,
        Command::Doctor(args) => doctor::doctor(args, controller).await,
        Command::Schema { of: SchemaOf::Plan } => print_json(&tuplelab_domain::plan::plan_schema()),
        Command::Schema { of: SchemaOf::Report } => print_json(&tuplelab_domain::report::report_schema()),
        Command::Runs { limit, source } => history::runs(limit, source, controller).await,
        Command::Show { run, source, evidence: true } => history::evidence(run, source).await,
        Command::Show { run, source, evidence: false } => history::show(run, source, controller).await,
        Command::Judge { run, source } => history::judge(run, source).await,
        Command::Compare { first, second, source } => {
            history::compare(first, second, source, controller).await
        }
        Command::Watch { run } => operate::watch(run, needed(controller)?).await,
        Command::Cancel { run } => operate::cancel(run, needed(controller)?).await,
        Command::Agents { json } => operate::agents(json, needed(controller)?).await,
        Command::Health { agent } => health::health(agent, needed(controller)?).await,
        Command::Db { what } => db::db(what).await,
        Command::Lab(args) => lab::lab(args).await,
        Command::Controller(args) => serve::controller(args).await,
        Command::Agent(args) => serve::agent(args, needed(controller)?).await,
    }
}

fn needed(controller: Option<Address>) -> Result<Address, Stop> {
    controller.ok_or_else(|| {
        Stop::new(Exit::Usage, "which controller? give --controller URL, or set TUPLELAB_CONTROLLER")
    })
}

/// The largest plan that is read, as the controller has it.
const LARGEST_PLAN: u64 = 256 * 1024;

/// A plan's text and the name under which its problems are shown.
fn read_plan(path: &Path) -> Result<(String, String), Stop> {
    let mut text = String::new();
    let name = path.display().to_string();
    let read = if name == "-" {
        std::io::stdin().take(LARGEST_PLAN + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(LARGEST_PLAN + 1).read_to_string(&mut text))
    };
    match read {
        Ok(length) if length as u64 > LARGEST_PLAN => Err(Stop::new(
            Exit::PlanRefused,
            format!("{name} is longer than {LARGEST_PLAN} bytes: no plan is"),
        )),
        Ok(_) => Ok((text, name)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Stop::new(
            Exit::NotFound,
            format!("there is no plan at {name}: give the path of a TOML file, as in plans/demo.toml"),
        )),
        Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            Err(Stop::new(Exit::PlanRefused, format!("{name} is no text (UTF-8): a plan is a TOML file")))
        }
        Err(error) => Err(Stop::new(
            Exit::NotFound,
            format!("{name} cannot be read: {error}; give the path of a TOML file that this user may read"),
        )),
    }
}

/// A plan that makes sense, or all its problems.
fn checked(text: &str, name: &str) -> Result<tuplelab_domain::plan::Plan, Stop> {
    use std::io::IsTerminal as _;
    use tuplelab_domain::plan::{PlanFile, PlanProblem, check};
    PlanFile::parse(text).and_then(check).map_err(|problems| {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let drawn = PlanProblem::render(&problems, name, text, colour);
        let count = problems.len();
        let word = if count == 1 { "problem" } else { "problems" };
        Stop::new(Exit::PlanRefused, format!("{name} has {count} {word}\n\n{drawn}"))
    })
}
