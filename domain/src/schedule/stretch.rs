//! The timetable of a ramp: stages, cut to the number of connects and shared among clients.

use super::assignment::Stretch;
use crate::plan::Stage;
use crate::units::Rate;
use std::time::Duration;

/// Stages as stretches of a timetable, for so many connects: what goes beyond them is cut off.
pub fn stretches(stages: &[Stage], target: u64) -> Vec<Stretch> {
    let mut left = target;
    let mut all = Vec::new();
    for stage in stages {
        if left == 0 {
            break;
        }
        let connects = stage.connects().map_or(left, |count| count.min(left));
        left -= connects;
        let micros = match stage {
            Stage::Pause(span) => span.0.as_micros() as u64,
            Stage::Connects(_, Rate::PerSecond(rate)) | Stage::Rest(Rate::PerSecond(rate)) => {
                (u128::from(connects) * 1_000_000 / u128::from((*rate).max(1))) as u64
            }
            Stage::Connects(_, Rate::Unlimited) | Stage::Rest(Rate::Unlimited) => 0,
        };
        all.push(Stretch { connects, micros });
    }
    all
}

/// One client's part of a timetable: the same stretches of time, and of each stretch's connects a part
/// in proportion to its flows. Rounded on the running sums, so that no client is ever more than one
/// connect behind its proportion, and each has all of its flows in the end.
pub(super) fn share(whole: &[Stretch], flows: u64, target: u64) -> Vec<Stretch> {
    let upto = |sum: u64| (u128::from(sum) * u128::from(flows) / u128::from(target.max(1))) as u64;
    let (mut sum, mut given) = (0, 0);
    whole
        .iter()
        .map(|stretch| {
            sum += stretch.connects;
            let connects = upto(sum) - given;
            given += connects;
            Stretch { connects, ..*stretch }
        })
        .collect()
}

/// How long a timetable takes.
pub fn span(whole: &[Stretch]) -> Duration {
    Duration::from_micros(whole.iter().map(|stretch| stretch.micros).fold(0, u64::saturating_add))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stages(texts: &[&str]) -> Vec<Stage> {
        texts.iter().map(|text| text.parse().expect("a stage")).collect()
    }

    #[test]
    fn stages_become_stretches_and_what_goes_beyond_the_connects_is_cut_off() {
        let four = stages(&["10k at 1k/s", "pause 5s", "20k at 5k/s", "rest at unlimited"]);
        let of = |target| -> Vec<(u64, u64)> {
            stretches(&four, target).iter().map(|s| (s.connects, s.micros)).collect()
        };
        assert_eq!(of(40_000), [(10_000, 10_000_000), (0, 5_000_000), (20_000, 4_000_000), (10_000, 0)]);
        assert_eq!(of(15_000), [(10_000, 10_000_000), (0, 5_000_000), (5_000, 1_000_000)]);
        assert_eq!(of(10_000), [(10_000, 10_000_000)], "nothing is paused for after the last");
        assert_eq!(span(&stretches(&four, 40_000)), Duration::from_secs(19));
    }

    proptest! {
        #[test]
        fn clients_share_each_stage_in_proportion_and_all_is_shared(
            counts in proptest::collection::vec((0u64..5_000, 0u64..1_000_000), 1..6),
            weights in proptest::collection::vec(0u64..1_000, 1..5),
        ) {
            let whole: Vec<_> = counts.iter().map(|(connects, micros)| Stretch { connects: *connects, micros: *micros }).collect();
            let target: u64 = counts.iter().map(|(connects, _)| connects).sum();
            let all: u64 = weights.iter().sum::<u64>().max(1);
            let mut flows: Vec<u64> = weights.iter().map(|weight| target * weight / all).collect();
            let rest = target - flows.iter().sum::<u64>();
            flows.push(rest);
            let mut sums = vec![0u64; whole.len()];
            for flows in &flows {
                let own = share(&whole, *flows, target);
                prop_assert_eq!(own.iter().map(|s| s.connects).sum::<u64>(), *flows);
                let mut upto = 0;
                for (index, (own, whole)) in own.iter().zip(&whole).enumerate() {
                    prop_assert_eq!(own.micros, whole.micros);
                    upto += own.connects;
                    sums[index] += upto;
                }
            }
            let mut upto = 0;
            for (sum, whole) in sums.iter().zip(&whole) {
                upto += whole.connects;
                prop_assert!(*sum <= upto && upto - sum <= flows.len() as u64);
            }
        }
    }
}
