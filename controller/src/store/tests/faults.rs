//! Full disks, held locks, and a second process.

use super::*;
use crate::store::StoreError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use std::time::{Duration, Instant};
use tuplelab_domain::run::{Phase, RunEvent};

/// Samples until one batch is refused; the error, and how many are stored.
async fn fill(store: &Store, id: &RunId) -> (StoreError, u64) {
    for batch in 0u64..10_000 {
        let rows: Vec<_> = (0..200).map(|row| sample(id, batch * 200 + row)).collect();
        if let Err(error) = store.put_samples(&rows).await {
            return (error, batch * 200);
        }
    }
    panic!("two million samples fit")
}

#[tokio::test]
async fn a_full_database_is_read_and_is_written_again_when_there_is_room() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    let writer = store.writer.as_ref().expect("writes");
    let limit = |pages: &'static str| async move {
        sqlx::raw_sql(pages).execute(writer).await.expect("sets the limit");
    };
    limit("PRAGMA max_page_count = 200").await;
    let (error, stored) = fill(&store, &id).await;
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("history.db: free disk space"), "{error}");
    // Nothing of the refused batch, all of the others.
    assert_eq!(store.samples(&id).await.expect("reads").len() as u64, stored);
    limit("PRAGMA max_page_count = 100000").await;
    assert_eq!(store.put_samples(&[sample(&id, stored)]).await.expect("puts"), 1);
}

/// The half of the next test that runs in a process of its own, whose files may not grow.
#[tokio::test]
#[ignore = "run by a_limit_on_file_sizes_is_a_full_disk"]
async fn under_a_limit_on_file_sizes() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    store.queue_run(&id, &plan(), "me", 1, None).await.expect("queues");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("reads the limit");
    // Less than the log may grow to before it is folded into the file, and no whole page.
    setrlimit(Resource::RLIMIT_FSIZE, 300_000, hard).expect("sets the limit");
    let (error, stored) = fill(&store, &id).await;
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    let stopped = store.append_event(&id, 2, &RunEvent::Begin, Phase::Preparing, None).await;
    assert!(matches!(stopped, Err(StoreError::Full { .. }) | Ok(())), "{stopped:?}");
    assert_eq!(store.samples(&id).await.expect("reads").len() as u64, stored);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("lifts the limit");
    assert_eq!(store.put_samples(&[sample(&id, stored)]).await.expect("puts again"), 1);
    store.close().await;
    assert_eq!(place.store().await.samples(&id).await.expect("reads").len() as u64, stored + 1);
}

#[test]
fn a_limit_on_file_sizes_is_a_full_disk() {
    let tests = std::env::current_exe().expect("this program");
    // A write past the limit raises SIGXFSZ; who ignores it gets EFBIG. A child inherits that.
    let output = std::process::Command::new("sh")
        .args(["-c", r#"trap "" XFSZ; exec "$@""#, "sh"])
        .arg(tests)
        .args(["--exact", "store::tests::faults::under_a_limit_on_file_sizes", "--ignored", "--nocapture"])
        .output()
        .expect("starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_processes_write_one_history_without_a_refusal() {
    let place = Place::new();
    // Both find no file: one makes it, both use it.
    let (one, two) = tokio::join!(place.store(), place.store());
    let mut writers = Vec::new();
    for (name, store) in [("one", one.clone()), ("two", two)] {
        for task in 0..4 {
            let store = store.clone();
            writers.push(tokio::spawn(async move {
                let id = run(&format!("{name}-{task}"));
                store.queue_run(&id, &plan(), "me", task, None).await.expect("queues");
                for sequence in 0..20 {
                    store.put_samples(&[sample(&id, sequence)]).await.expect("puts");
                    store
                        .append_event(&id, 1, &RunEvent::Begin, Phase::Preparing, None)
                        .await
                        .expect("appends");
                    store.list_runs(5).await.expect("lists");
                }
            }));
        }
    }
    for writer in writers {
        writer.await.expect("writes");
    }
    let runs = one.unfinished().await.expect("reads");
    assert_eq!(runs.len(), 8);
    for id in runs {
        assert_eq!(one.samples(&id).await.expect("reads").len(), 20);
        assert_eq!(one.events(&id).await.expect("reads").len(), 20);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_delays_a_write_or_refuses_it_and_never_stops_a_read() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    let options = SqliteConnectOptions::new().filename(place.file());
    let mut other = options.connect().await.expect("connects");

    let held = other.begin_with("BEGIN IMMEDIATE").await.expect("locks");
    let writing = tokio::spawn({
        let (store, row) = (store.clone(), sample(&id, 1));
        async move { store.put_samples(&[row]).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.samples(&id).await.expect("reads meanwhile"), []);
    held.rollback().await.expect("lets go");
    assert_eq!(writing.await.expect("ends").expect("puts in the end"), 1);

    let held = other.begin_with("BEGIN IMMEDIATE").await.expect("locks again");
    let begun = Instant::now();
    let (file, row) = (place.file(), [sample(&id, 2)]);
    let (refused, opened) = tokio::join!(store.put_samples(&row), Store::open(&file));
    let (refused, opened) = (refused.expect_err("locked"), opened.expect_err("locked"));
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused:?}");
    assert!(matches!(opened, StoreError::Locked { .. }), "{opened:?}");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    held.rollback().await.expect("lets go");
    assert_eq!(store.put_samples(&[sample(&id, 2)]).await.expect("puts"), 1);
}
