//! The right to put load on the network: it ends by itself unless beats are answered. Pure; moments are
//! CLOCK_BOOTTIME in nanoseconds, which runs on while the machine sleeps.

use std::time::Duration;

/// An agent's lease from its controller. Without one there is no load.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    time: u64,
    until: u64,
}

impl Lease {
    /// The controller took the agent in, upon what was sent at `asked`: from now on it is as long as this.
    pub fn grant(&mut self, time: Duration, asked: u64) {
        self.time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.renew(asked);
    }

    /// A beat was answered. Counted from when it was sent, so that the lease ends here before it ends
    /// there; an answer that was held up makes nothing longer.
    pub fn renew(&mut self, asked: u64) {
        self.until = self.until.max(asked.saturating_add(self.time));
    }

    /// When it ends; 0, long ago, where there was none yet.
    pub fn until(self) -> u64 {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn nothing_is_allowed_before_a_lease_is_granted() {
        assert_eq!(Lease::default().until(), 0);
    }

    #[test]
    fn it_counts_from_the_question_and_an_old_answer_makes_it_no_longer() {
        let mut lease = Lease::default();
        lease.grant(Duration::from_secs(15), 100 * SECOND);
        assert_eq!(lease.until(), 115 * SECOND);
        lease.renew(110 * SECOND);
        lease.renew(101 * SECOND);
        assert_eq!(lease.until(), 125 * SECOND);
    }

    #[test]
    fn a_controller_that_was_started_again_with_a_shorter_one_takes_nothing_back() {
        let mut lease = Lease::default();
        lease.grant(Duration::from_secs(15), 100 * SECOND);
        lease.grant(Duration::from_secs(3), 105 * SECOND);
        assert_eq!(lease.until(), 115 * SECOND);
        lease.renew(114 * SECOND);
        assert_eq!(lease.until(), 117 * SECOND);
    }
}
