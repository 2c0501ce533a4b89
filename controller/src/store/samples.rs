//! Samples: one row per worker and second.

use super::error::Fault;
use super::value::{from_index, from_int, from_json, from_word, to_int, to_json};
use sqlx::{SqliteConnection, query};
use tuplelab_domain::id::{AgentName, RunId};
use tuplelab_domain::sample::{Counters, Sample};

/// A sample as an agent sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SampleRow {
    /// The run.
    pub run: RunId,
    /// The epoch that it belongs to: a late one's samples are kept beside the others, not among them.
    pub epoch: u32,
    /// Who sent it.
    pub agent: AgentName,
    /// The number under which the agent sent it, and gets it acknowledged.
    pub sequence: u64,
    /// The case, from 0.
    pub case: u32,
    /// The trial, from 0.
    pub trial: u32,
    /// The worker's words.
    pub sample: Sample,
}

/// Adds those that are not there yet; returns how many.
pub(super) async fn put(tx: &mut SqliteConnection, batch: &[SampleRow]) -> Result<u64, Fault> {
    let mut new = 0;
    for row in batch {
        let (agent, sequence) = (row.agent.as_str(), to_int(row.sequence));
        let Sample { sequence: tick, elapsed_micros, cpu_micros, counters } = &row.sample;
        let (tick, elapsed, cpu) = (to_int(*tick), to_int(*elapsed_micros), to_int(*cpu_micros));
        let (attempted, established) = (to_int(counters.attempted), to_int(counters.established));
        let (held, late, strangers) =
            (to_int(counters.held), to_int(counters.late), to_int(counters.strangers));
        let (closed, churned) = (to_int(counters.closed), to_int(counters.churned));
        let (rounds, answered_rounds, late_rounds) =
            (to_int(counters.rounds), to_int(counters.answered_rounds), to_int(counters.late_rounds));
        let failures = to_json("sample", &counters.failures)?;
        // The key alone may be there already; anything else that is wrong with a row is an error,
        // which OR IGNORE would swallow.
        let added = query!(
            "INSERT INTO sample (run, epoch, agent, sequence, case_index, trial_index, tick, elapsed_micros,
                 cpu_micros, attempted, established, held, late, strangers, failures, closed, churned, rounds, answered_rounds, late_rounds)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)
             ON CONFLICT (run, epoch, agent, sequence) DO NOTHING",
            row.run.0,
            row.epoch,
            agent,
            sequence,
            row.case,
            row.trial,
            tick,
            elapsed,
            cpu,
            attempted,
            established,
            held,
            late,
            strangers,
            failures,
            closed,
            churned,
            rounds,
            answered_rounds,
            late_rounds
        )
        .execute(&mut *tx)
        .await?;
        new += added.rows_affected();
    }
    Ok(new)
}

pub(super) async fn of(tx: &mut SqliteConnection, run: &RunId) -> Result<Vec<SampleRow>, Fault> {
    let rows = query!("SELECT * FROM sample WHERE run = ?1 ORDER BY epoch, agent, sequence", run.0)
        .fetch_all(tx)
        .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SampleRow {
                run: RunId(row.run),
                epoch: from_index("sample", row.epoch)?,
                agent: from_word("sample", row.agent)?,
                sequence: from_int(row.sequence),
                case: from_index("sample", row.case_index)?,
                trial: from_index("sample", row.trial_index)?,
                sample: Sample {
                    sequence: from_int(row.tick),
                    elapsed_micros: from_int(row.elapsed_micros),
                    cpu_micros: from_int(row.cpu_micros),
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
                        failures: from_json("sample", &row.failures)?,
                    },
                },
            })
        })
        .collect()
}
