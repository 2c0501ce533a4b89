//! All that a verdict may use: what both ends' applications and kernels said of each trial.

mod start;

pub use start::{HostClock, StartSkew};

use crate::capacity::Prediction;
use crate::id::AgentName;
use crate::plan::Accept;
use crate::sample::{Beyond, Census, ConnectTimes, Counters, Digest, Failures, Histogram, Ramp, Readings};
use crate::schedule::Role;
use crate::script::Observation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Below this many connections the slab of everything else on a kernel drowns theirs: some 8 KiB each,
/// where megabytes come and go.
const FEWEST_FOR_SLAB: u64 = 10_000;

/// What one end (an agent's host) said of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct End {
    /// Who.
    pub agent: AgentName,
    /// Which end.
    pub role: Role,
    /// The application's own counters at the plateau (client) or at the census (server).
    pub counters: Counters,
    /// What the kernel counted; `None` where no census came.
    pub census: Option<Census>,
    /// Microseconds from Go to the first connect.
    pub first_micros: Option<u64>,
    /// Microseconds from Go to the last established flow.
    pub last_micros: Option<u64>,
    /// CPU time of the worker until the plateau, in microseconds.
    pub cpu_micros: Option<u64>,
    /// The worker's proportional set size when it was ready, in bytes.
    pub pss_ready_bytes: Option<u64>,
    /// The same at the plateau.
    pub pss_bytes: Option<u64>,
    /// What the kernel said to one connect more than there are four-tuples.
    pub beyond: Option<Beyond>,
    /// Client: how long answered rounds on held connections took.
    #[serde(default)]
    pub round_trips: Option<Histogram>,
    /// The kernel's counters before the trial.
    pub before: Option<Readings>,
    /// The kernel's counters at the census.
    pub after: Option<Readings>,
    /// Samples that never came, out of those that should have.
    pub samples_missing: u64,
    /// When Go was, on the host's own clock (CLOCK_BOOTTIME), in nanoseconds.
    pub go_nanos: Option<u64>,
    /// What is known of the host's clock.
    pub clock: Option<HostClock>,
    /// How long connects took; `None` of a server, and where the plateau never came.
    pub connect_times: Option<ConnectTimes>,
}

/// What all ends said of one trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrialEvidence {
    /// The case, from 0.
    pub case: u32,
    /// The trial, from 0.
    pub trial: u32,
    /// What the model predicted.
    pub prediction: Prediction,
    /// How many connections were to be opened.
    pub target: u64,
    /// What the servers did with finished handshakes.
    pub accept: Accept,
    /// Whether the clients waited for an answer on each connection.
    pub answered: bool,
    /// How well the plan's rate was met; `None` without one, and where no full second was seen.
    pub ramp: Option<Ramp>,
    /// Every end.
    pub ends: Vec<End>,
    /// What the steps of a script answered, in order; of a load there are none.
    pub observations: Vec<Observation>,
    /// What is missing, in words: an agent that fell away, a census that never came.
    pub gaps: Vec<String>,
}

impl TrialEvidence {
    /// The ends of one role.
    pub fn ends_of(&self, role: Role) -> impl Iterator<Item = &End> {
        self.ends.iter().filter(move |end| end.role == role)
    }

    /// The application's count of established flows at one end, without those that were closed again.
    pub fn established(&self, role: Role) -> u64 {
        self.ends_of(role).map(|end| end.counters.standing()).sum()
    }

    /// Flows that the clients established in the ramp.
    fn ramped(&self) -> u64 {
        let of = |end: &End| end.counters.established.saturating_sub(end.counters.churned);
        self.ends_of(Role::Client).map(of).sum()
    }

    /// Whether connections were replaced or used while they were held: then what a worker used in all is no
    /// cost of opening and holding them.
    fn moved(&self) -> bool {
        self.ends.iter().any(|end| end.counters.closed > 0 || end.counters.rounds > 0)
    }

    /// The kernel's count at one end; `None` unless every host of that end was counted.
    pub fn kernel(&self, role: Role) -> Option<u64> {
        self.ends_of(role).next()?;
        self.ends_of(role).map(|end| end.census.as_ref().map(|census| census.established)).sum()
    }

    /// The kernel's digest at one end; `None` unless every host of that end was counted.
    pub fn digest(&self, role: Role) -> Option<Digest> {
        self.ends_of(role).next()?;
        self.ends_of(role).try_fold(Digest::default(), |mut sum, end| {
            sum.merge(end.census.as_ref()?.digest);
            Some(sum)
        })
    }

    /// Whether both kernels name the same four-tuples; `None` where an end was not counted.
    pub fn digests_equal(&self) -> Option<bool> {
        Some(self.digest(Role::Client)? == self.digest(Role::Server)?)
    }

    /// Whether the servers' application is a witness of all connections. One that leaves some in the
    /// queue, or closes them, is not; nor is one that still accepts when the clients, who wait for no
    /// answer, are done.
    pub fn asks_servers(&self) -> bool {
        self.accept == Accept::All || (self.accept.takes_all() && self.answered)
    }

    /// What each witness counts: both kernels, the clients' application and, where it is one, the
    /// servers'. `None` where a kernel was not counted.
    fn witnesses(&self) -> impl Iterator<Item = Option<u64>> {
        let kernels = [self.kernel(Role::Client), self.kernel(Role::Server)];
        let servers = self.asks_servers().then(|| Some(self.established(Role::Server)));
        kernels.into_iter().chain([Some(self.established(Role::Client))]).chain(servers)
    }

    /// The number that all witnesses agree on; `None` where they do not, or one is missing.
    pub fn agreed(&self) -> Option<u64> {
        let count = self.kernel(Role::Client)?;
        (self.witnesses().all(|other| other == Some(count)) && self.digests_equal()?).then_some(count)
    }

    /// The smallest of the witnesses' counts: what certainly was held.
    pub fn held(&self) -> u64 {
        self.witnesses().map(|count| count.unwrap_or(0)).min().unwrap_or(0)
    }

    /// All failures of all ends.
    pub fn failures(&self) -> Failures {
        let mut all = Failures::default();
        self.ends.iter().for_each(|end| all.merge(&end.counters.failures));
        all
    }

    /// Flows that failed, as the clients saw it: what a server saw of the same flows is no second
    /// failure, and an `accept` that had to be repeated is none at all.
    pub fn failed(&self) -> u64 {
        self.ends_of(Role::Client).map(|end| end.counters.failures.total()).sum()
    }

    /// Flows begun by the clients.
    pub fn attempted(&self) -> u64 {
        self.ends_of(Role::Client).map(|end| end.counters.attempted).sum()
    }

    /// Connections established per second, from the first connect of any client to the last answer
    /// to any; `None` where nothing was established or it took no measurable time.
    pub fn rate_per_second(&self) -> Option<f64> {
        let first = self.ends_of(Role::Client).filter_map(|end| end.first_micros).min()?;
        let last = self.ends_of(Role::Client).filter_map(|end| end.last_micros).max()?;
        let micros = last.checked_sub(first).filter(|micros| *micros > 0)?;
        Some(self.ramped() as f64 / (micros as f64 / 1e6))
    }

    /// How long connects took at all clients; `None` where one of them did not say.
    pub fn connect_times(&self) -> Option<ConnectTimes> {
        self.ends_of(Role::Client).next()?;
        self.ends_of(Role::Client).try_fold(ConnectTimes::default(), |mut sum, end| {
            sum.merge(end.connect_times.as_ref()?);
            Some(sum)
        })
    }

    /// Paced connects that began too late.
    pub fn late(&self) -> u64 {
        self.ends_of(Role::Client).map(|end| end.counters.late).sum()
    }

    /// How far apart the clients' first connects were; `None` where one of them is not known.
    pub fn start_skew(&self) -> Option<StartSkew> {
        StartSkew::of(self.ends_of(Role::Client))
    }

    /// CPU time of all workers for one established pair, in microseconds; `None` where it was spent on
    /// other things, too.
    pub fn cpu_micros_per_pair(&self) -> Option<f64> {
        if self.moved() {
            return None;
        }
        let pairs = self.established(Role::Client);
        let cpu: u64 = self.ends.iter().map(|end| end.cpu_micros).sum::<Option<u64>>()?;
        (pairs > 0).then(|| cpu as f64 / pairs as f64)
    }

    /// User memory of all workers that the held connections added, in bytes a pair.
    pub fn user_bytes_per_pair(&self) -> Option<f64> {
        let pairs = self.established(Role::Client);
        let added: i64 = self
            .ends
            .iter()
            .map(|end| Some(end.pss_bytes? as i64 - end.pss_ready_bytes? as i64))
            .sum::<Option<i64>>()?;
        (pairs > 0).then(|| added as f64 / pairs as f64)
    }

    /// Slab that the held connections added on one kernel, in bytes a pair: the readings of the first
    /// end; only an estimate, since everything else on that kernel counts too, and none of a few.
    pub fn slab_bytes_per_pair(&self) -> Option<f64> {
        let pairs = self.established(Role::Client);
        if pairs < FEWEST_FOR_SLAB {
            return None;
        }
        let end = self.ends.first()?;
        let slab = |readings: &Option<Readings>| readings.as_ref()?.get("meminfo.Slab");
        let added = slab(&end.after)? as f64 - slab(&end.before)? as f64;
        (pairs > 0).then(|| added / pairs as f64)
    }
}
