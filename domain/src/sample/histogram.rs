//! How long connects took: counts by time, never a list of times.
//!
//! A worker counts in a [`Recorder`], whose steps are as fine as a thousandth of the time (HdrHistogram,
//! three significant digits). What leaves it is a [`Histogram`]: the same steps, only those that were
//! hit. The steps are the same everywhere, so histograms of lanes, workers and hosts add up exactly.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Times are told apart from a microsecond up to a minute; a longer one counts as a minute. The kernel
/// gives a SYN up after two (tcp_syn_retries = 6), but what waits a minute has failed for anybody.
const LONGEST_MICROS: u64 = 60_000_000;
/// Significant decimal digits: a step is at most a thousandth of its time.
const DIGITS: u8 = 3;

/// Counts by time: the largest time of each step that was hit, in microseconds, and how often it was.
/// Serialises as a flat list, `[time, count, time, count, ...]`, by time.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Vec<u64>", into = "Vec<u64>")]
#[schemars(with = "Vec<u64>")]
pub struct Histogram(Vec<(u64, u64)>);

/// Why numbers are no histogram.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHistogram {
    /// A time without its count.
    #[error("{0} numbers are no histogram: a count belongs to each time")]
    Odd(usize),
    /// Times out of order, or a count of nothing.
    #[error("{time} us, {count} times, is out of order: times ascend, counts are at least 1")]
    Order {
        /// The time, in microseconds.
        time: u64,
        /// Its count.
        count: u64,
    },
    /// More than can be counted.
    #[error("the counts of a histogram are more than can be added up")]
    TooMany,
}

impl Histogram {
    /// From steps and their counts.
    ///
    /// # Errors
    /// Times do not ascend, a count is 0, or the counts have no sum.
    pub fn from_steps(steps: Vec<(u64, u64)>) -> Result<Self, BadHistogram> {
        let (mut before, mut sum) = (0, 0u64);
        for (time, count) in &steps {
            if *time <= before || *count == 0 {
                return Err(BadHistogram::Order { time: *time, count: *count });
            }
            before = *time;
            sum = sum.checked_add(*count).ok_or(BadHistogram::TooMany)?;
        }
        Ok(Self(steps))
    }

    /// Each step and its count, by time.
    pub fn steps(&self) -> &[(u64, u64)] {
        &self.0
    }

    /// Adds another histogram's counts.
    pub fn merge(&mut self, other: &Self) {
        let mut all = Vec::with_capacity(self.0.len() + other.0.len());
        let (mut own, mut more) = (self.0.iter().copied().peekable(), other.0.iter().copied().peekable());
        loop {
            let step = match (own.peek(), more.peek()) {
                (None, None) => break,
                (Some((a, _)), Some((b, _))) if a == b => {
                    let both = own.next().zip(more.next());
                    both.map(|((time, a), (_, b))| (time, a.saturating_add(b)))
                }
                (Some((a, _)), Some((b, _))) if a > b => more.next(),
                (None, Some(_)) => more.next(),
                (Some(_), _) => own.next(),
            };
            all.extend(step);
        }
        self.0 = all;
    }

    /// How many times were counted.
    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }

    /// The time, in microseconds, within which this share of all were done (0.99: the p99); `None`
    /// where none was counted. The end of its step: never too short, at most a thousandth too long.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        // A float cannot tell counts above 2^53 apart, and all of them are all.
        if share >= 1.0 {
            return self.max();
        }
        let wanted = ((share.clamp(0.0, 1.0) * self.count() as f64).ceil() as u64).max(1);
        let mut sum = 0u64;
        let step = self.0.iter().find(|(_, count)| {
            sum = sum.saturating_add(*count);
            sum >= wanted
        });
        step.or(self.0.last()).map(|(time, _)| *time)
    }

    /// The longest time, in microseconds.
    pub fn max(&self) -> Option<u64> {
        self.0.last().map(|(time, _)| *time)
    }
}

impl From<Histogram> for Vec<u64> {
    fn from(histogram: Histogram) -> Self {
        histogram.0.into_iter().flat_map(|(time, count)| [time, count]).collect()
    }
}

impl TryFrom<Vec<u64>> for Histogram {
    type Error = BadHistogram;
    fn try_from(numbers: Vec<u64>) -> Result<Self, BadHistogram> {
        let (pairs, rest) = numbers.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(BadHistogram::Odd(numbers.len()));
        }
        Self::from_steps(pairs.iter().map(|[time, count]| (*time, *count)).collect())
    }
}

/// How full a client was when a connect began: which tenth of its flows was established already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occupancy(u8);

impl Occupancy {
    /// How many there are.
    pub const COUNT: usize = 10;

    /// With so many established, of so many.
    pub fn of(established: u64, flows: u64) -> Self {
        let tenth = u128::from(established) * Self::COUNT as u128 / u128::from(flows.max(1));
        Self(tenth.min(Self::COUNT as u128 - 1) as u8)
    }

    fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How long connects took, by how full the client was when they began.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct ConnectTimes {
    /// One for each tenth: 0 to 10 % of the client's flows were established, ..., 90 to 100 %.
    pub by_occupancy: [Histogram; Occupancy::COUNT],
}

impl ConnectTimes {
    /// Adds another lane's, worker's or host's.
    pub fn merge(&mut self, other: &Self) {
        for (own, more) in self.by_occupancy.iter_mut().zip(&other.by_occupancy) {
            own.merge(more);
        }
    }

    /// All connects, however full it was.
    pub fn all(&self) -> Histogram {
        let mut all = Histogram::default();
        self.by_occupancy.iter().for_each(|histogram| all.merge(histogram));
        all
    }
}

/// Counts times as they come. All memory (ten times 136 KiB) is taken, and touched, at its beginning:
/// counting allocates nothing, and what a held connection costs does not contain it.
#[derive(Debug)]
pub struct Recorder {
    by_occupancy: Vec<hdrhistogram::Histogram<u64>>,
}

impl Default for Recorder {
    fn default() -> Self {
        let empty = || hdrhistogram::Histogram::new_with_bounds(1, LONGEST_MICROS, DIGITS);
        // Constant bounds that the crate takes (1 <= low, 2 * low <= high, digits <= 5): see the tests.
        Self { by_occupancy: (0..Occupancy::COUNT).filter_map(|_| empty().ok()).collect() }
    }
}

impl Recorder {
    /// A connect that began when it was so full has taken this long.
    pub fn record(&mut self, occupancy: Occupancy, micros: u64) {
        if let Some(histogram) = self.by_occupancy.get_mut(occupancy.index()) {
            histogram.saturating_record(micros.clamp(1, LONGEST_MICROS));
        }
    }

    /// The counts at this moment.
    pub fn times(&self) -> ConnectTimes {
        let mut times = ConnectTimes::default();
        for (to, from) in times.by_occupancy.iter_mut().zip(&self.by_occupancy) {
            to.0 =
                from.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
        }
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn recorded(times: &[u64]) -> Histogram {
        let mut recorder = Recorder::default();
        times.iter().for_each(|micros| recorder.record(Occupancy::of(0, 1), *micros));
        recorder.times().all()
    }

    #[test]
    fn a_connect_belongs_to_the_tenth_that_was_full_when_it_began() {
        let of = |established, flows| Occupancy::of(established, flows).index();
        assert_eq!([of(0, 100), of(9, 100), of(10, 100), of(99, 100), of(100, 100)], [0, 0, 1, 9, 9]);
        assert_eq!([of(0, 0), of(5, 0), of(0, 1), of(u64::MAX, u64::MAX)], [0, 9, 0, 9]);
        let mut recorder = Recorder::default();
        recorder.record(Occupancy::of(55, 100), 7);
        assert_eq!(recorder.times().by_occupancy[5].steps(), [(7, 1)]);
    }

    #[test]
    fn nothing_has_no_quantile_and_the_longest_and_shortest_are_kept_at_the_bounds() {
        assert_eq!((Histogram::default().quantile(0.5), Histogram::default().max()), (None, None));
        let bounds = recorded(&[0, u64::MAX]);
        assert_eq!(bounds.quantile(0.0), Some(1));
        assert!(bounds.max().is_some_and(|max| (60_000_000..60_060_000).contains(&max)), "{bounds:?}");
    }

    #[test]
    fn all_of_more_than_a_float_can_count_end_with_the_longest() {
        let histogram = Histogram::from_steps(vec![(1, (1 << 53) + 1), (2, 1), (3, 1)]).expect("ascends");
        assert_eq!((histogram.quantile(1.0), histogram.max()), (Some(3), Some(3)));
    }

    #[test]
    fn numbers_that_are_no_histogram_are_refused() {
        let read = |text: &str| serde_json::from_str::<Histogram>(text).map_err(|error| error.to_string());
        assert_eq!(read("[5,1,7,2]"), Ok(Histogram(vec![(5, 1), (7, 2)])));
        for (bad, why) in [
            ("[5]", "1 numbers"),
            ("[5,0]", "out of order"),
            ("[0,1]", "out of order"),
            ("[7,1,5,1]", "out of order"),
            ("[5,1,5,1]", "out of order"),
            ("[5,18446744073709551615,6,1]", "added up"),
        ] {
            assert!(read(bad).is_err_and(|error| error.contains(why)), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_times_to_a_thousandth(
            mut times in vec(1u64..60_000_000, 1..200),
            share in 0.0f64..=1.0,
        ) {
            let histogram = recorded(&times);
            times.sort_unstable();
            let rank = ((share * times.len() as f64).ceil() as usize).max(1);
            let (exact, told) = (times[rank - 1], histogram.quantile(share).expect("some"));
            prop_assert!(told >= exact && told - exact <= exact / 1_000 + 1, "{told} for {exact}");
            prop_assert_eq!(histogram.count(), times.len() as u64);
        }

        #[test]
        fn merged_histograms_are_what_one_recorder_would_have(
            a in vec(0u64..100_000_000, 0..100),
            b in vec(0u64..100_000_000, 0..100),
        ) {
            let mut merged = recorded(&a);
            merged.merge(&recorded(&b));
            prop_assert_eq!(&merged, &recorded(&[a, b].concat()));
            let json = serde_json::to_string(&merged).expect("serialises");
            prop_assert_eq!(serde_json::from_str::<Histogram>(&json).expect("reads back"), merged);
        }
    }
}
