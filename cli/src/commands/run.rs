//! `demo` and `run`: a plan, from its text to its verdicts.

use crate::args::{DemoArgs, OwnLab, RunArgs};
use crate::client::{Client, connect, refused, report};
use crate::exit::{Done, Exit, Stop};
use crate::interrupt::Interrupt;
use crate::local_lab::{LocalLab, Size};
use crate::output::{print, print_json, say};
use crate::progress::Progress;
use crate::{place, table};
use tokio_stream::StreamExt as _;
use tuplelab_domain::capacity::Limit;
use tuplelab_domain::report::Report;
use tuplelab_domain::units::Span;
use tuplelab_proto::dial::Address;
use tuplelab_proto::v1::{CancelRequest, SubmitRequest, WatchRequest};

const DEMO: &str = include_str!("../../../plans/demo.toml");

/// Runs the shipped plan in a lab on this machine.
pub async fn demo(args: DemoArgs) -> Done {
    let text = with_hold(DEMO, args.hold)?;
    in_own_lab(&text, "plans/demo.toml", &args.own, args.json).await
}

/// Runs a plan, on a controller or in a lab on this machine.
pub async fn run(args: RunArgs, controller: Option<Address>) -> Done {
    let (text, name) = super::read_plan(&args.plan)?;
    let text = with_hold(&text, args.hold)?;
    super::checked(&text, &name)?;
    let Some(address) = controller else {
        if args.detach {
            return Err(Stop::new(
                Exit::Usage,
                "--detach needs a controller that goes on: give --controller URL",
            ));
        }
        return in_own_lab(&text, &name, &args.own, args.json).await;
    };
    if args.own.lab.is_some() || args.own.db.is_some() {
        return Err(Stop::new(
            Exit::Usage,
            "--lab and --db are for a lab on this machine; the controller has its own hosts and database",
        ));
    }
    let mut client = connect(&address).await?;
    let run = submit(&mut client, text).await?;
    if args.detach {
        say(&format!("next: tuplelab --controller {address} watch {run}"));
        return if args.json { print_json(&serde_json::json!({ "run": run })) } else { print(&run) };
    }
    follow(&mut client, &run, || Ok(None)).await?;
    let report = report(&mut client, &run).await?;
    show(&report, args.json)
}

/// The plan with another hold. What is submitted is a whole plan, so the store shows what was run.
fn with_hold(text: &str, hold: Option<Span>) -> Result<String, Stop> {
    let Some(hold) = hold else { return Ok(text.to_owned()) };
    // A plan that is no TOML goes on as it is: checking it says what is wrong.
    let Ok(mut document) = text.parse::<toml_edit::DocumentMut>() else { return Ok(text.to_owned()) };
    if document.get("load").is_some_and(|load| !load.is_table_like()) {
        return Ok(text.to_owned());
    }
    let load = document.entry("load").or_insert(toml_edit::table());
    if let Some(load) = load.as_table_like_mut() {
        load.insert("hold", toml_edit::value(hold.to_string()));
    }
    let cases = document.get_mut("case").and_then(toml_edit::Item::as_array_of_tables_mut);
    for case in cases.into_iter().flat_map(toml_edit::ArrayOfTables::iter_mut) {
        case.remove("load.hold");
        if let Some(load) = case.get_mut("load").and_then(toml_edit::Item::as_table_like_mut) {
            load.remove("hold");
        }
    }
    Ok(document.to_string())
}

async fn in_own_lab(text: &str, name: &str, own: &OwnLab, json: bool) -> Done {
    let plan = super::checked(text, name)?;
    let db = place::to_write(own.db.as_deref())?;
    let (mut lab, mut client) =
        LocalLab::start(own.lab.map(Into::into), Size::of(&plan), &db, &own.lease).await?;
    lab.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let ran = conduct(&mut client, text, || lab.all_alive()).await;
    let stopped = lab.stop().await;
    let report = ran?;
    stopped?;
    let exit = show(&report, json)?;
    if report.cases.iter().any(|case| case.bound_by == Limit::Memory) {
        say(
            "note: memory is short on this machine, so the cases were cut to what it holds (about 8 KiB a connection, both ends)",
        );
    }
    let path = db.display();
    let given = place::option(own.db.as_deref());
    say(&format!(
        "saved in {path}\nnext:  tuplelab show last{given}        this run again (--json for programs)\n       tuplelab runs{given}             all runs; compare two with 'tuplelab compare RUN RUN{given}'"
    ));
    Ok(exit)
}

/// Submits a plan, follows its run to the end, and gives its report.
pub async fn conduct(
    client: &mut Client,
    text: &str,
    alive: impl FnMut() -> Result<Option<String>, Stop>,
) -> Result<Report, Stop> {
    let run = submit(client, text.to_owned()).await?;
    follow(client, &run, alive).await?;
    report(client, &run).await
}

async fn submit(client: &mut Client, plan: String) -> Result<String, Stop> {
    let reply =
        client.submit(SubmitRequest { plan, submitter: submitter() }).await.map_err(refused)?.into_inner();
    if reply.ahead > 0 {
        say(&format!("run {} waits behind {} others", reply.run, reply.ahead));
    }
    Ok(reply.run)
}

/// Who runs this program, as far as it can be known: `user@host`.
fn submitter() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current()).ok().flatten();
    let user = user.map_or_else(|| nix::unistd::Uid::current().to_string(), |user| user.name);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    format!("{user}@{}", host.unwrap_or_else(|| "unknown".into()))
}

/// Shows a run's progress until it has finished. Ctrl-C cancels it and waits for its end; another one
/// waits no longer.
pub async fn follow(
    client: &mut Client,
    run: &str,
    mut alive: impl FnMut() -> Result<Option<String>, Stop>,
) -> Result<(), Stop> {
    // One listener for the whole time: a signal between two looks must not be lost.
    let mut interrupt = Interrupt::listen()?;
    let mut updates = client.watch(WatchRequest { run: run.into() }).await.map_err(refused)?.into_inner();
    let mut progress = Progress::new();
    let mut look = tokio::time::interval(std::time::Duration::from_millis(200));
    let mut cancelled = false;
    loop {
        tokio::select! {
            update = updates.next() => match update {
                Some(Ok(update)) if update.phase == "finished" => return Ok(()),
                Some(Ok(update)) => progress.show(&update),
                Some(Err(status)) => return Err(lost(run, &status)),
                None => return Ok(()),
            },
            () = interrupt.recv() => {
                if cancelled {
                    return Err(Stop::new(Exit::Cancelled, format!("run {run} was cancelled; its end was not waited for")));
                }
                cancelled = true;
                progress.note("cancelling; press Ctrl-C again to wait no longer");
                client.cancel(CancelRequest { run: run.into() }).await.map_err(refused)?;
            }
            _ = look.tick() => if let Some(words) = alive()? { progress.note(&words) },
        }
    }
}

fn lost(run: &str, status: &tonic::Status) -> Stop {
    let why = status.message();
    Stop::new(
        Exit::Unreachable,
        format!(
            "the controller was lost while run {run} was under way ({why}): when it is back, 'tuplelab show {run}' tells how it ended"
        ),
    )
}

/// Prints a report, and says what it means as an exit code.
pub fn show(report: &Report, json: bool) -> Done {
    match json {
        true => print_json(report)?,
        false => print(&table::report(report))?,
    };
    Ok(Exit::of(report))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::plan::{PlanFile, check};

    #[test]
    fn the_shipped_demo_is_a_plan_of_five_cases() {
        let plan = PlanFile::parse(DEMO).and_then(check).expect("the demo is a plan");
        assert_eq!(plan.cases.len(), 5);
    }

    #[test]
    fn every_shipped_plan_is_a_plan() {
        let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../plans"))];
        let mut seen = 0;
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("plans are shipped") {
                let path = entry.expect("can be listed").path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                if path.extension().is_none_or(|ending| ending != "toml") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).expect("can be read");
                if let Err(problems) = PlanFile::parse(&text).and_then(check) {
                    panic!("{}: {problems:?}", path.display());
                }
                seen += 1;
            }
        }
        assert!(seen >= 2, "only {seen} plans were found");
    }

    #[test]
    fn another_hold_replaces_the_plans_own_and_every_cases() {
        let text =
            "[load]\nhold = \"1s\" # short\n[[case]]\n\"load.hold\" = \"2s\"\n[[case]]\nload.hold = \"3s\"\n";
        let text = with_hold(text, Some("7s".parse().expect("a time"))).expect("is edited");
        let plan = PlanFile::parse(&text).and_then(check).expect("is still a plan");
        assert!(plan.cases.iter().all(|case| case.setup.load.hold.0.as_secs() == 7), "{text}");
        let none = with_hold("question = \"q\"\n", Some("2s".parse().expect("a time"))).expect("is edited");
        assert!(none.contains("hold = \"2s\""), "{none}");
    }
}
