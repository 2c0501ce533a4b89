//! Conducts one run after the other. It awaits what happens, lets the run's state machine decide,
//! stores the event, and then does what is to be done: it decides nothing itself. Where the store
//! refuses, `settling` sees to it that the run has an end all the same.

mod idle;
mod progress;
mod settling;

use crate::adoption::{Adopted, CONDUCTED, away, moment, rebuild, time_to_come_back};
use crate::clock::{boottime_nanos, now_micros};
use crate::decision::decide;
use crate::gathering::Gathering;
use crate::hub::{Heard, Hub};
use crate::line::Waiting;
use crate::performance::Performance;
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
use tuplelab_domain::run::{Effect, Outcome, Party, Phase, Run, RunEvent, TrialPlan};
use tuplelab_domain::schedule::{Assignment, Role, place};
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

    /// Takes up what an earlier life of the controller left: a run that was under way has the first turn,
    /// since its agents' leases run; runs that waited wait again.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn take_up(&self) -> Result<(), StoreError> {
        let WaitingRuns { runs, turns } = self.store.waiting().await?;
        let waiting: Vec<Waiting> = runs
            .into_iter()
            .map(|(run, user, submitted_micros)| Waiting { run, user, submitted_micros })
            .collect();
        let queued: BTreeSet<&RunId> = waiting.iter().map(|waiting| &waiting.run).collect();
        let unfinished = self.store.unfinished().await?;
        self.queue.take_up(unfinished.into_iter().filter(|run| !queued.contains(run)).collect());
        self.queue.put_back(waiting, &turns);
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
        if record.phase != Phase::Queued {
            return self.adopt(id).await;
        }
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
                Err(_) if self.begun.elapsed() < self.hub.patience().lost() => self.idle_for(SETTLE).await,
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
        self.perform_to_its_end(&mut performance, VecDeque::from([RunEvent::Begin])).await
    }

    /// Goes on with a run that an earlier life of the controller left under way, if agents may still hold
    /// their part of it.
    async fn adopt(&mut self, id: &RunId) -> Result<(), StoreError> {
        let Some(Adopted { mut performance, due }) = rebuild(&self.store, id).await? else {
            warn!("it cannot be rebuilt from what is stored: interrupted");
            let (event, outcome) = (RunEvent::Interrupt, Outcome::Interrupted);
            self.store.append_event(id, now_micros(), &event, Phase::Finished, Some(&outcome)).await?;
            self.tell_end(id, &outcome);
            return Ok(());
        };
        let away = self.store.conducted(id).await?.map(|then| away(&then, &moment()));
        let time = away.and_then(|away| time_to_come_back(away, self.hub.patience()));
        let Some(time) = time else {
            warn!(?away, "was not conducted for longer than a lease: interrupted");
            let events = performance.abandoned().into();
            return self.perform_to_its_end(&mut performance, events).await;
        };
        info!(phase = performance.run.phase().name(), ?away, "taken up again");
        for (age, effect) in due {
            self.owe(&mut performance, effect, age);
        }
        // They are given to each agent when it comes, if it holds the trial.
        performance.told = performance.issued.len();
        performance.absent = performance.needed();
        performance.absent_until = (!performance.absent.is_empty()).then(|| Instant::now() + time);
        let here = self.hub.attached();
        let events =
            here.into_iter().filter_map(|(agent, holding)| self.attached(&mut performance, &agent, holding));
        let events = events.collect();
        self.perform_to_its_end(&mut performance, events).await
    }

    async fn perform_to_its_end(
        &mut self,
        performance: &mut Performance,
        events: VecDeque<RunEvent>,
    ) -> Result<(), StoreError> {
        let played = self.play(performance, events).await;
        if played.is_err() {
            // The store is gone, but nothing may be left running.
            if let Some(index) = performance.run.index() {
                let parties =
                    performance.run.parties(index).iter().map(|party| party.agent.clone()).collect();
                self.release(performance, index, parties);
                self.tell(performance);
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
    async fn play(
        &mut self,
        performance: &mut Performance,
        mut events: VecDeque<RunEvent>,
    ) -> Result<(), StoreError> {
        let mut conducted = tokio::time::interval(CONDUCTED);
        let mut flush = tokio::time::interval(FLUSH);
        let mut cancelled = false;
        while performance.run.outcome().is_none() {
            if let Some(event) = events.pop_front() {
                let stop = self.stop(performance);
                stop.unless_in_time(self.apply(performance, event)).await?;
                continue;
            }
            let timer = performance.timers.iter().map(|(at, _)| *at).min();
            let timer = performance.absent_until.or(timer);
            let queue = self.queue.clone();
            tokio::select! {
                Some(heard) = self.heard.recv() => events.extend(self.hear(performance, heard).await),
                () = queue.cancelled(&performance.id), if !cancelled => {
                    cancelled = true;
                    events.push_back(RunEvent::Cancel);
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {
                    if performance.absent_until.is_some() {
                        events.extend(performance.stayed_away());
                        continue;
                    }
                    let now = Instant::now();
                    events.extend(performance.timers.extract_if(.., |(at, _)| *at <= now).map(|(_, event)| event));
                }
                _ = conducted.tick() => match self.store.conducts(&performance.id, &moment()).await {
                    Err(error) if error.may_pass() => warn!(%error, "the moment could not be stored"),
                    stored => stored?,
                },
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
        for effect in decide(&self.store, performance, &event).await? {
            if let Effect::Prepare { index } = effect
                && let Some((case, trial)) = performance.steps.get(index).copied()
                && let Some(schedule) = performance.schedule.cases.get(case as usize)
            {
                performance.gathering = Some(Gathering::new(case, trial, schedule));
            }
            self.owe(performance, effect, Duration::ZERO);
        }
        self.tell(performance);
        self.tell_progress(performance);
        Ok(())
    }

    /// Gives the orders that were not given yet.
    fn tell(&self, performance: &mut Performance) {
        for (agent, order) in performance.issued.iter().skip(performance.told) {
            self.hub.tell(agent, to_agent::Body::Run(order.clone()));
        }
        performance.told = performance.issued.len();
    }

    /// Makes of an effect the orders to give and the times to mind; it was asked for so long ago.
    fn owe(&self, performance: &mut Performance, effect: Effect, age: Duration) {
        match effect {
            Effect::Prepare { index } => {
                let Some((case, trial)) = performance.steps.get(index).copied() else { return };
                let Some(schedule) = performance.schedule.cases.get(case as usize) else { return };
                let ends_after =
                    self.hub.patience().lost().saturating_add(
                        performance.run.trial(index).map_or(Duration::ZERO, TrialPlan::longest),
                    );
                let ends_after_millis = u64::try_from(ends_after.as_millis()).unwrap_or(u64::MAX);
                let token = trial_token(&performance.id, case, trial);
                let assignments: Vec<Assignment> = schedule.assignments.clone();
                performance.forget_orders();
                for assignment in assignments {
                    let agent = assignment.agent.clone();
                    let prepare =
                        v1::Prepare { token, assignment: Some((&assignment).into()), ends_after_millis };
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
                let left = time.saturating_sub(age);
                performance.timers.push((Instant::now() + left, RunEvent::HoldOver { index }));
            }
            Effect::Watch { deadline, time } => {
                let left = time.saturating_sub(age);
                performance.timers.push((Instant::now() + left, RunEvent::Late { deadline }));
            }
            Effect::Close { .. } => {}
            Effect::Finish { outcome } => {
                info!(%outcome, "finished");
                self.tell_end(&performance.id, &outcome);
            }
        }
    }

    fn release(&self, performance: &mut Performance, index: usize, agents: Vec<AgentName>) {
        // What came before is moot: who comes back is only to close.
        performance.forget_orders();
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
        performance.issued.push((agent.clone(), order));
    }

    /// An agent attached: the orders of the trial at hand are given again, if it holds it or is still to
    /// prepare it. If it must hold it and does not, that is an event.
    fn attached(
        &self,
        performance: &mut Performance,
        agent: &AgentName,
        holding: Option<v1::Holding>,
    ) -> Option<RunEvent> {
        let (run, at) = (performance.id.to_string(), performance.at());
        let is_this = |h: &v1::Holding| h.run == run && h.epoch == EPOCH && at == Some((h.case, h.trial));
        if let Some(other) = holding.clone().filter(|h| h.ended.is_empty() && !is_this(h)) {
            self.let_go(agent, other);
        }
        let waited = performance.is_back(agent);
        let ended = holding.filter(is_this).map(|holding| holding.ended);
        if performance.run.must_hold(agent) && ended.as_deref() != Some("") {
            return Some(match ended {
                // It kept to its lease, and it was the controller that was away.
                Some(_) if waited => RunEvent::Interrupt,
                why => RunEvent::Lost {
                    agent: agent.clone(),
                    why: why.unwrap_or_else(|| "it was started again and does not hold its trial".into()),
                },
            });
        }
        for (_, order) in performance.issued.iter().filter(|(name, _)| name == agent) {
            self.hub.tell(agent, to_agent::Body::Run(order.clone()));
        }
        None
    }

    /// What an agent's word means to the run, if anything.
    async fn hear(&self, performance: &mut Performance, heard: Heard) -> Option<RunEvent> {
        match heard {
            Heard::Surveyed(_) => None,
            Heard::Lost(agent, why) => Some(RunEvent::Lost { agent, why }),
            Heard::Attached(agent, holding) => self.attached(performance, &agent, holding),
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
                if performance.at() != Some((message.case, message.trial)) {
                    performance.keep(&agent, &message, true);
                    return None;
                }
                performance.take(agent.clone(), *message).unwrap_or_else(|why| {
                    warn!(%agent, %why, "a message cannot be understood");
                    Some(RunEvent::Failed { agent, why })
                })
            }
        }
    }

    /// Stores what was heard and then says so: what is acknowledged survives.
    async fn flush(&self, performance: &mut Performance) -> Result<(), StoreError> {
        if !performance.samples.is_empty() || !performance.messages.is_empty() {
            self.store.put_heard(&performance.samples, &performance.messages).await?;
            performance.samples.clear();
            performance.messages.clear();
        }
        for (agent, sequence) in std::mem::take(&mut performance.unacknowledged) {
            self.acknowledge(&agent, &performance.id.0, EPOCH, sequence);
        }
        Ok(())
    }
}
