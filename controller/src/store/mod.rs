//! The history: every run with its events, samples, evidence and verdicts, in one SQLite file.
//!
//! What lives here: all SQL of the controller, and the way from rows to the domain's types and back.
//! What does not: decisions. Where to start: `migrations/*.sql` says what is kept and why; one file
//! here per family of tables; this file is the whole interface.
//!
//! ```text
//! conductor, hub ---> Store ---> writer: one connection, BEGIN IMMEDIATE, synchronous FULL
//! rpc, cli       ---> Store ---> readers: four connections that cannot write
//! ```
//! Facts are never changed. Only a run's state and outcome are, and both follow from `run_event`,
//! which is written in the same transaction. What a call has returned `Ok` for survives power loss.

mod error;
mod evidence;
mod messages;
mod open;
mod plans;
mod runs;
mod samples;
#[cfg(test)]
mod tests;
mod value;

pub use error::StoreError;
pub use messages::{Conducted, MessageRow};
pub use runs::RunSummary;
pub use samples::SampleRow;

use error::Fault;
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::path::Path;
use std::sync::Arc;
use tuplelab_domain::evidence::TrialEvidence;
use tuplelab_domain::id::RunId;
use tuplelab_domain::plan::Plan;
use tuplelab_domain::report::RunRecord;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};
use tuplelab_domain::schedule::{Host, Schedule};
use tuplelab_domain::verdict::Verdict;

/// An open history; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<Path>,
    /// `None` where the file was opened for reading only.
    writer: Option<SqlitePool>,
    readers: SqlitePool,
}

impl Store {
    /// Opens the history for a controller: creates the file and its parent directories where there
    /// is none, and makes the schema changes that it lacks.
    ///
    /// # Errors
    /// The file is something else, newer, damaged, locked, or cannot be written; it is left as it is.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        open::for_writing(path).await
    }

    /// Opens the history for reading, beside a controller or without one. Never creates it, never
    /// changes its schema.
    ///
    /// # Errors
    /// As `open`; also where there is no file, or its schema is older than this tuplelab's.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        open::for_reading(path).await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets all connections go; the last one to leave the file folds the write-ahead log into it.
    pub async fn close(self) {
        // Readers first: only a connection that may write can fold the log.
        self.readers.close().await;
        if let Some(writer) = &self.writer {
            writer.close().await;
        }
    }

    /// Stores a run that waits for its turn, and its plan where that is not known yet.
    ///
    /// # Errors
    /// The database cannot be written, or has a run of that name.
    pub async fn queue_run(
        &self,
        run: &RunId,
        plan: &Plan,
        submitter: &str,
        submitted_micros: i64,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = runs::queue(&mut tx, run, plan, submitter, submitted_micros).await;
        self.end(tx, done).await
    }

    /// Stores what happened to a run and where that led it, both or neither. The time of the first
    /// event with an outcome is the time at which the run finished.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be written: then the event must not be acted upon.
    pub async fn append_event(
        &self,
        run: &RunId,
        at_micros: i64,
        event: &RunEvent,
        phase: Phase,
        outcome: Option<&Outcome>,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = runs::append_event(&mut tx, run, at_micros, event, phase, outcome).await;
        self.end(tx, done).await
    }

    /// The same, with what agents said before it: an event that follows from a message is stored with that
    /// message, or neither is.
    ///
    /// # Errors
    /// As `append_event` and `put_heard`.
    pub async fn append_event_and_heard(
        &self,
        run: &RunId,
        (at_micros, event): (i64, &RunEvent),
        (phase, outcome): (Phase, Option<&Outcome>),
        samples: &[SampleRow],
        messages: &[MessageRow],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = async {
            samples::put(&mut tx, samples).await?;
            messages::put(&mut tx, messages).await?;
            runs::append_event(&mut tx, run, at_micros, event, phase, outcome).await
        };
        let done = done.await;
        self.end(tx, done).await
    }

    /// Stores the hosts as they were when the run was placed; replaces what was stored for it.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be written.
    pub async fn put_hosts(&self, run: &RunId, hosts: &[Host]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = runs::put_hosts(&mut tx, run, hosts).await;
        self.end(tx, done).await
    }

    /// Stores what is to be done in a run: its cases with their predictions, and the whole schedule.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be written.
    pub async fn put_schedule(
        &self,
        run: &RunId,
        plan: &Plan,
        schedule: &Schedule,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = plans::put_schedule(&mut tx, run, plan, schedule).await;
        self.end(tx, done).await
    }

    /// Stores samples, all or none; those that are there already (same run, epoch, agent and
    /// sequence) are left as they are, so that a batch may be sent again. Returns how many were new.
    ///
    /// # Errors
    /// The database cannot be written: then nothing of the batch may be acknowledged.
    pub async fn put_samples(&self, batch: &[SampleRow]) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        let done = samples::put(&mut tx, batch).await;
        self.end(tx, done).await
    }

    /// Stores what agents said, all or none; what is there already is left as it is.
    ///
    /// # Errors
    /// The database cannot be written: then nothing of it may be acknowledged.
    pub async fn put_heard(&self, samples: &[SampleRow], messages: &[MessageRow]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = async {
            samples::put(&mut tx, samples).await?;
            messages::put(&mut tx, messages).await
        };
        let done = done.await;
        self.end(tx, done).await
    }

    /// What agents said of a run beside samples, and what came late, by epoch, agent and sequence.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn messages(&self, run: &RunId) -> Result<Vec<MessageRow>, StoreError> {
        let mut tx = self.look().await?;
        self.named(messages::of(&mut tx, run).await)
    }

    /// Stores that a run is conducted at this moment.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be written.
    pub async fn conducts(&self, run: &RunId, moment: &Conducted) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = messages::conducts(&mut tx, run, moment).await;
        self.end(tx, done).await
    }

    /// When a run was last conducted, if ever.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn conducted(&self, run: &RunId) -> Result<Option<Conducted>, StoreError> {
        let mut tx = self.look().await?;
        self.named(messages::conducted(&mut tx, run).await)
    }

    /// Stores what all ends said of a trial, and whether it went through all its phases; replaces
    /// what was stored for that trial. Prediction and target are those that `put_schedule` stored.
    ///
    /// # Errors
    /// The run has no such case, or the database cannot be written.
    pub async fn put_trial(
        &self,
        run: &RunId,
        evidence: &TrialEvidence,
        whole: bool,
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = evidence::put(&mut tx, run, evidence, whole).await;
        self.end(tx, done).await
    }

    /// Stores a run's verdicts with the version of the rules that made them; replaces earlier ones.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be written.
    pub async fn put_verdicts(
        &self,
        run: &RunId,
        judge_version: u32,
        at_micros: i64,
        verdicts: &[Verdict],
    ) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let done = runs::put_verdicts(&mut tx, run, judge_version, at_micros, verdicts).await;
        self.end(tx, done).await
    }

    /// The run of that name: `last` (the latest submitted), a whole id, or a start or an end of an
    /// id that no other run has.
    ///
    /// # Errors
    /// No run has it, or several have; or the database cannot be read.
    pub async fn find_run(&self, name: &str) -> Result<RunId, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::find(&mut tx, name).await)
    }

    /// Everything that is kept of a run, as of one moment.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be read.
    pub async fn record(&self, run: &RunId) -> Result<RunRecord, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::record(&mut tx, run).await)
    }

    /// The latest runs, newest first.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn list_runs(&self, limit: u32) -> Result<Vec<RunSummary>, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::list(&mut tx, limit).await)
    }

    /// The runs that have no outcome, in the order in which they were submitted.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn unfinished(&self) -> Result<Vec<RunId>, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::unfinished(&mut tx).await)
    }

    /// What happened to a run, in order, each with its time.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn events(&self, run: &RunId) -> Result<Vec<(i64, RunEvent)>, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::events(&mut tx, run).await)
    }

    /// A run's samples, by epoch, agent and sequence.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn samples(&self, run: &RunId) -> Result<Vec<SampleRow>, StoreError> {
        let mut tx = self.look().await?;
        self.named(samples::of(&mut tx, run).await)
    }

    /// Takes the write lock at once: a transaction that begins by reading and then writes fails with
    /// SQLITE_BUSY_SNAPSHOT, which no busy timeout waits for.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let Some(writer) = &self.writer else {
            return Err(StoreError::ReadOnly { path: self.path.to_path_buf() });
        };
        let begun = match writer.begin_with("BEGIN IMMEDIATE").await {
            // SQLite ends a transaction by itself when a write fails (full disk, I/O error). sqlx
            // does not see that: it goes on to count a transaction whose ROLLBACK was refused, and
            // refuses every later BEGIN. Such a connection is given up for a new one.
            Err(sqlx::Error::InvalidSavePointStatement) => {
                if let Ok(stuck) = writer.acquire().await {
                    stuck.close().await.ok();
                }
                writer.begin_with("BEGIN IMMEDIATE").await
            }
            begun => begun,
        };
        self.named(begun.map_err(Fault::from))
    }

    /// Commits what went well; everything else is rolled back.
    async fn end<T>(
        &self,
        tx: Transaction<'static, Sqlite>,
        done: Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let value = self.named(done)?;
        self.named(tx.commit().await.map_err(Fault::from))?;
        Ok(value)
    }

    /// One view of the database for all queries of a call.
    async fn look(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        self.named(self.readers.begin().await.map_err(Fault::from))
    }

    fn named<T>(&self, done: Result<T, Fault>) -> Result<T, StoreError> {
        done.map_err(|fault| fault.at(&self.path))
    }
}
