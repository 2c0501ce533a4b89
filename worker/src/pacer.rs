//! When each connect is due, where a plan gives a rate or a timetable: open loop. A slow server
//! does not slow the plan down: connects that come too late are counted, begin as soon as they may,
//! and their times run from when they were due.
//!
//! What was late is made up for at twice the pace, not at once: a burst would measure the accept
//! queue and not the rate.

use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use tuplelab_domain::schedule::{Connect, Stretch};

/// A connect that begins later than this, and than an interval, is late: a thread is not woken more
/// exactly than that on a busy host (a scheduler's slice is some milliseconds), and at 20,000 a second
/// an interval is shorter than any sleep.
const PUNCTUAL_NANOS: Nanos = 1_000_000;

/// A timetable: which connect is due when, in nanoseconds after the first moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pace {
    /// In the order of their first connects.
    stretches: Vec<Even>,
}

/// Evenly spaced connects, from this one on.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Even {
    first: u64,
    begins: f64,
    /// None (0) where all are due at once.
    interval: f64,
}

/// When a connect is due.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Due {
    pub at: Nanos,
    interval: f64,
}

impl Due {
    /// The same on a clock that showed this at the first moment.
    pub fn from(self, start: Nanos) -> Self {
        Self { at: start.saturating_add(self.at), ..self }
    }

    /// Whether what begins now begins late. What is due at once with others has no moment of its own
    /// to miss.
    pub fn is_late(self, now: Nanos) -> bool {
        let late = now.saturating_sub(self.at) as f64;
        self.interval > 0.0 && late > self.interval.max(PUNCTUAL_NANOS as f64)
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

impl Pace {
    /// An even pace, so many per second; `None` where the rate is no positive number.
    pub fn per_second(rate: f64) -> Option<Self> {
        let even = |interval| Self { stretches: vec![Even { first: 0, begins: 0.0, interval }] };
        (rate.is_finite() && rate > 0.0).then(|| even(1e9 / rate))
    }

    /// One stretch after the other; `None` where there is none. After the last it goes on as in it.
    pub fn of(stretches: &[Stretch]) -> Option<Self> {
        let (mut first, mut begins) = (0, 0.0);
        let mut evens = Vec::with_capacity(stretches.len());
        for stretch in stretches {
            let span = stretch.micros as f64 * 1e3;
            if stretch.connects > 0 {
                evens.push(Even { first, begins, interval: span / stretch.connects as f64 });
            }
            first = stretch.connects.saturating_add(first);
            begins += span;
        }
        (!evens.is_empty()).then_some(Self { stretches: evens })
    }

    /// What an order says of it; `None` is as fast as it goes.
    pub fn ordered(work: &Connect) -> Option<Self> {
        Self::of(&work.stretches).or_else(|| work.rate.and_then(Self::per_second))
    }

    /// When the connect of that number (from 0) is due. Computed from the number and not from the one
    /// before, so that rounding never adds up.
    pub fn due(&self, number: u64) -> Due {
        let after = self.stretches.partition_point(|even| even.first <= number);
        // The first begins with number 0, so one is always found.
        let even = self.stretches.get(after.saturating_sub(1)).copied();
        let even = even.unwrap_or(Even { first: 0, begins: 0.0, interval: 0.0 });
        let at = even.begins + (number - even.first) as f64 * even.interval;
        Due { at: at as Nanos, interval: even.interval }
    }
}

/// One pace for all lanes of a worker: each connect takes the next number.
#[derive(Debug)]
pub(crate) struct Pacer {
    pace: Pace,
    next: AtomicU64,
    /// When all connects that were begun so far have had their distance.
    spaced: AtomicU64,
}

impl Pacer {
    pub fn new(pace: Pace) -> Self {
        Self { pace, next: AtomicU64::new(0), spaced: AtomicU64::new(0) }
    }

    /// When the next connect is due, after Go; that moment is the caller's alone.
    pub fn take(&self) -> Due {
        self.pace.due(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether a connect that is due then may begin now; else, from when on to ask again. Once it may,
    /// it counts as begun. (The generic cell rate algorithm, ITU-T I.371: `spaced` is the theoretical
    /// arrival time, at twice the pace.)
    pub fn begin(&self, due: Due, now: Nanos) -> Result<(), Nanos> {
        if now < due.at {
            return Err(due.at);
        }
        let (gap, slack) = (due.gap(), due.slack());
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

    const SECOND: Nanos = 1_000_000_000;

    #[test]
    fn a_rate_that_is_no_positive_number_is_no_pace() {
        assert_eq!([0.0, -1.0, f64::NAN, f64::INFINITY].map(Pace::per_second), [const { None }; 4]);
        assert_eq!(Pace::of(&[]), None);
    }

    #[test]
    fn each_moment_is_given_out_once() {
        let pacer = Pacer::new(Pace::per_second(4.0).expect("positive"));
        let moments = [pacer.take(), pacer.take(), pacer.take()].map(|due| due.at);
        assert_eq!(moments, [0, 250_000_000, 500_000_000]);
    }

    #[test]
    fn a_connect_is_late_after_more_than_one_interval_and_more_than_a_millisecond() {
        let late = |rate, by: u64| {
            let due = Pace::per_second(rate).expect("positive").due(0).from(5_000_000);
            due.is_late(5_000_000 + by)
        };
        let due = Pace::per_second(1_000.0).expect("positive").due(5);
        assert!(!due.is_late(4_000_000));
        assert!(!due.from(SECOND).is_late(SECOND));
        assert_eq!([late(1_000.0, 1_000_000), late(1_000.0, 1_000_001)], [false, true]);
        assert_eq!([late(20_000.0, 1_000_000), late(20_000.0, 1_000_001)], [false, true]);
        assert_eq!([late(10.0, 100_000_000), late(10.0, 100_000_001)], [false, true]);
    }

    #[test]
    fn what_was_held_up_begins_at_twice_the_pace_and_not_at_once() {
        let pace = Pace::per_second(1_000.0).expect("positive");
        let pacer = Pacer::new(pace.clone());
        let held_up = 10_000_000;
        assert_eq!(pacer.begin(pace.due(0), held_up), Ok(()));
        assert_eq!(pacer.begin(pace.due(1), held_up), Err(held_up + 500_000));
        assert_eq!(pacer.begin(pace.due(1), held_up + 500_000), Ok(()));
        assert_eq!(pacer.begin(pace.due(99), held_up), Err(99_000_000), "never before it is due");
    }

    #[test]
    fn at_a_high_rate_as_many_may_follow_at_once_as_are_due_in_a_millisecond() {
        let pace = Pace::per_second(20_000.0).expect("positive");
        let pacer = Pacer::new(pace.clone());
        let at_once = (0..100).take_while(|_| pacer.begin(pace.due(0), 5_000_000).is_ok()).count();
        assert_eq!(at_once, 20);
    }

    #[test]
    fn stages_follow_one_another_whatever_became_of_the_one_before() {
        let stretch = |connects, micros| Stretch { connects, micros };
        // Two a second apart, a pause of 5 s, three at once, one each half second.
        let pace =
            Pace::of(&[stretch(2, 2_000_000), stretch(0, 5_000_000), stretch(3, 0), stretch(2, 1_000_000)]);
        let pace = pace.expect("a timetable");
        let halves: Vec<u64> = (0..8).map(|number| pace.due(number).at / (SECOND / 2)).collect();
        assert_eq!(halves, [0, 2, 14, 14, 14, 14, 15, 16], "the eighth is beyond the last");
        assert!(!pace.due(3).is_late(60 * SECOND), "a burst's connects have no moment of their own");
        assert!(pace.due(5).is_late(60 * SECOND));
    }

    proptest! {
        #[test]
        fn the_pace_never_drifts(rate in 0.1f64..1e6, seconds in 1u64..100_000) {
            let pace = Pace::per_second(rate).expect("positive");
            let number = (rate * seconds as f64).floor() as u64;
            let off = pace.due(number).at.abs_diff((number as f64 / rate * 1e9) as u64);
            prop_assert!(off <= 1 + seconds / 1_000, "{off} ns off after {seconds} s");
            prop_assert!(pace.due(number).at <= pace.due(number + 1).at);
        }

        #[test]
        fn no_connect_is_due_before_the_one_before_it_nor_outside_its_stretch(
            parts in proptest::collection::vec((0u64..50, 0u64..1_000_000), 1..8),
        ) {
            let stretches: Vec<_> = parts.iter().map(|(connects, micros)| Stretch { connects: *connects, micros: *micros }).collect();
            let Some(pace) = Pace::of(&stretches) else { return Ok(()) };
            let (mut number, mut begins, mut last) = (0, 0, 0);
            for stretch in stretches {
                let ends = begins + stretch.micros * 1_000;
                for _ in 0..stretch.connects {
                    let at = pace.due(number).at;
                    prop_assert!(at >= last && at + 1 >= begins && at <= ends);
                    (number, last) = (number + 1, at);
                }
                begins = ends;
            }
        }

        #[test]
        fn who_is_punctual_is_never_held_up(rate in 0.1f64..1e6) {
            let pacer = Pacer::new(Pace::per_second(rate).expect("positive"));
            for _ in 0..200 {
                let due = pacer.take();
                prop_assert_eq!(pacer.begin(due, due.at), Ok(()));
            }
        }

        #[test]
        fn no_time_has_more_starts_than_twice_the_pace_and_the_burst(
            rate in 100f64..1e5,
            pauses in proptest::collection::vec(prop_oneof![4 => 0u64..100_000, 1 => 0u64..50_000_000], 1..200),
        ) {
            let pace = Pace::per_second(rate).expect("positive");
            let (gap, slack) = (pace.due(0).gap(), pace.due(0).slack());
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
                    prop_assert!(more as u64 * gap <= last - first + slack);
                }
            }
        }
    }
}
