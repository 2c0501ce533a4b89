//! Evidence: a trial, its ends, and what each end's application and kernel said.

use super::error::Fault;
use super::plans;
use super::value::{from_index, from_int, from_json, from_word, to_int, to_json};
use sqlx::{SqliteConnection, query};
use std::collections::BTreeMap;
use tuplelab_domain::evidence::{End, TrialEvidence};
use tuplelab_domain::id::RunId;
use tuplelab_domain::sample::{Beyond, Census, Counters, Failure, Failures, Readings};
use tuplelab_domain::script::{Answer, Observation};

/// Flows of the schedule.
const LOAD: &str = "load";
/// The one connect more that the kernel is to refuse.
const BEYOND: &str = "beyond";
const BEFORE: &str = "before";
const AFTER: &str = "after";

/// Replaces all that was stored of the trial.
pub(super) async fn put(
    tx: &mut SqliteConnection,
    run: &RunId,
    trial: &TrialEvidence,
    whole: bool,
) -> Result<(), Fault> {
    let known = query!("SELECT target FROM run_case WHERE run = ?1 AND case_index = ?2", run.0, trial.case)
        .fetch_optional(&mut *tx)
        .await?;
    if known.is_none() {
        return Err(Fault::NotFound { name: format!("{run} with case {}", trial.case) });
    }
    // The ends, and what hangs on them, go with the trial.
    query!(
        "DELETE FROM trial WHERE run = ?1 AND case_index = ?2 AND trial_index = ?3",
        run.0,
        trial.case,
        trial.trial
    )
    .execute(&mut *tx)
    .await?;
    let gaps = to_json("trial", &trial.gaps)?;
    let ramp = trial.ramp.map(|ramp| to_json("trial", &ramp)).transpose()?;
    query!(
        "INSERT INTO trial (run, case_index, trial_index, whole, gaps, ramp) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        run.0,
        trial.case,
        trial.trial,
        whole,
        gaps,
        ramp
    )
    .execute(&mut *tx)
    .await?;
    for (position, end) in (0i64..).zip(&trial.ends) {
        put_end(tx, run, trial, position, end).await?;
    }
    for observation in &trial.observations {
        put_observation(tx, run, trial, observation).await?;
    }
    Ok(())
}

async fn put_observation(
    tx: &mut SqliteConnection,
    run: &RunId,
    trial: &TrialEvidence,
    observation: &Observation,
) -> Result<(), Fault> {
    let Observation { step, agent, text, label, answer } = observation;
    let (agent, value) = (agent.as_str(), answer.value.map(to_int));
    let details = to_json("observation", &answer.details)?;
    query!(
        "INSERT INTO observation (run, case_index, trial_index, step, agent, call, label, outcome, value, details)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        run.0,
        trial.case,
        trial.trial,
        step,
        agent,
        text,
        label,
        answer.outcome,
        value,
        details
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn observations(
    tx: &mut SqliteConnection,
    run: &RunId,
    case_index: i64,
    trial_index: i64,
) -> Result<Vec<Observation>, Fault> {
    let rows = query!(
        "SELECT step, agent, call, label, outcome, value, details FROM observation
         WHERE run = ?1 AND case_index = ?2 AND trial_index = ?3 ORDER BY step",
        run.0,
        case_index,
        trial_index
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Observation {
                step: from_index("observation", row.step)?,
                agent: from_word("observation", row.agent)?,
                text: row.call,
                label: row.label,
                answer: Answer {
                    outcome: row.outcome,
                    value: row.value.map(from_int),
                    details: from_json("observation", &row.details)?,
                },
            })
        })
        .collect()
}

async fn put_end(
    tx: &mut SqliteConnection,
    run: &RunId,
    trial: &TrialEvidence,
    position: i64,
    end: &End,
) -> Result<(), Fault> {
    let (agent, role) = (end.agent.as_str(), end.role.name());
    let Counters {
        attempted,
        established,
        held,
        late,
        strangers,
        closed,
        churned,
        rounds,
        answered_rounds,
        late_rounds,
        failures,
    } = &end.counters;
    let (rounds, answered_rounds, late_rounds) =
        (to_int(*rounds), to_int(*answered_rounds), to_int(*late_rounds));
    let round_trips = end.round_trips.as_ref().map(|times| to_json("trial_end", times)).transpose()?;
    let (closed, churned) = (to_int(*closed), to_int(*churned));
    let (attempted, established) = (to_int(*attempted), to_int(*established));
    let (held, late, strangers) = (to_int(*held), to_int(*late), to_int(*strangers));
    let (first, last) = (end.first_micros.map(to_int), end.last_micros.map(to_int));
    let cpu = end.cpu_micros.map(to_int);
    let (pss_ready, pss) = (end.pss_ready_bytes.map(to_int), end.pss_bytes.map(to_int));
    let tried = end.beyond.as_ref().map(|beyond| to_int(beyond.tried));
    let (read_before, read_after) = (end.before.is_some(), end.after.is_some());
    let missing = to_int(end.samples_missing);
    let go = end.go_nanos.map(to_int);
    let clock = end.clock.as_ref().map(|clock| to_json("trial_end", clock)).transpose()?;
    let times = end.connect_times.as_ref().map(|times| to_json("trial_end", times)).transpose()?;
    let id = query!(
        "INSERT INTO trial_end (run, case_index, trial_index, position, agent, role, attempted, established, held,
             late, strangers, first_micros, last_micros, cpu_micros, pss_ready_bytes, pss_bytes, beyond_tried,
             read_before, read_after, samples_missing, go_nanos, clock, connect_times, closed, churned, rounds,
             answered_rounds, late_rounds, round_trips)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21,
             ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29)",
        run.0,
        trial.case,
        trial.trial,
        position,
        agent,
        role,
        attempted,
        established,
        held,
        late,
        strangers,
        first,
        last,
        cpu,
        pss_ready,
        pss,
        tried,
        read_before,
        read_after,
        missing,
        go,
        clock,
        times,
        closed,
        churned,
        rounds,
        answered_rounds,
        late_rounds,
        round_trips
    )
    .execute(&mut *tx)
    .await?
    .last_insert_rowid();

    put_failures(tx, id, LOAD, failures.iter()).await?;
    if let Some(beyond) = &end.beyond {
        put_failures(tx, id, BEYOND, beyond.refused.iter().map(|(failure, count)| (failure, *count))).await?;
    }
    for (moment, readings) in [(BEFORE, &end.before), (AFTER, &end.after)] {
        for (name, value) in readings.iter().flat_map(|readings| &readings.0) {
            let value = to_int(*value);
            query!(
                "INSERT INTO reading (trial_end, moment, name, value) VALUES (?1, ?2, ?3, ?4)",
                id,
                moment,
                name,
                value
            )
            .execute(&mut *tx)
            .await?;
        }
    }
    if let Some(census) = &end.census {
        put_census(tx, id, census).await?;
    }
    Ok(())
}

async fn put_failures<'a>(
    tx: &mut SqliteConnection,
    end: i64,
    during: &str,
    failures: impl Iterator<Item = (&'a Failure, u64)>,
) -> Result<(), Fault> {
    for (position, (failure, count)) in (0i64..).zip(failures) {
        let (call, count) = (failure.call.name(), to_int(count));
        query!(
            "INSERT INTO failure (trial_end, during, position, call, error, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            end,
            during,
            position,
            call,
            failure.error,
            count
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn put_census(tx: &mut SqliteConnection, end: i64, census: &Census) -> Result<(), Fault> {
    let (established, strangers, micros) =
        (to_int(census.established), to_int(census.strangers), to_int(census.micros));
    let digest = census.digest.to_string();
    let states = to_json("census", &census.states)?;
    let listeners = to_json("census", &census.listeners)?;
    query!(
        "INSERT INTO census (trial_end, established, digest, strangers, states, listeners, micros)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        end,
        established,
        digest,
        strangers,
        states,
        listeners,
        micros
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// What is known of every trial of a run that was begun, by case and trial.
pub(super) async fn of(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<TrialEvidence>, Fault> {
    let rows = query!(
        "SELECT case_index, trial_index, gaps, ramp FROM trial WHERE run = ?1 ORDER BY case_index, trial_index",
        run.0
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut trials = Vec::with_capacity(rows.len());
    for row in rows {
        let asked = plans::asked(tx, run, row.case_index).await?;
        trials.push(TrialEvidence {
            case: from_index("trial", row.case_index)?,
            trial: from_index("trial", row.trial_index)?,
            prediction: asked.prediction,
            target: asked.target,
            accept: asked.accept,
            answered: asked.answered,
            ramp: row.ramp.map(|ramp| from_json("trial", &ramp)).transpose()?,
            ends: ends(tx, run, row.case_index, row.trial_index).await?,
            observations: observations(tx, run, row.case_index, row.trial_index).await?,
            gaps: from_json("trial", &row.gaps)?,
        });
    }
    Ok(trials)
}

async fn ends(
    tx: &mut SqliteConnection,
    run: &RunId,
    case_index: i64,
    trial_index: i64,
) -> Result<Vec<End>, Fault> {
    let rows = query!(
        "SELECT * FROM trial_end WHERE run = ?1 AND case_index = ?2 AND trial_index = ?3 ORDER BY position",
        run.0,
        case_index,
        trial_index
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut ends = Vec::with_capacity(rows.len());
    for row in rows {
        let mut load = Failures::default();
        for (failure, count) in failures(tx, row.id, LOAD).await? {
            load.add(failure.call, failure.error, count);
        }
        let refused = failures(tx, row.id, BEYOND).await?;
        let before = readings(tx, row.id, BEFORE).await?;
        let after = readings(tx, row.id, AFTER).await?;
        ends.push(End {
            agent: from_word("trial_end", row.agent)?,
            role: from_word("trial_end", row.role)?,
            counters: Counters {
                attempted: from_int(row.attempted),
                established: from_int(row.established),
                held: from_int(row.held),
                late: from_int(row.late),
                strangers: from_int(row.strangers),
                closed: from_int(row.closed),
                churned: from_int(row.churned),
                rounds: from_int(row.rounds),
                answered_rounds: from_int(row.answered_rounds),
                late_rounds: from_int(row.late_rounds),
                failures: load,
            },
            census: census(tx, row.id).await?,
            first_micros: row.first_micros.map(from_int),
            last_micros: row.last_micros.map(from_int),
            cpu_micros: row.cpu_micros.map(from_int),
            pss_ready_bytes: row.pss_ready_bytes.map(from_int),
            pss_bytes: row.pss_bytes.map(from_int),
            beyond: row.beyond_tried.map(|tried| Beyond { tried: from_int(tried), refused }),
            round_trips: row.round_trips.map(|times| from_json("trial_end", &times)).transpose()?,
            // An empty reading is one that was made of a host that shows no table.
            before: (row.read_before != 0).then_some(before),
            after: (row.read_after != 0).then_some(after),
            samples_missing: from_int(row.samples_missing),
            go_nanos: row.go_nanos.map(from_int),
            clock: row.clock.map(|clock| from_json("trial_end", &clock)).transpose()?,
            connect_times: row.connect_times.map(|times| from_json("trial_end", &times)).transpose()?,
        });
    }
    Ok(ends)
}

async fn failures(tx: &mut SqliteConnection, end: i64, during: &str) -> Result<Vec<(Failure, u64)>, Fault> {
    let rows = query!(
        "SELECT call, error, count FROM failure WHERE trial_end = ?1 AND during = ?2 ORDER BY position",
        end,
        during
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok((Failure { call: from_word("failure", row.call)?, error: row.error }, from_int(row.count)))
        })
        .collect()
}

async fn readings(tx: &mut SqliteConnection, end: i64, moment: &str) -> Result<Readings, Fault> {
    let rows = query!("SELECT name, value FROM reading WHERE trial_end = ?1 AND moment = ?2", end, moment)
        .fetch_all(tx)
        .await?;
    Ok(Readings(rows.into_iter().map(|row| (row.name, from_int(row.value))).collect::<BTreeMap<_, _>>()))
}

async fn census(tx: &mut SqliteConnection, end: i64) -> Result<Option<Census>, Fault> {
    let row = query!(
        "SELECT established, digest, strangers, states, listeners, micros FROM census WHERE trial_end = ?1",
        end
    )
    .fetch_optional(tx)
    .await?;
    row.map(|row| {
        Ok(Census {
            established: from_int(row.established),
            digest: from_word("census", row.digest)?,
            strangers: from_int(row.strangers),
            states: from_json("census", &row.states)?,
            listeners: from_json("census", &row.listeners)?,
            micros: from_int(row.micros),
        })
    })
    .transpose()
}
