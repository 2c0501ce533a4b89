//! A worker's own view: gauges and monotone counters at one tick.

use super::failure::{Failure, Failures};
use super::histogram::{ConnectTimes, Histogram};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Monotone counters of one worker since its trial began, all lanes together.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Counters {
    /// Client: connects begun. Server: connections accepted.
    pub attempted: u64,
    /// Flows on which the other end's application answered (client: the echo came back; server: the
    /// token came and its echo was sent). Only these count as established; but where no answer is
    /// asked for, those whose `connect` has finished (client), or that were accepted (server).
    pub established: u64,
    /// Established flows that this end still holds open: a gauge.
    pub held: u64,
    /// Paced connects that began more than one pacing interval, and more than a millisecond, after they
    /// were due.
    pub late: u64,
    /// Server: connections dropped because they sent no token, or not this trial's.
    pub strangers: u64,
    /// Established flows that were closed before the end: by a client, to open another in the place;
    /// by a server, because its client had closed. They are no longer held.
    #[serde(default)]
    pub closed: u64,
    /// Client: flows established in the place of closed ones. They are among the established, too.
    #[serde(default)]
    pub churned: u64,
    /// Client: rounds begun on held connections: bytes sent, to be sent back.
    #[serde(default)]
    pub rounds: u64,
    /// Client: rounds whose bytes all came back.
    #[serde(default)]
    pub answered_rounds: u64,
    /// Client: rounds that began more than one interval late, or were left out: their moment had passed,
    /// or the one before on that connection was not answered yet.
    #[serde(default)]
    pub late_rounds: u64,
    /// What failed, by call and error.
    pub failures: Failures,
}

impl Counters {
    /// Flows that were established and not closed again: what churn leaves standing.
    pub fn standing(&self) -> u64 {
        self.established.saturating_sub(self.closed)
    }

    /// Adds another worker's (or lane's) counters to these.
    pub fn merge(&mut self, other: &Self) {
        self.attempted += other.attempted;
        self.established += other.established;
        self.held += other.held;
        self.late += other.late;
        self.strangers += other.strangers;
        self.closed += other.closed;
        self.churned += other.churned;
        self.rounds += other.rounds;
        self.answered_rounds += other.answered_rounds;
        self.late_rounds += other.late_rounds;
        self.failures.merge(&other.failures);
    }
}

/// One worker's counters at one tick, once a second while a trial runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// Position in this worker's series, from 0; a missing number is a gap.
    pub sequence: u64,
    /// Microseconds since Go, on the worker's monotonic clock.
    pub elapsed_micros: u64,
    /// User and system CPU time of the worker process so far, in microseconds.
    pub cpu_micros: u64,
    /// The counters at that moment.
    pub counters: Counters,
}

/// The answer that the kernel gave to one connect more than the schedule had four-tuples for: the
/// witness that the four-tuples, and nothing else, bound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Beyond {
    /// How many were tried, one per block of flows.
    pub tried: u64,
    /// How many the kernel refused, by call and error.
    pub refused: Vec<(Failure, u64)>,
}

/// Nothing more will open at this end: every flow of its order was established or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plateau {
    /// Microseconds from Go to the first connect (or accept); `None` where none was begun.
    pub first_micros: Option<u64>,
    /// Microseconds from Go to the last flow that was established; `None` where none was.
    pub last_micros: Option<u64>,
    /// User and system CPU time of the worker process so far, in microseconds.
    pub cpu_micros: u64,
    /// Proportional set size (`/proc/self/smaps_rollup`, Pss) when the worker was ready, in bytes.
    pub pss_ready_bytes: Option<u64>,
    /// Proportional set size now, in bytes.
    pub pss_bytes: Option<u64>,
    /// The counters at the end.
    pub counters: Counters,
    /// What the kernel said to one connect more, where the schedule asked for it.
    pub beyond: Option<Beyond>,
    /// When Go was, on the host's CLOCK_BOOTTIME, in nanoseconds; `None` before it, and of workers that
    /// do not say.
    #[serde(default)]
    pub go_nanos: Option<u64>,
    /// How long connects took, from the moment that they were due (without a rate: from `connect`)
    /// until they were established; `None` of a server.
    #[serde(default)]
    pub connect_times: Option<ConnectTimes>,
    /// How long answered rounds on held connections took, once they are over; `None` where none was.
    #[serde(default)]
    pub round_trips: Option<Histogram>,
}
