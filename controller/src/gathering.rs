//! One trial's evidence while it comes in.

use std::collections::BTreeMap;
use tuplelab_domain::evidence::{End, HostClock, TrialEvidence};
use tuplelab_domain::id::AgentName;
use tuplelab_domain::sample::{Census, Counters, Plateau, Ramp, Readings, Sample, Tick};
use tuplelab_domain::schedule::{CaseSchedule, PlacedStep, Role};
use tuplelab_domain::script::{Answer, Observation};

/// What was heard of one trial so far.
#[derive(Debug)]
pub struct Gathering {
    case: u32,
    trial: u32,
    ends: BTreeMap<AgentName, End>,
    next_sample: BTreeMap<AgentName, u64>,
    /// Of each client of a paced trial: connects begun, a number for each second.
    ticks: BTreeMap<AgentName, Vec<Tick>>,
    asked_rate: Option<u64>,
    steps: Vec<PlacedStep>,
    observations: BTreeMap<u32, Observation>,
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
                go_nanos: None,
                clock: None,
                connect_times: None,
            };
            (assignment.agent.clone(), end)
        });
        Self {
            case,
            trial,
            ends: ends.collect(),
            next_sample: BTreeMap::new(),
            ticks: BTreeMap::new(),
            asked_rate: schedule.asked_rate(),
            steps: schedule.steps.clone(),
            observations: BTreeMap::new(),
        }
    }

    /// What a step answered. Steps are done in order; after a restart of the controller the answers are told
    /// again agent by agent. The first answer to a step counts, and nobody answers another's.
    pub fn answered(&mut self, agent: &AgentName, number: u32, answer: Answer) {
        let Some(step) = self.steps.get(number as usize).filter(|step| step.agent == *agent) else { return };
        self.observations.entry(number).or_insert_with(|| Observation {
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

    /// The readings before anything was opened, and what is known of the host's clock.
    pub fn ready(&mut self, agent: &AgentName, before: Option<Readings>, clock: HostClock) {
        if let Some(end) = self.ends.get_mut(agent) {
            end.before = before;
            end.clock = Some(clock);
        }
    }

    /// A worker's counters; a number that was passed over is a sample that never came.
    pub fn sample(&mut self, agent: &AgentName, sample: &Sample) {
        let Some(end) = self.ends.get_mut(agent) else { return };
        let next = self.next_sample.entry(agent.clone()).or_default();
        end.samples_missing += sample.sequence.saturating_sub(*next);
        *next = (sample.sequence + 1).max(*next);
        end.counters = sample.counters.clone();
        if end.role == Role::Client && self.asked_rate.is_some() {
            let Sample { elapsed_micros, counters, .. } = sample;
            let tick = Tick { elapsed_micros: *elapsed_micros, attempted: counters.attempted };
            self.ticks.entry(agent.clone()).or_default().push(tick);
        }
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

    /// How well the rate was met; every client must have shown itself.
    fn ramp(&self) -> Option<Ramp> {
        let clients = self.ends.values().filter(|end| end.role == Role::Client);
        let shown = clients.map(|end| {
            let ticks = self.ticks.get(&end.agent).cloned().unwrap_or_default();
            (ticks, end.counters.attempted)
        });
        Ramp::of(self.asked_rate?, &shown.collect::<Vec<_>>())
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
        if whole && self.observations.len() < self.steps.len() {
            gaps.push(format!("{} answers are missing", self.steps.len() - self.observations.len()));
        }
        let (accept, answered) = schedule.asked_of_servers();
        let ramp = self.ramp();
        TrialEvidence {
            case: self.case,
            trial: self.trial,
            prediction: schedule.prediction.clone(),
            target: schedule.target,
            accept,
            answered,
            ramp,
            ends: self.ends.into_values().collect(),
            observations: self.observations.into_values().collect(),
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
    end.go_nanos = figures.go_nanos;
    end.connect_times = figures.connect_times;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::capacity::Prediction;
    use tuplelab_domain::plan::Accept;
    use tuplelab_domain::schedule::{Assignment, CensusFilter, Connect, Serve, Work};

    fn assignment(agent: &str, work: Work) -> Assignment {
        let role = if matches!(work, Work::Serve(_)) { Role::Server } else { Role::Client };
        Assignment {
            agent: agent.parse().expect("a name"),
            sysctls: Default::default(),
            conntrack: false,
            files: None,
            census: CensusFilter { role, servers: Vec::new(), clients: Vec::new() },
            work,
        }
    }

    fn schedule(rate: Option<f64>) -> CaseSchedule {
        let (lanes, timeout_micros) = (Vec::new(), 1);
        let connect = Connect {
            lanes,
            connectors: 1,
            window: 1,
            rate,
            stretches: Vec::new(),
            timeout_micros,
            beyond: false,
            answered: true,
            churn: None,
            activity: None,
        };
        let (listeners, lanes) = (Vec::new(), Vec::new());
        let serve = Serve { listeners, lanes, accept: Accept::All, answered: true, watch: None };
        CaseSchedule {
            prediction: Prediction::none(),
            target: 2_000,
            assignments: vec![
                assignment("s", Work::Serve(serve)),
                assignment("a", Work::Connect(connect.clone())),
                assignment("b", Work::Connect(connect)),
            ],
            steps: Vec::new(),
            left_out: Vec::new(),
        }
    }

    /// Two clients begin 500 and 490 in each of two seconds; the samples of `silent` never come.
    fn gathered(rate: Option<f64>, silent: Option<&str>) -> Option<Ramp> {
        let schedule = schedule(rate);
        let mut gathering = Gathering::new(0, 0, &schedule);
        for (name, begun) in [("s", 990), ("a", 500), ("b", 490)] {
            let agent: AgentName = name.parse().expect("a name");
            for second in (0..=2).filter(|_| silent != Some(name)) {
                let counters = Counters { attempted: begun * second, ..Counters::default() };
                let elapsed_micros = second * 1_000_000;
                gathering
                    .sample(&agent, &Sample { sequence: second, elapsed_micros, cpu_micros: 0, counters });
            }
            if name != "s" {
                let counters = Counters { attempted: 1_000, ..Counters::default() };
                let told = Plateau {
                    first_micros: None,
                    last_micros: None,
                    cpu_micros: 0,
                    pss_ready_bytes: None,
                    pss_bytes: None,
                    counters,
                    beyond: None,
                    go_nanos: None,
                    connect_times: None,
                    round_trips: None,
                };
                gathering.plateau(&agent, told);
            }
        }
        gathering.close(&schedule, true).ramp
    }

    #[test]
    fn the_ramp_is_that_of_all_clients_and_unknown_without_a_rate_or_the_samples_of_one() {
        let ramp = gathered(Some(500.0), None).expect("two seconds");
        assert_eq!((ramp.asked, ramp.seconds, ramp.seen, ramp.worst), (1_000, 2, 2, 990));
        assert_eq!(ramp.error_ppm, 8_000, "ten off, less one for each client");
        assert_eq!((gathered(None, None), gathered(Some(500.0), Some("b"))), (None, None));
        assert!(gathered(Some(500.0), Some("s")).is_some(), "a server connects to nobody");
    }
}
