//! A run while it is conducted: where it is, what was heard of the trial at hand.

use crate::clock::now_micros;
use crate::gathering::Gathering;
use crate::store::{MessageRow, SampleRow};
use prost::Message as _;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;
use tuplelab_domain::evidence::{HostClock, TrialEvidence};
use tuplelab_domain::id::{AgentName, RunId};
use tuplelab_domain::plan::{Accept, Plan};
use tuplelab_domain::run::{Course, Party, Run, RunEvent, TrialPlan, Turn};
use tuplelab_domain::schedule::{Assignment, PlacedStep, Schedule, span, stretches};
use tuplelab_domain::units::Rate;
use tuplelab_proto::v1::{self, run_message::Body};

/// A run while it is conducted.
pub(crate) struct Performance {
    pub(crate) id: RunId,
    pub(crate) plan: Plan,
    pub(crate) schedule: Schedule,
    /// Case and trial of each step; cases that are left out have none.
    pub(crate) steps: Vec<(u32, u32)>,
    pub(crate) run: Run,
    pub(crate) gathering: Option<Gathering>,
    pub(crate) evidence: Vec<TrialEvidence>,
    pub(crate) timers: Vec<(Instant, RunEvent)>,
    /// The orders of the trial at hand, for agents that come back.
    pub(crate) issued: Vec<(AgentName, v1::RunOrder)>,
    /// So many of them were given.
    pub(crate) told: usize,
    pub(crate) seen: BTreeMap<AgentName, u64>,
    pub(crate) unacknowledged: BTreeMap<AgentName, u64>,
    pub(crate) samples: Vec<SampleRow>,
    pub(crate) messages: Vec<MessageRow>,
    /// Agents that are to come back after the controller was started again, and until when: meanwhile
    /// no other time runs out.
    pub(crate) absent: BTreeSet<AgentName>,
    pub(crate) absent_until: Option<Instant>,
}

impl Performance {
    /// A run that is placed and has not begun.
    pub(crate) fn new(id: RunId, plan: Plan, schedule: Schedule) -> Self {
        let done = |case: &u32| schedule.cases.get(*case as usize).is_some_and(|c| c.left_out.is_empty());
        let steps: Vec<(u32, u32)> = (0..plan.cases.len() as u32)
            .filter(done)
            .flat_map(|case| (0..plan.trials).map(move |trial| (case, trial)))
            .collect();
        let trials = steps.iter().filter_map(|(case, trial)| {
            let setup = &plan.cases.get(*case as usize)?.setup;
            let load = &setup.load;
            // Who waits for answers is as slow as they come.
            let answers = match setup.servers.accept {
                Accept::PerSecond(rate) if load.answered => Rate::PerSecond(rate),
                _ => Rate::Unlimited,
            };
            let placed = schedule.cases.get(*case as usize)?;
            let party = |a: &Assignment| Party { agent: a.agent.clone(), role: a.role() };
            Some(TrialPlan {
                case: *case,
                trial: *trial,
                parties: placed.assignments.iter().map(party).collect(),
                course: if placed.steps.is_empty() {
                    // Twice the time, as for a rate.
                    let staged = span(&stretches(&load.stages, placed.target)) * 2;
                    let ramp = ramp_time(placed.target, &[load.rate, answers]) + staged;
                    // What is begun last has its time, and the agents some to say so.
                    let moves = load.churn.is_some() || load.activity.is_some();
                    let rest = moves.then(|| load.timeout.0 + Duration::from_secs(15));
                    Course::Load { ramp, hold: load.hold.0, rest }
                } else {
                    let turn =
                        |step: &PlacedStep| Turn { agent: step.agent.clone(), time: step.action.time() };
                    Course::Script(placed.steps.iter().map(turn).collect())
                },
            })
        });
        let run = Run::queued().place(trials.collect());
        let evidence = left_out(&plan, &schedule);
        Self {
            id,
            plan,
            schedule,
            steps,
            run,
            gathering: None,
            evidence,
            timers: Vec::new(),
            issued: Vec::new(),
            told: 0,
            seen: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            samples: Vec::new(),
            messages: Vec::new(),
            absent: BTreeSet::new(),
            absent_until: None,
        }
    }

    /// Puts aside what an agent said, to be stored before it is acknowledged.
    pub(crate) fn keep(&mut self, agent: &AgentName, message: &v1::RunMessage, late: bool) {
        match row(agent, message, late) {
            Row::Sample(row) => self.samples.push(row),
            Row::Message(row) => self.messages.push(row),
        }
    }

    /// The orders so far are of no use to anybody who comes back.
    pub(crate) fn forget_orders(&mut self) {
        self.issued.clear();
        self.told = 0;
    }

    /// Takes in again a sample that is stored.
    pub(crate) fn recall_sample(&mut self, row: &SampleRow) {
        if let Some(gathering) = &mut self.gathering {
            gathering.sample(&row.agent, &row.sample);
        }
    }

    /// The trial at hand, by case and trial.
    pub(crate) fn at(&self) -> Option<(u32, u32)> {
        self.run.index().and_then(|index| self.steps.get(index)).copied()
    }

    /// Takes in what an agent says of the trial at hand.
    pub(crate) fn take(
        &mut self,
        agent: AgentName,
        message: v1::RunMessage,
    ) -> Result<Option<RunEvent>, String> {
        self.keep(&agent, &message, false);
        let Some(gathering) = &mut self.gathering else {
            // The trial's evidence is closed; only its end is still of interest.
            return Ok(match message.body {
                Some(Body::Collected(_)) => Some(RunEvent::Collected { agent }),
                Some(Body::Failed(v1::Failed { why })) => Some(RunEvent::Failed { agent, why }),
                _ => None,
            });
        };
        fn read<T, W: TryInto<T>>(wire: Option<W>) -> Result<Option<T>, String>
        where
            W::Error: std::fmt::Display,
        {
            wire.map(|wire| wire.try_into().map_err(|error: W::Error| error.to_string())).transpose()
        }
        Ok(match message.body {
            Some(Body::Ready(ready)) => {
                let clock = HostClock {
                    id: Some(ready.clock).filter(|id| !id.is_empty()),
                    offset_nanos: ready.clock_offset_nanos,
                    bound_nanos: Some(ready.clock_bound_nanos).filter(|bound| *bound != u64::MAX),
                };
                gathering.ready(&agent, read(ready.before)?, clock);
                Some(RunEvent::Ready { agent })
            }
            Some(Body::Sample(sample)) => {
                if let Some(sample) = read(Some(sample))? {
                    gathering.sample(&agent, &sample);
                }
                None
            }
            Some(Body::Plateau(plateau)) => {
                if let Some(plateau) = read(Some(plateau))? {
                    gathering.plateau(&agent, plateau);
                }
                Some(RunEvent::Plateau { agent })
            }
            Some(Body::Resting(_)) => Some(RunEvent::Resting { agent }),
            Some(Body::Counted(counted)) => {
                gathering.counted(
                    &agent,
                    read(counted.census)?,
                    read(counted.after)?,
                    read(counted.figures)?,
                );
                Some(RunEvent::Counted { agent })
            }
            Some(Body::Answered(answered)) => {
                let step = answered.number;
                if let Some(answer) = read(answered.answer)? {
                    gathering.answered(&agent, step, answer);
                }
                Some(RunEvent::Answered { agent, step })
            }
            Some(Body::Failed(v1::Failed { why })) => Some(RunEvent::Failed { agent, why }),
            Some(Body::Collected(_)) => Some(RunEvent::Collected { agent }),
            None => None,
        })
    }
}

/// The evidence of cases that do not fit on the hosts: there is none, and that is why.
fn left_out(plan: &Plan, schedule: &Schedule) -> Vec<TrialEvidence> {
    let cases = (0..).zip(&schedule.cases).filter(|(_, placed)| !placed.left_out.is_empty());
    let trials = cases.flat_map(|(case, placed)| {
        (0..plan.trials).map(move |trial| TrialEvidence {
            case,
            trial,
            prediction: placed.prediction.clone(),
            target: placed.target,
            ends: Vec::new(),
            accept: Accept::All,
            answered: true,
            ramp: None,
            observations: Vec::new(),
            gaps: placed.left_out.clone(),
        })
    });
    trials.collect()
}

/// How the store keeps what an agent said.
pub(crate) enum Row {
    Sample(SampleRow),
    Message(MessageRow),
}

/// A sample that came in time is a sample; everything else is kept as it came, also a sample that cannot be
/// read, which then shows as a gap.
pub(crate) fn row(agent: &AgentName, message: &v1::RunMessage, late: bool) -> Row {
    if let Some(Body::Sample(sample)) = message.body.as_ref().filter(|_| !late)
        && let Ok(sample) = sample.clone().try_into()
    {
        return Row::Sample(SampleRow {
            run: RunId(message.run.clone()),
            epoch: message.epoch,
            agent: agent.clone(),
            sequence: message.sequence,
            case: message.case,
            trial: message.trial,
            sample,
        });
    }
    let kind = match &message.body {
        Some(Body::Ready(_)) => "ready",
        Some(Body::Failed(_)) => "failed",
        Some(Body::Sample(_)) => "sample",
        Some(Body::Plateau(_)) => "plateau",
        Some(Body::Counted(_)) => "counted",
        Some(Body::Collected(_)) => "collected",
        Some(Body::Answered(_)) => "answered",
        Some(Body::Resting(_)) => "resting",
        None => "unknown",
    };
    Row::Message(MessageRow {
        run: RunId(message.run.clone()),
        epoch: message.epoch,
        agent: agent.clone(),
        sequence: message.sequence,
        case: message.case,
        trial: message.trial,
        at_micros: now_micros(),
        kind: kind.into(),
        late,
        body: message.encode_to_vec(),
    })
}

/// How long a ramp may take: a thousand connections a second, or half the slowest of these rates,
/// and two minutes. The kernel's own choice of ports is that slow when its range is nearly used up.
fn ramp_time(target: u64, rates: &[Rate]) -> Duration {
    let halves = rates.iter().map(|rate| match rate {
        Rate::Unlimited => f64::INFINITY,
        Rate::PerSecond(rate) => *rate as f64 / 2.0,
    });
    let per_second = halves.fold(1_000.0, f64::min);
    Duration::from_secs(120) + Duration::from_secs_f64(target as f64 / per_second)
}
