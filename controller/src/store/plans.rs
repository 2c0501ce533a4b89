//! Plans, and the cases that a run makes of them.

use super::error::Fault;
use super::value::{from_int, from_json, from_word, to_int, to_json};
use sqlx::{SqliteConnection, query};
use tuplelab_domain::capacity::{Limit, Prediction};
use tuplelab_domain::id::RunId;
use tuplelab_domain::plan::{Accept, Plan};
use tuplelab_domain::schedule::Schedule;

/// A plan is stored once; its digest says that a second text of that name is the same.
pub(super) async fn put_plan(tx: &mut SqliteConnection, plan: &Plan) -> Result<(), Fault> {
    query!(
        "INSERT INTO plan (digest, source, question) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING",
        plan.digest.0,
        plan.source,
        plan.question
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn put_schedule(
    tx: &mut SqliteConnection,
    run: &RunId,
    plan: &Plan,
    schedule: &Schedule,
) -> Result<(), Fault> {
    let json = to_json("run", schedule)?;
    let known = query!("UPDATE run SET schedule = ?2 WHERE id = ?1", run.0, json).execute(&mut *tx).await?;
    if known.rows_affected() == 0 {
        return Err(Fault::unknown(run));
    }
    for (index, (case, placed)) in (0i64..).zip(plan.cases.iter().zip(&schedule.cases)) {
        let parameters = to_json("run_case", &case.parameters)?;
        let setup = to_json("run_case", &case.setup)?;
        let prediction = &placed.prediction;
        let (target, predicted) = (to_int(placed.target), to_int(prediction.connections));
        let (bound_by, next_bound) = (prediction.bound_by.name(), prediction.next_bound.map(Limit::name));
        let accept_queue = to_int(prediction.accept_queue);
        let margins = to_json("run_case", &prediction.margins)?;
        // An update, not a replacement: replacing the row would delete the case's trials with it.
        query!(
            "INSERT INTO run_case (run, case_index, name, parameters, setup, target, predicted, bound_by,
                 next_bound, accept_queue, margins)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (run, case_index) DO UPDATE SET name = excluded.name,
                 parameters = excluded.parameters, setup = excluded.setup, target = excluded.target,
                 predicted = excluded.predicted, bound_by = excluded.bound_by,
                 next_bound = excluded.next_bound, accept_queue = excluded.accept_queue,
                 margins = excluded.margins",
            run.0,
            index,
            case.name,
            parameters,
            setup,
            target,
            predicted,
            bound_by,
            next_bound,
            accept_queue,
            margins
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// What was asked of a case, and predicted of it.
pub(super) struct Asked {
    pub(super) prediction: Prediction,
    pub(super) target: u64,
    pub(super) accept: Accept,
    pub(super) answered: bool,
}

/// What is known of a case before it is run. Cases that were stored when servers could not but accept
/// and answer do not say so.
pub(super) async fn asked(tx: &mut SqliteConnection, run: &RunId, case_index: i64) -> Result<Asked, Fault> {
    let row = query!(
        "SELECT target, predicted, bound_by, next_bound, accept_queue, margins,
             setup ->> '$.servers.accept' AS \"accept?: String\",
             setup ->> '$.load.answered' AS \"answered?: bool\"
         FROM run_case WHERE run = ?1 AND case_index = ?2",
        run.0,
        case_index
    )
    .fetch_one(tx)
    .await?;
    let prediction = Prediction {
        connections: from_int(row.predicted),
        bound_by: from_word("run_case", row.bound_by)?,
        next_bound: row.next_bound.map(|limit| from_word("run_case", limit)).transpose()?,
        margins: from_json("run_case", &row.margins)?,
        accept_queue: from_int(row.accept_queue),
    };
    let accept = row.accept.map(|accept| from_word("run_case", accept)).transpose()?;
    Ok(Asked {
        prediction,
        target: from_int(row.target),
        accept: accept.unwrap_or_default(),
        answered: row.answered.unwrap_or(true),
    })
}
