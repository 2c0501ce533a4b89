//! Opening the file: what it must be before it is used, and how a new one comes to be.
//!
//! A file that is there is looked at in its first 100 bytes before SQLite may touch it; a new one is
//! made beside its place and linked to it when it is whole. So nothing is ever created over anything,
//! and no half-made history is ever found under its name.

use super::error::Fault;
use super::{Store, StoreError};
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, query_scalar};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// The letters "tplb"; set by migrations/0001_plans.sql.
pub(super) const APPLICATION: u32 = 0x7470_6c62;

/// How long a write waits for another process to let the lock go.
const BUSY: Duration = Duration::from_secs(5);
/// How long a caller waits for a connection: those before it may each wait for the lock.
const TURN: Duration = Duration::from_secs(15);
/// Connections that read at the same time.
pub(super) const READERS: u32 = 4;
/// What the write-ahead log may keep of the disk once it is folded into the file: a reader that
/// takes long lets it grow.
const LOG_BYTES: u32 = 64 << 20;

pub(super) async fn for_writing(path: &Path) -> Result<Store, StoreError> {
    check_version().await?;
    let exists = path.try_exists().map_err(|error| unreachable_file(path, &error))?;
    if exists {
        check_header(path)?;
    } else {
        create(path).await?;
    }
    let named = |error: sqlx::Error| Fault::from(error).at(path);

    // One connection that is never given up by itself: writes stand in line here, not at the lock.
    let writer = SqlitePoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TURN)
        .idle_timeout(None)
        .max_lifetime(None);
    let options = options(path).synchronous(SqliteSynchronous::Full).journal_mode(SqliteJournalMode::Wal);
    let options = options.pragma("journal_size_limit", LOG_BYTES.to_string()).optimize_on_close(true, None);
    let writer = writer.connect_with(options).await.map_err(named)?;

    let mut connection = writer.acquire().await.map_err(named)?;
    let damage = query_scalar::<_, String>("PRAGMA quick_check(1)")
        .fetch_one(&mut *connection)
        .await
        .map_err(named)?;
    if damage != "ok" {
        return Err(StoreError::Corrupt { path: path.to_owned(), why: damage });
    }
    check_schema(path, &mut connection, |_| Ok(())).await?;
    migrate(path, &mut connection).await?;
    drop(connection);

    let readers = readers().connect_with(options_for_reading(path)).await.map_err(named)?;
    Ok(Store::new(path, Some(writer), readers))
}

pub(super) async fn for_reading(path: &Path) -> Result<Store, StoreError> {
    check_version().await?;
    match path.try_exists() {
        Ok(true) => check_header(path)?,
        Ok(false) => return Err(StoreError::Missing { path: path.to_owned() }),
        Err(error) => return Err(unreachable_file(path, &error)),
    }
    match read(path, options_for_reading(path)).await {
        // Even a reader makes two files beside this one, which it cannot do in an archive or on a
        // full disk. Where the log holds nothing, nobody is writing, and the file can be read alone.
        Err(StoreError::ReadOnly { .. } | StoreError::Full { .. }) if log_is_empty(path) => {
            read(path, options_for_reading(path).immutable(true)).await
        }
        opened => opened,
    }
}

async fn read(path: &Path, options: SqliteConnectOptions) -> Result<Store, StoreError> {
    let named = |error: sqlx::Error| Fault::from(error).at(path);
    let readers = readers().connect_with(options).await.map_err(named)?;
    let mut connection = readers.acquire().await.map_err(named)?;
    let older = |change| Err(StoreError::Older { path: path.to_owned(), change });
    check_schema(path, &mut connection, older).await?;
    drop(connection);
    Ok(Store::new(path, None, readers))
}

/// The write-ahead log of the file.
pub(super) fn log_of(path: &Path) -> PathBuf {
    beside(path, "-wal")
}

fn log_is_empty(path: &Path) -> bool {
    std::fs::metadata(log_of(path)).map_or(true, |log| log.len() == 0)
}

/// The file of that name with `end` added to it.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).create_if_missing(false).foreign_keys(true).busy_timeout(BUSY)
}

fn options_for_reading(path: &Path) -> SqliteConnectOptions {
    options(path).read_only(true)
}

fn readers() -> SqlitePoolOptions {
    SqlitePoolOptions::new().max_connections(READERS).acquire_timeout(TURN)
}

pub(super) fn unreachable_file(path: &Path, error: &io::Error) -> StoreError {
    let (path, why) = (path.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => StoreError::ReadOnly { path },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            StoreError::Full { path }
        }
        _ => StoreError::Io { path, why },
    }
}

/// Whether this SQLite writes a write-ahead log that can be trusted. 3.7.0 to 3.51.2 could lose a
/// checkpoint when the log was reset while another connection wrote (fixed in 3.51.3, and in 3.50.7
/// and 3.44.6 for those who stay there); 3.52.0 was withdrawn.
pub(super) fn is_sound(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
        (Some(3), Some(44), Some(patch)) => patch >= 6,
        (Some(3), Some(50), Some(patch)) => patch >= 7,
        (Some(3), Some(51), Some(patch)) => patch >= 3,
        (Some(3), Some(52), Some(patch)) => patch > 0,
        (Some(major), Some(minor), _) => (major, minor) > (3, 52),
        _ => false,
    }
}

pub(super) async fn linked_version() -> Result<String, sqlx::Error> {
    let mut memory = SqliteConnectOptions::new().in_memory(true).connect().await?;
    query_scalar("SELECT sqlite_version()").fetch_one(&mut memory).await
}

async fn check_version() -> Result<(), StoreError> {
    let found = linked_version().await.map_err(|error| Fault::from(error).at(Path::new(":memory:")))?;
    if is_sound(&found) { Ok(()) } else { Err(StoreError::BadVersion { found }) }
}

/// Reads what a SQLite file says of itself (<https://www.sqlite.org/fileformat.html>, 1.3) without
/// SQLite, which would leave a log and an index beside a file that is not ours.
fn check_header(path: &Path) -> Result<(), StoreError> {
    let named = |error: io::Error| unreachable_file(path, &error);
    let not_a_database =
        |why: &str| Err(StoreError::NotADatabase { path: path.to_owned(), why: why.to_owned() });
    if !path.metadata().map_err(named)?.is_file() {
        return not_a_database("it is no regular file");
    }
    let mut header = Vec::with_capacity(100);
    std::fs::File::open(path).and_then(|file| file.take(100).read_to_end(&mut header)).map_err(named)?;
    // A copy that was cut off leaves an empty file, for which SQLite would make a new database.
    if header.is_empty() {
        return not_a_database("it is empty");
    }
    if !header.starts_with(b"SQLite format 3\0") {
        return not_a_database("it begins otherwise");
    }
    match header.get(68..72) {
        None => not_a_database("it is cut off"),
        Some(application) if *application != APPLICATION.to_be_bytes() => {
            Err(StoreError::Foreign { path: path.to_owned() })
        }
        Some(_) => Ok(()),
    }
}

/// Makes a whole, empty history under another name and links it to its own. If another process was
/// faster, its file is used.
async fn create(path: &Path) -> Result<(), StoreError> {
    let named = |error: io::Error| unreachable_file(path, &error);
    std::fs::create_dir_all(folder(path)).map_err(named)?;
    let draft = Draft::of(path)?;
    draft.build(path).await?;
    match draft.publish(path) {
        Err(StoreError::Exists { .. }) => check_header(path),
        published => published,
    }
}

/// A file of ours that is not a history yet; it goes when this value does.
pub(super) struct Draft(pub(super) PathBuf);

impl Draft {
    pub(super) fn of(path: &Path) -> Result<Self, StoreError> {
        let draft = beside(path, &format!(".new-{}", uuid::Uuid::now_v7()));
        // Ours alone: SQLite opens what it finds, this does not.
        std::fs::File::create_new(&draft).map_err(|error| unreachable_file(path, &error))?;
        Ok(Self(draft))
    }

    async fn build(&self, path: &Path) -> Result<(), StoreError> {
        let named = |error: sqlx::Error| Fault::from(error).at(path);
        let options =
            options(&self.0).synchronous(SqliteSynchronous::Full).journal_mode(SqliteJournalMode::Wal);
        let mut connection = options.connect().await.map_err(named)?;
        migrate(path, &mut connection).await?;
        // The last connection folds the log into the file: it is whole by itself.
        connection.close().await.map_err(named)
    }

    /// Gives the file its name, if nothing has that name.
    pub(super) fn publish(&self, path: &Path) -> Result<(), StoreError> {
        let named = |error: io::Error| unreachable_file(path, &error);
        match std::fs::hard_link(&self.0, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists { path: path.to_owned() });
            }
            linked => linked.map_err(named)?,
        }
        // The name must survive power loss as the content does.
        std::fs::File::open(folder(path)).and_then(|folder| folder.sync_all()).map_err(named)
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        for end in ["", "-wal", "-shm"] {
            std::fs::remove_file(beside(&self.0, end)).ok();
        }
    }
}

/// Compares the schema changes that the file has with those that this tuplelab has.
async fn check_schema(
    path: &Path,
    connection: &mut SqliteConnection,
    lacks: impl FnOnce(i64) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let found: Vec<(i64, Vec<u8>)> =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
            .fetch_all(connection)
            .await
            .map_err(|error| Fault::from(error).at(path))?;
    for (change, checksum) in &found {
        // Another text under a number that we have: a build whose files were edited.
        if !MIGRATIONS.iter().any(|ours| ours.version == *change && ours.checksum == *checksum) {
            return Err(StoreError::Newer { path: path.to_owned(), change: *change });
        }
    }
    match MIGRATIONS.iter().find(|ours| found.iter().all(|(change, _)| ours.version != *change)) {
        Some(missing) => lacks(missing.version),
        None => Ok(()),
    }
}

/// Makes all missing changes, or none. Takes the write lock even where none is missing, so that a
/// file that cannot be written is refused here and not in the middle of a run.
async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let named = |error: sqlx::Error| Fault::from(error).at(path);
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.map_err(named)?;
    MIGRATIONS.run_direct(None, &mut *tx, false).await.map_err(|error| match error {
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => named(source),
        MigrateError::VersionMissing(change) | MigrateError::VersionMismatch(change) => {
            StoreError::Newer { path: path.to_owned(), change }
        }
        other => StoreError::Corrupt { path: path.to_owned(), why: other.to_string() },
    })?;
    tx.commit().await.map_err(named)
}
