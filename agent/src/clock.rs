//! The agent's clock, and how far the controller's is from it.

use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;

/// CLOCK_BOOTTIME in nanoseconds: monotonic, goes on while the machine sleeps, and the same for all
/// processes of one kernel.
pub fn boottime_nanos() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_BOOTTIME) else { return 0 };
    u64::try_from(now.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// How many beats are remembered: half a minute of them, so that drift between clocks shows.
const REMEMBERED: usize = 30;

/// The difference of two clocks, estimated from round trips (RFC 5905, section 8: the reading with
/// the shortest round trip is the best one; half of it bounds the error).
#[derive(Debug, Clone, Default)]
pub struct Offset {
    readings: VecDeque<(i64, u64)>,
    shared: bool,
}

/// Which clock this host has: its kernel's boot id. `None` where it cannot be read.
pub fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}

impl Offset {
    /// One round trip: sent and answered by our clock, received by the other.
    pub fn observe(&mut self, sent: u64, received: u64, answered: u64) {
        let Some(trip) = answered.checked_sub(sent) else { return };
        let middle = i128::from(sent) + i128::from(trip / 2);
        let Ok(offset) = i64::try_from(i128::from(received) - middle) else { return };
        if self.readings.len() == REMEMBERED {
            self.readings.pop_front();
        }
        self.readings.push_back((offset, trip / 2));
    }

    /// The other side has said which clock it has, if it says so: if it is ours (one kernel), nothing is
    /// left to measure.
    pub fn compare(&mut self, theirs: &str) {
        self.shared = boot_id().is_some_and(|ours| ours == theirs);
    }

    /// The other clock minus ours, and the bound of its error, in nanoseconds.
    pub fn best(&self) -> Option<(i64, u64)> {
        if self.shared {
            return Some((0, 0));
        }
        self.readings.iter().copied().min_by_key(|(_, bound)| *bound)
    }

    /// A moment of the other clock, by ours; unchanged while nothing was measured.
    pub fn to_ours(&self, theirs: u64) -> u64 {
        let offset = self.best().map_or(0, |(offset, _)| offset);
        theirs.saturating_add_signed(offset.saturating_neg())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_round_trip_decides() {
        let mut offset = Offset::default();
        assert_eq!(offset.best(), None);
        offset.observe(1_000, 10_600, 2_000); // slow: 9,100 off, to within 500
        offset.observe(5_000, 14_010, 5_020); // quick: 9,000 off, to within 10
        assert_eq!(offset.best(), Some((9_000, 10)));
        assert_eq!(offset.to_ours(20_000), 11_000);
    }

    #[test]
    fn one_kernel_has_one_clock_whatever_was_measured() {
        let mut offset = Offset::default();
        offset.observe(1_000, 10_600, 2_000);
        let ours = boot_id().expect("this is Linux");
        for (theirs, best) in [(ours.as_str(), (0, 0)), ("another", (9_100, 500)), ("", (9_100, 500))] {
            offset.compare(theirs);
            assert_eq!(offset.best(), Some(best), "{theirs}");
        }
    }

    #[test]
    fn an_answer_from_before_the_question_is_not_believed() {
        let mut offset = Offset::default();
        offset.observe(5_000, 1, 4_000);
        assert_eq!(offset.best(), None);
        assert_eq!(offset.to_ours(7), 7);
    }
}
