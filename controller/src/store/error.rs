//! What can go wrong between a run and its history, told apart where a caller acts differently.

use std::path::{Path, PathBuf};
use std::time::Duration;
use tuplelab_domain::id::RunId;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No run has that name.
    #[error("no run is called '{name}': `tuplelab runs` lists those that there are")]
    NotFound {
        /// The name as it was given.
        name: String,
    },
    /// Several runs have that name.
    #[error("'{name}' names {} runs ({}): give more of the name", matches.len(), listed(matches))]
    Ambiguous {
        /// The name as it was given.
        name: String,
        /// Every run that it names, newest first.
        matches: Vec<RunId>,
    },
    /// There is no file, and this caller does not create one.
    #[error("there is no database {}: choose another --db, or let `tuplelab controller --db {}` create it", path.display(), path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file is no SQLite database; it was not touched.
    #[error("{} is not a SQLite database ({why}): choose another --db, or move the file away", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The file is somebody else's database; it was not touched.
    #[error("{} is a SQLite database but not tuplelab's; choose another --db", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A later tuplelab made the schema; it was not touched.
    #[error("{} has schema change {change}, which this tuplelab does not have: use the tuplelab that made it, or choose another --db", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// The number of the first migration that is unknown, or known with another text.
        change: i64,
    },
    /// The schema lacks changes that this tuplelab needs, and this caller does not make them.
    #[error("{} lacks schema change {change}: start `tuplelab controller --db {}` once, which makes it", path.display(), path.display())]
    Older {
        /// The file.
        path: PathBuf,
        /// The number of the first migration that is missing.
        change: i64,
    },
    /// The file, or its directory, may not be written, or it was opened for reading only.
    #[error("{} cannot be written: let this user write the file and its directory, on a file system that is not mounted read-only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else kept the database locked for longer than this caller waits.
    #[error("{} is locked by another process: end the one that holds it, then try again", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The disk, a quota or a limit on file sizes leaves no room; what was stored is unharmed.
    #[error("no room to write {}: free disk space, or raise the quota or file-size limit (ulimit -f); what was stored is unharmed", path.display())]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// As much as may waits for the database already; it is not asked.
    #[error("{} is busy: {most} {what} wait for it already; try again in a moment", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
        /// What waits: `submissions`, `reads`.
        what: &'static str,
        /// How many of them may.
        most: usize,
    },
    /// A read took so long that it was cut: as long as it lasts the write-ahead log cannot be folded.
    #[error("a read of {} took longer than {} s and was cut: ask for less, or read a backup (tuplelab db backup)", path.display(), longest.as_secs())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// How long a read may take.
        longest: Duration,
    },
    /// The name of a submission was used for another plan.
    #[error(
        "the request id '{request}' was used for another plan already: give each submission an id of its own"
    )]
    Reused {
        /// The client's name for its submission.
        request: String,
    },
    /// A backup does not go over anything.
    #[error("{} is there already, and a backup goes over nothing: name a file that is not there", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A copy was made that is not what it was made from; it was thrown away.
    #[error("the copy {} is not the history that it was made from ({why}): nothing was kept of it; try again, and check the disk", path.display())]
    BadCopy {
        /// Where it was to be.
        path: PathBuf,
        /// What is different.
        why: String,
    },
    /// The linked SQLite may corrupt the file.
    #[error(
        "SQLite {found} is linked, which can corrupt a write-ahead log: build with 3.51.3 or later (not 3.52.0), 3.50.7 or 3.44.6"
    )]
    BadVersion {
        /// The version that is linked.
        found: String,
    },
    /// The database's own structure is broken.
    #[error("{} is damaged ({why}): keep a copy of it and of its -wal file, then restore a backup or choose another --db", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        why: String,
    },
    /// The file could not be reached.
    #[error("failed to open {}: {why}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        why: String,
    },
    /// A row holds what this tuplelab cannot read.
    #[error("table {table} of {} holds a value that cannot be read: {why}", path.display())]
    Decode {
        /// The file.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else that SQLite refuses.
    #[error("failed to use {}: {source}", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        source: sqlx::Error,
    },
}

impl StoreError {
    /// Whether the same call may go well later, when there is room again or the lock is let go.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Full { .. }
                | Self::Locked { .. }
                | Self::Busy { .. }
                | Self::ReadOnly { .. }
                | Self::TooLong { .. }
        )
    }
}

fn listed(matches: &[RunId]) -> String {
    const SHOWN: usize = 5;
    let names: Vec<&str> = matches.iter().take(SHOWN).map(|run| run.0.as_str()).collect();
    let more = if matches.len() > SHOWN { ", ..." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// An error inside the store, before the file's name is put to it.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(sqlx::Error),
    Decode { table: &'static str, why: String },
    NotFound { name: String },
    Ambiguous { name: String, matches: Vec<RunId> },
    Reused { request: String },
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Fault {
    pub(super) fn unknown(run: &RunId) -> Self {
        Self::NotFound { name: run.0.clone() }
    }

    /// Says which file it was, and what SQLite's code means to a caller.
    pub(super) fn at(self, path: &Path) -> StoreError {
        let path = path.to_owned();
        match self {
            Self::Decode { table, why } => StoreError::Decode { path, table, why },
            Self::NotFound { name } => StoreError::NotFound { name },
            Self::Ambiguous { name, matches } => StoreError::Ambiguous { name, matches },
            Self::Reused { request } => StoreError::Reused { request },
            // Whoever waits for the one writing connection waits because somebody holds the lock.
            Self::Sql(sqlx::Error::PoolTimedOut) => StoreError::Locked { path },
            Self::Sql(sqlx::Error::Io(error)) => StoreError::Io { path, why: error.to_string() },
            Self::Sql(error) => match code_of(&error) {
                Some(code) => by_code(code, path, error),
                None => StoreError::Sql { path, source: error },
            },
        }
    }
}

/// SQLite's extended result code.
fn code_of(error: &sqlx::Error) -> Option<u32> {
    error.as_database_error()?.code()?.parse().ok()
}

/// <https://www.sqlite.org/rescode.html>: the low byte is the primary code, and an extended code
/// tells only the kinds of SQLITE_IOERR apart that we need.
fn by_code(code: u32, path: PathBuf, error: sqlx::Error) -> StoreError {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const INTERRUPT: u32 = 9;
    const READONLY: u32 = 8;
    const CORRUPT: u32 = 11;
    const FULL: u32 = 13;
    const CANTOPEN: u32 = 14;
    const NOTADB: u32 = 26;
    // A write past RLIMIT_FSIZE or a quota is no SQLITE_FULL: the kernel says EFBIG or EDQUOT.
    const IOERR_WRITE: u32 = 10 | (3 << 8);
    const IOERR_SHMSIZE: u32 = 10 | (19 << 8);

    let why = error.to_string();
    match (code & 0xff, code) {
        (FULL, _) | (_, IOERR_WRITE | IOERR_SHMSIZE) => StoreError::Full { path },
        (BUSY | LOCKED, _) => StoreError::Locked { path },
        (INTERRUPT, _) => StoreError::TooLong { path, longest: super::LONGEST_READ },
        // The file itself could be read before SQLite was asked: it is the log and its index beside
        // the file that cannot be made.
        (READONLY | CANTOPEN, _) => StoreError::ReadOnly { path },
        (CORRUPT, _) => StoreError::Corrupt { path, why },
        (NOTADB, _) => StoreError::NotADatabase { path, why },
        _ => StoreError::Sql { path, source: error },
    }
}
