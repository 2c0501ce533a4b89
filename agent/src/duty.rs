//! What the agent does for a run at the moment: one trial, its worker, its settings, its counts.
//! Orders may come twice (a controller repeats them after a reconnect) and never change what was
//! done already.

use crate::clock::{Offset, boot_id, boottime_nanos};
use crate::engine::{Engine, EngineEvent};
use crate::observe::Observers;
use crate::spool::Spool;
use crate::{census, readings, sysctls, tracking};
use std::path::PathBuf;
use tokio::sync::mpsc;
use tracing::{info, warn};
use tuplelab_domain::sample::{Census, Plateau, Readings};
use tuplelab_domain::schedule::{Assignment, WorkerOrder, WorkerReport};
use tuplelab_domain::script::{Action, Answer};
use tuplelab_proto::v1::{self, run_message::Body, run_order::Order};

/// Why a trial was given up while the controller was not heard.
const LEASE_ENDED: &str = "the lease from the controller ended";

/// Which trial a message is about.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Key {
    run: String,
    epoch: u32,
    case: u32,
    trial: u32,
}

/// The answers that a count waits for.
#[derive(Debug, Default)]
struct Counting {
    figures: Option<Plateau>,
    kernel: Option<(Census, Readings)>,
}

/// A trial under way.
#[derive(Debug)]
struct Trial {
    key: Key,
    /// It ends here then, whatever the controller says (CLOCK_BOOTTIME, nanoseconds).
    hard_end: u64,
    assignment: Assignment,
    engine: Engine,
    settings: Option<sysctls::SettingGuard>,
    /// After the engine in this order, so that on a drop connections end before their tracking does.
    _tracking: Option<tracking::TrackingGuard>,
    before: Readings,
    went: bool,
    moved: bool,
    counting: Option<Counting>,
    last: Option<Plateau>,
    steps: Steps,
}

/// A script's steps, as far as they have come.
#[derive(Debug, Default)]
struct Steps {
    /// The number of the step that is to come: one that comes again is known by its number.
    next: u32,
    /// What the agent's own steps leave behind; away while one is done.
    observers: Observers,
    /// The step with which the worker ends.
    end: Option<u32>,
    /// The worker has ended by a step.
    ended: bool,
}

/// What comes back from inside the agent.
#[derive(Debug)]
pub enum Happening {
    /// A worker spoke or ended.
    Engine(u64, EngineEvent),
    /// The kernel was counted, for the worker of that generation.
    Counted(u64, Result<Box<(Census, Readings)>, String>),
    /// A step of the agent's own was done, for the worker of that generation.
    Observed(u64, u32, Box<(Observers, Answer)>),
}

/// The agent's part in the run that it was given, if any.
#[derive(Debug)]
pub struct Duty {
    program: PathBuf,
    engine_events: mpsc::Sender<(u64, EngineEvent)>,
    happenings: mpsc::Sender<Happening>,
    generation: u64,
    trial: Option<Trial>,
    /// The trial that ended here last, and why if it was given up: it is not begun again.
    over: Option<(Key, Option<String>)>,
    /// Until when load is allowed (CLOCK_BOOTTIME, nanoseconds).
    lease_until: u64,
    /// What was said and not yet acknowledged.
    pub spool: Spool,
}

impl Duty {
    /// An agent without work, and with what it has still to say. Workers are `program worker`.
    pub fn new(program: PathBuf, happenings: mpsc::Sender<Happening>, spool: Spool) -> Self {
        let (engine_events, mut heard) = mpsc::channel(64);
        let forward = happenings.clone();
        tokio::spawn(async move {
            while let Some((generation, event)) = heard.recv().await {
                if forward.send(Happening::Engine(generation, event)).await.is_err() {
                    return;
                }
            }
        });
        let (generation, lease_until) = (0, 0);
        Self { program, engine_events, happenings, generation, trial: None, over: None, lease_until, spool }
    }

    /// The trial that is held, or was given up last: what the controller is told upon attaching.
    pub fn holding(&self) -> Option<v1::Holding> {
        let holding = |key: &Key, ended: &str| v1::Holding {
            run: key.run.clone(),
            epoch: key.epoch,
            case: key.case,
            trial: key.trial,
            ended: ended.to_owned(),
        };
        match (&self.trial, &self.over) {
            (Some(trial), _) => Some(holding(&trial.key, "")),
            (None, Some((key, Some(why)))) => Some(holding(key, why)),
            (None, _) => None,
        }
    }

    /// Load is allowed until then; the worker is told, with the trial's own end.
    pub async fn lease(&mut self, until: u64) {
        self.lease_until = until;
        if let Some(trial) = &mut self.trial {
            trial.engine.lease(until.min(trial.hard_end)).await;
        }
    }

    /// When something here ends by itself; `None` while nothing is held.
    pub fn ends_at(&self) -> Option<u64> {
        self.trial.as_ref().map(|trial| trial.hard_end.min(self.lease_until))
    }

    /// Ends what has no right to go on: looked at before anything else is done, above all after this
    /// process was stopped.
    pub fn mind(&mut self, now: u64) {
        let Some(trial) = &self.trial else { return };
        if now >= self.lease_until {
            self.give_up(LEASE_ENDED.into());
        } else if now >= trial.hard_end {
            self.give_up("the longest time that this trial may take is over".into());
        }
    }

    fn say(&mut self, key: &Key, body: Body) {
        self.spool.push(v1::RunMessage {
            run: key.run.clone(),
            epoch: key.epoch,
            case: key.case,
            trial: key.trial,
            sequence: 0,
            body: Some(body),
        });
    }

    /// Carries out an order of the controller.
    pub async fn obey(&mut self, order: v1::RunOrder, clock: &Offset) {
        let key = Key { run: order.run, epoch: order.epoch, case: order.case, trial: order.trial };
        let Some(order) = order.order else { return };
        let now = boottime_nanos();
        self.mind(now);
        let current = self.trial.as_ref().is_some_and(|trial| trial.key == key);
        let over = self.over.as_ref().is_some_and(|(over, _)| *over == key);
        match order {
            Order::Prepare(_) if current || over => {}
            Order::Prepare(_) if now >= self.lease_until => {
                self.say(&key, Body::Failed(v1::Failed { why: LEASE_ENDED.into() }));
            }
            Order::Prepare(prepare) => {
                if let Err(why) = self.prepare(&key, prepare).await {
                    warn!(run = %key.run, case = key.case, %why, "refused");
                    self.say(&key, Body::Failed(v1::Failed { why }));
                }
            }
            // A release must be answered, whatever became of the trial, or the run waits for it.
            Order::Release(_) if !current => self.say(&key, Body::Collected(v1::Collected { last: None })),
            // What became of it was said when it ended.
            _ if over => {}
            _ if !current => {
                let why = "this agent does not hold the trial: it was started again".into();
                self.say(&key, Body::Failed(v1::Failed { why }));
            }
            Order::Go(go) => {
                let at_boottime_nanos = clock.to_ours(go.at);
                if let Some(trial) = self.trial.as_mut().filter(|trial| !trial.went) {
                    trial.went = true;
                    self.order(&WorkerOrder::Go { at_boottime_nanos }).await;
                }
            }
            Order::Move(_) => {
                if let Some(trial) = self.trial.as_mut().filter(|trial| !trial.moved) {
                    trial.moved = true;
                    self.order(&WorkerOrder::Move).await;
                }
            }
            Order::Rest(_) => self.order(&WorkerOrder::Rest).await,
            Order::Halt(_) => self.order(&WorkerOrder::Halt).await,
            Order::Count(_) => self.count().await,
            Order::Step(step) => self.step(&key, step).await,
            Order::Release(_) => self.release(&key).await,
        }
    }

    /// Orders to a worker that is gone are moot: its end is reported by itself.
    async fn order(&mut self, order: &WorkerOrder) {
        let Some(trial) = &mut self.trial else { return };
        match trial.engine.order(order).await {
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => self.give_up(error.to_string()),
            Err(error) => warn!(%error, "the worker takes no orders"),
            Ok(()) => {}
        }
    }

    async fn prepare(&mut self, key: &Key, prepare: v1::Prepare) -> Result<(), String> {
        if let Some(trial) = &self.trial {
            return Err(format!("this agent is busy with run {}", trial.key.run));
        }
        let assignment = prepare.assignment.ok_or("the assignment is missing")?;
        let assignment = Assignment::try_from(assignment).map_err(|error| error.to_string())?;
        let settings = match assignment.sysctls.is_empty() {
            true => None,
            false => Some(sysctls::apply(&assignment.sysctls).map_err(|error| error.to_string())?),
        };
        let tracking = match assignment.conntrack {
            true => Some(tracking::activate().map_err(|error| error.to_string())?),
            false => None,
        };
        let before = readings::readings();
        self.generation += 1;
        let mut engine = Engine::start(&self.program, self.generation, self.engine_events.clone())
            .map_err(|error| format!("failed to start {} worker: {error}", self.program.display()))?;
        let hard_end = match prepare.ends_after_millis {
            0 => u64::MAX,
            millis => boottime_nanos().saturating_add(millis.saturating_mul(1_000_000)),
        };
        let took = |error| format!("the worker took no order: {error}");
        // Without one it would know no end at all.
        let lease = WorkerOrder::Lease { until_boottime_nanos: self.lease_until.min(hard_end) };
        engine.order(&lease).await.map_err(took)?;
        let (token, files, work) = (prepare.token, assignment.files, assignment.work.clone());
        let order = WorkerOrder::Prepare { token, files, work };
        engine.order(&order).await.map_err(took)?;
        info!(run = %key.run, case = key.case, trial = key.trial, role = assignment.role().name(), "prepare");
        let key = key.clone();
        self.trial = Some(Trial {
            key,
            hard_end,
            assignment,
            engine,
            settings,
            _tracking: tracking,
            before,
            went: false,
            moved: false,
            counting: None,
            last: None,
            steps: Steps::default(),
        });
        Ok(())
    }

    /// Does a step of a script: the worker's by an order, the kernel's questions here.
    async fn step(&mut self, key: &Key, step: v1::Step) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.steps.next <= step.number) else { return };
        let number = step.number;
        trial.steps.next = number.saturating_add(1);
        let action: Action = match step.action.parse() {
            Ok(action) => action,
            Err(why) => return self.give_up(format!("step '{}' is not understood: {why}", step.action)),
        };
        match action {
            Action::Stop | Action::Continue => {
                let done = trial.engine.set_stopped(action == Action::Stop);
                let answer =
                    done.map_or_else(|errno| Answer::of(format!("{errno:?}")), |()| Answer::of("ok"));
                self.answered(key, number, &answer);
            }
            action if action.is_the_agents() => {
                let mut observers = std::mem::take(&mut trial.steps.observers);
                let (generation, before) = (trial.engine.generation(), trial.before.clone());
                let happenings = self.happenings.clone();
                tokio::task::spawn_blocking(move || {
                    let answer = observers.perform(&action, &before);
                    let done = Box::new((observers, answer));
                    let _ = happenings.blocking_send(Happening::Observed(generation, number, done));
                });
            }
            _ if trial.steps.ended => self.answered(key, number, &Answer::of("ENDED")),
            _ if trial.engine.is_stopped() => self.answered(key, number, &Answer::of("STOPPED")),
            action => {
                trial.steps.end = (action == Action::End).then_some(number);
                self.order(&WorkerOrder::Step { number, action }).await;
            }
        }
    }

    fn answered(&mut self, key: &Key, number: u32, answer: &Answer) {
        self.say(key, Body::Answered(v1::Answered { number, answer: Some(answer.into()) }));
    }

    /// The worker closes everything; where a step has ended it, nothing is left to close.
    async fn release(&mut self, key: &Key) {
        let Some(trial) = &mut self.trial else { return };
        if trial.steps.ended {
            self.end_trial();
            return self.say(key, Body::Collected(v1::Collected { last: None }));
        }
        let _ = trial.engine.set_stopped(false);
        self.order(&WorkerOrder::Release).await;
    }

    /// Asks the worker for its figures and the kernel for its count, at the same time.
    async fn count(&mut self) {
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.counting.is_none()) else { return };
        trial.counting = Some(Counting::default());
        let filter = trial.assignment.census.clone();
        let generation = trial.engine.generation();
        let happenings = self.happenings.clone();
        tokio::task::spawn_blocking(move || {
            let counted = census::census(&filter).map(|census| Box::new((census, readings::readings())));
            let counted = counted.map_err(|error| format!("the kernel could not be counted: {error}"));
            let _ = happenings.blocking_send(Happening::Counted(generation, counted));
        });
        self.order(&WorkerOrder::Tell).await;
    }

    /// Takes in what came back from inside.
    pub async fn happen(&mut self, happening: Happening, clock: &Offset) {
        let generation = match &happening {
            Happening::Engine(generation, _)
            | Happening::Counted(generation, _)
            | Happening::Observed(generation, ..) => *generation,
        };
        let Some(trial) = self.trial.as_mut().filter(|trial| trial.engine.generation() == generation) else {
            return;
        };
        let key = trial.key.clone();
        match happening {
            Happening::Counted(_, Ok(counted)) => {
                if let Some(counting) = &mut trial.counting {
                    counting.kernel = Some(*counted);
                }
                self.counted(&key);
            }
            Happening::Counted(_, Err(why)) => self.give_up(why),
            Happening::Observed(_, number, done) => {
                let (observers, answer) = *done;
                trial.steps.observers = observers;
                self.answered(&key, number, &answer);
            }
            Happening::Engine(_, EngineEvent::Ended(how)) => {
                // It was to end: the step is answered now, when its sockets are closed.
                if let Some(number) = trial.steps.end.take() {
                    trial.steps.ended = true;
                    return self.answered(&key, number, &Answer::of("ok").detail("how", how));
                }
                // After its last words a worker's end is expected; before, it is a failure.
                match trial.last.take() {
                    Some(last) => self.collected(last),
                    None => self.give_up(how),
                }
            }
            Happening::Engine(_, EngineEvent::Report(report)) => match *report {
                WorkerReport::Ready => {
                    let (offset, bound) = clock.best().unwrap_or((0, u64::MAX));
                    let before = Some(v1::Readings::from(&trial.before));
                    self.say(
                        &key,
                        Body::Ready(v1::Ready {
                            clock_offset_nanos: offset,
                            clock_bound_nanos: bound,
                            before,
                            clock: boot_id().unwrap_or_default(),
                        }),
                    );
                }
                WorkerReport::Sample(sample) => self.say(&key, Body::Sample((&sample).into())),
                WorkerReport::Plateau(plateau) => self.say(&key, Body::Plateau((&plateau).into())),
                WorkerReport::Resting => self.say(&key, Body::Resting(v1::Resting {})),
                WorkerReport::Told(figures) => {
                    if let Some(counting) = &mut trial.counting {
                        counting.figures = Some(figures);
                    }
                    self.counted(&key);
                }
                WorkerReport::Answered { number, answer } if trial.steps.end != Some(number) => {
                    self.answered(&key, number, &answer);
                }
                WorkerReport::Answered { .. } => {}
                WorkerReport::Released(last) => trial.last = Some(last),
                WorkerReport::Failed { why } => self.give_up(why),
            },
        }
    }

    fn counted(&mut self, key: &Key) {
        let counting = self.trial.as_ref().and_then(|trial| trial.counting.as_ref());
        let Some(Counting { figures: Some(figures), kernel: Some((census, after)) }) = counting else {
            return;
        };
        let counted = v1::Counted {
            census: Some(census.into()),
            after: Some(after.into()),
            figures: Some(figures.into()),
        };
        self.say(key, Body::Counted(counted));
    }

    fn collected(&mut self, last: Plateau) {
        if let Some(key) = self.end_trial() {
            info!(run = %key.run, case = key.case, trial = key.trial, "collected");
            self.say(&key, Body::Collected(v1::Collected { last: Some((&last).into()) }));
        }
    }

    /// Ends the trial from this side: the worker's input closes, it closes everything and exits.
    pub fn give_up(&mut self, why: String) {
        if let Some(key) = self.end_trial() {
            warn!(run = %key.run, case = key.case, %why, "gave the trial up");
            self.over = Some((key.clone(), Some(why.clone())));
            self.say(&key, Body::Failed(v1::Failed { why }));
        }
    }

    fn end_trial(&mut self) -> Option<Key> {
        let trial = self.trial.take()?;
        if let Some(settings) = trial.settings
            && let Err(error) = settings.restore()
        {
            warn!(%error, "a kernel setting could not be put back");
        }
        self.over = Some((trial.key.clone(), None));
        Some(trial.key)
    }
}
