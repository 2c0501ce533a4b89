//! Nothing that was acknowledged is lost, and everybody has a turn, over a kill -9 of the controller.

mod crowd;

use crowd::{Controller, Hosts, attached, crowd as submit_all, hosts, lab, plan};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tuplelab_controller::store::Store;
use tuplelab_domain::id::RunId;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};
use tuplelab_proto::v1::{CancelRequest, ListRunsRequest, SubmitRequest};

const CLIENTS: usize = 4;
const PLANS: usize = 8;

#[tokio::test]
#[ignore = "the controller of the other test, in a process of its own"]
async fn a_controller() {
    crowd::be_a_controller().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_is_there_once_and_has_its_turn_after_a_kill() {
    let folder = tempfile::tempdir().expect("a folder");
    let db = folder.path().join("lab.db");
    let mut controller = Controller::start(&db, &["--exact", "a_controller", "--ignored", "--nocapture"]);
    let stage = Arc::new(Hosts::default());
    hosts(controller.address, &stage);
    attached(controller.address).await;

    let all = submit_all(&mut controller, CLIENTS, PLANS).await;
    let runs: BTreeSet<&str> = all.iter().map(|one| one.run.as_str()).collect();
    assert_eq!((all.len(), runs.len()), (CLIENTS * PLANS, CLIENTS * PLANS), "each has a run of its own");
    let mut client = lab(controller.address).await;
    let listed = client.list_runs(ListRunsRequest { limit: 1_000 }).await.expect("lists").into_inner().runs;
    assert_eq!(listed.iter().map(|run| run.run.as_str()).collect::<BTreeSet<_>>(), runs, "and no other");
    assert_eq!(listed.len(), runs.len());

    // Asked again after all that time: the same run.
    let one = &all[0];
    let mut again =
        SubmitRequest { plan: plan(&one.user), submitter: one.user.clone(), request: one.request.clone() };
    assert_eq!(client.submit(again.clone()).await.expect("knows it").into_inner().run, one.run);
    again.plan = plan("somebody");
    let refused = client.submit(again).await.expect_err("another plan");
    assert_eq!(refused.code(), tonic::Code::AlreadyExists);
    // The last one of all is cancelled while it waits, and is over before any other is.
    let last = all.iter().rfind(|one| one.user == "user-1").expect("it has plans").run.clone();
    client.cancel(CancelRequest { run: last.clone() }).await.expect("is cancelled");
    let store = Store::open_read_only(&db).await.expect("opens");
    let cancelled = RunId(last);
    assert_eq!(store.record(&cancelled).await.expect("reads").outcome, Some(Outcome::Cancelled));
    let refused = client.cancel(CancelRequest { run: cancelled.0.clone() }).await.expect_err("it is over");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);

    stage.refuse.store(true, Ordering::Relaxed);
    while !store.unfinished().await.expect("reads").is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut turns = Vec::new();
    for one in all.iter().filter(|one| one.run != cancelled.0) {
        let id = RunId(one.run.clone());
        assert_eq!(store.phase(&id).await.expect("reads"), Phase::Finished);
        let events = store.events(&id).await.expect("reads");
        let begun = events.iter().filter(|(_, event)| *event == RunEvent::Begin).count();
        assert_eq!(begun, 1, "{id} began once: {events:?}");
        let submitted = store.record(&id).await.expect("reads").submitted_micros;
        turns.push((events[0].0, one.user.as_str(), submitted));
    }
    turns.sort_unstable();
    fair(&turns);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_another_process_keeps_refuses_submissions_and_neither_stops_nor_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let db = folder.path().join("lab.db");
    let controller = Controller::start(&db, &["--exact", "a_controller", "--ignored", "--nocapture"]);
    let stage = Arc::new(Hosts::default());
    hosts(controller.address, &stage);
    attached(controller.address).await;
    let mut client = lab(controller.address).await;
    let submission =
        |request: &str| SubmitRequest { plan: plan("me"), submitter: "me".into(), request: request.into() };
    let run = client.submit(submission("first")).await.expect("is taken").into_inner().run;
    let second = client.submit(submission("second")).await.expect("is taken").into_inner().run;
    while stage.prepared.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let options = SqliteConnectOptions::new().filename(&db);
    let mut other = options.connect().await.expect("connects");
    let held = other.begin_with("BEGIN IMMEDIATE").await.expect("locks");
    client.cancel(CancelRequest { run: run.clone() }).await.expect("is heard");
    // The lock is held all the while.
    while stage.released.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(
        client.list_runs(ListRunsRequest { limit: 9 }).await.expect("lists").into_inner().runs.len(),
        2
    );
    let refused = client.submit(submission("third")).await.expect_err("it cannot be stored");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("is locked by another process"), "{refused}");
    held.rollback().await.expect("lets go");

    // What was acknowledged is there, what was refused is not, and the run has an end.
    let third = client.submit(submission("third")).await.expect("is taken now").into_inner().run;
    stage.refuse.store(true, Ordering::Relaxed);
    let store = Store::open_read_only(&db).await.expect("opens");
    while !store.unfinished().await.expect("reads").is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let outcome = store.record(&RunId(run.clone())).await.expect("reads").outcome;
    assert!(matches!(outcome, Some(Outcome::Cancelled | Outcome::Interrupted)), "{outcome:?}");
    let stored: BTreeSet<String> =
        store.list_runs(9).await.expect("lists").into_iter().map(|run| run.id.0).collect();
    assert_eq!(stored, [run, second.clone(), third.clone()].into());
    for id in [second, third] {
        let events = store.events(&RunId(id)).await.expect("reads");
        assert_eq!(events.first().map(|(_, event)| event), Some(&RunEvent::Begin));
    }
}

/// Within a user runs begin as they were submitted; between two turns of a user nobody has two.
fn fair(turns: &[(i64, &str, i64)]) {
    let mut latest: BTreeMap<&str, i64> = BTreeMap::new();
    let mut since: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (_, user, submitted) in turns {
        let before = latest.insert(user, *submitted);
        assert!(before.is_none_or(|before| before <= *submitted), "{user} is out of order: {turns:?}");
        since.iter_mut().filter(|(other, _)| *other != user).for_each(|(_, others)| others.push(user));
        let others = since.insert(user, Vec::new()).unwrap_or_default();
        let distinct: BTreeSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len(), "{others:?} before {user}: {turns:?}");
    }
}
