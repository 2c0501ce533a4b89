//! One trial's evidence while it comes in.

use std::collections::BTreeMap;
use tuplelab_domain::evidence::{End, TrialEvidence};
use tuplelab_domain::id::AgentName;
use tuplelab_domain::sample::{Census, Counters, Plateau, Readings, Sample};
use tuplelab_domain::schedule::{CaseSchedule, PlacedStep, Role};
use tuplelab_domain::script::{Answer, Observation};

/// What was heard of one trial so far.
#[derive(Debug)]
pub struct Gathering {
    case: u32,
    trial: u32,
    ends: BTreeMap<AgentName, End>,
    next_sample: BTreeMap<AgentName, u64>,
    steps: Vec<PlacedStep>,
    observations: Vec<Observation>,
}

impl Gathering {
    /// A trial of which nothing was heard yet.
    pub fn new(case: u32, trial: u32, schedule: &CaseSchedule) -> Self {
        let ends = schedule.assignments.iter().map(|assignment| {
            let end = End {
                agent: assignment.agent.clone(),
                role: assignment.role(),
                counters: Counters::default(),
                census: None,
                first_micros: None,
                last_micros: None,
                cpu_micros: None,
                pss_ready_bytes: None,
                pss_bytes: None,
                beyond: None,
                round_trips: None,
                before: None,
                after: None,
                samples_missing: 0,
            };
            (assignment.agent.clone(), end)
        });
        Self {
            case,
            trial,
            ends: ends.collect(),
            next_sample: BTreeMap::new(),
            steps: schedule.steps.clone(),
            observations: Vec::new(),
        }
    }

    /// What a step answered; steps come in order, so a number that is not the next one is a stranger's.
    pub fn answered(&mut self, agent: &AgentName, number: u32, answer: Answer) {
        let next = self.observations.len() as u32;
        let Some(step) = self.steps.get(number as usize).filter(|s| number == next && s.agent == *agent)
        else {
            return;
        };
        self.observations.push(Observation {
            step: number,
            agent: agent.clone(),
            text: step.action.to_string(),
            label: step.label.clone(),
            answer,
        });
    }

    /// How many steps were answered, of how many; of a load 0 of 0.
    pub fn steps(&self) -> (u64, u64) {
        (self.observations.len() as u64, self.steps.len() as u64)
    }

    /// The readings before anything was opened.
    pub fn ready(&mut self, agent: &AgentName, before: Option<Readings>) {
        if let Some(end) = self.ends.get_mut(agent) {
            end.before = before;
        }
    }

    /// A worker's counters; a number that was passed over is a sample that never came.
    pub fn sample(&mut self, agent: &AgentName, sample: &Sample) {
        let Some(end) = self.ends.get_mut(agent) else { return };
        let next = self.next_sample.entry(agent.clone()).or_default();
        end.samples_missing += sample.sequence.saturating_sub(*next);
        *next = (sample.sequence + 1).max(*next);
        end.counters = sample.counters.clone();
    }

    /// A client's last words on its ramp.
    pub fn plateau(&mut self, agent: &AgentName, plateau: Plateau) {
        if let Some(end) = self.ends.get_mut(agent) {
            take_figures(end, plateau);
        }
    }

    /// An end as its kernel and its application saw it when all was still.
    pub fn counted(
        &mut self,
        agent: &AgentName,
        census: Option<Census>,
        after: Option<Readings>,
        figures: Option<Plateau>,
    ) {
        let Some(end) = self.ends.get_mut(agent) else { return };
        end.census = census;
        end.after = after;
        let Some(figures) = figures else { return };
        end.round_trips.clone_from(&figures.round_trips);
        match end.role {
            Role::Server => take_figures(end, figures),
            // A client's ramp was over at its plateau; what it held since then is the news.
            Role::Client => end.counters = figures.counters,
        }
    }

    /// Established flows of the clients so far, and failed ones.
    pub fn progress(&self) -> (u64, u64) {
        let clients = || self.ends.values().filter(|end| end.role == Role::Client);
        let established = clients().map(|end| end.counters.standing()).sum();
        let failed = clients().map(|end| end.counters.failures.total()).sum();
        (established, failed)
    }

    /// The evidence, with what is missing from it.
    pub fn close(self, schedule: &CaseSchedule, whole: bool) -> TrialEvidence {
        let mut gaps = Vec::new();
        if !whole {
            gaps.push("the trial was ended before its plateau was counted".to_owned());
        }
        for end in self.ends.values() {
            if whole && self.steps.is_empty() && end.census.is_none() {
                gaps.push(format!("the kernel of {} was not counted", end.agent));
            }
            if end.samples_missing > 0 {
                gaps.push(format!("{} samples of {} are missing", end.samples_missing, end.agent));
            }
        }
        let (accept, answered) = schedule.asked_of_servers();
        TrialEvidence {
            case: self.case,
            trial: self.trial,
            prediction: schedule.prediction.clone(),
            target: schedule.target,
            accept,
            answered,
            ends: self.ends.into_values().collect(),
            observations: self.observations,
            gaps,
        }
    }
}

fn take_figures(end: &mut End, figures: Plateau) {
    end.counters = figures.counters;
    end.first_micros = figures.first_micros;
    end.last_micros = figures.last_micros;
    end.cpu_micros = Some(figures.cpu_micros);
    end.pss_ready_bytes = figures.pss_ready_bytes;
    end.pss_bytes = figures.pss_bytes;
    end.beyond = figures.beyond.or(end.beyond.take());
}
