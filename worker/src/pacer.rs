//! When each connect is due, where a plan gives a rate: evenly spaced, open loop. A slow server
//! does not slow the plan down; connects that come too late begin at once and are counted.

use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};

/// An even pace: so many per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pace {
    interval: f64,
}

impl Pace {
    /// `None` where the rate is no positive number.
    pub fn per_second(rate: f64) -> Option<Self> {
        (rate.is_finite() && rate > 0.0).then(|| Self { interval: 1e9 / rate })
    }

    /// When the connect of that number (from 0) is due, in nanoseconds after the first. Computed
    /// from the number and not from the one before, so that rounding never adds up.
    pub fn due(self, number: u64) -> Nanos {
        (number as f64 * self.interval) as Nanos
    }

    /// Whether one that was due then and begins now begins more than one interval late.
    pub fn is_late(self, due: Nanos, now: Nanos) -> bool {
        now.saturating_sub(due) as f64 > self.interval
    }
}

/// One pace for all lanes of a worker: each connect takes the next number.
#[derive(Debug)]
pub(crate) struct Pacer {
    pub pace: Pace,
    next: AtomicU64,
}

impl Pacer {
    pub fn new(pace: Pace) -> Self {
        Self { pace, next: AtomicU64::new(0) }
    }

    /// When the next connect is due, in nanoseconds after Go; that moment is the caller's alone.
    pub fn take(&self) -> Nanos {
        self.pace.due(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rate_that_is_no_positive_number_is_no_pace() {
        assert_eq!([0.0, -1.0, f64::NAN, f64::INFINITY].map(Pace::per_second), [None; 4]);
    }

    #[test]
    fn each_moment_is_given_out_once() {
        let pacer = Pacer::new(Pace::per_second(4.0).expect("positive"));
        assert_eq!([pacer.take(), pacer.take(), pacer.take()], [0, 250_000_000, 500_000_000]);
    }

    #[test]
    fn a_connect_is_late_after_more_than_one_interval() {
        let pace = Pace::per_second(1_000.0).expect("positive");
        assert!(!pace.is_late(5_000_000, 4_000_000));
        assert!(!pace.is_late(5_000_000, 6_000_000));
        assert!(pace.is_late(5_000_000, 6_000_001));
    }

    proptest! {
        #[test]
        fn the_pace_never_drifts(rate in 0.1f64..1e6, seconds in 1u64..100_000) {
            let pace = Pace::per_second(rate).expect("positive");
            let number = (rate * seconds as f64).floor() as u64;
            let off = pace.due(number).abs_diff((number as f64 / rate * 1e9) as u64);
            prop_assert!(off <= 1 + seconds / 1_000, "{off} ns off after {seconds} s");
            prop_assert!(pace.due(number) <= pace.due(number + 1));
        }
    }
}
