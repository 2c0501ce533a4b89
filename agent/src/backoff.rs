//! How long to wait before the next try to reach the controller. Pure.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// Doubling waits, from a fifth of a second to five seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Backoff {
    /// The wait now, and the backoff after it. `spread` (0 to 1, random) keeps many agents from
    /// coming back at the same moment: the wait is between a half and the whole of its length.
    pub fn next(self, spread: f64) -> (Duration, Self) {
        let wait = self.0.mul_f64(0.5 + spread.clamp(0.0, 1.0) / 2.0);
        (wait, Self((self.0 * 2).min(LONGEST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_five_seconds_and_no_further() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for _ in 0..8 {
            let (wait, next) = backoff.next(1.0);
            waits.push(wait.as_millis());
            backoff = next;
        }
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
    }

    #[test]
    fn a_wait_is_never_shorter_than_its_half() {
        assert_eq!(Backoff::default().next(0.0).0.as_millis(), 100);
        assert_eq!(Backoff::default().next(f64::NAN.max(-3.0)).0.as_millis(), 100);
    }
}
