//! From an event to what it changes: the run's state machine decides, the store has it, and only then is
//! anything done for it.

use crate::adoption::rebuild;
use crate::clock::now_micros;
use crate::performance::Performance;
use crate::store::{Store, StoreError};
use std::time::Duration;
use tracing::{info, warn};
use tuplelab_domain::id::RunId;
use tuplelab_domain::run::{Effect, Outcome, Phase, RunEvent};
use tuplelab_domain::verdict::{JUDGE_VERSION, judge};

/// How often an end that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Ends runs that are under way and that nobody will conduct any more as interrupted.
///
/// # Errors
/// The store cannot be read or written.
pub async fn interrupt(store: &Store) -> Result<(), StoreError> {
    for id in store.unfinished().await? {
        interrupt_one(store, &id).await?;
    }
    Ok(())
}

/// The same for a run whose store failed: as soon as it can be written again, so that no run is under way
/// for ever.
pub(crate) async fn interrupt_some_time(store: Store, id: RunId) {
    while let Err(error) = interrupt_one(&store, &id).await {
        if matches!(error, StoreError::NotFound { .. }) {
            return;
        }
        warn!(run = %id, %error, "its end cannot be stored: tried again in 5 s");
        tokio::time::sleep(AGAIN).await;
    }
}

async fn interrupt_one(store: &Store, id: &RunId) -> Result<(), StoreError> {
    if matches!(store.record(id).await?.phase, Phase::Queued | Phase::Finished) {
        return Ok(());
    }
    warn!(run = %id, "was under way and is conducted no longer: interrupted");
    let Some(mut adopted) = rebuild(store, id).await? else {
        let (event, outcome) = (RunEvent::Interrupt, Outcome::Interrupted);
        return store.append_event(id, now_micros(), &event, Phase::Finished, Some(&outcome)).await;
    };
    for event in adopted.performance.abandoned() {
        decide(store, &mut adopted.performance, &event).await?;
    }
    Ok(())
}

/// Decides what an event changes, and stores it; what is to be done for it is the caller's.
pub(crate) async fn decide(
    store: &Store,
    performance: &mut Performance,
    event: &RunEvent,
) -> Result<Vec<Effect>, StoreError> {
    let (run, effects) = performance.run.clone().step(event);
    // A finished run's verdicts come before the event that finishes it: who sees the end of a
    // run finds its verdicts.
    for effect in &effects {
        match effect {
            Effect::Close { index, whole } => {
                close_trial(store, performance, *index, *whole, gap(event)).await?;
            }
            Effect::Finish { outcome } => {
                let complete = *outcome == Outcome::Completed;
                let verdicts = judge(&performance.plan, &performance.evidence, complete);
                store.put_verdicts(&performance.id, JUDGE_VERSION, now_micros(), &verdicts).await?;
            }
            _ => {}
        }
    }
    let samples = std::mem::take(&mut performance.samples);
    let messages = std::mem::take(&mut performance.messages);
    let (event, state) = ((now_micros(), event), (run.phase(), run.outcome()));
    store.append_event_and_heard(&performance.id, event, state, &samples, &messages).await?;
    if run.phase() != performance.run.phase() {
        let case = run.index().and_then(|index| performance.steps.get(index)).map(|(case, _)| *case);
        info!(from = performance.run.phase().name(), to = run.phase().name(), case, "phase");
    }
    performance.run = run;
    Ok(effects)
}

/// What is missing from a trial that is closed because of this event, in words.
fn gap(event: &RunEvent) -> Option<String> {
    match event {
        RunEvent::Lost { agent, why } => Some(format!("{agent} was lost: {why}")),
        RunEvent::Failed { agent, why } => Some(format!("{agent} failed: {why}")),
        RunEvent::Interrupt => Some("the controller was away".into()),
        _ => None,
    }
}

async fn close_trial(
    store: &Store,
    performance: &mut Performance,
    index: usize,
    whole: bool,
    gap: Option<String>,
) -> Result<(), StoreError> {
    let case = performance.steps.get(index).map(|(case, _)| *case as usize);
    let schedule = case.and_then(|case| performance.schedule.cases.get(case));
    let (Some(gathering), Some(schedule)) = (performance.gathering.take(), schedule) else {
        return Ok(());
    };
    let mut evidence = gathering.close(schedule, whole);
    evidence.gaps.extend(gap);
    store.put_trial(&performance.id, &evidence, whole).await?;
    performance.evidence.push(evidence);
    Ok(())
}
