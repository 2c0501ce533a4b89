//! When held connections move: one of a lane's at a time, evenly spaced, open loop. What could not begin
//! in its time is left out and counted: there is no burst to catch up.

use crate::net::Nanos;

/// So much lateness is made up for: a scheduler's turn on a shared core.
const MADE_UP_NANOS: Nanos = 10_000_000;

/// One lane's moments, among those of its worker's other lanes.
#[derive(Debug)]
pub(crate) struct Slots {
    first: f64,
    interval: f64,
    next: u64,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Nothing before this moment.
    Wait(Nanos),
    /// The one of this number; and how many, itself included, are late or left out because of that.
    Now { number: u64, late: u64 },
}

impl Slots {
    /// So many a second from this moment on; lanes begin one after the other, within one interval.
    /// `None` where the rate is no positive number.
    pub fn new(per_second: f64, since: Nanos, lane: usize, lanes: usize) -> Option<Self> {
        let interval = 1e9 / per_second;
        let first = since as f64 + interval * lane as f64 / lanes.max(1) as f64;
        (per_second > 0.0 && interval.is_finite()).then_some(Self { first, interval, next: 0 })
    }

    /// The next one, if its time has come.
    pub fn take(&mut self, now: Nanos) -> Slot {
        let due = |number: u64| (self.first + number as f64 * self.interval) as Nanos;
        let at = due(self.next);
        if now < at {
            return Slot::Wait(at);
        }
        let behind = now - at;
        let mut late = u64::from(behind as f64 > self.interval);
        if behind > MADE_UP_NANOS {
            // All that were due meanwhile, but the last.
            let skipped = (behind as f64 / self.interval) as u64;
            self.next += skipped;
            late = late.max(skipped);
        }
        let number = self.next;
        self.next += 1;
        Slot::Now { number, late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Nanos = 1_000_000;

    #[test]
    fn lanes_take_their_moments_in_turn() {
        let slots = |lane| Slots::new(100.0, 1_000 * MILLI, lane, 2).expect("a rate");
        assert_eq!(slots(0).take(0), Slot::Wait(1_000 * MILLI));
        assert_eq!(slots(1).take(0), Slot::Wait(1_005 * MILLI));
        let mut first = slots(0);
        assert_eq!(first.take(1_000 * MILLI), Slot::Now { number: 0, late: 0 });
        assert_eq!(first.take(1_000 * MILLI), Slot::Wait(1_010 * MILLI));
        assert!(Slots::new(0.0, 0, 0, 1).is_none() && Slots::new(f64::NAN, 0, 0, 1).is_none());
    }

    #[test]
    fn a_little_lateness_is_made_up_for_and_more_is_left_out_and_counted() {
        let mut slots = Slots::new(1_000.0, 0, 0, 1).expect("a rate");
        assert_eq!(slots.take(5 * MILLI), Slot::Now { number: 0, late: 1 });
        assert_eq!(slots.take(5 * MILLI), Slot::Now { number: 1, late: 1 });
        // 98 were due since number 2: the last of them begins, the others never do.
        assert_eq!(slots.take(100 * MILLI), Slot::Now { number: 100, late: 98 });
        assert_eq!(slots.take(100 * MILLI), Slot::Wait(101 * MILLI));
    }
}
