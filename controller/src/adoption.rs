//! Taking up a run that an earlier life of the controller left under way.
//!
//! ```text
//! store: events ---replay---> Run, what is due ---> orders to give again, times that still run
//!        messages, samples -> the trial's evidence, as far as it was acknowledged
//!        conducted ---------> how long nobody conducted it: longer than a lease, and it is over
//! agents: attached again, each with the trial that it holds; what was not acknowledged comes from spools
//! ```

use crate::clock::{boot_id, boottime_nanos, now_micros};
use crate::gathering::Gathering;
use crate::patience::Patience;
use crate::performance::Performance;
use crate::store::{Conducted, Store, StoreError};
use prost::Message as _;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tuplelab_domain::id::{AgentName, RunId};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::run::{Effect, Phase, Replayed, RunEvent, replay};
use tuplelab_proto::v1;

/// So often it is stored that a run is conducted.
pub(crate) const CONDUCTED: Duration = Duration::from_secs(1);
/// The last such moment may be so old when the controller ends: its interval, and a slow store.
const SLACK: Duration = Duration::from_secs(2);
/// However late it is, agents have this long to come back, and to say what they have in their spools
/// before a phase is too long.
const LEAST: Duration = Duration::from_secs(5);

/// A run that was rebuilt, and what is due in it, each with how long ago it was asked for.
pub(crate) struct Adopted {
    pub performance: Performance,
    pub due: Vec<(Duration, Effect)>,
}

/// Rebuilds a run from the store; `None` if it cannot be gone on with: it was never placed, or this
/// version of the program does not understand its plan.
pub(crate) async fn rebuild(store: &Store, id: &RunId) -> Result<Option<Adopted>, StoreError> {
    let record = store.record(id).await?;
    let Ok(plan) = PlanFile::parse(&record.plan_source).and_then(check) else { return Ok(None) };
    let Some(schedule) = record.schedule else { return Ok(None) };
    let mut performance = Performance::new(id.clone(), plan, schedule);
    let log = store.events(id).await?;
    let Replayed { run, due } = replay(performance.run.clone(), &log);
    performance.run = run;
    // A trial that is closed has its evidence; the one at hand is gathered again.
    let at = performance.at().filter(|_| performance.run.phase() != Phase::Releasing);
    performance.evidence = record.evidence;
    performance.evidence.retain(|evidence| Some((evidence.case, evidence.trial)) != at);
    if let Some((case, trial)) = at
        && let Some(schedule) = performance.schedule.cases.get(case as usize)
    {
        performance.gathering = Some(Gathering::new(case, trial, schedule));
    }
    recall(store, &mut performance, at).await?;
    let now = now_micros();
    let age = |at: i64| Duration::from_micros(u64::try_from(now.saturating_sub(at)).unwrap_or(0));
    let due = due.into_iter().map(|(at, effect)| (age(at), effect)).collect();
    Ok(Some(Adopted { performance, due }))
}

/// Takes in again what was stored of the trial at hand. The events that followed from it are in the log.
async fn recall(
    store: &Store,
    performance: &mut Performance,
    at: Option<(u32, u32)>,
) -> Result<(), StoreError> {
    let samples = store.samples(&performance.id).await?;
    let messages = store.messages(&performance.id).await?;
    let numbers = samples.iter().map(|row| (&row.agent, row.sequence));
    for (agent, sequence) in numbers.chain(messages.iter().map(|row| (&row.agent, row.sequence))) {
        let seen = performance.seen.entry(agent.clone()).or_default();
        *seen = sequence.max(*seen);
    }
    let mut samples = samples.into_iter().filter(|row| Some((row.case, row.trial)) == at).peekable();
    let ours = |row: &crate::store::MessageRow| !row.late && Some((row.case, row.trial)) == at;
    // Both come by agent and sequence, so that they are told in the order in which they were said.
    for row in messages.into_iter().filter(ours) {
        while let Some(sample) = samples.next_if(|s| (&s.agent, s.sequence) < (&row.agent, row.sequence)) {
            performance.recall_sample(&sample);
        }
        if let Ok(message) = v1::RunMessage::decode(row.body.as_slice()) {
            // What it means was decided when it came.
            let _ = performance.take(row.agent, message);
        }
    }
    samples.for_each(|sample| performance.recall_sample(&sample));
    // They are stored already.
    performance.messages.clear();
    performance.samples.clear();
    Ok(())
}

/// The moment, to be stored.
pub(crate) fn moment() -> Conducted {
    Conducted { at_micros: now_micros(), clock: boot_id(), clock_nanos: boottime_nanos() }
}

/// For how long a run was not conducted.
pub(crate) fn away(then: &Conducted, now: &Conducted) -> Duration {
    let same = !now.clock.is_empty() && then.clock == now.clock;
    match same.then(|| now.clock_nanos.checked_sub(then.clock_nanos)).flatten() {
        Some(nanos) => Duration::from_nanos(nanos),
        None => {
            Duration::from_micros(u64::try_from(now.at_micros.saturating_sub(then.at_micros)).unwrap_or(0))
        }
    }
}

/// How long agents may take to come back; `None` when every lease has ended for certain.
pub(crate) fn time_to_come_back(away: Duration, patience: Patience) -> Option<Duration> {
    (away < patience.lease() + SLACK).then(|| patience.lost().saturating_sub(away).max(LEAST))
}

impl Performance {
    /// The agents that the trial at hand needs, or waits for.
    pub(crate) fn needed(&self) -> BTreeSet<AgentName> {
        let parties = self.run.index().map_or(&[][..], |index| self.run.parties(index));
        let needs = |agent: &&AgentName| self.run.must_hold(agent) || self.run.waiting().contains(*agent);
        parties.iter().map(|party| &party.agent).filter(needs).cloned().collect()
    }

    /// An agent attached. Whether it was waited for since the controller was started again.
    pub(crate) fn is_back(&mut self, agent: &AgentName) -> bool {
        let waited = self.absent.remove(agent);
        if waited && self.absent.is_empty() {
            self.absent_until = None;
            // What they have to say comes before it is too late for it.
            let soon = Instant::now() + LEAST;
            for (at, event) in &mut self.timers {
                if matches!(event, RunEvent::Late { .. }) {
                    *at = soon.max(*at);
                }
            }
        }
        waited
    }

    /// Nobody waits any longer for those who did not come back.
    pub(crate) fn stayed_away(&mut self) -> Vec<RunEvent> {
        self.absent_until = None;
        let absent = std::mem::take(&mut self.absent);
        let alone = absent == self.needed();
        let lost = absent.into_iter().map(|agent| RunEvent::Lost {
            agent,
            why: "it did not come back after the controller was started again".into(),
        });
        alone.then_some(RunEvent::Interrupt).into_iter().chain(lost).collect()
    }

    /// What ends it when nobody is there and nobody will come.
    pub(crate) fn abandoned(&self) -> Vec<RunEvent> {
        let lost = self.needed().into_iter().map(|agent| RunEvent::Lost {
            agent,
            why: "the controller was away for longer than its lease".into(),
        });
        std::iter::once(RunEvent::Interrupt).chain(lost).collect()
    }
}

#[cfg(test)]
#[path = "adoption_tests.rs"]
mod tests;
