//! What is put comes back.

use super::*;
use crate::store::{Conducted, MessageRow, StoreError};
use tuplelab_domain::report::RunRecord;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};
use tuplelab_domain::verdict::{Bearing, Finding, Point, Verdict};

fn verdict(subject: &str, verdict: Finding) -> Verdict {
    let point = Point {
        what: "a second bind".into(),
        measured: "EADDRINUSE".into(),
        bearing: Bearing::Qualifies,
        evidence: "again".into(),
    };
    let points = if subject.starts_with('C') { vec![point] } else { Vec::new() };
    Verdict { subject: subject.into(), verdict, because: format!("because of {subject}"), points }
}

#[tokio::test]
async fn a_record_comes_back_as_it_was_put() {
    let place = Place::new();
    let store = place.store().await;
    let (id, plan) = (run("0190-aaaa"), plan());
    let schedule = schedule(&plan);
    let evidence = vec![
        trial(
            &schedule,
            0,
            vec![full_end("server-1", Role::Server, 50), full_end("client-1", Role::Client, 40)],
        ),
        trial(&schedule, 1, vec![full_end("server-1", Role::Server, 90), bare_end("client-1", Role::Client)]),
    ];
    let verdicts =
        vec![verdict("b", Finding::Held), verdict("a", Finding::Missed), verdict("C3", Finding::Missed)];

    store.queue_run(&id, &plan, "me@here", 1_000).await.expect("queues");
    let queued = store.record(&id).await.expect("reads");
    assert_eq!((queued.phase, queued.schedule, queued.hosts), (Phase::Queued, None, vec![]));

    store.put_hosts(&id, &hosts()).await.expect("puts hosts");
    store.put_schedule(&id, &plan, &schedule).await.expect("puts the schedule");
    for trial in &evidence {
        store.put_trial(&id, trial, trial.case == 0).await.expect("puts a trial");
    }
    let outcome = Outcome::AgentLost { agent: agent("client-1"), why: "its lease ended".into() };
    let lost = RunEvent::Lost { agent: agent("client-1"), why: "its lease ended".into() };
    store.append_event(&id, 2_000, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
    store.append_event(&id, 3_000, &lost, Phase::Finished, Some(&outcome)).await.expect("appends");
    store
        .append_event(&id, 4_000, &RunEvent::Cancel, Phase::Finished, Some(&outcome))
        .await
        .expect("appends");
    store.put_verdicts(&id, 7, 4_000, &[verdict("old", Finding::Held)]).await.expect("puts verdicts");
    store.put_verdicts(&id, 8, 5_000, &verdicts).await.expect("replaces verdicts");

    // Again, and from the file alone.
    store.put_hosts(&id, &hosts()).await.expect("puts hosts again");
    store.put_schedule(&id, &plan, &schedule).await.expect("puts the schedule again");
    store.close().await;
    let store = Store::open_read_only(&place.file()).await.expect("opens");
    let expected = RunRecord {
        id: id.clone(),
        plan_source: plan.source.clone(),
        submitter: "me@here".into(),
        submitted_micros: 1_000,
        phase: Phase::Finished,
        outcome: Some(outcome.clone()),
        hosts: hosts(),
        schedule: Some(schedule),
        evidence,
        verdicts,
        late: 0,
    };
    assert_eq!(store.record(&id).await.expect("reads"), expected);
    let events = vec![(2_000, RunEvent::Begin), (3_000, lost), (4_000, RunEvent::Cancel)];
    assert_eq!(store.events(&id).await.expect("reads"), events);

    let listed = store.list_runs(10).await.expect("lists");
    let summary = listed.first().expect("a run");
    assert_eq!(summary.finished_micros, Some(3_000));
    assert_eq!(summary.outcome, Some(outcome));
    assert_eq!(summary.question, plan.question);
    // As the domain says: of the second trial nothing was certainly held.
    assert_eq!(summary.most_held, expected.evidence.iter().map(TrialEvidence::held).max());
    assert_eq!(summary.most_held, Some(40));
    assert_eq!(summary.findings, [(Finding::Held, 1), (Finding::Missed, 2)]);
}

#[tokio::test]
async fn a_trial_that_is_put_again_replaces_the_first() {
    let place = Place::new();
    let store = place.store().await;
    let (id, plan) = (run("r"), plan());
    let schedule = schedule(&plan);
    let first =
        trial(&schedule, 0, vec![full_end("server-1", Role::Server, 5), bare_end("client-1", Role::Client)]);
    let unknown = store.put_trial(&id, &first, true).await.expect_err("no such run");
    assert!(matches!(unknown, StoreError::NotFound { .. }), "{unknown}");

    store.queue_run(&id, &plan, "me", 1).await.expect("queues");
    store.put_schedule(&id, &plan, &schedule).await.expect("puts the schedule");
    store.put_trial(&id, &first, false).await.expect("puts");
    let second = trial(
        &schedule,
        0,
        vec![full_end("server-1", Role::Server, 9), full_end("client-1", Role::Client, 9)],
    );
    store.put_trial(&id, &second, true).await.expect("puts again");
    assert_eq!(store.record(&id).await.expect("reads").evidence, [second]);
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM reading WHERE trial_end NOT IN (SELECT id FROM trial_end WHERE established = 9)",
    )
    .fetch_one(&store.readers)
    .await
    .expect("counts");
    assert_eq!(left, 0, "readings of the replaced trial are left");
}

#[tokio::test]
async fn a_repeated_sample_is_stored_once() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    let batch: Vec<_> = (1..=3).map(|sequence| sample(&id, sequence)).collect();
    assert_eq!(store.put_samples(&batch).await.expect("puts"), 3);
    let again: Vec<_> = (2..=5).map(|sequence| sample(&id, sequence)).collect();
    assert_eq!(store.put_samples(&again).await.expect("puts again"), 2);
    let late = SampleRow { epoch: 2, ..sample(&id, 1) };
    assert_eq!(store.put_samples(std::slice::from_ref(&late)).await.expect("puts"), 1);
    let mut expected: Vec<_> = (1..=5).map(|sequence| sample(&id, sequence)).collect();
    expected.push(late);
    assert_eq!(store.samples(&id).await.expect("reads"), expected);
}

#[tokio::test]
async fn a_run_is_found_by_last_by_a_start_and_by_an_end() {
    let place = Place::new();
    let store = place.store().await;
    let name = |error: StoreError| error.to_string();
    assert!(matches!(store.find_run("last").await, Err(StoreError::NotFound { .. })));
    // The last to be submitted is not the last by name.
    for (id, at) in [("0190-aa-1", 1), ("0190-ab-1", 3), ("0190-ac-2", 2), ("0190", 0)] {
        store.queue_run(&run(id), &plan(), "me", at).await.expect("queues");
    }
    for (asked, found) in
        [("last", "0190-ab-1"), ("0190-ac", "0190-ac-2"), ("c-2", "0190-ac-2"), ("0190", "0190")]
    {
        assert_eq!(store.find_run(asked).await.map_err(name), Ok(run(found)), "{asked}");
    }
    for asked in ["", "%", "0190_aa", "0190-aa-1x"] {
        let error = store.find_run(asked).await.expect_err("names nothing");
        assert!(matches!(&error, StoreError::NotFound { name } if name == asked), "{asked}: {error}");
    }
    let error = store.find_run("-1").await.expect_err("names two");
    let StoreError::Ambiguous { matches, .. } = &error else { panic!("{error}") };
    assert_eq!(*matches, [run("0190-ab-1"), run("0190-aa-1")]);
    assert_eq!(error.to_string(), "'-1' names 2 runs (0190-ab-1, 0190-aa-1): give more of the name");
}

#[tokio::test]
async fn a_run_without_an_outcome_is_unfinished() {
    let place = Place::new();
    let store = place.store().await;
    for (id, at) in [("late", 2), ("early", 1), ("over", 0)] {
        store.queue_run(&run(id), &plan(), "me", at).await.expect("queues");
    }
    let done = Some(&Outcome::Completed);
    store.append_event(&run("late"), 5, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
    store.append_event(&run("over"), 5, &RunEvent::Cancel, Phase::Finished, done).await.expect("appends");
    assert_eq!(store.unfinished().await.expect("reads"), [run("early"), run("late")]);
    let listed: Vec<_> = store.list_runs(2).await.expect("lists").into_iter().map(|run| run.id).collect();
    assert_eq!(listed, [run("late"), run("early")]);
}

#[tokio::test]
async fn an_event_and_its_state_are_stored_both_or_neither() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    store.queue_run(&id, &plan(), "me", 1).await.expect("queues");
    // A run that is over without an outcome: the schema refuses it.
    let broken = store.append_event(&id, 2, &RunEvent::Cancel, Phase::Finished, None).await;
    assert!(matches!(broken, Err(StoreError::Sql { .. })), "{broken:?}");
    assert_eq!(store.events(&id).await.expect("reads"), []);
    assert_eq!(store.record(&id).await.expect("reads").phase, Phase::Queued);
    let stranger = store.append_event(&run("x"), 2, &RunEvent::Begin, Phase::Preparing, None).await;
    assert!(matches!(stranger, Err(StoreError::NotFound { .. })), "{stranger:?}");
    assert!(store.queue_run(&id, &plan(), "me", 2).await.is_err(), "a second run of that name");
    store.append_event(&id, 3, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_named() {
    let place = Place::new();
    let store = place.store().await;
    let id = run("r");
    store.queue_run(&id, &plan(), "me", 1).await.expect("queues");
    let writer = store.writer.as_ref().expect("writes");
    sqlx::query("INSERT INTO run_event (run, seq, at, body) VALUES ('r', 0, 1, '{\"event\":\"landed\"}')")
        .execute(writer)
        .await
        .expect("inserts");
    let error = store.events(&id).await.expect_err("no such event");
    assert!(matches!(error, StoreError::Decode { table: "run_event", .. }), "{error}");
    assert!(error.to_string().contains("landed"), "{error}");
    let changed = sqlx::query("UPDATE run_event SET at = 2").execute(writer).await;
    assert!(changed.expect_err("append-only").to_string().contains("never changed"));
}

#[tokio::test]
async fn what_agents_said_is_stored_once_and_late_words_are_kept_apart() {
    let place = Place::new();
    let store = place.store().await;
    let (id, plan) = (run("0190-aaaa"), plan());
    store.queue_run(&id, &plan, "me@here", 1_000).await.expect("queues");
    let sample = |sequence| SampleRow { sequence, ..sample(&id, sequence) };
    let message = |sequence, late| MessageRow {
        run: id.clone(),
        epoch: 1,
        agent: agent("client-1"),
        sequence,
        case: 0,
        trial: 1,
        at_micros: 7,
        kind: "plateau".into(),
        late,
        body: vec![1, 2, 3],
    };
    let (samples, messages) = ([sample(1), sample(3)], [message(2, false)]);
    for _ in 0..2 {
        store.put_heard(&samples, &messages).await.expect("stores");
    }
    // The spool is played again after the run is over: what is there is there, be it as a sample.
    let again = [message(1, true), message(2, true), message(4, true)];
    store.put_heard(&[], &again).await.expect("stores");
    let samples = store.samples(&id).await.expect("reads");
    assert_eq!(samples.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(store.messages(&id).await.expect("reads"), [message(2, false), message(4, true)]);
    assert_eq!(store.record(&id).await.expect("reads").late, 1);
    // Of a run that this database lacks, too: somebody measured it.
    let stranger = MessageRow { run: run("elsewhere"), ..message(1, true) };
    store.put_heard(&[], std::slice::from_ref(&stranger)).await.expect("stores");
    assert_eq!(store.messages(&stranger.run).await.expect("reads"), [stranger]);
}

#[tokio::test]
async fn the_moment_at_which_a_run_was_last_conducted_is_the_last_that_was_stored() {
    let place = Place::new();
    let store = place.store().await;
    let (id, plan) = (run("0190-aaaa"), plan());
    store.queue_run(&id, &plan, "me@here", 1_000).await.expect("queues");
    assert_eq!(store.conducted(&id).await.expect("reads"), None);
    let moment = |n: u64| Conducted { at_micros: n as i64, clock: "boot".into(), clock_nanos: u64::MAX - n };
    for n in [5, 9] {
        store.conducts(&id, &moment(n)).await.expect("stores");
    }
    assert_eq!(store.conducted(&id).await.expect("reads"), Some(moment(9)));
    let unknown = store.conducts(&run("nobody"), &moment(1)).await;
    assert!(unknown.is_err(), "{unknown:?}");
}
