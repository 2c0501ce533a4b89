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
//!
//! Nothing waits without a bound: for a lock 5 s, for the one writer 15 s, in a line of so many
//! submissions; and no read holds the write-ahead log for longer than 5 s.

mod copy;
mod error;
mod evidence;
mod inspect;
mod messages;
mod open;
mod plans;
mod runs;
mod samples;
#[cfg(test)]
mod tests;
mod value;

pub use error::StoreError;
pub use inspect::Inspection;
pub use messages::{Conducted, MessageRow};
pub use runs::{RunSummary, WaitingRuns};
pub use samples::SampleRow;

use error::Fault;
use sqlx::{Sqlite, SqlitePool, Transaction};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tuplelab_domain::evidence::TrialEvidence;
use tuplelab_domain::id::RunId;
use tuplelab_domain::plan::Plan;
use tuplelab_domain::report::RunRecord;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};
use tuplelab_domain::schedule::{Host, Schedule};
use tuplelab_domain::verdict::Verdict;

/// How long a read may take: the write-ahead log cannot be folded past what a read still looks at.
const LONGEST_READ: Duration = Duration::from_secs(5);
/// SQLite's steps (VDBE instructions) between two looks at the clock: some tens of microseconds.
const STEPS: i32 = 10_000;
/// Submissions that may wait for the one writer. A run's own writes always may: there is one conductor.
const MOST_SUBMISSIONS: usize = 64;
/// What the write-ahead log may grow to, in bytes, before it is folded and cut by force.
const LONGEST_LOG: u64 = 64 << 20;
/// Between two such attempts: each may wait for readers.
const FOLD_AGAIN: Duration = Duration::from_secs(10);

/// An open history; clones share its connections.
#[derive(Debug, Clone)]
pub struct Store {
    path: Arc<Path>,
    /// `None` where the file was opened for reading only.
    writer: Option<SqlitePool>,
    readers: SqlitePool,
    limits: Limits,
    submissions: Arc<Semaphore>,
    /// When the write-ahead log was last folded by force.
    folded: Arc<std::sync::Mutex<Option<Instant>>>,
}

/// What a store allows; tests have smaller ones.
#[derive(Debug, Clone, Copy)]
struct Limits {
    read: Duration,
    log: u64,
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

    fn new(path: &Path, writer: Option<SqlitePool>, readers: SqlitePool) -> Self {
        Self {
            path: path.into(),
            writer,
            readers,
            limits: Limits { read: LONGEST_READ, log: LONGEST_LOG },
            submissions: Arc::new(Semaphore::new(MOST_SUBMISSIONS)),
            folded: Arc::default(),
        }
    }

    /// Looks at a whole file: its structure, references and schema, and how many rows each table has.
    /// Changes nothing; a controller may be at work on it.
    ///
    /// # Errors
    /// As `open_read_only`. Damage that does not keep the file from being opened is no error but told
    /// in [`Inspection::problems`].
    pub async fn inspect(path: &Path) -> Result<Inspection, StoreError> {
        let store = Self::open_read_only(path).await?;
        let found = inspect::file(&store, inspect::Depth::Whole).await;
        store.close().await;
        found
    }

    /// Makes a copy of the history at `to`, whole and by itself, while a controller may be at work on
    /// it; says what was copied. The copy is read again before it has its name.
    ///
    /// # Errors
    /// `to` is there already or cannot be written; the history cannot be read; the copy is not what it
    /// was made from. Then nothing is at `to`.
    pub async fn backup(path: &Path, to: &Path) -> Result<Inspection, StoreError> {
        copy::backup(path, to).await
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

    /// Stores a run that waits for its turn, and its plan where that is not known yet. A submission
    /// whose `request` is known (the client's own name for it, of this submitter) is the same one
    /// again: the run that it made is returned, and nothing is stored.
    ///
    /// # Errors
    /// The database cannot be written, or has a run of that name; the request was of another plan.
    pub async fn queue_run(
        &self,
        run: &RunId,
        plan: &Plan,
        submitter: &str,
        submitted_micros: i64,
        request: Option<&str>,
    ) -> Result<RunId, StoreError> {
        let in_line = self.submissions.try_acquire().map_err(|_| StoreError::Busy {
            path: self.path.to_path_buf(),
            what: "submissions",
            most: MOST_SUBMISSIONS,
        })?;
        let mut tx = self.begin().await?;
        drop(in_line);
        let done = runs::queue(&mut tx, run, plan, submitter, submitted_micros, request).await;
        self.end(tx, done).await
    }

    /// The run that a submission of this name made, if there was one.
    ///
    /// # Errors
    /// The database cannot be read; the request was of another plan.
    pub async fn requested(
        &self,
        plan: &Plan,
        submitter: &str,
        request: &str,
    ) -> Result<Option<RunId>, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::requested(&mut tx, plan, submitter, request).await)
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

    /// The runs that wait for their turn, and who had one.
    ///
    /// # Errors
    /// The database cannot be read.
    pub async fn waiting(&self) -> Result<WaitingRuns, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::waiting(&mut tx).await)
    }

    /// Where a run is.
    ///
    /// # Errors
    /// The run is unknown, or the database cannot be read.
    pub async fn phase(&self, run: &RunId) -> Result<Phase, StoreError> {
        let mut tx = self.look().await?;
        self.named(runs::phase(&mut tx, run).await)
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
        self.fold().await;
        Ok(value)
    }

    /// Cuts the write-ahead log where it has grown too long. SQLite folds it into the file by itself,
    /// but begins it anew only when no reader looks at it, which with many readers may be never.
    async fn fold(&self) {
        let log = std::fs::metadata(open::log_of(&self.path)).map_or(0, |log| log.len());
        let Some(writer) = self.writer.as_ref().filter(|_| log > self.limits.log) else { return };
        {
            let mut folded = self.folded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if folded.is_some_and(|folded| folded.elapsed() < FOLD_AGAIN) {
                return;
            }
            *folded = Some(Instant::now());
        }
        // Waits for readers as long as for a lock; they are cut by then.
        let done: Result<(i64, i64, i64), _> =
            sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(writer).await;
        match done {
            Ok((0, ..)) => tracing::debug!(log, "the write-ahead log was folded and cut"),
            Ok(_) => {
                tracing::warn!(log, "the write-ahead log grows: another process keeps reading the database")
            }
            Err(error) => tracing::warn!(log, %error, "the write-ahead log could not be folded"),
        }
    }

    /// One view of the database for all queries of a call, for a bounded time.
    async fn look(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        let mut tx = match self.readers.begin().await {
            // Nobody's lock keeps a reader out.
            Err(sqlx::Error::PoolTimedOut) => {
                return Err(StoreError::Busy {
                    path: self.path.to_path_buf(),
                    what: "reads",
                    most: open::READERS as usize,
                });
            }
            begun => self.named(begun.map_err(Fault::from))?,
        };
        let late = Instant::now() + self.limits.read;
        let mut handle = self.named(tx.lock_handle().await.map_err(Fault::from))?;
        handle.set_progress_handler(STEPS, move || Instant::now() < late);
        drop(handle);
        Ok(tx)
    }

    fn named<T>(&self, done: Result<T, Fault>) -> Result<T, StoreError> {
        done.map_err(|fault| fault.at(&self.path))
    }
}
