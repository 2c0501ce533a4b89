//! Nothing waits, reads or grows without an end; a submission is stored once.

use super::*;
use crate::store::StoreError;
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::time::Duration;
use tuplelab_domain::run::{Phase, RunEvent};

#[tokio::test]
async fn a_submission_that_is_repeated_is_the_same_run_and_another_plan_is_refused() {
    let place = Place::new();
    let store = place.store().await;
    let queue = async |id: &str, of: &Plan, by: &str, request: Option<&str>| {
        store.queue_run(&run(id), of, by, 1, request).await
    };
    let first = plan();
    let other = check(PlanFile::parse("[load]\nhold = \"2s\"\n").expect("parses")).expect("makes sense");
    assert_eq!(queue("a", &first, "me", Some("x")).await.expect("queues"), run("a"));
    assert_eq!(queue("b", &first, "me", Some("x")).await.expect("knows it"), run("a"));
    assert_eq!(store.requested(&first, "me", "x").await.expect("reads"), Some(run("a")));
    assert_eq!(store.requested(&first, "me", "y").await.expect("reads"), None);
    let error = queue("c", &other, "me", Some("x")).await.expect_err("another plan");
    assert!(matches!(error, StoreError::Reused { .. }), "{error}");
    // Somebody else's words, and none at all.
    assert_eq!(queue("d", &other, "you", Some("x")).await.expect("queues"), run("d"));
    assert_eq!(queue("e", &first, "me", None).await.expect("queues"), run("e"));
    assert_eq!(queue("f", &first, "me", None).await.expect("queues"), run("f"));
    assert_eq!(store.unfinished().await.expect("reads").len(), 4);
}

#[tokio::test]
async fn what_waits_is_told_with_who_had_a_turn() {
    let place = Place::new();
    let store = place.store().await;
    for (id, by, at) in [("a1", "a", 1), ("a2", "a", 2), ("b1", "b", 3), ("c1", "c", 4)] {
        store.queue_run(&run(id), &plan(), by, at, None).await.expect("queues");
    }
    for (id, at) in [("a1", 10), ("c1", 11)] {
        store.append_event(&run(id), at, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
    }
    let waiting = store.waiting().await.expect("reads");
    assert_eq!(waiting.runs, [(run("a2"), "a".into(), 2), (run("b1"), "b".into(), 3)]);
    assert_eq!(waiting.turns, [("a".to_owned(), 10)], "c has nothing that waits");
    assert_eq!(store.phase(&run("a1")).await.expect("reads"), Phase::Preparing);
    assert!(matches!(store.phase(&run("x")).await, Err(StoreError::NotFound { .. })));
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_cut_by_name_and_the_next_one_is_not() {
    let place = Place::new();
    let mut store = place.store().await;
    store.queue_run(&run("r"), &plan(), "me", 1, None).await.expect("queues");
    store.limits.read = Duration::from_millis(50);
    let mut tx = store.look().await.expect("begins");
    let endless = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n) SELECT count(*) FROM n";
    let cut = sqlx::query(endless).fetch_one(&mut *tx).await.expect_err("it has no end");
    drop(tx);
    let cut = crate::store::error::Fault::from(cut).at(store.path());
    assert!(matches!(cut, StoreError::TooLong { .. }), "{cut}");
    assert!(cut.to_string().contains("took longer than 5 s and was cut"), "{cut}");
    for _ in 0..8 {
        assert_eq!(store.list_runs(5).await.expect("lists").len(), 1);
    }
}

#[tokio::test]
async fn the_log_is_cut_once_nobody_keeps_it() {
    let place = Place::new();
    let mut store = place.store().await;
    store.limits.log = 256 << 10;
    let id = run("r");
    let mut reader = SqliteConnectOptions::new().filename(place.file()).connect().await.expect("connects");
    let log = || std::fs::metadata(place.directory.path().join("history.db-wal")).map_or(0, |log| log.len());
    let mut looking = reader.begin().await.expect("begins");
    let _: i64 =
        sqlx::query_scalar("SELECT count(*) FROM run").fetch_one(&mut *looking).await.expect("reads");
    let mut batch = 0u64;
    while log() <= 2 * store.limits.log {
        // Not cut while the other one looks, so that no write waits for it.
        *store.folded.lock().expect("whole") = Some(std::time::Instant::now());
        let rows: Vec<_> = (0..100).map(|row| sample(&id, batch * 100 + row)).collect();
        store.put_samples(&rows).await.expect("puts");
        batch += 1;
        assert!(batch < 1_000, "the log does not grow");
    }
    looking.rollback().await.expect("ends");
    *store.folded.lock().expect("whole") = None;
    store.put_samples(&[sample(&id, 1_000_000)]).await.expect("puts");
    assert_eq!(log(), 0);
    assert_eq!(store.samples(&id).await.expect("reads").len() as u64, batch * 100 + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_submissions_than_may_wait_are_refused_by_name_and_reads_and_events_are_not() {
    let place = Place::new();
    let store = place.store().await;
    store.queue_run(&run("r"), &plan(), "me", 1, None).await.expect("queues");
    let mut other = SqliteConnectOptions::new().filename(place.file()).connect().await.expect("connects");
    let held = other.begin_with("BEGIN IMMEDIATE").await.expect("locks");
    let submissions: Vec<_> = (0..80)
        .map(|number| {
            let store = store.clone();
            tokio::spawn(async move {
                store.queue_run(&run(&format!("s{number}")), &plan(), "me", number, None).await
            })
        })
        .collect();
    // The event stands behind 64 submissions, and none of these waits for the lock as long as it is held.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let event = tokio::spawn({
        let store = store.clone();
        async move { store.append_event(&run("r"), 2, &RunEvent::Begin, Phase::Preparing, None).await }
    });
    assert_eq!(store.list_runs(500).await.expect("reads meanwhile").len(), 1);
    held.rollback().await.expect("lets go");
    let (mut taken, mut refused) = (1, 0);
    for submission in submissions {
        match submission.await.expect("ends") {
            Ok(_) => taken += 1,
            Err(error @ StoreError::Busy { .. }) => {
                assert!(error.to_string().contains("64 submissions wait"), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    event.await.expect("ends").expect("a run's own event is never refused for it");
    assert!(refused >= 14, "{refused}");
    assert_eq!(store.unfinished().await.expect("reads").len(), taken);
}
