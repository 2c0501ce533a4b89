//! Conducts one run after the other. It awaits what happens, lets the run's state machine decide,
//! stores the event, and then does what is to be done: it decides nothing itself. Where the store
//! refuses, `settling` sees to it that the run has an end all the same.

mod settling;

use crate::clock::{boottime_nanos, now_micros};
use crate::gathering::Gathering;
use crate::hub::{Heard, Hub};
use crate::line::Waiting;
use crate::performance::{Performance, sample_row};
use crate::queue::Queue;
use crate::stop::Stop;
use crate::store::{Store, StoreError, WaitingRuns};
use settling::Next;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{Instrument as _, error, info, info_span, warn};
use tuplelab_domain::id::{AgentName, RunId, trial_token};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::run::{Effect, Outcome, Party, Phase, Run, RunEvent};
use tuplelab_domain::schedule::{Assignment, Role, place};
use tuplelab_domain::verdict::{JUDGE_VERSION, judge};
use tuplelab_proto::v1::{self, RunUpdate, run_order::Order, to_agent};

/// The first, and so far only, life of a run.
const EPOCH: u32 = 1;
/// How often samples are stored and acknowledged, and watchers told.
const FLUSH: Duration = Duration::from_millis(200);
/// How long agents may take to read their hosts' facts.
const SURVEY: Duration = Duration::from_secs(3);
/// Between two attempts: to store what became of a run, to place one while agents come back.
const SETTLE: Duration = Duration::from_secs(1);
/// Samples that wait for a store that does not take them, before the run is given up for it.
const MOST_SAMPLES: usize = 20_000;
/// From the word to the deed: long enough for every agent to have the word in time.
const LEAD_NANOS: u64 = 50_000_000;

/// Ends runs that were under way and that nobody conducts any more as interrupted. Those that wait go on
/// waiting.
///
/// # Errors
/// The store cannot be read or written.
pub async fn interrupt(store: &Store) -> Result<(), StoreError> {
    for id in store.unfinished().await? {
        if store.phase(&id).await? == Phase::Queued {
            continue;
        }
        warn!(run = %id, "was under way when the controller ended: interrupted");
        let (event, outcome) = (RunEvent::Interrupt, Outcome::Interrupted);
        store.append_event(&id, now_micros(), &event, Phase::Finished, Some(&outcome)).await?;
    }
    Ok(())
}

/// The conductor: owns what all agents say.
pub struct Conductor {
    store: Store,
    hub: Hub,
    queue: Queue,
    heard: mpsc::Receiver<Heard>,
    begun: Instant,
}

impl Conductor {
    /// A conductor of the runs in this queue.
    pub fn new(store: Store, hub: Hub, queue: Queue, heard: mpsc::Receiver<Heard>) -> Self {
        Self { store, hub, queue, heard, begun: Instant::now() }
    }

    /// Takes up what an earlier life of the controller left: runs that waited wait again, runs that
    /// were under way are ended as interrupted.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn take_up(&self) -> Result<(), StoreError> {
        interrupt(&self.store).await?;
        let WaitingRuns { runs, turns } = self.store.waiting().await?;
        let waiting =
            runs.into_iter().map(|(run, user, submitted_micros)| Waiting { run, user, submitted_micros });
        self.queue.put_back(waiting.collect(), &turns);
        Ok(())
    }

    /// Conducts for ever.
    pub async fn work(mut self) {
        loop {
            let id = tokio::select! {
                id = self.queue.next() => id,
                Some(heard) = self.heard.recv() => {
                    self.idle(heard).await;
                    continue;
                }
            };
            let span = info_span!("run", run = %id);
            while let Err(error) = self.conduct(&id).instrument(span.clone()).await {
                error!(run = %id, %error, "the run could not be conducted to its end");
                if self.settle(&id, &error).await == Next::Over {
                    break;
                }
            }
            self.queue.done(&id);
        }
    }

    async fn idle_for(&mut self, time: Duration) {
        let late = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(late) => return,
                Some(heard) = self.heard.recv() => self.idle(heard).await,
            }
        }
    }

    /// What is heard while no run is under way: late words of runs that are over are stored, and
    /// acknowledged so that nobody keeps them any longer.
    async fn idle(&self, heard: Heard) {
        if let Heard::Message(agent, message) = heard {
            self.stale(&agent, &message).await;
        }
    }

    async fn stale(&self, agent: &AgentName, message: &v1::RunMessage) {
        if let Some(row) = sample_row(agent, message)
            && let Err(error) = self.store.put_samples(&[row]).await
        {
            warn!(%error, "a late sample could not be stored");
            return;
        }
        self.acknowledge(agent, &message.run, message.epoch, message.sequence);
    }

    fn acknowledge(&self, agent: &AgentName, run: &str, epoch: u32, sequence: u64) {
        self.hub.tell(agent, to_agent::Body::Ack(v1::Ack { run: run.into(), epoch, sequence }));
    }

    fn tell_end(&self, id: &RunId, outcome: &Outcome) {
        self.queue.tell(
            id,
            RunUpdate {
                run: id.to_string(),
                phase: Phase::Finished.name().into(),
                outcome: outcome.name().into(),
                why: outcome.to_string(),
                ..Default::default()
            },
        );
    }

    async fn conduct(&mut self, id: &RunId) -> Result<(), StoreError> {
        let record = self.store.record(id).await?;
        let plan = match PlanFile::parse(&record.plan_source).and_then(check) {
            Ok(plan) => plan,
            // It was checked when it came in; another version of this program may have been stricter.
            Err(problems) => {
                let what = problems.first().map(|problem| problem.what.clone()).unwrap_or_default();
                return self
                    .end_unplaced(id, &RunEvent::Unplaced { why: format!("the plan has a problem: {what}") })
                    .await;
            }
        };
        let queue = self.queue.clone();
        let (inventory, schedule) = loop {
            let surveyed = tokio::select! {
                () = queue.cancelled(id) => false,
                () = self.survey() => true,
            };
            if !surveyed {
                return self.end_unplaced(id, &RunEvent::Cancel).await;
            }
            let inventory = self.hub.inventory();
            match place(&plan, &inventory) {
                Ok(schedule) => break (inventory, schedule),
                // Agents of an earlier life of this controller have as long to come back as any.
                Err(_) if self.begun.elapsed() < self.hub.patience().lost => self.idle_for(SETTLE).await,
                Err(shortfalls) => {
                    let why = shortfalls.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
                    return self.end_unplaced(id, &RunEvent::Unplaced { why }).await;
                }
            }
        };
        self.store.put_hosts(id, &inventory.hosts).await?;
        self.store.put_schedule(id, &plan, &schedule).await?;
        let mut performance = Performance::new(id.clone(), plan, schedule);
        for evidence in &performance.evidence {
            self.store.put_trial(id, evidence, false).await?;
        }
        let played = self.play(&mut performance).await;
        if played.is_err() {
            // The store is gone, but nothing may be left running.
            if let Some(index) = performance.run.index() {
                let parties =
                    performance.run.parties(index).iter().map(|party| party.agent.clone()).collect();
                self.release(&mut performance, index, parties);
            }
        }
        played
    }

    async fn end_unplaced(&self, id: &RunId, event: &RunEvent) -> Result<(), StoreError> {
        let (run, _) = Run::queued().step(event);
        self.store.append_event(id, now_micros(), event, run.phase(), run.outcome()).await?;
        if let Some(outcome) = run.outcome() {
            info!(%outcome, "ended before it began");
            self.tell_end(id, outcome);
        }
        Ok(())
    }

    /// Waits until every attached agent has read its facts again, for a bounded time.
    async fn survey(&mut self) {
        let mut waiting: BTreeSet<AgentName> = self.hub.survey().into_iter().collect();
        let all = async {
            while !waiting.is_empty() {
                match self.heard.recv().await {
                    Some(Heard::Surveyed(agent) | Heard::Lost(agent, _)) => drop(waiting.remove(&agent)),
                    Some(heard) => self.idle(heard).await,
                    None => return,
                }
            }
        };
        let late = timeout(SURVEY, all).await.is_err();
        if late {
            warn!(agents = ?waiting, "did not answer the survey; what they said before is used");
        }
    }

    /// The loop of a run: await, decide, store, perform.
    async fn play(&mut self, performance: &mut Performance) -> Result<(), StoreError> {
        let mut events = VecDeque::from([RunEvent::Begin]);
        let mut flush = tokio::time::interval(FLUSH);
        let mut cancelled = false;
        while performance.run.outcome().is_none() {
            if let Some(event) = events.pop_front() {
                let stop = self.stop(performance);
                stop.unless_in_time(self.apply(performance, event)).await?;
                continue;
            }
            let timer = performance.timers.iter().map(|(at, _)| *at).min();
            let queue = self.queue.clone();
            tokio::select! {
                Some(heard) = self.heard.recv() => events.extend(self.hear(performance, heard).await),
                () = queue.cancelled(&performance.id), if !cancelled => {
                    cancelled = true;
                    events.push_back(RunEvent::Cancel);
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    let now = Instant::now();
                    events.extend(performance.timers.extract_if(.., |(at, _)| *at <= now).map(|(_, event)| event));
                }
                _ = flush.tick() => {
                    let stop = self.stop(performance);
                    match stop.unless_in_time(self.flush(performance)).await {
                        // What was heard is kept, and not acknowledged, until there is room.
                        Err(error) if error.may_pass() && performance.samples.len() < MOST_SAMPLES => {
                            warn!(%error, samples = performance.samples.len(), "samples wait for the store");
                        }
                        flushed => flushed?,
                    }
                    self.tell_progress(performance);
                }
            }
        }
        self.flush(performance).await
    }

    /// What stops the trial at hand, for a store that takes long.
    fn stop(&self, performance: &Performance) -> Stop {
        let at = performance.run.index().and_then(|index| Some((index, *performance.steps.get(index)?)));
        let orders = at.map_or_else(Vec::new, |(index, (case, trial))| {
            let order = |party: &Party| {
                let (run, order) = (performance.id.to_string(), Some(Order::Release(v1::Release {})));
                (party.agent.clone(), v1::RunOrder { run, epoch: EPOCH, case, trial, order })
            };
            performance.run.parties(index).iter().map(order).collect()
        });
        Stop { hub: self.hub.clone(), queue: self.queue.clone(), id: performance.id.clone(), orders }
    }

    async fn apply(&mut self, performance: &mut Performance, event: RunEvent) -> Result<(), StoreError> {
        let (run, effects) = performance.run.clone().step(&event);
        // A finished run's verdicts come before the event that finishes it: who sees the end of a
        // run finds its verdicts.
        for effect in &effects {
            match effect {
                Effect::Close { index, whole } => self.close_trial(performance, *index, *whole).await?,
                Effect::Finish { outcome } => {
                    let complete = *outcome == Outcome::Completed;
                    let verdicts = judge(&performance.plan, &performance.evidence, complete);
                    self.store.put_verdicts(&performance.id, JUDGE_VERSION, now_micros(), &verdicts).await?;
                }
                _ => {}
            }
        }
        self.store.append_event(&performance.id, now_micros(), &event, run.phase(), run.outcome()).await?;
        if run.phase() != performance.run.phase() {
            let case = run.index().and_then(|index| performance.steps.get(index)).map(|(case, _)| *case);
            info!(from = performance.run.phase().name(), to = run.phase().name(), case, "phase");
        }
        performance.run = run;
        for effect in effects {
            self.perform(performance, effect);
        }
        self.tell_progress(performance);
        Ok(())
    }

    fn perform(&mut self, performance: &mut Performance, effect: Effect) {
        match effect {
            Effect::Prepare { index } => {
                let Some((case, trial)) = performance.steps.get(index).copied() else { return };
                let Some(schedule) = performance.schedule.cases.get(case as usize) else { return };
                performance.gathering = Some(Gathering::new(case, trial, schedule));
                performance.issued.clear();
                let token = trial_token(&performance.id, case, trial);
                let assignments: Vec<Assignment> = schedule.assignments.clone();
                for assignment in assignments {
                    let agent = assignment.agent.clone();
                    let prepare = v1::Prepare { token, assignment: Some((&assignment).into()) };
                    self.order(performance, index, &agent, Order::Prepare(prepare));
                }
            }
            Effect::Go { index } => {
                let at = boottime_nanos() + LEAD_NANOS;
                self.order_all(performance, index, &Order::Go(v1::Go { at }));
            }
            Effect::Step { index, step } => {
                let Some((case, _)) = performance.steps.get(index).copied() else { return };
                let placed = performance.schedule.cases.get(case as usize);
                let Some(placed) = placed.and_then(|case| case.steps.get(step as usize)).cloned() else {
                    return;
                };
                let order = v1::Step { number: step, action: placed.action.to_string() };
                self.order(performance, index, &placed.agent, Order::Step(order));
            }
            Effect::Move { index } => self.order_clients(performance, index, &Order::Move(v1::Move {})),
            Effect::Rest { index } => self.order_clients(performance, index, &Order::Rest(v1::Rest {})),
            Effect::Halt { index } => self.order_all(performance, index, &Order::Halt(v1::Halt {})),
            Effect::Count { index } => self.order_all(performance, index, &Order::Count(v1::Count {})),
            Effect::Release { index, agents } => self.release(performance, index, agents),
            Effect::Hold { index, time } => {
                performance.timers.push((Instant::now() + time, RunEvent::HoldOver { index }));
            }
            Effect::Watch { deadline, time } => {
                performance.timers.push((Instant::now() + time, RunEvent::Late { deadline }));
            }
            Effect::Close { .. } => {}
            Effect::Finish { outcome } => {
                info!(%outcome, "finished");
                self.tell_end(&performance.id, &outcome);
            }
        }
    }

    fn release(&self, performance: &mut Performance, index: usize, agents: Vec<AgentName>) {
        for agent in agents {
            self.order(performance, index, &agent, Order::Release(v1::Release {}));
        }
    }

    fn order_all(&self, performance: &mut Performance, index: usize, order: &Order) {
        let parties: Vec<Party> = performance.run.parties(index).to_vec();
        for party in parties {
            self.order(performance, index, &party.agent, order.clone());
        }
    }

    fn order_clients(&self, performance: &mut Performance, index: usize, order: &Order) {
        let parties: Vec<Party> = performance.run.parties(index).to_vec();
        for party in parties.iter().filter(|party| party.role == Role::Client) {
            self.order(performance, index, &party.agent, order.clone());
        }
    }

    fn order(&self, performance: &mut Performance, index: usize, agent: &AgentName, order: Order) {
        let Some((case, trial)) = performance.steps.get(index).copied() else { return };
        let run = performance.id.to_string();
        let order = v1::RunOrder { run, epoch: EPOCH, case, trial, order: Some(order) };
        self.hub.tell(agent, to_agent::Body::Run(order.clone()));
        performance.issued.push((agent.clone(), order));
    }

    /// What an agent's word means to the run, if anything.
    async fn hear(&self, performance: &mut Performance, heard: Heard) -> Option<RunEvent> {
        match heard {
            Heard::Surveyed(_) => None,
            Heard::Lost(agent, why) => Some(RunEvent::Lost { agent, why }),
            Heard::Reattached(agent) => {
                for (_, order) in performance.issued.iter().filter(|(name, _)| *name == agent) {
                    self.hub.tell(&agent, to_agent::Body::Run(order.clone()));
                }
                None
            }
            Heard::Message(agent, message) => {
                if message.run != performance.id.0 || message.epoch != EPOCH {
                    self.stale(&agent, &message).await;
                    return None;
                }
                let seen = performance.seen.entry(agent.clone()).or_default();
                let known = message.sequence <= *seen;
                *seen = message.sequence.max(*seen);
                performance.unacknowledged.insert(agent.clone(), *seen);
                if known {
                    return None;
                }
                let at = performance.run.index().and_then(|index| performance.steps.get(index));
                if at != Some(&(message.case, message.trial)) {
                    performance.samples.extend(sample_row(&agent, &message));
                    return None;
                }
                performance.take(agent.clone(), *message).unwrap_or_else(|why| {
                    warn!(%agent, %why, "a message cannot be understood");
                    Some(RunEvent::Failed { agent, why })
                })
            }
        }
    }

    async fn close_trial(
        &self,
        performance: &mut Performance,
        index: usize,
        whole: bool,
    ) -> Result<(), StoreError> {
        let case = performance.steps.get(index).map(|(case, _)| *case as usize);
        let schedule = case.and_then(|case| performance.schedule.cases.get(case));
        let (Some(gathering), Some(schedule)) = (performance.gathering.take(), schedule) else {
            return Ok(());
        };
        let evidence = gathering.close(schedule, whole);
        self.store.put_trial(&performance.id, &evidence, whole).await?;
        performance.evidence.push(evidence);
        Ok(())
    }

    /// Stores what was heard and then says so: what is acknowledged survives.
    async fn flush(&self, performance: &mut Performance) -> Result<(), StoreError> {
        if !performance.samples.is_empty() {
            self.store.put_samples(&performance.samples).await?;
            performance.samples.clear();
        }
        for (agent, sequence) in std::mem::take(&mut performance.unacknowledged) {
            self.acknowledge(&agent, &performance.id.0, EPOCH, sequence);
        }
        Ok(())
    }

    fn tell_progress(&self, performance: &Performance) {
        let Some(index) = performance.run.index() else { return };
        let Some((case, _)) = performance.steps.get(index) else { return };
        let Some(schedule) = performance.schedule.cases.get(*case as usize) else { return };
        let steps = performance.gathering.as_ref().map(Gathering::steps).filter(|(_, all)| *all > 0);
        let stepping = performance.run.phase() == Phase::Ramping && steps.is_some();
        let (established, failed) = match &performance.gathering {
            _ if stepping => (steps.map_or(0, |(done, _)| done), 0),
            Some(gathering) => gathering.progress(),
            None => {
                performance.evidence.last().map_or((0, 0), |evidence| (evidence.held(), evidence.failed()))
            }
        };
        self.queue.tell(
            &performance.id,
            RunUpdate {
                run: performance.id.to_string(),
                phase: if stepping { "stepping" } else { performance.run.phase().name() }.into(),
                step: index as u32 + 1,
                steps: performance.steps.len() as u32,
                case: performance
                    .plan
                    .cases
                    .get(*case as usize)
                    .map(|case| case.name.clone())
                    .unwrap_or_default(),
                established,
                target: steps.map_or(schedule.target, |(_, all)| all),
                failed,
                outcome: String::new(),
                why: String::new(),
            },
        );
    }
}
