//! What a case's connects took, whether they began at the plan's rate, and together.

use crate::evidence::{StartSkew, TrialEvidence};
use crate::sample::{ConnectTimes, Occupancy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long connects took at all clients, in microseconds: from the moment that each was due (without a
/// rate: from `connect`) until the client's application knew that it was established. Those that failed
/// have no time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConnectReport {
    /// How many were timed.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50_micros: u64,
    /// 90 of 100 did.
    pub p90_micros: u64,
    /// 99 of 100 did.
    pub p99_micros: u64,
    /// 999 of 1,000 did.
    pub p999_micros: u64,
    /// The longest.
    pub max_micros: u64,
    /// The same by how full the client was when they began; tenths in which none began are left out.
    pub by_occupancy: Vec<AtOccupancy>,
}

/// The connects that began while so many of their client's flows were established.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AtOccupancy {
    /// From this share of the client's flows, in percent, up to ten percent more.
    pub from_percent: u8,
    /// How many were timed.
    pub count: u64,
    /// Half of them took at most this long.
    pub p50_micros: u64,
    /// 99 of 100 did.
    pub p99_micros: u64,
}

impl ConnectReport {
    /// `None` where none was timed.
    pub(super) fn new(times: &ConnectTimes) -> Option<Self> {
        let all = times.all();
        let steps = (0..).step_by(100 / Occupancy::COUNT).zip(&times.by_occupancy);
        let by_occupancy = steps.filter_map(|(from_percent, histogram)| {
            let (p50_micros, p99_micros) = (histogram.quantile(0.5)?, histogram.quantile(0.99)?);
            Some(AtOccupancy { from_percent, count: histogram.count(), p50_micros, p99_micros })
        });
        Some(Self {
            count: all.count(),
            p50_micros: all.quantile(0.5)?,
            p90_micros: all.quantile(0.9)?,
            p99_micros: all.quantile(0.99)?,
            p999_micros: all.quantile(0.999)?,
            max_micros: all.max()?,
            by_occupancy: by_occupancy.collect(),
        })
    }
}

/// How well the rate of a plan was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RampReport {
    /// Connects to be begun per second.
    pub asked_per_second: u64,
    /// Connects begun in the full second that was furthest from that.
    pub worst_per_second: u64,
    /// How far it was, in parts in a million of what was asked; one connect for each client is let pass.
    pub ramp_error_ppm: u64,
    /// How many full seconds there were, and how many of them were seen at every client.
    pub seconds: u64,
    /// See above.
    pub seconds_seen: u64,
    /// Connects that began more than an interval, and more than a millisecond, after they were due.
    pub late: u64,
}

impl RampReport {
    /// `None` where the trial had no rate, or no full second of it was seen.
    pub(super) fn new(trial: &TrialEvidence) -> Option<Self> {
        trial.ramp.map(|ramp| Self {
            asked_per_second: ramp.asked,
            worst_per_second: ramp.worst,
            ramp_error_ppm: ramp.error_ppm,
            seconds: ramp.seconds,
            seconds_seen: ramp.seen,
            late: trial.late(),
        })
    }
}

/// How far apart the clients began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StartReport {
    /// Over so many clients.
    pub clients: u64,
    /// The last client's first connect minus the first one's, in microseconds, on one clock.
    pub start_skew_micros: u64,
    /// The true number lies within this of it, in microseconds; 0 where all hosts share one clock.
    pub start_skew_bound_micros: u64,
}

impl From<StartSkew> for StartReport {
    fn from(skew: StartSkew) -> Self {
        Self {
            clients: skew.clients,
            start_skew_micros: skew.micros,
            start_skew_bound_micros: skew.bound_micros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Recorder;

    #[test]
    fn every_tenth_in_which_connects_began_has_its_own_line() {
        let mut recorder = Recorder::default();
        (1..=1_000).for_each(|micros| recorder.record(Occupancy::of(micros - 1, 4_000), micros));
        let report = ConnectReport::new(&recorder.times()).expect("some");
        assert_eq!((report.count, report.max_micros), (1_000, 1_000));
        let quantiles = [report.p50_micros, report.p90_micros, report.p99_micros, report.p999_micros];
        assert_eq!(quantiles, [500, 900, 990, 999]);
        let lines: Vec<_> = report
            .by_occupancy
            .iter()
            .map(|at| (at.from_percent, at.count, at.p50_micros, at.p99_micros))
            .collect();
        assert_eq!(lines, [(0, 400, 200, 396), (10, 400, 600, 796), (20, 200, 900, 998)]);
        assert_eq!(ConnectReport::new(&ConnectTimes::default()), None);
    }
}
