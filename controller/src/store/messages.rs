//! What agents said of runs, as it came; and when a run was last conducted.

use super::error::Fault;
use super::value::{from_index, from_int, from_word, to_int};
use sqlx::{SqliteConnection, query, query_scalar};
use tuplelab_domain::id::{AgentName, RunId};

/// A message as an agent sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageRow {
    /// The run.
    pub run: RunId,
    /// The epoch that it belongs to.
    pub epoch: u32,
    /// Who sent it.
    pub agent: AgentName,
    /// The number under which the agent sent it, and gets it acknowledged.
    pub sequence: u64,
    /// The case, from 0.
    pub case: u32,
    /// The trial, from 0.
    pub trial: u32,
    /// When it was stored, in microseconds since 1970.
    pub at_micros: i64,
    /// What it is: ready, plateau, counted, ...
    pub kind: String,
    /// Whether it came when its epoch, or its trial, was over.
    pub late: bool,
    /// All of it, in the wire's form.
    pub body: Vec<u8>,
}

/// The moment at which a run was last conducted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conducted {
    /// Microseconds since 1970.
    pub at_micros: i64,
    /// Which clock the other time is of: a kernel's boot id.
    pub clock: String,
    /// CLOCK_BOOTTIME, in nanoseconds.
    pub clock_nanos: u64,
}

/// Adds those that are not there yet, be it as a sample.
pub(super) async fn put(tx: &mut SqliteConnection, batch: &[MessageRow]) -> Result<(), Fault> {
    for row in batch {
        let (agent, sequence) = (row.agent.as_str(), to_int(row.sequence));
        query!(
            "INSERT INTO message (run, epoch, agent, sequence, case_index, trial_index, at, kind, late, body)
             SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
             WHERE NOT EXISTS (SELECT 1 FROM sample WHERE run = ?1 AND epoch = ?2 AND agent = ?3 AND sequence = ?4)
             ON CONFLICT (run, epoch, agent, sequence) DO NOTHING",
            row.run.0,
            row.epoch,
            agent,
            sequence,
            row.case,
            row.trial,
            row.at_micros,
            row.kind,
            row.late,
            row.body
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

pub(super) async fn of(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<MessageRow>, Fault> {
    let rows = query!("SELECT * FROM message WHERE run = ?1 ORDER BY epoch, agent, sequence", run.0)
        .fetch_all(tx)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(MessageRow {
                run: RunId(row.run),
                epoch: from_index("message", row.epoch)?,
                agent: from_word("message", row.agent)?,
                sequence: from_int(row.sequence),
                case: from_index("message", row.case_index)?,
                trial: from_index("message", row.trial_index)?,
                at_micros: row.at,
                kind: row.kind,
                late: row.late != 0,
                body: row.body,
            })
        })
        .collect()
}

/// How many came too late.
pub(super) async fn late(tx: &mut SqliteConnection, run: &RunId) -> Result<u64, Fault> {
    let late = query_scalar!("SELECT count(*) FROM message WHERE run = ?1 AND late = 1", run.0);
    Ok(from_int(late.fetch_one(tx).await?))
}

pub(super) async fn conducts(
    tx: &mut SqliteConnection,
    run: &RunId,
    moment: &Conducted,
) -> Result<(), Fault> {
    let nanos = to_int(moment.clock_nanos);
    query!(
        "INSERT INTO conducted (run, at, clock, clock_nanos) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (run) DO UPDATE SET at = excluded.at, clock = excluded.clock, clock_nanos = excluded.clock_nanos",
        run.0,
        moment.at_micros,
        moment.clock,
        nanos
    )
    .execute(tx)
    .await?;
    Ok(())
}

pub(super) async fn conducted(tx: &mut SqliteConnection, run: &RunId) -> Result<Option<Conducted>, Fault> {
    let row = query!("SELECT at, clock, clock_nanos FROM conducted WHERE run = ?1", run.0)
        .fetch_optional(tx)
        .await?;
    Ok(row.map(|row| Conducted {
        at_micros: row.at,
        clock: row.clock,
        clock_nanos: from_int(row.clock_nanos),
    }))
}
