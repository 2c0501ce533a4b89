//! When the next connection may be accepted, where a server accepts at a rate: evenly spaced over all
//! lanes of the worker. A queue that was empty for a while is not caught up with.

use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use tuplelab_domain::plan::Accept;

/// So much lateness is made up for: lanes nap for about half of it between two batches, and a rate of
/// many in that time would not be reached otherwise.
const LATE_NANOS: Nanos = 1_000_000;

/// Opens so many times a second.
#[derive(Debug)]
pub(crate) struct Gate {
    interval: Nanos,
    opens_at: AtomicU64,
}

impl Gate {
    /// So many per second; a rate of none is as slow as one a second.
    fn per_second(rate: u64) -> Self {
        Self { interval: 1_000_000_000 / rate.max(1), opens_at: AtomicU64::new(0) }
    }

    /// The gate of a server that accepts like this, if it is to have one.
    pub fn of(accept: Accept) -> Option<Self> {
        match accept {
            Accept::PerSecond(rate) => Some(Self::per_second(rate)),
            Accept::All | Accept::Never | Accept::Close | Accept::Until(_) => None,
        }
    }

    /// When it opens next.
    pub fn opens_at(&self) -> Nanos {
        self.opens_at.load(Ordering::Relaxed)
    }

    /// One went through. Two lanes that go through at once both count: the next waits for both.
    pub fn pass(&self, now: Nanos) {
        let next = |at: Nanos| Some(at.max(now.saturating_sub(LATE_NANOS)).saturating_add(self.interval));
        // It cannot fail: there is always a next moment.
        let _ = self.opens_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_opens_at_even_intervals_and_makes_up_for_a_little_lateness_only() {
        const SECOND: Nanos = 1_000_000_000;
        let gate = Gate::per_second(200);
        gate.pass(SECOND);
        let first = gate.opens_at();
        assert_eq!(first, SECOND - LATE_NANOS + 5_000_000);
        gate.pass(first + 400_000);
        assert_eq!(gate.opens_at(), first + 5_000_000, "what was a little late delays nothing");
        gate.pass(9 * SECOND);
        assert_eq!(gate.opens_at(), 9 * SECOND - LATE_NANOS + 5_000_000, "a pause brings no burst");
    }
}
