//! What a lane counts, where the engine can read it once a second without stopping the lane.

use crate::flow::Cause;
use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tuplelab_domain::sample::{Call, Counters, Failures, Histogram};

/// One lane's counters. Only the lane writes them. Aligned so that two lanes never write to one
/// cache line, nor to a pair that is fetched together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Tally {
    attempted: AtomicU64,
    established: AtomicU64,
    held: AtomicU64,
    late: AtomicU64,
    strangers: AtomicU64,
    closed: AtomicU64,
    rounds: AtomicU64,
    answered_rounds: AtomicU64,
    late_rounds: AtomicU64,
    /// Written once, when the rounds are over.
    round_trips: Mutex<Option<Histogram>>,
    /// One more than were established in the ramp, once it is over; 0 before.
    ramped: AtomicU64,
    /// Moments on the worker's clock; 0 is none.
    first: AtomicU64,
    last: AtomicU64,
    /// Touched only when something fails. Few classes, so a list; names are made on reading.
    failures: Mutex<Vec<(Call, Cause, u64)>>,
}

/// One writer: a plain load and store, no locked addition.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(counter.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

impl Tally {
    /// A connect was begun, or a connection accepted.
    pub fn attempted(&self, now: Nanos) {
        if self.attempted.load(Ordering::Relaxed) == 0 {
            self.first.store(now, Ordering::Relaxed);
        }
        add(&self.attempted, 1);
    }

    /// The other end's application has answered.
    pub fn established(&self, now: Nanos) {
        add(&self.established, 1);
        add(&self.held, 1);
        self.last.store(now, Ordering::Relaxed);
    }

    /// One that was established was closed by this end.
    pub fn let_go(&self) {
        self.held.store(self.held.load(Ordering::Relaxed).saturating_sub(1), Ordering::Relaxed);
    }

    /// A held one was closed: to be replaced, or because the other end had closed it.
    pub fn closed_one(&self) {
        add(&self.closed, 1);
        self.let_go();
    }

    /// What is established from now on takes the place of closed ones.
    pub fn ramp_over(&self) {
        self.ramped.store(self.established.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A round was begun on a held connection.
    pub fn round(&self) {
        add(&self.rounds, 1);
    }

    /// All of a round came back.
    pub fn answered_round(&self) {
        add(&self.answered_rounds, 1);
    }

    /// So many rounds began too late, or were left out.
    pub fn late_rounds(&self, count: u64) {
        add(&self.late_rounds, count);
    }

    /// How long the rounds took that were answered, once they are over.
    pub fn rounds_over(&self, times: Histogram) {
        *self.round_trips.lock().unwrap_or_else(PoisonError::into_inner) = Some(times);
    }

    /// The same, if they are.
    pub fn round_trips(&self) -> Option<Histogram> {
        self.round_trips.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A paced connect began too late.
    pub fn late(&self) {
        self.late_by(1);
    }

    /// So many began too late, or would have and were left out.
    pub fn late_by(&self, count: u64) {
        add(&self.late, count);
    }

    /// A connection without this trial's token was dropped.
    pub fn stranger(&self) {
        add(&self.strangers, 1);
    }

    /// A call failed.
    pub fn failed(&self, call: Call, cause: Cause) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        match failures.iter_mut().find(|(c, e, _)| (*c, *e) == (call, cause)) {
            Some((.., count)) => *count += 1,
            None => failures.push((call, cause, 1)),
        }
    }

    /// Every socket of the lane is closed.
    pub fn closed(&self) {
        self.held.store(0, Ordering::Relaxed);
    }

    /// The counters at this moment.
    pub fn counters(&self) -> Counters {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut failures = Failures::default();
        for (call, cause, count) in self.failures.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            failures.add(*call, cause.name(), *count);
        }
        Counters {
            attempted: read(&self.attempted),
            established: read(&self.established),
            held: read(&self.held),
            late: read(&self.late),
            strangers: read(&self.strangers),
            closed: read(&self.closed),
            rounds: read(&self.rounds),
            answered_rounds: read(&self.answered_rounds),
            late_rounds: read(&self.late_rounds),
            churned: match read(&self.ramped) {
                0 => 0,
                ramped => read(&self.established).saturating_sub(ramped - 1),
            },
            failures,
        }
    }

    /// When the first connect was begun (or connection accepted).
    pub fn first(&self) -> Option<Nanos> {
        Some(self.first.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }

    /// When the last flow was established.
    pub fn last(&self) -> Option<Nanos> {
        Some(self.last.load(Ordering::Relaxed)).filter(|at| *at > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn failures_are_counted_by_call_and_cause() {
        let tally = Tally::default();
        tally.failed(Call::Bind, Cause::Kernel(Errno::EADDRINUSE));
        tally.failed(Call::Receive, Cause::NoAnswer);
        tally.failed(Call::Bind, Cause::Kernel(Errno::EADDRINUSE));
        let json = serde_json::to_string(&tally.counters().failures).expect("serialises");
        assert_eq!(json, r#"{"bind EADDRINUSE":2,"receive NO_ANSWER":1}"#);
    }

    #[test]
    fn what_was_closed_was_still_established() {
        let tally = Tally::default();
        tally.attempted(5);
        tally.attempted(6);
        tally.established(9);
        assert_eq!((tally.first(), tally.last(), tally.counters().held), (Some(5), Some(9), 1));
        tally.closed();
        assert_eq!((tally.counters().held, tally.counters().established), (0, 1));
    }
}
