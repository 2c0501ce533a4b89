//! Copies of a history in use, and looks at a whole file.

use super::*;
use crate::store::StoreError;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tuplelab_domain::run::{Phase, RunEvent};

async fn filled(place: &Place) -> Store {
    let store = place.store().await;
    store.queue_run(&run("r"), &plan(), "me", 1, None).await.expect("queues");
    store.append_event(&run("r"), 2, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
    store.put_samples(&[sample(&run("r"), 1), sample(&run("r"), 2)]).await.expect("puts");
    store
}

/// All names but those that a reader leaves beside the history: it may not fold the log.
fn kept(place: &Place) -> Vec<String> {
    let beside = ["history.db-wal", "history.db-shm"];
    place.names().into_iter().filter(|name| !beside.contains(&name.as_str())).collect()
}

#[tokio::test]
async fn a_backup_of_a_history_in_use_has_all_of_it_and_is_one_file() {
    let place = Place::new();
    let store = filled(&place).await;
    let to = place.directory.path().join("copies.db");
    let copied = Store::backup(&place.file(), &to).await.expect("copies");
    assert_eq!((copied.rows["run"], copied.rows["run_event"], copied.rows["sample"]), (1, 1, 2));
    let names: Vec<String> = place.names().into_iter().filter(|name| name.starts_with("copies")).collect();
    assert_eq!(names, ["copies.db"], "nothing is left beside it");
    let (original, copy) = (store, Store::open(&to).await.expect("it is a history to go on with"));
    assert_eq!(
        copy.record(&run("r")).await.expect("reads"),
        original.record(&run("r")).await.expect("reads")
    );
    assert_eq!(copy.samples(&run("r")).await.expect("reads").len(), 2);
    copy.queue_run(&run("s"), &plan(), "me", 2, None).await.expect("is written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_is_made_while_runs_are_stored_and_holds_a_moment_between() {
    let place = Place::new();
    let store = filled(&place).await;
    let writing = tokio::spawn({
        let store = store.clone();
        async move {
            for sequence in 3..200 {
                store.put_samples(&[sample(&run("r"), sequence)]).await.expect("nothing is refused");
            }
        }
    });
    let to = place.directory.path().join("copy.db");
    let copied = Store::backup(&place.file(), &to).await.expect("copies");
    writing.await.expect("writes");
    assert!((2..200).contains(&copied.rows["sample"]), "{copied:?}");
    assert_eq!(store.samples(&run("r")).await.expect("reads").len(), 199);
}

#[tokio::test]
async fn a_backup_goes_over_nothing_and_leaves_nothing_where_it_fails() {
    let place = Place::new();
    filled(&place).await.close().await;
    let to = place.directory.path().join("precious.txt");
    std::fs::write(&to, "precious").expect("writes");
    let error = untouched(&to, Store::backup(&place.file(), &to)).await.expect_err("it is there");
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    assert!(error.to_string().contains("name a file that is not there"), "{error}");
    let error = Store::backup(&place.file(), &place.file()).await.expect_err("over itself");
    assert!(matches!(error, StoreError::Exists { .. }), "{error}");
    let nowhere = place.directory.path().join("no/such/folder.db");
    assert!(matches!(Store::backup(&place.file(), &nowhere).await, Err(StoreError::Io { .. })));
    let missing = place.directory.path().join("missing.db");
    let error = Store::backup(&missing, &nowhere).await.expect_err("no source");
    assert!(matches!(error, StoreError::Missing { .. } | StoreError::Io { .. }), "{error}");
    assert_eq!(kept(&place), ["history.db", "precious.txt"]);
}

#[tokio::test]
async fn a_look_finds_rows_that_belong_to_nothing_and_events_that_are_missing() {
    let place = Place::new();
    filled(&place).await.close().await;
    let sound = untouched(&place.file(), Store::inspect(&place.file())).await.expect("looks");
    assert_eq!((sound.problems.as_slice(), sound.rows["run"]), (&[][..], 1));
    assert!(sound.schema >= 11, "{sound:?}");

    let options = SqliteConnectOptions::new().filename(place.file()).foreign_keys(false);
    let mut connection = options.connect().await.expect("connects");
    let harm = "INSERT INTO run_event (run, seq, at, body) VALUES ('r', 5, 1, '{\"event\":\"begin\"}');
        INSERT INTO host (run, name, position, labels, facts) VALUES ('gone', 'h', 0, '{}', '{}');";
    sqlx::raw_sql(harm).execute(&mut connection).await.expect("harms");
    connection.close().await.expect("closes");
    let found = Store::inspect(&place.file()).await.expect("looks");
    assert_eq!(
        found.problems,
        ["1 rows of table host belong to rows of run that are not there", "events of run r are missing"]
    );
    let to = place.directory.path().join("copy.db");
    let error = Store::backup(&place.file(), &to).await.expect_err("a damaged one is no backup");
    assert!(matches!(error, StoreError::BadCopy { .. }), "{error}");
    assert_eq!(kept(&place), ["history.db"]);
}

#[tokio::test]
async fn a_page_that_was_overwritten_is_found() {
    let place = Place::new();
    filled(&place).await.close().await;
    let mut bytes = std::fs::read(place.file()).expect("reads");
    let page = bytes.len() - 4_096;
    bytes.get_mut(page..page + 64).expect("a page").fill(0xa5);
    std::fs::write(place.file(), bytes).expect("writes");
    match Store::inspect(&place.file()).await {
        Ok(found) => assert!(!found.problems.is_empty(), "{found:?}"),
        Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error}"),
    }
}
