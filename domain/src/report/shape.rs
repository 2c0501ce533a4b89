//! What became of a load that is more than a ramp and a hold.

use crate::evidence::TrialEvidence;
use crate::plan::{Activity, Close, Load};
use crate::sample::{Counters, Histogram, TcpState};
use crate::schedule::Role;
use crate::units::{Rate, thousands};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The shape of a load beyond "as fast as it goes, then hold".
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ShapeReport {
    /// The ramp's stages, as the plan writes them; empty where it has none.
    #[serde(default)]
    pub stages: Vec<String>,
    /// Connects that began more than one interval after they were due, and replacements that did, or
    /// that were left out because their moment had passed.
    pub late: u64,
    /// What became of connections that were replaced while they were held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<ChurnReport>,
    /// What was sent on held connections.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<ActivityReport>,
}

/// What was sent, and sent back, on held connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ActivityReport {
    /// What and how often, as the plan writes it.
    pub activity: String,
    /// Rounds begun.
    pub rounds: u64,
    /// Rounds whose bytes all came back.
    pub answered: u64,
    /// Rounds that began more than an interval late, or were left out because their moment had passed.
    pub late: u64,
    /// The time within which half of the rounds were answered, in microseconds; absent where none was.
    pub p50_micros: Option<u64>,
    /// The same of 99 in a hundred.
    pub p99_micros: Option<u64>,
    /// The longest.
    pub max_micros: Option<u64>,
    /// All of them: time in microseconds and count, in turn.
    pub round_trips: Histogram,
}

/// Connections that were replaced while they were held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ChurnReport {
    /// How many a second, as the plan writes it.
    pub rate: String,
    /// How they were closed: `rst`, `fin`.
    pub close: String,
    /// Closed by the clients.
    pub closed: u64,
    /// Established in the place of those.
    pub opened: u64,
    /// Let go by the servers, because the clients had closed them.
    pub let_go: u64,
    /// The clients' sockets in TIME_WAIT when the kernels were asked (sock_diag); absent where one was
    /// not asked.
    pub time_wait: Option<u64>,
    /// All that were in TIME_WAIT in each host's network namespace then (sockstat), by host.
    pub time_wait_of_host: BTreeMap<String, u64>,
}

impl ShapeReport {
    /// The shape of a trial, if it has one.
    pub(super) fn new(trial: &TrialEvidence, load: &Load) -> Option<Self> {
        let stages: Vec<String> = load.stages.iter().map(ToString::to_string).collect();
        let late = trial.ends_of(Role::Client).map(|end| end.counters.late).sum();
        let churn = load.churn.map(|rate| churn(trial, rate, load.close));
        let activity = load.activity.map(|activity| rounds(trial, activity));
        let any = !stages.is_empty() || churn.is_some() || activity.is_some();
        any.then_some(Self { stages, late, churn, activity })
    }

    /// What a person reads of it, a line each.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.stages.is_empty() {
            lines.push(format!("stages: {}", self.stages.join(", ")));
        }
        if let Some(churn) = &self.churn {
            let waiting = churn.time_wait.map_or_else(|| "an unknown number".into(), thousands);
            lines.push(format!(
                "churn {} by {}: {} closed, {} opened in their place, {} let go by servers; {waiting} in TIME_WAIT at the end",
                churn.rate,
                churn.close,
                thousands(churn.closed),
                thousands(churn.opened),
                thousands(churn.let_go)
            ));
        }
        if let Some(activity) = &self.activity {
            let micros = |time: Option<u64>| time.map_or_else(|| "-".into(), thousands);
            lines.push(format!(
                "{}: {} rounds, {} answered, {} late or left out; p50 {} us, p99 {} us, longest {} us",
                activity.activity,
                thousands(activity.rounds),
                thousands(activity.answered),
                thousands(activity.late),
                micros(activity.p50_micros),
                micros(activity.p99_micros),
                micros(activity.max_micros)
            ));
        }
        if !self.stages.is_empty() || self.churn.is_some() {
            lines.push(format!("{} connects began late or not at all", thousands(self.late)));
        }
        lines
    }
}

fn churn(trial: &TrialEvidence, rate: Rate, close: Close) -> ChurnReport {
    let waiting = trial.ends_of(Role::Client).map(|end| {
        end.census.as_ref().map(|census| census.states.get(&TcpState::TimeWait).copied().unwrap_or(0))
    });
    let of_host = |end: &crate::evidence::End| {
        Some((end.agent.to_string(), end.after.as_ref()?.get("sockstat.TCP.tw")?))
    };
    ChurnReport {
        rate: rate.to_string(),
        close: close.to_string(),
        closed: trial.ends_of(Role::Client).map(|end| end.counters.closed).sum(),
        opened: trial.ends_of(Role::Client).map(|end| end.counters.churned).sum(),
        let_go: trial.ends_of(Role::Server).map(|end| end.counters.closed).sum(),
        time_wait: waiting.sum(),
        time_wait_of_host: trial.ends.iter().filter_map(of_host).collect(),
    }
}

fn rounds(trial: &TrialEvidence, activity: Activity) -> ActivityReport {
    let sum = |of: fn(&Counters) -> u64| trial.ends_of(Role::Client).map(|end| of(&end.counters)).sum();
    let mut round_trips = Histogram::default();
    let all = trial.ends_of(Role::Client).filter_map(|end| end.round_trips.as_ref());
    all.for_each(|own| round_trips.merge(own));
    ActivityReport {
        activity: activity.to_string(),
        rounds: sum(|counters| counters.rounds),
        answered: sum(|counters| counters.answered_rounds),
        late: sum(|counters| counters.late_rounds),
        p50_micros: round_trips.quantile(0.5),
        p99_micros: round_trips.quantile(0.99),
        max_micros: round_trips.max(),
        round_trips,
    }
}
