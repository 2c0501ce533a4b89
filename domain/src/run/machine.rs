//! The run as a state machine: total over its events, no I/O, time comes in as events.
//!
//! ```text
//!             all Ready          all Plateau        hold over         all Counted
//! Preparing ------------> Ramping -----------> Holding --------> Counting ---------> Releasing
//!     ^                                                                                  |
//!     |                            all Collected, another trial                          |
//!     +----------------------------------------------------------------------------------+
//!                                  all Collected, none left, or it was to end --> Finished
//! ```
//! Where held connections are to move, clients are told so when the hold begins; when it is over they are
//! told to rest, and the kernels are asked once all do and a moment has passed (still `Holding`).
//!
//! A script goes from `Ramping` to `Releasing`: its steps are done one after the other, each once the
//! one before it was answered.
//!
//! A cancel, a refusal, a lost agent or a passed deadline leads from every state to `Releasing` with
//! the outcome in hand: everybody who is still there closes what they hold.

use super::event::{Course, Deadline, Effect, Party, Phase, RunEvent, TrialPlan, Turn};
use super::outcome::Outcome;
use crate::id::AgentName;
use crate::schedule::Role;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long agents may take to bind listeners and start lanes.
pub(super) const PREPARE: Duration = Duration::from_secs(30);
/// How long agents may take to stop opening once they were told.
pub(super) const HALT: Duration = Duration::from_secs(15);
/// How long kernels may take to be counted.
pub(super) const CENSUS: Duration = Duration::from_secs(60);
/// How long agents may take to close everything.
pub(super) const RELEASE: Duration = Duration::from_secs(60);

/// Between the clients' rest and the count: a server hears of what its clients did last (half a round
/// trip) and looks (each half millisecond).
pub(super) const SETTLE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Queued,
    Preparing {
        index: usize,
        waiting: BTreeSet<AgentName>,
    },
    Ramping {
        index: usize,
        waiting: BTreeSet<AgentName>,
        halted: bool,
    },
    Stepping {
        index: usize,
        step: u32,
    },
    Holding {
        index: usize,
    },
    /// The hold is over; clients let what they began come to its end, then servers have a moment.
    Resting {
        index: usize,
        waiting: BTreeSet<AgentName>,
    },
    Counting {
        index: usize,
        waiting: BTreeSet<AgentName>,
    },
    Releasing {
        index: usize,
        waiting: BTreeSet<AgentName>,
        end: Option<Outcome>,
    },
    Finished {
        outcome: Outcome,
    },
}

/// A run: the list of its trials and where it is in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    trials: Vec<TrialPlan>,
    state: State,
    /// Agents that fell away, and what is known of it; nobody waits for them.
    lost: BTreeMap<AgentName, String>,
}

impl Run {
    /// A run that waits for its turn.
    pub fn queued() -> Self {
        Self { trials: Vec::new(), state: State::Queued, lost: BTreeMap::new() }
    }

    /// Gives it its trials, once they are placed; ignored when it has begun.
    pub fn place(mut self, trials: Vec<TrialPlan>) -> Self {
        if self.state == State::Queued {
            self.trials = trials;
        }
        self
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Queued => Phase::Queued,
            State::Preparing { .. } => Phase::Preparing,
            State::Ramping { .. } | State::Stepping { .. } => Phase::Ramping,
            State::Holding { .. } | State::Resting { .. } => Phase::Holding,
            State::Counting { .. } => Phase::Counting,
            State::Releasing { .. } => Phase::Releasing,
            State::Finished { .. } => Phase::Finished,
        }
    }

    /// Which trial it is at.
    pub fn index(&self) -> Option<usize> {
        match &self.state {
            State::Preparing { index, .. }
            | State::Ramping { index, .. }
            | State::Stepping { index, .. }
            | State::Holding { index }
            | State::Resting { index, .. }
            | State::Counting { index, .. }
            | State::Releasing { index, .. } => Some(*index),
            State::Queued | State::Finished { .. } => None,
        }
    }

    /// How it ended, once it has.
    pub fn outcome(&self) -> Option<&Outcome> {
        match &self.state {
            State::Finished { outcome } => Some(outcome),
            _ => None,
        }
    }

    /// Whom the run is waiting for at the moment; nobody while time passes or steps are done.
    pub fn waiting(&self) -> &BTreeSet<AgentName> {
        static NOBODY: BTreeSet<AgentName> = BTreeSet::new();
        match &self.state {
            State::Preparing { waiting, .. }
            | State::Ramping { waiting, .. }
            | State::Resting { waiting, .. }
            | State::Counting { waiting, .. }
            | State::Releasing { waiting, .. } => waiting,
            State::Queued | State::Stepping { .. } | State::Holding { .. } | State::Finished { .. } => {
                &NOBODY
            }
        }
    }

    /// Whether this agent has to hold the trial at hand: it said that it is prepared, and was not told to
    /// close it.
    pub fn must_hold(&self, agent: &AgentName) -> bool {
        let begun = match &self.state {
            State::Preparing { waiting, .. } => !waiting.contains(agent),
            State::Queued | State::Releasing { .. } | State::Finished { .. } => false,
            _ => true,
        };
        begun && self.has(agent) && !self.lost.contains_key(agent)
    }

    /// The trial at `index`.
    pub fn trial(&self, index: usize) -> Option<&TrialPlan> {
        self.trials.get(index)
    }

    /// The agents that take part in the trial at `index`.
    pub fn parties(&self, index: usize) -> &[Party] {
        self.trials.get(index).map_or(&[], |trial| &trial.parties)
    }

    /// Everything that one event changes, and what is to be done for it. Events that come late or
    /// from strangers change nothing.
    pub fn step(mut self, event: &RunEvent) -> (Self, Vec<Effect>) {
        let effects = match event {
            RunEvent::Begin => self.begin(),
            RunEvent::Unplaced { why } if self.state == State::Queued => {
                self.finish(Outcome::Refused { why: why.clone() })
            }
            RunEvent::Interrupt if self.state == State::Queued => self.finish(Outcome::Interrupted),
            RunEvent::Interrupt => self.end(Outcome::Interrupted),
            RunEvent::Cancel if self.state == State::Queued => self.finish(Outcome::Cancelled),
            RunEvent::Cancel => self.end(Outcome::Cancelled),
            RunEvent::Ready { agent }
            | RunEvent::Plateau { agent }
            | RunEvent::Resting { agent }
            | RunEvent::Counted { agent }
            | RunEvent::Collected { agent } => self.arrived(event, agent),
            RunEvent::Failed { agent, why } if self.has(agent) && !self.has_collected(agent) => {
                let outcome = match self.phase() {
                    Phase::Preparing => Outcome::Failed { why: format!("agent {agent}: {why}") },
                    _ => Outcome::AgentLost { agent: agent.clone(), why: why.clone() },
                };
                let mut effects = self.end(outcome);
                // A worker that ended has nothing to collect.
                effects.extend(self.strike(agent));
                effects
            }
            RunEvent::Lost { agent, why } if self.has(agent) => {
                self.lost.entry(agent.clone()).or_insert_with(|| why.clone());
                if self.has_collected(agent) {
                    return (self, Vec::new());
                }
                let mut effects = self.end(Outcome::AgentLost { agent: agent.clone(), why: why.clone() });
                effects.extend(self.strike(agent));
                effects
            }
            RunEvent::Answered { agent, step } => self.answered(agent, *step),
            RunEvent::HoldOver { index } => self.hold_over(*index),
            RunEvent::Late { deadline } => self.late(*deadline),
            _ => Vec::new(),
        };
        (self, effects)
    }

    fn has(&self, agent: &AgentName) -> bool {
        self.index().is_some_and(|index| self.parties(index).iter().any(|party| party.agent == *agent))
    }

    /// Whether the agent has closed everything: nothing that happens to it can spoil this trial.
    fn has_collected(&self, agent: &AgentName) -> bool {
        matches!(&self.state, State::Releasing { waiting, .. } if !waiting.contains(agent))
    }

    fn present(&self, index: usize, role: Option<Role>) -> BTreeSet<AgentName> {
        self.parties(index)
            .iter()
            .filter(|party| {
                role.is_none_or(|role| party.role == role) && !self.lost.contains_key(&party.agent)
            })
            .map(|party| party.agent.clone())
            .collect()
    }

    fn finish(&mut self, outcome: Outcome) -> Vec<Effect> {
        self.state = State::Finished { outcome: outcome.clone() };
        vec![Effect::Finish { outcome }]
    }

    fn begin(&mut self) -> Vec<Effect> {
        match (&self.state, self.trials.is_empty()) {
            (State::Queued, false) => self.prepare(0),
            (State::Queued, true) => self.finish(Outcome::Failed { why: "the run has no trial".into() }),
            _ => Vec::new(),
        }
    }

    fn prepare(&mut self, index: usize) -> Vec<Effect> {
        let gone = self.parties(index).iter().find_map(|party| self.lost.get_key_value(&party.agent));
        if let Some((agent, why)) = gone {
            return self.finish(Outcome::AgentLost { agent: agent.clone(), why: why.clone() });
        }
        self.state = State::Preparing { index, waiting: self.present(index, None) };
        let deadline = Deadline { index, phase: Phase::Preparing, halted: false, step: None };
        vec![Effect::Prepare { index }, Effect::Watch { deadline, time: PREPARE }]
    }

    fn hold_over(&mut self, over: usize) -> Vec<Effect> {
        match &self.state {
            State::Holding { index } if *index == over => match self.rest_time(over) {
                Some(time) => {
                    self.state =
                        State::Resting { index: over, waiting: self.present(over, Some(Role::Client)) };
                    let deadline = Deadline { index: over, phase: Phase::Holding, halted: false, step: None };
                    vec![Effect::Rest { index: over }, Effect::Watch { deadline, time }]
                }
                None => self.count(over),
            },
            State::Resting { index, waiting } if *index == over && waiting.is_empty() => self.count(over),
            _ => Vec::new(),
        }
    }

    /// How long clients may take to come to rest; `None` where nothing moves.
    fn rest_time(&self, index: usize) -> Option<Duration> {
        match self.course(index)? {
            Course::Load { rest, .. } => *rest,
            Course::Script(_) => None,
        }
    }

    fn count(&mut self, index: usize) -> Vec<Effect> {
        self.state = State::Counting { index, waiting: self.present(index, None) };
        let deadline = Deadline { index, phase: Phase::Counting, halted: false, step: None };
        vec![Effect::Count { index }, Effect::Watch { deadline, time: CENSUS }]
    }

    /// An agent did what it was waited for.
    fn arrived(&mut self, event: &RunEvent, agent: &AgentName) -> Vec<Effect> {
        let waiting = match (&mut self.state, event) {
            (State::Preparing { waiting, .. }, RunEvent::Ready { .. })
            | (State::Ramping { waiting, .. }, RunEvent::Plateau { .. })
            | (State::Resting { waiting, .. }, RunEvent::Resting { .. })
            | (State::Counting { waiting, .. }, RunEvent::Counted { .. })
            | (State::Releasing { waiting, .. }, RunEvent::Collected { .. }) => waiting,
            _ => return Vec::new(),
        };
        if !waiting.remove(agent) || !waiting.is_empty() {
            return Vec::new();
        }
        match self.state.clone() {
            State::Preparing { index, .. } => self.go(index),
            State::Ramping { index, .. } => {
                self.state = State::Holding { index };
                let time = match self.course(index) {
                    Some(Course::Load { hold, .. }) => *hold,
                    Some(Course::Script(_)) | None => Duration::ZERO,
                };
                let moves = self.rest_time(index).map(|_| Effect::Move { index });
                moves.into_iter().chain([Effect::Hold { index, time }]).collect()
            }
            State::Resting { index, .. } => vec![Effect::Hold { index, time: SETTLE }],
            State::Counting { index, .. } => self.release(index, None),
            State::Releasing { index, end, .. } => self.released(index, end),
            State::Queued | State::Stepping { .. } | State::Holding { .. } | State::Finished { .. } => {
                Vec::new()
            }
        }
    }

    fn course(&self, index: usize) -> Option<&Course> {
        self.trials.get(index).map(|trial| &trial.course)
    }

    /// Everybody is ready.
    fn go(&mut self, index: usize) -> Vec<Effect> {
        let time = match self.course(index) {
            Some(Course::Script(_)) => return self.do_step(index, 0),
            Some(Course::Load { ramp, .. }) => *ramp,
            None => HALT,
        };
        let waiting = self.present(index, Some(Role::Client));
        self.state = State::Ramping { index, waiting, halted: false };
        let deadline = Deadline { index, phase: Phase::Ramping, halted: false, step: None };
        vec![Effect::Go { index }, Effect::Watch { deadline, time }]
    }

    /// The script's step of this number; after the last one there is nothing left but to close.
    fn do_step(&mut self, index: usize, step: u32) -> Vec<Effect> {
        let Some(time) = self.turn(index, step).map(|turn| turn.time) else {
            return self.release(index, None);
        };
        self.state = State::Stepping { index, step };
        let deadline = Deadline { index, phase: Phase::Ramping, halted: false, step: Some(step) };
        vec![Effect::Step { index, step }, Effect::Watch { deadline, time }]
    }

    fn turn(&self, index: usize, step: u32) -> Option<&Turn> {
        match self.course(index)? {
            Course::Script(turns) => turns.get(step as usize),
            Course::Load { .. } => None,
        }
    }

    fn answered(&mut self, agent: &AgentName, answered: u32) -> Vec<Effect> {
        match self.state {
            State::Stepping { index, step }
                if step == answered && self.turn(index, step).is_some_and(|turn| turn.agent == *agent) =>
            {
                self.do_step(index, step + 1)
            }
            _ => Vec::new(),
        }
    }

    fn release(&mut self, index: usize, end: Option<Outcome>) -> Vec<Effect> {
        let waiting = self.present(index, None);
        let whole = end.is_none();
        if waiting.is_empty() {
            let mut effects = vec![Effect::Close { index, whole }];
            effects.extend(self.released(index, end));
            return effects;
        }
        let agents = waiting.iter().cloned().collect();
        self.state = State::Releasing { index, waiting, end };
        let deadline = Deadline { index, phase: Phase::Releasing, halted: false, step: None };
        vec![
            Effect::Close { index, whole },
            Effect::Release { index, agents },
            Effect::Watch { deadline, time: RELEASE },
        ]
    }

    fn released(&mut self, index: usize, end: Option<Outcome>) -> Vec<Effect> {
        match end {
            Some(outcome) => self.finish(outcome),
            None if index + 1 < self.trials.len() => self.prepare(index + 1),
            None => self.finish(Outcome::Completed),
        }
    }

    /// Leads to the end with this outcome; the first cause wins.
    fn end(&mut self, outcome: Outcome) -> Vec<Effect> {
        match &mut self.state {
            State::Queued | State::Finished { .. } => Vec::new(),
            State::Releasing { end, .. } => {
                end.get_or_insert(outcome);
                Vec::new()
            }
            State::Preparing { index, .. }
            | State::Ramping { index, .. }
            | State::Stepping { index, .. }
            | State::Holding { index }
            | State::Resting { index, .. }
            | State::Counting { index, .. } => {
                let index = *index;
                self.release(index, Some(outcome))
            }
        }
    }

    /// Waits for an agent no longer.
    fn strike(&mut self, agent: &AgentName) -> Vec<Effect> {
        let collected = RunEvent::Collected { agent: agent.clone() };
        self.arrived(&collected, agent)
    }

    fn late(&mut self, deadline: Deadline) -> Vec<Effect> {
        let names = |waiting: &BTreeSet<AgentName>| {
            waiting.iter().map(AgentName::as_str).collect::<Vec<_>>().join(", ")
        };
        let index = deadline.index;
        if self.index() != Some(index) || self.phase() != deadline.phase {
            return Vec::new();
        }
        match &mut self.state {
            State::Preparing { waiting, .. } => {
                let why = format!("{} did not get ready within {} s", names(waiting), PREPARE.as_secs());
                self.end(Outcome::Failed { why })
            }
            State::Stepping { step, .. } if Some(*step) == deadline.step => {
                let step = *step;
                let why = self.turn(index, step).map(|turn| {
                    let (agent, seconds) = (&turn.agent, turn.time.as_secs());
                    format!("{agent} did not answer step {} within {seconds} s", step + 1)
                });
                self.end(Outcome::Failed { why: why.unwrap_or_default() })
            }
            State::Ramping { halted, .. } if !*halted && !deadline.halted => {
                *halted = true;
                let deadline = Deadline { halted: true, ..deadline };
                vec![Effect::Halt { index }, Effect::Watch { deadline, time: HALT }]
            }
            State::Ramping { waiting, halted: true, .. } if deadline.halted => {
                let why = format!(
                    "{} did not stop opening connections within {} s",
                    names(waiting),
                    HALT.as_secs()
                );
                self.end(Outcome::Failed { why })
            }
            State::Resting { waiting, .. } if !waiting.is_empty() => {
                let why = format!("{} did not let the held connections rest in time", names(waiting));
                self.end(Outcome::Failed { why })
            }
            State::Counting { waiting, .. } => {
                let why = format!("{} did not count within {} s", names(waiting), CENSUS.as_secs());
                self.end(Outcome::Failed { why })
            }
            State::Releasing { waiting, end, .. } => {
                let late = names(waiting);
                let end = end.clone().unwrap_or_else(|| Outcome::Failed {
                    why: format!("{late} did not close everything within {} s", RELEASE.as_secs()),
                });
                self.finish(end)
            }
            State::Queued
            | State::Ramping { .. }
            | State::Stepping { .. }
            | State::Holding { .. }
            | State::Resting { .. }
            | State::Finished { .. } => Vec::new(),
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
pub(super) mod tests;
