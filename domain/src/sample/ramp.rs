//! Whether connects were begun at the rate that was asked for: from the counters at whole seconds.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

const SECOND: u64 = 1_000_000;
/// Two samples that are this far apart, in microseconds, show one second. A worker that was woken too
/// late for that has not seen the second's edge.
const ONE_SECOND: std::ops::RangeInclusive<u64> = 900_000..=1_100_000;

/// A client's counter at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Microseconds since Go.
    pub elapsed_micros: u64,
    /// Connects begun so far.
    pub attempted: u64,
}

/// How well the rate of a plan was met, over all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Ramp {
    /// Connects to be begun per second.
    pub asked: u64,
    /// Full seconds: those in which there was something left to begin from their start to their end.
    pub seconds: u64,
    /// How many of these were seen at every client.
    pub seen: u64,
    /// Connects begun in the second that was furthest from what was asked; of equals the first.
    pub worst: u64,
    /// How far that was, in parts in a million of what was asked, rounded up. Of each client one
    /// connect is let pass: one that is due at a second's edge may be counted on either side.
    pub error_ppm: u64,
}

impl Ramp {
    /// From each client's samples (by time) and the number of connects that it has begun in the end.
    /// `None` where no second was full and seen.
    pub fn of(asked: u64, clients: &[(Vec<Tick>, u64)]) -> Option<Self> {
        let total: u64 = clients.iter().map(|(_, total)| total).sum();
        let planned = total.checked_div(asked)?;
        // A second is full, too, if a client that was too slow had something left at its end.
        let left = clients.iter().flat_map(|(ticks, total)| {
            ticks.iter().filter(move |tick| tick.attempted < *total).map(|tick| tick.elapsed_micros / SECOND)
        });
        let seconds = planned.max(left.max().unwrap_or(0));
        let begun = (0..seconds).filter_map(|second| {
            clients.iter().map(|(ticks, _)| begun_in(ticks, second)).sum::<Option<f64>>()
        });
        let (mut seen, mut worst, mut error) = (0, 0.0, -1.0);
        for begun in begun {
            seen += 1;
            let off = (begun - asked as f64).abs();
            if off > error {
                (worst, error) = (begun, off);
            }
        }
        let error = (error - clients.len() as f64).max(0.0) / asked as f64;
        (seen > 0).then(|| Self {
            asked,
            seconds,
            seen,
            worst: worst.round() as u64,
            error_ppm: (error * 1e6).ceil() as u64,
        })
    }
}

/// Connects per second between the samples at that second's start and end.
fn begun_in(ticks: &[Tick], second: u64) -> Option<f64> {
    let at = |second| ticks.iter().find(|tick| tick.elapsed_micros / SECOND == second);
    let (start, end) = (at(second)?, at(second + 1)?);
    let micros = end.elapsed_micros - start.elapsed_micros;
    let begun = end.attempted.checked_sub(start.attempted)?;
    ONE_SECOND.contains(&micros).then(|| begun as f64 * SECOND as f64 / micros as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Samples a little after each whole second.
    fn ticks(attempted: &[u64]) -> Vec<Tick> {
        let tick = |(second, attempted): (u64, &u64)| Tick {
            elapsed_micros: second * SECOND + 10,
            attempted: *attempted,
        };
        (0..).zip(attempted).map(tick).collect()
    }

    fn of(asked: u64, clients: &[&[u64]]) -> Option<[u64; 4]> {
        let clients: Vec<_> = clients.iter().map(|c| (ticks(c), c.last().copied().unwrap_or(0))).collect();
        Ramp::of(asked, &clients).map(|ramp| [ramp.seconds, ramp.seen, ramp.worst, ramp.error_ppm])
    }

    #[test]
    fn the_second_that_is_furthest_off_counts_whether_it_is_too_slow_or_too_fast() {
        assert_eq!(of(1_000, &[&[0, 1_000, 2_000, 2_500]]), Some([2, 2, 1_000, 0]));
        assert_eq!(of(1_000, &[&[0, 1_000, 1_980, 3_000, 3_500]]), Some([3, 3, 980, 19_000]));
        assert_eq!(of(1_000, &[&[0, 1_000, 2_021, 3_000, 3_500]]), Some([3, 3, 1_021, 20_000]));
    }

    #[test]
    fn the_last_second_is_no_full_one_unless_something_was_left_at_its_end() {
        assert_eq!(of(1_000, &[&[0, 999, 1_999, 2_000]]), Some([2, 2, 999, 0]), "one may be on the edge");
        assert_eq!(of(1_000, &[&[0, 500, 1_000, 1_500]]), Some([2, 2, 500, 499_000]), "far too slow");
        assert_eq!(of(1_000, &[&[0, 900]]), None, "it was over before its first second");
    }

    #[test]
    fn clients_add_up_and_a_second_that_one_of_them_did_not_show_is_not_seen() {
        assert_eq!(of(1_000, &[&[0, 400, 800, 1_200], &[0, 600, 1_200, 1_800]]), Some([3, 3, 1_000, 0]));
        let mut gap = ticks(&[0, 500, 1_000, 1_500]);
        gap.remove(1);
        let clients = [(gap, 1_500), (ticks(&[0, 500, 1_000, 1_500]), 1_500)];
        let ramp = Ramp::of(1_000, &clients).expect("one second");
        assert_eq!((ramp.seconds, ramp.seen), (3, 1));
    }

    #[test]
    fn a_sample_that_came_late_shows_no_second_but_one_of_a_millisecond_is_reckoned_with() {
        let late = |micros| {
            let mut ticks = ticks(&[0, 1_010, 2_000]);
            ticks[1].elapsed_micros += micros;
            Ramp::of(1_000, &[(ticks, 2_000)]).map(|ramp| (ramp.seen, ramp.error_ppm))
        };
        assert_eq!(late(10_000), Some((2, 0)), "1,010 in 1.01 s are 1,000 a second");
        assert_eq!(late(300_000), None);
    }

    #[test]
    fn without_a_rate_or_a_client_there_is_no_ramp() {
        assert_eq!((of(0, &[&[0, 5]]), of(10, &[])), (None, None));
    }
}
