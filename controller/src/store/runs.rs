//! Runs: their events, hosts, verdicts, and how they are found.

use super::error::Fault;
use super::value::{from_int, from_json, from_word, to_json};
use super::{evidence, messages, plans};
use sqlx::{SqliteConnection, query, query_scalar};
use tuplelab_domain::id::{PlanDigest, RunId};
use tuplelab_domain::plan::Plan;
use tuplelab_domain::report::RunRecord;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};
use tuplelab_domain::schedule::Host;
use tuplelab_domain::verdict::{Finding, Verdict};

/// A run in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSummary {
    /// The run.
    pub id: RunId,
    /// The plan that it carries out.
    pub plan: PlanDigest,
    /// The plan's question.
    pub question: String,
    /// Who submitted it.
    pub submitter: String,
    /// When, in microseconds since 1970 (UTC).
    pub submitted_micros: i64,
    /// When it finished, once it has.
    pub finished_micros: Option<i64>,
    /// Where it is.
    pub phase: Phase,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// The most connections that one trial certainly held (`TrialEvidence::held`); `None` before the
    /// first trial is closed.
    pub most_held: Option<u64>,
    /// How many verdicts there are of each finding.
    pub findings: Vec<(Finding, u64)>,
}

pub(super) async fn queue(
    tx: &mut SqliteConnection,
    run: &RunId,
    plan: &Plan,
    submitter: &str,
    at: i64,
) -> Result<(), Fault> {
    plans::put_plan(tx, plan).await?;
    query!(
        "INSERT INTO run (id, plan, submitter, submitted_at, state) VALUES (?1, ?2, ?3, ?4, 'queued')",
        run.0,
        plan.digest.0,
        submitter,
        at
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn append_event(
    tx: &mut SqliteConnection,
    run: &RunId,
    at: i64,
    event: &RunEvent,
    phase: Phase,
    outcome: Option<&Outcome>,
) -> Result<(), Fault> {
    let state = phase.name();
    let outcome = outcome.map(|outcome| to_json("run", outcome)).transpose()?;
    // A late event finds the run finished; it stands in the log and changes no time.
    let known = query!(
        "UPDATE run SET state = ?2, outcome = ?3, finished_at = iif(?3 IS NULL, NULL, coalesce(finished_at, ?4))
         WHERE id = ?1",
        run.0,
        state,
        outcome,
        at
    )
    .execute(&mut *tx)
    .await?;
    if known.rows_affected() == 0 {
        return Err(Fault::unknown(run));
    }
    let body = to_json("run_event", event)?;
    query!(
        "INSERT INTO run_event (run, seq, at, body)
         VALUES (?1, (SELECT coalesce(max(seq) + 1, 0) FROM run_event WHERE run = ?1), ?2, ?3)",
        run.0,
        at,
        body
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn put_hosts(tx: &mut SqliteConnection, run: &RunId, hosts: &[Host]) -> Result<(), Fault> {
    exists(tx, run).await?;
    query!("DELETE FROM host WHERE run = ?1", run.0).execute(&mut *tx).await?;
    for (position, host) in (0i64..).zip(hosts) {
        let name = host.name.as_str();
        let (labels, facts) = (to_json("host", &host.labels)?, to_json("host", &host.facts)?);
        query!(
            "INSERT INTO host (run, name, position, labels, facts) VALUES (?1, ?2, ?3, ?4, ?5)",
            run.0,
            name,
            position,
            labels,
            facts
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

pub(super) async fn put_verdicts(
    tx: &mut SqliteConnection,
    run: &RunId,
    judge_version: u32,
    at: i64,
    verdicts: &[Verdict],
) -> Result<(), Fault> {
    exists(tx, run).await?;
    query!("DELETE FROM verdict WHERE run = ?1", run.0).execute(&mut *tx).await?;
    for (position, verdict) in (0i64..).zip(verdicts) {
        let finding = verdict.verdict.name();
        let points = to_json("verdict", &verdict.points)?;
        query!(
            "INSERT INTO verdict (run, position, subject, verdict, reason, judge_version, judged_at, points)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            run.0,
            position,
            verdict.subject,
            finding,
            verdict.because,
            judge_version,
            at,
            points
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

async fn exists(tx: &mut SqliteConnection, run: &RunId) -> Result<(), Fault> {
    let found = query_scalar!("SELECT id FROM run WHERE id = ?1", run.0).fetch_optional(tx).await?;
    found.map(|_| ()).ok_or_else(|| Fault::unknown(run))
}

pub(super) async fn find(tx: &mut SqliteConnection, name: &str) -> Result<RunId, Fault> {
    let unknown = || Fault::NotFound { name: name.to_owned() };
    if name == "last" {
        let last = query_scalar!("SELECT id FROM run ORDER BY submitted_at DESC, id DESC LIMIT 1");
        return last.fetch_optional(tx).await?.map(RunId).ok_or_else(unknown);
    }
    // No LIKE: a name may hold its wildcards.
    let mut matches: Vec<RunId> = query_scalar!(
        "SELECT id FROM run
         WHERE ?1 <> '' AND (substr(id, 1, length(?1)) = ?1 OR substr(id, -length(?1)) = ?1)
         ORDER BY submitted_at DESC, id DESC",
        name
    )
    .fetch_all(tx)
    .await?
    .into_iter()
    .map(RunId)
    .collect();
    if let Some(whole) = matches.iter().find(|run| run.0 == name) {
        return Ok(whole.clone());
    }
    match (matches.pop(), matches.is_empty()) {
        (None, _) => Err(unknown()),
        (Some(only), true) => Ok(only),
        (Some(oldest), false) => {
            matches.push(oldest);
            Err(Fault::Ambiguous { name: name.to_owned(), matches })
        }
    }
}

pub(super) async fn unfinished(tx: &mut SqliteConnection) -> Result<Vec<RunId>, Fault> {
    let runs = query_scalar!("SELECT id FROM run WHERE state <> 'finished' ORDER BY submitted_at, id")
        .fetch_all(tx)
        .await?;
    Ok(runs.into_iter().map(RunId).collect())
}

pub(super) async fn events(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<(i64, RunEvent)>, Fault> {
    let rows =
        query!("SELECT at, body FROM run_event WHERE run = ?1 ORDER BY seq", run.0).fetch_all(tx).await?;
    rows.into_iter().map(|row| Ok((row.at, from_json("run_event", &row.body)?))).collect()
}

pub(super) async fn record(tx: &mut SqliteConnection, run: &RunId) -> Result<RunRecord, Fault> {
    let row = query!(
        "SELECT source, submitter, submitted_at, state, outcome, schedule
         FROM run JOIN plan ON plan.digest = run.plan WHERE id = ?1",
        run.0
    )
    .fetch_optional(&mut *tx)
    .await?
    .ok_or_else(|| Fault::unknown(run))?;
    Ok(RunRecord {
        id: run.clone(),
        plan_source: row.source,
        submitter: row.submitter,
        submitted_micros: row.submitted_at,
        phase: from_word("run", row.state)?,
        outcome: row.outcome.map(|outcome| from_json("run", &outcome)).transpose()?,
        hosts: hosts(tx, run).await?,
        schedule: row.schedule.map(|schedule| from_json("run", &schedule)).transpose()?,
        evidence: evidence::of(tx, run).await?,
        verdicts: verdicts(tx, run).await?,
        late: messages::late(tx, run).await?,
    })
}

async fn hosts(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<Host>, Fault> {
    let rows = query!("SELECT name, labels, facts FROM host WHERE run = ?1 ORDER BY position", run.0)
        .fetch_all(tx)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Host {
                name: from_word("host", row.name)?,
                labels: from_json("host", &row.labels)?,
                facts: from_json("host", &row.facts)?,
            })
        })
        .collect()
}

async fn verdicts(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<Verdict>, Fault> {
    let rows = query!(
        "SELECT subject, verdict, reason, points FROM verdict WHERE run = ?1 ORDER BY position",
        run.0
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Verdict {
                subject: row.subject,
                verdict: from_word("verdict", row.verdict)?,
                because: row.reason,
                points: from_json("verdict", &row.points)?,
            })
        })
        .collect()
}

pub(super) async fn list(tx: &mut SqliteConnection, limit: u32) -> Result<Vec<RunSummary>, Fault> {
    // `held` says in SQL what TrialEvidence::held says in Rust: the smallest of four counts, where a
    // kernel that was not counted at one host of an end counts as none for that end.
    let rows = query!(
        r#"SELECT run.id, run.plan, plan.question, run.submitter, run.submitted_at, run.finished_at, run.state, run.outcome,
             (SELECT max(held) FROM (
                SELECT min(
                  total(e.established - e.closed) FILTER (WHERE e.role = 'client'),
                  total(e.established - e.closed) FILTER (WHERE e.role = 'server'),
                  iif(count(*) FILTER (WHERE e.role = 'client' AND e.id IS NOT NULL AND c.trial_end IS NULL), 0,
                      total(c.established) FILTER (WHERE e.role = 'client')),
                  iif(count(*) FILTER (WHERE e.role = 'server' AND e.id IS NOT NULL AND c.trial_end IS NULL), 0,
                      total(c.established) FILTER (WHERE e.role = 'server'))) AS held
                FROM trial t
                LEFT JOIN trial_end e USING (run, case_index, trial_index)
                LEFT JOIN census c ON c.trial_end = e.id
                WHERE t.run = run.id
                GROUP BY t.case_index, t.trial_index)) AS "most_held?: f64"
           FROM run JOIN plan ON plan.digest = run.plan
           ORDER BY run.submitted_at DESC, run.id DESC LIMIT ?1"#,
        limit
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut runs = Vec::with_capacity(rows.len());
    for row in rows {
        let id = RunId(row.id);
        runs.push(RunSummary {
            findings: findings(tx, &id).await?,
            id,
            plan: PlanDigest(row.plan),
            question: row.question,
            submitter: row.submitter,
            submitted_micros: row.submitted_at,
            finished_micros: row.finished_at,
            phase: from_word("run", row.state)?,
            outcome: row.outcome.map(|outcome| from_json("run", &outcome)).transpose()?,
            most_held: row.most_held.map(|held| held as u64),
        });
    }
    Ok(runs)
}

async fn findings(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<(Finding, u64)>, Fault> {
    let rows = query!(
        r#"SELECT verdict, count(*) AS "count: i64" FROM verdict WHERE run = ?1 GROUP BY verdict ORDER BY verdict"#,
        run.0
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|row| Ok((from_word("verdict", row.verdict)?, from_int(row.count)))).collect()
}
