//! How long agents may be silent, and for how long their load stands without a word from here.

use std::time::Duration;

/// Agents say every second that they are alive; below two of these nothing can be told.
const LEAST: Duration = Duration::from_secs(2);
/// A worker whose lease has ended is given half a second to find that it was renewed, and an agent looks at
/// the end itself: a lost agent is silent if it is lost a second later.
const ROOM: Duration = Duration::from_secs(1);
/// The longest lease: load that nobody can stop for an hour is no lab's.
const MOST: Duration = Duration::from_secs(3_600);

/// How long an agent may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    lease: Duration,
    suspect: Duration,
    lost: Duration,
}

/// Times that contradict each other.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPatience {
    /// A time is too short for beats of a second, or too long.
    #[error("{name} = {} is out of range: write 2s to 1h", shown(*.time))]
    OutOfRange {
        /// Which.
        name: &'static str,
        /// How long.
        time: Duration,
    },
    /// An agent could be lost and its load still be on the network.
    #[error(
        "lost = {} is too short for lease = {}: an agent that is lost must be silent, so write at least a second more than the lease",
        shown(*.lost), shown(*.lease)
    )]
    LostBeforeSilent {
        /// The time after which an agent is lost.
        lost: Duration,
        /// The time for which its load stands.
        lease: Duration,
    },
    /// An agent would be lost before it is suspect.
    #[error("suspect = {} is longer than lost = {}: write less", shown(*.suspect), shown(*.lost))]
    SuspectAfterLost {
        /// The time after which an agent is suspect.
        suspect: Duration,
        /// The time after which it is lost.
        lost: Duration,
    },
}

fn shown(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}

impl Default for Patience {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { lease: seconds(15), suspect: seconds(3), lost: seconds(20) }
    }
}

impl Patience {
    /// These times, if they make sense together; what is left out is the default, but `lost` follows a
    /// lease that is given.
    ///
    /// # Errors
    /// They do not.
    pub fn new(
        lease: Option<Duration>,
        suspect: Option<Duration>,
        lost: Option<Duration>,
    ) -> Result<Self, BadPatience> {
        let default = Self::default();
        let lease = lease.unwrap_or(default.lease);
        let lost = lost.unwrap_or(lease.saturating_add(default.lost - default.lease));
        let suspect = suspect.unwrap_or(default.suspect.min(lost));
        for (name, time) in [("lease", lease), ("suspect", suspect)] {
            if !(LEAST..=MOST).contains(&time) {
                return Err(BadPatience::OutOfRange { name, time });
            }
        }
        if lost < lease + ROOM {
            return Err(BadPatience::LostBeforeSilent { lost, lease });
        }
        if suspect > lost {
            return Err(BadPatience::SuspectAfterLost { suspect, lost });
        }
        Ok(Self { lease, suspect, lost })
    }

    /// An agent's load stands on its lease for this long after it sent a beat that was answered.
    pub fn lease(self) -> Duration {
        self.lease
    }

    /// Without a beat for this long, it is suspect.
    pub fn suspect(self) -> Duration {
        self.suspect
    }

    /// Without a beat for this long, it is lost. Longer than the lease: a lost agent is silent.
    pub fn lost(self) -> Duration {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lease: u64, suspect: u64, lost: u64) -> Result<Patience, BadPatience> {
        let seconds = |n: u64| Some(Duration::from_secs(n));
        Patience::new(seconds(lease), seconds(suspect), seconds(lost))
    }

    #[test]
    fn a_lost_agent_is_always_silent() {
        assert!(of(15, 3, 20).is_ok() && of(3, 2, 4).is_ok());
        for (lease, lost) in [(15, 15), (15, 3), (20, 19)] {
            let refused = of(lease, 2, lost).expect_err("is refused").to_string();
            assert!(
                refused.contains(&format!("lost = {lost}s"))
                    && refused.contains(&format!("lease = {lease}s")),
                "{refused}"
            );
        }
    }

    #[test]
    fn times_that_beats_of_a_second_cannot_tell_are_refused_by_name() {
        for (lease, suspect, lost, name) in
            [(1, 3, 20, "lease"), (15, 1, 20, "suspect"), (4_000, 3, 5_000, "lease"), (15, 30, 20, "suspect")]
        {
            let refused = of(lease, suspect, lost).expect_err("is refused").to_string();
            assert!(refused.starts_with(name), "{refused}");
        }
    }

    #[test]
    fn what_is_left_out_is_the_default_and_lost_follows_the_lease() {
        assert_eq!(Patience::new(None, None, None), Ok(Patience::default()));
        let short = Patience::new(Some(Duration::from_secs(3)), None, None).expect("makes sense");
        assert_eq!((short.lost(), short.suspect()), (Duration::from_secs(8), Duration::from_secs(3)));
    }
}
