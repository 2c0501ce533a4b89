//! When each connect is due, where a plan gives a rate: evenly spaced, open loop. A slow server
//! does not slow the plan down: connects that come too late are counted, begin as soon as they may,
//! and their times run from when they were due.
//!
//! What was late is made up for at twice the pace, not at once: a burst would measure the accept
//! queue and not the rate.

use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};

/// A connect that begins later than this, and than an interval, is late: a thread is not woken more
/// exactly than that on a busy host (a scheduler's slice is some milliseconds), and at 20,000 a second
/// an interval is shorter than any sleep.
const PUNCTUAL_NANOS: Nanos = 1_000_000;

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

    /// Whether one that was due then and begins now begins late.
    pub fn is_late(self, due: Nanos, now: Nanos) -> bool {
        now.saturating_sub(due) as f64 > self.interval.max(PUNCTUAL_NANOS as f64)
    }

    /// The least distance of two starts, over more than a moment: half an interval.
    fn gap(self) -> Nanos {
        (self.interval / 2.0) as Nanos
    }

    /// How far starts may run ahead of that distance: as many may follow each other at once as are due
    /// in a millisecond (at up to 1,000 a second: one, so that no two are ever closer than half an
    /// interval). A sleep is some 50 us longer than was asked for, so finer spacing cannot be kept.
    fn slack(self) -> Nanos {
        let burst = (PUNCTUAL_NANOS as f64 / self.interval).max(1.0) as u64;
        self.gap().saturating_mul(burst - 1)
    }
}

/// One pace for all lanes of a worker: each connect takes the next number.
#[derive(Debug)]
pub(crate) struct Pacer {
    pub pace: Pace,
    next: AtomicU64,
    /// When all connects that were begun so far have had their distance.
    spaced: AtomicU64,
}

impl Pacer {
    pub fn new(pace: Pace) -> Self {
        Self { pace, next: AtomicU64::new(0), spaced: AtomicU64::new(0) }
    }

    /// When the next connect is due, in nanoseconds after Go; that moment is the caller's alone.
    pub fn take(&self) -> Nanos {
        self.pace.due(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a connect that is due then may begin now; else, from when on to ask again. Once it may,
    /// it counts as begun. (The generic cell rate algorithm, ITU-T I.371: `spaced` is the theoretical
    /// arrival time, at twice the pace.)
    pub fn begin(&self, due: Nanos, now: Nanos) -> Result<(), Nanos> {
        if now < due {
            return Err(due);
        }
        let (gap, slack) = (self.pace.gap(), self.pace.slack());
        let mut spaced = self.spaced.load(Ordering::Relaxed);
        loop {
            let from = spaced.saturating_sub(slack);
            if now < from {
                return Err(from);
            }
            let next = spaced.max(now).saturating_add(gap);
            match self.spaced.compare_exchange_weak(spaced, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => spaced = other,
            }
        }
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
    fn a_connect_is_late_after_more_than_one_interval_and_more_than_a_millisecond() {
        let late =
            |rate, by: u64| Pace::per_second(rate).expect("positive").is_late(5_000_000, 5_000_000 + by);
        assert!(!Pace::per_second(1_000.0).expect("positive").is_late(5_000_000, 4_000_000));
        assert_eq!([late(1_000.0, 1_000_000), late(1_000.0, 1_000_001)], [false, true]);
        assert_eq!([late(20_000.0, 1_000_000), late(20_000.0, 1_000_001)], [false, true]);
        assert_eq!([late(10.0, 100_000_000), late(10.0, 100_000_001)], [false, true]);
    }

    #[test]
    fn what_was_held_up_begins_at_twice_the_pace_and_not_at_once() {
        let pacer = Pacer::new(Pace::per_second(1_000.0).expect("positive"));
        let held_up = 10_000_000;
        assert_eq!(pacer.begin(0, held_up), Ok(()));
        assert_eq!(pacer.begin(1_000_000, held_up), Err(held_up + 500_000));
        assert_eq!(pacer.begin(1_000_000, held_up + 500_000), Ok(()));
        assert_eq!(pacer.begin(99_000_000, held_up), Err(99_000_000), "never before it is due");
    }

    #[test]
    fn at_a_high_rate_as_many_may_follow_at_once_as_are_due_in_a_millisecond() {
        let pacer = Pacer::new(Pace::per_second(20_000.0).expect("positive"));
        let at_once = (0..100).take_while(|_| pacer.begin(0, 5_000_000).is_ok()).count();
        assert_eq!(at_once, 20);
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

        #[test]
        fn who_is_punctual_is_never_held_up(rate in 0.1f64..1e6) {
            let pacer = Pacer::new(Pace::per_second(rate).expect("positive"));
            for _ in 0..200 {
                let due = pacer.take();
                prop_assert_eq!(pacer.begin(due, due), Ok(()));
            }
        }

        #[test]
        fn no_time_has_more_starts_than_twice_the_pace_and_the_burst(
            rate in 100f64..1e5,
            pauses in proptest::collection::vec(prop_oneof![4 => 0u64..100_000, 1 => 0u64..50_000_000], 1..200),
        ) {
            let pace = Pace::per_second(rate).expect("positive");
            let pacer = Pacer::new(pace);
            let (mut now, mut starts) = (0, Vec::new());
            for pause in pauses {
                now += pause;
                let due = pacer.take();
                while let Err(until) = pacer.begin(due, now) {
                    prop_assert!(until > now, "who waits until then comes further");
                    now = until;
                }
                starts.push(now);
            }
            for (i, first) in starts.iter().enumerate() {
                for (more, last) in starts[i..].iter().enumerate() {
                    prop_assert!(more as u64 * pace.gap() <= last - first + pace.slack());
                }
            }
        }
    }
}
