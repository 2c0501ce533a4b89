//! A run as its log leaves it: what a controller needs to go on where an earlier life of it ended.

use super::event::{Effect, RunEvent};
use super::machine::Run;

/// A run that was rebuilt, and what is due in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Where it is.
    pub run: Run,
    /// What was to be done for the trial at hand, in order, each with the time of the event that asked for
    /// it (microseconds since 1970, as the log has it). Orders may have arrived or not: they are given
    /// again, and agents pass over what they did already. Times run from those moments.
    pub due: Vec<(i64, Effect)>,
}

/// Plays the log of a run that was placed. Nothing is decided anew: the log through [`Run::step`] gives
/// the state that was stored with its last event.
pub fn replay(placed: Run, log: &[(i64, RunEvent)]) -> Replayed {
    let start = Replayed { run: placed, due: Vec::new() };
    log.iter().fold(start, |Replayed { run, mut due }, (at, event)| {
        let (run, effects) = run.step(event);
        for effect in effects {
            match &effect {
                // What came before is over: a trial that closes is only told to close.
                Effect::Prepare { .. } | Effect::Release { .. } | Effect::Finish { .. } => due.clear(),
                _ => {}
            }
            // Both are stored before their event is, so a log that has it shows them done.
            if !matches!(effect, Effect::Close { .. } | Effect::Finish { .. }) {
                due.push((*at, effect));
            }
        }
        Replayed { run, due }
    })
}

#[cfg(test)]
mod tests {
    use super::super::event::Phase;
    use super::super::machine::tests::{any_history, run};
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_log_leads_where_its_events_led_and_owes_what_the_trial_at_hand_was_told(events in any_history()) {
            let (mut live, mut told) = (run(2), Vec::new());
            let mut log = Vec::new();
            for (at, event) in (0i64..).zip(events) {
                let (next, effects) = live.step(&event);
                live = next;
                told.extend(effects.into_iter().map(|effect| (at, effect)));
                log.push((at, event));
                let replayed = replay(run(2), &log);
                prop_assert_eq!(&replayed.run, &live);
                // What is due is a part of what was told, in order, and of this trial only.
                let mut rest = told.iter();
                prop_assert!(replayed.due.iter().all(|due| rest.any(|told| told == due)));
                let index = live.index();
                for (_, effect) in &replayed.due {
                    let of = match effect {
                        Effect::Prepare { index } | Effect::Go { index } | Effect::Step { index, .. }
                        | Effect::Hold { index, .. } | Effect::Move { index } | Effect::Rest { index }
                        | Effect::Halt { index } | Effect::Count { index } | Effect::Release { index, .. }
                        | Effect::Close { index, .. } => *index,
                        Effect::Watch { deadline, .. } => deadline.index,
                        Effect::Finish { .. } => unreachable!("it is never due"),
                    };
                    prop_assert_eq!(Some(of), index);
                }
                // Nobody waits without a word that was given and a time that ends it.
                let waits = !matches!(live.phase(), Phase::Queued | Phase::Finished);
                let timed = replayed.due.iter().any(|(_, effect)| matches!(effect, Effect::Watch { .. } | Effect::Hold { .. }));
                prop_assert_eq!(waits, timed);
            }
        }
    }
}
