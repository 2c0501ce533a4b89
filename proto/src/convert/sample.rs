//! What a worker and a kernel say while a trial runs.

use super::error::{NO_ENDPOINT, WireError, each, part, read};
use super::facts::state;
use crate::v1;
use tuplelab_domain::sample::{
    Beyond, Call, Census, ConnectTimes, Counters, Digest, Failure, Failures, Histogram, ListenerQueue,
    Occupancy, Plateau, Readings, Sample,
};

impl From<&Counters> for v1::Counters {
    fn from(counters: &Counters) -> Self {
        Self {
            attempted: counters.attempted,
            established: counters.established,
            held: counters.held,
            late: counters.late,
            strangers: counters.strangers,
            failures: counters.failures.iter().map(failure_count).collect(),
            closed: counters.closed,
            churned: counters.churned,
            rounds: counters.rounds,
            answered_rounds: counters.answered_rounds,
            late_rounds: counters.late_rounds,
        }
    }
}

impl TryFrom<v1::Counters> for Counters {
    type Error = WireError;

    /// A class of failure that is there twice counts for the sum of both.
    fn try_from(message: v1::Counters) -> Result<Self, WireError> {
        let mut failures = Failures::default();
        for (failure, count) in failures_of("failures", message.failures)? {
            failures.add(failure.call, failure.error, count);
        }
        Ok(Self {
            attempted: message.attempted,
            established: message.established,
            held: message.held,
            late: message.late,
            strangers: message.strangers,
            closed: message.closed,
            churned: message.churned,
            rounds: message.rounds,
            answered_rounds: message.answered_rounds,
            late_rounds: message.late_rounds,
            failures,
        })
    }
}

fn failure_count((failure, count): (&Failure, u64)) -> v1::FailureCount {
    v1::FailureCount { call: failure.call.name().into(), error: failure.error.clone(), count }
}

/// Failures whose counts can be added up without overflow.
fn failures_of(field: &str, messages: Vec<v1::FailureCount>) -> Result<Vec<(Failure, u64)>, WireError> {
    let failures = each(field, messages, failure)?;
    let total: u128 = failures.iter().map(|(_, count)| u128::from(*count)).sum();
    match u64::try_from(total) {
        Ok(_) => Ok(failures),
        Err(_) => Err(WireError::wrong(field, total, "more than can be counted")),
    }
}

fn failure(message: v1::FailureCount) -> Result<(Failure, u64), WireError> {
    let call = Call::named(&message.call)
        .ok_or_else(|| WireError::wrong("call", &message.call, "no system call that a flow fails in"))?;
    let is_name = (1..=64).contains(&message.error.len())
        && message.error.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(WireError::wrong("error", &message.error, "no error's name"));
    }
    Ok((Failure { call, error: message.error }, message.count))
}

impl From<&Sample> for v1::Sample {
    fn from(sample: &Sample) -> Self {
        Self {
            sequence: sample.sequence,
            elapsed_micros: sample.elapsed_micros,
            cpu_micros: sample.cpu_micros,
            counters: Some((&sample.counters).into()),
        }
    }
}

impl TryFrom<v1::Sample> for Sample {
    type Error = WireError;
    fn try_from(message: v1::Sample) -> Result<Self, WireError> {
        Ok(Self {
            sequence: message.sequence,
            elapsed_micros: message.elapsed_micros,
            cpu_micros: message.cpu_micros,
            counters: part("counters", message.counters)?,
        })
    }
}

impl From<&Plateau> for v1::Plateau {
    fn from(plateau: &Plateau) -> Self {
        Self {
            first_micros: plateau.first_micros,
            last_micros: plateau.last_micros,
            cpu_micros: plateau.cpu_micros,
            pss_ready_bytes: plateau.pss_ready_bytes,
            pss_bytes: plateau.pss_bytes,
            counters: Some((&plateau.counters).into()),
            beyond: plateau.beyond.as_ref().map(Into::into),
            go_nanos: plateau.go_nanos,
            connect_times: plateau.connect_times.as_ref().map(Into::into),
            round_trips: plateau.round_trips.clone().map(|times| v1::RoundTrips { steps: times.into() }),
        }
    }
}

impl TryFrom<v1::Plateau> for Plateau {
    type Error = WireError;
    fn try_from(message: v1::Plateau) -> Result<Self, WireError> {
        Ok(Self {
            first_micros: message.first_micros,
            last_micros: message.last_micros,
            cpu_micros: message.cpu_micros,
            pss_ready_bytes: message.pss_ready_bytes,
            pss_bytes: message.pss_bytes,
            counters: part("counters", message.counters)?,
            beyond: message.beyond.map(|beyond| part("beyond", Some(beyond))).transpose()?,
            go_nanos: message.go_nanos,
            connect_times: message
                .connect_times
                .map(|times| part("connect_times", Some(times)))
                .transpose()?,
            round_trips: message
                .round_trips
                .map(|times| {
                    let count = times.steps.len();
                    Histogram::try_from(times.steps)
                        .map_err(|_| WireError::wrong("round_trips", count, "no histogram"))
                })
                .transpose()?,
        })
    }
}

impl From<&ConnectTimes> for v1::ConnectTimes {
    fn from(times: &ConnectTimes) -> Self {
        Self { by_occupancy: times.by_occupancy.iter().map(Into::into).collect() }
    }
}

impl TryFrom<v1::ConnectTimes> for ConnectTimes {
    type Error = WireError;
    fn try_from(message: v1::ConnectTimes) -> Result<Self, WireError> {
        let by_occupancy = each("by_occupancy", message.by_occupancy, TryInto::try_into)?;
        let by_occupancy = <[Histogram; Occupancy::COUNT]>::try_from(by_occupancy).map_err(|other| {
            WireError::wrong("by_occupancy", other.len(), "not one histogram for each tenth")
        })?;
        Ok(Self { by_occupancy })
    }
}

impl From<&Histogram> for v1::Histogram {
    fn from(histogram: &Histogram) -> Self {
        let (micros, counts) = histogram.steps().iter().copied().unzip();
        Self { micros, counts }
    }
}

impl TryFrom<v1::Histogram> for Histogram {
    type Error = WireError;
    fn try_from(message: v1::Histogram) -> Result<Self, WireError> {
        let (times, counts) = (message.micros.len(), message.counts.len());
        if times != counts {
            return Err(WireError::wrong("counts", counts, "not one for each of micros"));
        }
        Self::from_steps(message.micros.into_iter().zip(message.counts).collect())
            .map_err(|error| WireError::wrong("micros", error, "no histogram"))
    }
}

impl From<&Beyond> for v1::Beyond {
    fn from(beyond: &Beyond) -> Self {
        let refused = beyond.refused.iter().map(|(failure, count)| failure_count((failure, *count)));
        Self { tried: beyond.tried, refused: refused.collect() }
    }
}

impl TryFrom<v1::Beyond> for Beyond {
    type Error = WireError;
    fn try_from(message: v1::Beyond) -> Result<Self, WireError> {
        Ok(Self { tried: message.tried, refused: failures_of("refused", message.refused)? })
    }
}

impl From<&Census> for v1::Census {
    fn from(census: &Census) -> Self {
        Self {
            established: census.established,
            digest: census.digest.to_string(),
            strangers: census.strangers,
            states: census.states.iter().map(|(state, count)| (state.name().into(), *count)).collect(),
            listeners: census.listeners.iter().map(Into::into).collect(),
            micros: census.micros,
        }
    }
}

impl TryFrom<v1::Census> for Census {
    type Error = WireError;
    fn try_from(message: v1::Census) -> Result<Self, WireError> {
        let states = message.states.iter().map(|(name, count)| Ok((state("states", name)?, *count)));
        Ok(Self {
            established: message.established,
            digest: digest(message.digest)?,
            strangers: message.strangers,
            states: states.collect::<Result<_, _>>()?,
            listeners: each("listeners", message.listeners, TryInto::try_into)?,
            micros: message.micros,
        })
    }
}

fn digest(text: String) -> Result<Digest, WireError> {
    let wrong = WireError::wrong("digest", &text, "no digest of 32 hexadecimal digits");
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong);
    }
    Digest::try_from(text).map_err(|_| wrong)
}

impl From<&ListenerQueue> for v1::ListenerQueue {
    fn from(queue: &ListenerQueue) -> Self {
        Self { endpoint: queue.endpoint.to_string(), queued: queue.queued, backlog: queue.backlog }
    }
}

impl TryFrom<v1::ListenerQueue> for ListenerQueue {
    type Error = WireError;
    fn try_from(message: v1::ListenerQueue) -> Result<Self, WireError> {
        Ok(Self {
            endpoint: read("endpoint", &message.endpoint, NO_ENDPOINT)?,
            queued: message.queued,
            backlog: message.backlog,
        })
    }
}

impl From<&Readings> for v1::Readings {
    fn from(readings: &Readings) -> Self {
        Self { values: readings.0.clone() }
    }
}

impl From<v1::Readings> for Readings {
    fn from(message: v1::Readings) -> Self {
        Self(message.values)
    }
}
