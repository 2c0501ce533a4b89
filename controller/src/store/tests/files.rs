//! What a file must be, and what is left alone.

use super::*;
use crate::store::StoreError;
use crate::store::open::{is_sound, linked_version};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

/// Runs these statements on the file, as another program would.
async fn by_hand(path: &Path, sql: &'static str) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true);
    let mut connection = options.connect().await.expect("connects");
    sqlx::raw_sql(sql).execute(&mut connection).await.expect("runs");
    connection.close().await.expect("closes");
}

#[test]
fn versions_of_sqlite_that_may_corrupt_a_log_are_refused() {
    for bad in ["3.6.23", "3.40.1", "3.44.5", "3.45.0", "3.50.6", "3.51.2", "3.52.0", "", "x"] {
        assert!(!is_sound(bad), "{bad} was taken");
    }
    for good in ["3.44.6", "3.50.7", "3.51.3", "3.53.0", "3.100.0", "4.0.0"] {
        assert!(is_sound(good), "{good} was refused");
    }
}

#[tokio::test]
async fn the_linked_sqlite_is_sound() {
    let version = linked_version().await.expect("a version");
    assert!(is_sound(&version), "{version} is linked");
}

#[tokio::test]
async fn a_new_history_is_made_with_its_directories_and_nothing_beside_it() {
    let place = Place::new();
    let file = place.directory.path().join("a/b/history.db");
    let store = Store::open(&file).await.expect("opens");
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&store.readers).await.expect("reads");
    assert_eq!(mode, "wal");
    store.close().await;
    let left: Vec<_> = file.parent().expect("a parent").read_dir().expect("lists").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    // And again: it is taken for what it is.
    Store::open(&file).await.expect("opens again").close().await;
}

#[tokio::test]
async fn a_missing_file_is_not_created_by_a_reader() {
    let place = Place::new();
    let error = Store::open_read_only(&place.file()).await.expect_err("nothing there");
    assert!(matches!(error, StoreError::Missing { .. }));
    assert!(
        error.to_string().contains("history.db: choose another --db, or let `tuplelab controller"),
        "{error}"
    );
    assert_eq!(place.names(), [""; 0]);
}

#[tokio::test]
async fn what_is_no_database_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let file = place.file();
    for (content, why) in [
        (&b""[..], "it is empty"),
        (b"my notes", "it begins otherwise"),
        (b"SQLite format 3\0..", "it is cut off"),
    ] {
        std::fs::write(&file, content).expect("writes");
        for opened in
            [untouched(&file, Store::open(&file)).await, untouched(&file, Store::open_read_only(&file)).await]
        {
            let error = opened.expect_err("no database");
            assert!(matches!(error, StoreError::NotADatabase { .. }), "{error}");
            assert!(
                error.to_string().ends_with(&format!(
                    "history.db is not a SQLite database ({why}): choose another --db, or move the file away"
                )),
                "{error}"
            );
        }
        assert_eq!(place.names(), ["history.db"]);
    }
    let directory = Store::open(place.directory.path()).await.expect_err("a directory");
    assert!(directory.to_string().contains("it is no regular file"), "{directory}");
}

#[tokio::test]
async fn somebody_elses_database_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let file = place.file();
    by_hand(
        &file,
        "PRAGMA journal_mode = WAL; CREATE TABLE run (id TEXT); INSERT INTO run VALUES ('theirs')",
    )
    .await;
    for opened in
        [untouched(&file, Store::open(&file)).await, untouched(&file, Store::open_read_only(&file)).await]
    {
        let error = opened.expect_err("not ours");
        assert!(matches!(error, StoreError::Foreign { .. }), "{error}");
        assert!(
            error
                .to_string()
                .ends_with("history.db is a SQLite database but not tuplelab's; choose another --db")
        );
    }
    assert_eq!(place.names(), ["history.db"]);
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_left_as_it_is() {
    let place = Place::new();
    let file = place.file();
    place.store().await.close().await;
    by_hand(&file, "INSERT INTO _sqlx_migrations VALUES (9999, 'tomorrow', '2030-01-01', TRUE, x'00', 1)")
        .await;
    for opened in
        [untouched(&file, Store::open(&file)).await, untouched(&file, Store::open_read_only(&file)).await]
    {
        let error = opened.expect_err("newer");
        assert!(matches!(error, StoreError::Newer { change: 9999, .. }), "{error}");
        assert!(
            error
                .to_string()
                .contains("history.db has schema change 9999, which this tuplelab does not have")
        );
    }
}

#[tokio::test]
async fn a_migration_that_was_edited_is_refused() {
    let place = Place::new();
    place.store().await.close().await;
    by_hand(&place.file(), "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 2").await;
    let error = Store::open(&place.file()).await.expect_err("edited");
    assert!(matches!(error, StoreError::Newer { change: 2, .. }), "{error}");
}

#[tokio::test]
async fn an_older_schema_is_migrated_by_a_controller_and_never_by_a_reader() {
    let place = Place::new();
    let file = place.file();
    place.store().await.close().await;
    // What the change added is taken away again.
    let undo = "ALTER TABLE sample DROP COLUMN closed;
        ALTER TABLE sample DROP COLUMN churned;
        ALTER TABLE sample DROP COLUMN rounds;
        ALTER TABLE sample DROP COLUMN answered_rounds;
        ALTER TABLE sample DROP COLUMN late_rounds;
        ALTER TABLE trial_end DROP COLUMN closed;
        ALTER TABLE trial_end DROP COLUMN churned;
        ALTER TABLE trial_end DROP COLUMN rounds;
        ALTER TABLE trial_end DROP COLUMN answered_rounds;
        ALTER TABLE trial_end DROP COLUMN late_rounds;
        ALTER TABLE trial_end DROP COLUMN round_trips;
        DELETE FROM _sqlx_migrations WHERE version = 7";
    by_hand(&file, undo).await;
    let error = untouched(&file, Store::open_read_only(&file)).await.expect_err("older");
    assert!(matches!(error, StoreError::Older { change: 7, .. }), "{error}");
    assert!(error.to_string().contains("start `tuplelab controller --db "), "{error}");
    let store = place.store().await;
    assert_eq!(store.put_samples(&[sample(&run("r"), 1)]).await.expect("puts"), 1);
}

#[tokio::test]
async fn a_damaged_page_is_refused() {
    let place = Place::new();
    let file = place.file();
    let store = place.store().await;
    let id = run("r");
    let batch: Vec<_> = (0..500).map(|sequence| sample(&id, sequence)).collect();
    store.put_samples(&batch).await.expect("puts");
    store.close().await;
    let mut bytes = std::fs::read(&file).expect("reads");
    let page = bytes.len() - 2 * 4_096;
    bytes.get_mut(page..page + 64).expect("a page").fill(0xa5);
    std::fs::write(&file, bytes).expect("writes");
    let error = untouched(&file, Store::open(&file)).await.expect_err("damaged");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(error.to_string().contains("restore a backup or choose another --db"), "{error}");
}

#[tokio::test]
async fn a_reader_writes_nothing() {
    let place = Place::new();
    let file = place.file();
    place.store().await.close().await;
    let store = Store::open_read_only(&file).await.expect("opens");
    let refused =
        untouched(&file, store.queue_run(&run("r"), &plan(), "me", 1, None)).await.expect_err("read only");
    assert!(matches!(refused, StoreError::ReadOnly { .. }), "{refused}");
    assert!(sqlx::query("DELETE FROM run").execute(&store.readers).await.is_err());
    assert_eq!(store.list_runs(1).await.expect("lists"), []);
}

#[tokio::test]
async fn a_reader_sees_what_a_controller_has_not_yet_folded_into_the_file() {
    let place = Place::new();
    let controller = place.store().await;
    let reader = Store::open_read_only(&place.file()).await.expect("opens beside it");
    controller.queue_run(&run("r"), &plan(), "me", 1, None).await.expect("queues");
    assert_eq!(reader.find_run("last").await.expect("finds"), run("r"));
}
