//! Whether counts are what even chances give: Pearson's chi-square test.

use statrs::distribution::{ChiSquared, ContinuousCDF as _};

/// What chance does more rarely than this is not taken for chance. Claims are tried over and over, on many
/// machines: one false alarm in a hundred thousand tests is borne, one in a thousand would be seen weekly.
pub(super) const UNLIKELY: f64 = 1e-5;

/// How far some counts are from an equal split.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Evenness {
    /// The sum of (count - mean)^2 / mean.
    pub statistic: f64,
    /// One less than there are counts.
    pub freedom: u32,
}

impl Evenness {
    /// Of these counts; `None` where there are fewer than two, or nothing was counted.
    pub(super) fn of(counts: &[u64]) -> Option<Self> {
        let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        if counts.len() < 2 || mean == 0.0 {
            return None;
        }
        let statistic = counts.iter().map(|count| (*count as f64 - mean).powi(2) / mean).sum();
        Some(Self { statistic, freedom: u32::try_from(counts.len() - 1).ok()? })
    }

    /// Both together: independent statistics add up, and so do their degrees of freedom.
    pub(super) fn and(self, other: Self) -> Self {
        Self { statistic: self.statistic + other.statistic, freedom: self.freedom + other.freedom }
    }

    /// How probable it is that even chances split as unequally as this, or more.
    pub(super) fn p_as_unequal(self) -> f64 {
        self.distribution().map_or(f64::NAN, |law| law.sf(self.statistic))
    }

    /// How probable it is that even chances split as equally as this, or more.
    pub(super) fn p_as_equal(self) -> f64 {
        self.distribution().map_or(f64::NAN, |law| law.cdf(self.statistic))
    }

    fn distribution(self) -> Option<ChiSquared> {
        ChiSquared::new(f64::from(self.freedom)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upper_five_percent_begin_where_the_tables_say() {
        // Any table of the chi-square distribution.
        for (freedom, critical) in [(1, 3.841_459), (3, 7.814_728), (4, 9.487_729)] {
            let p = Evenness { statistic: critical, freedom }.p_as_unequal();
            assert!((p - 0.05).abs() < 1e-6, "{freedom}: {p}");
        }
    }

    #[test]
    fn an_equal_split_is_too_equal_for_chance_and_one_that_leans_too_unequal() {
        let of = |counts: &[u64]| Evenness::of(counts).expect("counts");
        assert_eq!(of(&[1_000, 1_000]).statistic, 0.0);
        assert_eq!(of(&[500; 4]).p_as_equal(), 0.0);
        assert!(of(&[982, 1_018]).p_as_unequal() > 0.4);
        assert!(of(&[900, 1_100]).p_as_unequal() < UNLIKELY);
        assert!(of(&[2_000, 0]).p_as_unequal() < UNLIKELY);
        let both = of(&[982, 1_018]).and(of(&[460, 528, 500, 512]));
        assert_eq!(both.freedom, 4);
        assert!(both.p_as_equal() > UNLIKELY && both.p_as_unequal() > UNLIKELY);
        assert_eq!(Evenness::of(&[0, 0]), None);
        assert_eq!(Evenness::of(&[5]), None);
    }
}
