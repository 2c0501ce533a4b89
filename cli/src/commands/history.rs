//! `runs`, `show`, `compare`: what is kept, from a controller or from a database that is only read.

use crate::args::Source;
use crate::client::{Client, connect, decode, refused, report};
use crate::exit::{Done, Exit, Stop};
use crate::output::{print, print_json};
use crate::{place, table};
use tuplelab_controller::store::{Store, StoreError};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::report::{Comparison, Report, RunRecord};
use tuplelab_domain::run::Outcome;
use tuplelab_proto::dial::Address;
use tuplelab_proto::v1::{CompareRunsRequest, ListRunsRequest, RunSummary};

/// Where runs are kept.
pub enum Kept {
    /// At a controller.
    Controller(Client),
    /// In a database that is only read.
    Database(Store),
}

impl Kept {
    /// The latest runs, newest first.
    pub async fn runs(&mut self, limit: u32) -> Result<Vec<RunSummary>, Stop> {
        match self {
            Self::Controller(client) => {
                Ok(client.list_runs(ListRunsRequest { limit }).await.map_err(refused)?.into_inner().runs)
            }
            Self::Database(store) => {
                Ok(store.list_runs(limit).await.map_err(unusable)?.into_iter().map(Into::into).collect())
            }
        }
    }

    /// One run's report.
    pub async fn report(&mut self, run: &str) -> Result<Report, Stop> {
        match self {
            Self::Controller(client) => report(client, run).await,
            Self::Database(store) => {
                let id = store.find_run(run).await.map_err(unusable)?;
                Ok(Report::new(&store.record(&id).await.map_err(unusable)?))
            }
        }
    }
}

/// The place that is named, or the usual one.
pub async fn kept(source: &Source, controller: Option<Address>) -> Result<Kept, Stop> {
    match (&source.db, controller) {
        (None, Some(address)) => Ok(Kept::Controller(connect(&address).await?)),
        (db, _) => {
            let path = place::to_read(db.as_deref())?;
            Ok(Kept::Database(Store::open_read_only(&path).await.map_err(unusable)?))
        }
    }
}

/// What keeps a database from being used, as an end of this program.
pub fn unusable(error: StoreError) -> Stop {
    let exit = match error {
        StoreError::NotFound { .. } | StoreError::Ambiguous { .. } => Exit::NotFound,
        _ => Exit::Store,
    };
    Stop::new(exit, error.to_string())
}

/// Lists runs.
pub async fn runs(limit: u32, source: Source, controller: Option<Address>) -> Done {
    let runs = kept(&source, controller).await?.runs(limit).await?;
    if source.json {
        let rows = runs.iter().map(|run| {
            serde_json::json!({
                "run": run.run, "plan": run.plan, "question": run.question, "submitter": run.submitter,
                "submitted_micros": run.submitted_micros, "phase": run.phase, "outcome": run.outcome,
                "most_held": run.most_held, "verdicts": run.findings,
            })
        });
        return print_json(&serde_json::json!({ "runs": rows.collect::<Vec<_>>() }));
    }
    print(&table::runs(&runs))
}

/// All that is kept of one run; only a database has it.
async fn record(run: &str, source: &Source) -> Result<RunRecord, Stop> {
    let path = place::to_read(source.db.as_deref())?;
    let store = Store::open_read_only(&path).await.map_err(unusable)?;
    let id = store.find_run(run).await.map_err(unusable)?;
    store.record(&id).await.map_err(unusable)
}

/// Judges one run again.
pub async fn judge(run: String, source: Source) -> Done {
    let record = record(&run, &source).await?;
    let plan = PlanFile::parse(&record.plan_source).and_then(check).map_err(|problems| {
        let what = problems.first().map(|problem| problem.what.clone()).unwrap_or_default();
        Stop::new(Exit::PlanRefused, format!("the run's plan is not one that this version reads: {what}"))
    })?;
    let complete = record.outcome == Some(Outcome::Completed);
    let verdicts = tuplelab_domain::verdict::judge(&plan, &record.evidence, complete);
    let report = Report::new(&RunRecord { verdicts, ..record });
    match source.json {
        true => print_json(&report.verdicts)?,
        false => print(&table::verdicts(&report.verdicts))?,
    };
    Ok(Exit::of(&report))
}

/// Shows the evidence of one run.
pub async fn evidence(run: String, source: Source) -> Done {
    print_json(&record(&run, &source).await?.evidence)
}

/// Shows one run.
pub async fn show(run: String, source: Source, controller: Option<Address>) -> Done {
    let report = kept(&source, controller).await?.report(&run).await?;
    match source.json {
        true => print_json(&report),
        false => print(&table::report(&report)),
    }
}

/// Compares two runs.
pub async fn compare(first: String, second: String, source: Source, controller: Option<Address>) -> Done {
    let comparison: Comparison = match kept(&source, controller).await? {
        Kept::Controller(mut client) => {
            let reply = client.compare_runs(CompareRunsRequest { first, second }).await.map_err(refused)?;
            decode(&reply.into_inner().comparison_json)?
        }
        Kept::Database(store) => {
            let mut records = Vec::new();
            for name in [first, second] {
                let id = store.find_run(&name).await.map_err(unusable)?;
                records.push(store.record(&id).await.map_err(unusable)?);
            }
            let [first, second] = records.as_slice() else {
                return Err(Stop::new(Exit::Failed, "two runs are compared"));
            };
            tuplelab_domain::report::compare(first, second)
        }
    };
    match source.json {
        true => print_json(&comparison),
        false => print(&table::comparison(&comparison)),
    }
}
