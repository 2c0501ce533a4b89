//! The report: one object a run, the same in JSON, in tables and on pages.

use super::record::RunRecord;
use super::shape::ShapeReport;
use super::timing::{ConnectReport, RampReport, StartReport};
use crate::capacity::Limit;
use crate::evidence::TrialEvidence;
use crate::plan::{PlanFile, Setup, check};
use crate::run::Outcome;
use crate::sample::Failures;
use crate::schedule::Role;
use crate::script::Observation;
use crate::verdict::{Verdict, bound_by};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A run, as it is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The run's id.
    pub run: String,
    /// The digest of the plan's source.
    pub plan: String,
    /// The plan's question.
    pub question: String,
    /// Who submitted it.
    pub submitter: String,
    /// When it was submitted, in microseconds since 1970 (UTC).
    pub submitted_micros: i64,
    /// Where it is: `queued` to `finished`.
    pub phase: String,
    /// How it ended; absent while it is under way.
    pub outcome: Option<Outcome>,
    /// Kernel release of each host, by the host's name.
    pub kernels: BTreeMap<String, String>,
    /// One entry per case and trial of a load that was begun.
    pub cases: Vec<CaseReport>,
    /// One entry per case and trial of a script that was begun.
    #[serde(default)]
    pub scripts: Vec<ScriptReport>,
    /// One entry per expectation and claim.
    pub verdicts: Vec<Verdict>,
    /// Messages of agents that came when the run, or the trial in question, was over: they are kept apart, and
    /// in no number here. Absent if there were none.
    #[serde(default, skip_serializing_if = "is_none")]
    pub late: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's form")]
fn is_none(late: &u64) -> bool {
    *late == 0
}

/// One trial of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseReport {
    /// The case's name.
    pub name: String,
    /// The trial, from 1.
    pub trial: u32,
    /// What sets the case apart from the plan's base.
    pub parameters: BTreeMap<String, String>,
    /// The active openers.
    pub clients: Cohort,
    /// The passive openers.
    pub servers: Cohort,
    /// How many connections the capacity model says the hosts can hold, cut to the plan's number.
    pub predicted: u64,
    /// What the servers did with finished handshakes: `all`, `never`, `close`, `200/s`, `until 500`.
    pub accept: String,
    /// Whether a flow counts as established once the other end's application answered; else, once its
    /// handshake is over.
    pub answered: bool,
    /// Established flows by each end's application: those on which the other end answered, or, where
    /// nobody waits for that, whose `connect` has finished (client) or that were accepted (server).
    pub established: Ends<u64>,
    /// ESTABLISHED sockets by each end's kernel (sock_diag); absent where it was not asked.
    pub kernel: Ends<Option<u64>>,
    /// Whether both kernels name the same four-tuples; absent where one was not asked.
    pub digests_equal: Option<bool>,
    /// Failed flows by call and errno.
    pub failed: Failures,
    /// Connections established per second from the first connect to the last answer.
    pub rate_per_second: Option<f64>,
    /// How long connects took; absent where they were not timed.
    #[serde(default)]
    pub connect: Option<ConnectReport>,
    /// How well the plan's rate was met; absent without one, and where no full second was seen.
    #[serde(default)]
    pub ramp: Option<RampReport>,
    /// How far apart the clients began; absent where that is not known.
    #[serde(default)]
    pub start: Option<StartReport>,
    /// The limit that bound.
    pub bound_by: Limit,
    /// The limit that binds next.
    pub next_bound: Option<Limit>,
    /// What the kernel answered to one connect more than there are four-tuples, by call and error.
    pub beyond: BTreeMap<String, u64>,
    /// CPU time of the workers of both ends for one connection, in microseconds.
    pub cpu_micros_per_connection: Option<f64>,
    /// User memory that one held connection added at both ends together, in bytes (PSS).
    pub user_bytes_per_connection: Option<f64>,
    /// Slab memory that one held connection added on the first host's kernel, in bytes.
    pub slab_bytes_per_connection: Option<f64>,
    /// By how much each kernel counter moved, by host.
    pub counters: BTreeMap<String, BTreeMap<String, i64>>,
    /// The shape of the load, where it is more than a ramp and a hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<ShapeReport>,
    /// What is missing from the evidence.
    pub gaps: Vec<String>,
}

/// One trial of one case that is a script.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ScriptReport {
    /// The case's name.
    pub name: String,
    /// The trial, from 1.
    pub trial: u32,
    /// What each step answered, in order.
    pub steps: Vec<Observation>,
    /// What is missing from the evidence.
    pub gaps: Vec<String>,
}

/// One side of a case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cohort {
    /// How many hosts.
    pub hosts: u32,
    /// Addresses used on each.
    pub addresses: u32,
    /// Source ports of clients (`kernel` or a set), listening ports of servers.
    pub ports: String,
}

/// A number at each end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ends<T> {
    /// At the active openers.
    pub client: T,
    /// At the passive openers.
    pub server: T,
}

impl Report {
    /// The view of a record. A stored plan that this version cannot read any more leaves the names
    /// of its cases out, never the run.
    pub fn new(record: &RunRecord) -> Self {
        let plan = PlanFile::parse(&record.plan_source).and_then(check).ok();
        let case_of = |trial: &TrialEvidence| plan.as_ref()?.cases.get(trial.case as usize);
        let is_script = |trial: &&TrialEvidence| {
            !trial.observations.is_empty() || case_of(trial).is_some_and(|case| !case.setup.steps.is_empty())
        };
        let name = |trial: &TrialEvidence| {
            case_of(trial).map_or_else(|| format!("case {}", trial.case + 1), |case| case.name.clone())
        };
        let scripts = record.evidence.iter().filter(is_script).map(|trial| ScriptReport {
            name: name(trial),
            trial: trial.trial + 1,
            steps: trial.observations.clone(),
            gaps: trial.gaps.clone(),
        });
        let cases = record.evidence.iter().filter(|trial| !is_script(trial)).map(|trial| {
            let case = case_of(trial);
            let (clients, servers) = case.map_or_else(unknown_cohorts, |case| cohorts(&case.setup));
            CaseReport {
                name: name(trial),
                parameters: case.map(|case| case.parameters.clone()).unwrap_or_default(),
                shape: case.and_then(|case| ShapeReport::new(trial, &case.setup.load)),
                ..case_report(trial, clients, servers)
            }
        });
        Self {
            run: record.id.to_string(),
            plan: crate::id::PlanDigest::of(&record.plan_source).to_string(),
            question: plan.as_ref().map(|plan| plan.question.clone()).unwrap_or_default(),
            submitter: record.submitter.clone(),
            submitted_micros: record.submitted_micros,
            phase: record.phase.name().into(),
            outcome: record.outcome.clone(),
            kernels: record.hosts.iter().map(|h| (h.name.to_string(), h.facts.kernel.clone())).collect(),
            cases: cases.collect(),
            scripts: scripts.collect(),
            verdicts: record.verdicts.clone(),
            late: record.late,
        }
    }
}

fn cohorts(setup: &Setup) -> (Cohort, Cohort) {
    let clients = Cohort {
        hosts: setup.clients.hosts,
        addresses: setup.clients.addresses,
        ports: setup.clients.source_ports.to_string(),
    };
    let servers = Cohort {
        hosts: setup.servers.hosts,
        addresses: setup.servers.addresses,
        ports: setup.servers.ports.to_string(),
    };
    (clients, servers)
}

fn unknown_cohorts() -> (Cohort, Cohort) {
    let unknown = || Cohort { hosts: 0, addresses: 0, ports: "unknown".into() };
    (unknown(), unknown())
}

fn case_report(trial: &TrialEvidence, clients: Cohort, servers: Cohort) -> CaseReport {
    let mut beyond = BTreeMap::new();
    for (failure, count) in trial.ends.iter().filter_map(|end| end.beyond.as_ref()).flat_map(|b| &b.refused) {
        *beyond.entry(failure.to_string()).or_default() += *count;
    }
    let counters = trial.ends.iter().filter_map(|end| {
        let moved = end.after.as_ref()?.since(end.before.as_ref()?);
        Some((end.agent.to_string(), moved))
    });
    CaseReport {
        name: String::new(),
        trial: trial.trial + 1,
        parameters: BTreeMap::new(),
        clients,
        servers,
        predicted: trial.prediction.connections,
        accept: trial.accept.to_string(),
        answered: trial.answered,
        established: Ends {
            client: trial.established(Role::Client),
            server: trial.established(Role::Server),
        },
        kernel: Ends { client: trial.kernel(Role::Client), server: trial.kernel(Role::Server) },
        digests_equal: trial.digests_equal(),
        failed: trial.failures(),
        rate_per_second: trial.rate_per_second(),
        connect: trial.connect_times().as_ref().and_then(ConnectReport::new),
        ramp: RampReport::new(trial),
        start: trial.start_skew().map(StartReport::from),
        bound_by: bound_by(trial),
        next_bound: trial.prediction.next_bound,
        beyond,
        cpu_micros_per_connection: trial.cpu_micros_per_pair(),
        user_bytes_per_connection: trial.user_bytes_per_pair(),
        slab_bytes_per_connection: trial.slab_bytes_per_pair(),
        counters: counters.collect(),
        shape: None,
        gaps: trial.gaps.clone(),
    }
}

/// The JSON Schema (draft 2020-12) of a report.
pub fn report_schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}
