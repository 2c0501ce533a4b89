//! How long a trial may last in all: an agent ends its part by itself then, whoever still wants it.

use super::event::{Course, TrialPlan, Turn};
use super::machine::{CENSUS, HALT, PREPARE, RELEASE, SETTLE};
use std::time::Duration;

/// Between the phases orders travel, events are stored; and a controller may be away for a lease.
const BETWEEN: Duration = Duration::from_secs(60);

impl TrialPlan {
    /// No trial goes on for longer than this after its `Prepare`: every phase has its bound, and this is
    /// their sum with some room.
    pub fn longest(&self) -> Duration {
        let course = match &self.course {
            Course::Load { ramp, hold, rest } => {
                [*ramp, HALT, *hold, rest.unwrap_or_default(), SETTLE, CENSUS]
                    .into_iter()
                    .fold(Duration::ZERO, Duration::saturating_add)
            }
            Course::Script(turns) => {
                turns.iter().map(|turn: &Turn| turn.time).fold(Duration::ZERO, Duration::saturating_add)
            }
        };
        [PREPARE, RELEASE, BETWEEN].into_iter().fold(course, Duration::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(course: Course) -> u64 {
        TrialPlan { case: 0, trial: 0, parties: Vec::new(), course }.longest().as_secs()
    }

    #[test]
    fn a_trial_lasts_no_longer_than_all_its_phases_may() {
        let seconds = Duration::from_secs;
        let load = |hold, rest| Course::Load { ramp: seconds(120), hold, rest };
        assert_eq!(longest(load(seconds(10), None)), 30 + 120 + 15 + 10 + 60 + 60 + 60);
        assert_eq!(longest(load(seconds(10), Some(seconds(25)))), 30 + 120 + 15 + 10 + 25 + 60 + 60 + 60);
        let turn = Turn { agent: "a".parse().expect("a name"), time: seconds(5) };
        assert_eq!(longest(Course::Script(vec![turn.clone(), turn])), 30 + 10 + 60 + 60);
        assert_eq!(longest(load(Duration::MAX, None)), Duration::MAX.as_secs(), "no overflow");
    }
}
