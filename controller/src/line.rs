//! Who is next: in order of submission within a user, turn by turn between users.
//!
//! A user's place is the later of two times: when the user last had a turn, and when the first of the
//! user's runs that wait was submitted. The earliest place is next. So nobody waits for more than one
//! run of every other user, however many these have submitted; and all of it follows from what is
//! stored, so a controller that was started again goes on in the same order.

use std::collections::{BTreeMap, BTreeSet};
use tuplelab_domain::id::RunId;

/// A run that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The run.
    pub run: RunId,
    /// Who submitted it.
    pub user: String,
    /// When, in microseconds since 1970 (UTC).
    pub submitted_micros: i64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct User {
    waiting: BTreeSet<(i64, RunId)>,
    /// When one of the user's runs was next, in microseconds since 1970 (UTC).
    turn: Option<i64>,
}

impl User {
    /// Earlier ones are next. Without a run that waits there is none.
    fn place(&self) -> Option<(i64, &RunId)> {
        let (submitted, run) = self.waiting.first()?;
        Some((self.turn.unwrap_or(i64::MIN).max(*submitted), run))
    }
}

/// The runs that wait.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// Users who have runs that wait; others have no place to be remembered, see the module's words.
    users: BTreeMap<String, User>,
    /// Whose each of them is, and when it was submitted.
    runs: BTreeMap<RunId, (String, i64)>,
}

impl Line {
    /// Puts a run into its user's line, by the time of its submission.
    pub fn put(&mut self, waiting: Waiting) {
        let Waiting { run, user, submitted_micros } = waiting;
        self.users.entry(user.clone()).or_default().waiting.insert((submitted_micros, run.clone()));
        self.runs.insert(run, (user, submitted_micros));
    }

    /// A user who has runs that wait had a turn then.
    pub fn had_turn(&mut self, user: &str, micros: i64) {
        if let Some(user) = self.users.get_mut(user) {
            user.turn = user.turn.max(Some(micros));
        }
    }

    /// Takes out the next run; its user has had a turn at this time.
    pub fn next(&mut self, micros: i64) -> Option<Waiting> {
        let places = self.users.values().filter_map(User::place);
        let (_, run) = places.min()?;
        let next = self.remove(&run.clone())?;
        self.had_turn(&next.user, micros);
        Some(next)
    }

    /// Takes a run out, wherever it is.
    pub fn remove(&mut self, run: &RunId) -> Option<Waiting> {
        let (user, submitted_micros) = self.runs.remove(run)?;
        if let Some(own) = self.users.get_mut(&user) {
            own.waiting.remove(&(submitted_micros, run.clone()));
            if own.waiting.is_empty() {
                self.users.remove(&user);
            }
        }
        Some(Waiting { run: run.clone(), user, submitted_micros })
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// How many of this user's wait.
    pub fn len_of(&self, user: &str) -> usize {
        self.users.get(user).map_or(0, |user| user.waiting.len())
    }

    /// How many are next before this one, if nobody submits any more; `None` if it does not wait.
    pub fn ahead_of(&self, run: &RunId) -> Option<usize> {
        let (user, submitted) = self.runs.get(run)?;
        let own = self.users.get(user)?;
        let before = own.waiting.iter().position(|waiting| waiting.0 == *submitted && waiting.1 == *run)?;
        let others = self.users.iter().filter(|(name, _)| *name != user).map(|(_, other)| {
            let turns = before + usize::from(other.place() < own.place());
            other.waiting.len().min(turns)
        });
        Some(before + others.sum::<usize>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// `a1` is user a's run, submitted at 1.
    fn waiting(name: &str) -> Waiting {
        let (user, at) = name.split_at(1);
        Waiting { run: RunId(name.into()), user: user.into(), submitted_micros: at.parse().expect("a time") }
    }

    fn line(names: &[&str]) -> Line {
        let mut line = Line::default();
        names.iter().for_each(|name| line.put(waiting(name)));
        line
    }

    /// Everything that is next, one after the other, from this time on.
    fn all(mut line: Line, from: i64) -> Vec<String> {
        (from..).map_while(|now| line.next(now)).map(|next| next.run.0).collect()
    }

    #[test]
    fn users_have_turns_and_each_has_an_order_of_its_own() {
        let all = all(line(&["a1", "a2", "a3", "b4", "b5", "c6"]), 10);
        assert_eq!(all, ["a1", "b4", "c6", "a2", "b5", "a3"]);
    }

    #[test]
    fn who_comes_late_waits_for_one_turn_of_each_and_who_comes_back_has_no_credit() {
        let mut line = line(&["a1", "a2", "a3", "b4"]);
        assert_eq!(line.next(10).map(|next| next.run.0), Some("a1".into()));
        assert_eq!(line.next(11).map(|next| next.run.0), Some("b4".into()));
        line.put(waiting("c12"));
        line.put(waiting("b13"));
        assert_eq!(all(line, 20), ["a2", "c12", "b13", "a3"]);
    }

    #[test]
    fn a_run_that_is_taken_out_is_not_next_and_nobody_loses_a_turn() {
        let mut line = line(&["a1", "a2", "b3", "b4"]);
        assert_eq!(line.remove(&RunId("a1".into())), Some(waiting("a1")));
        assert_eq!(line.remove(&RunId("a1".into())), None);
        assert_eq!((line.len(), line.len_of("a"), line.len_of("x")), (3, 1, 0));
        assert_eq!(all(line, 10), ["a2", "b3", "b4"]);
    }

    proptest! {
        #[test]
        fn an_order_that_is_made_again_in_the_middle_goes_on_and_ahead_tells_it(
            users in vec(0usize..5, 1..60),
            turns in 0i64..60,
        ) {
            let names: Vec<String> =
                users.iter().zip(1..).map(|(user, at)| format!("{}{at}", ["a", "b", "c", "d", "e"][*user])).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let whole = all(line(&names), 100);
            prop_assert_eq!(whole.len(), names.len());
            // Stopped after some turns, made again from what waits and who had a turn when.
            let mut first = line(&names);
            let begun: Vec<Waiting> = (100..100 + turns).map_while(|now| first.next(now)).collect();
            let mut again = Line::default();
            names.iter().map(|name| waiting(name)).filter(|w| !begun.contains(w)).for_each(|w| again.put(w));
            (100..).zip(&begun).for_each(|(at, had)| again.had_turn(&had.user, at));
            prop_assert_eq!(&again, &first);
            let rest = &whole[begun.len()..];
            for (place, run) in rest.iter().enumerate() {
                prop_assert_eq!(first.ahead_of(&RunId(run.clone())), Some(place));
            }
            prop_assert_eq!(&all(first, 200), rest);
        }

        #[test]
        fn nobody_waits_for_more_than_one_run_of_every_other_user(users in vec(0usize..5, 1..80)) {
            let names: Vec<String> =
                users.iter().zip(1..).map(|(user, at)| format!("{}{at}", ["a", "b", "c", "d", "e"][*user])).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let order = all(line(&names), 100);
            let mut since: BTreeMap<char, Vec<char>> = BTreeMap::new();
            for run in &order {
                let user = run.chars().next().expect("a user");
                for (_, others) in since.iter_mut().filter(|(other, _)| **other != user) {
                    others.push(user);
                }
                let others = since.insert(user, Vec::new()).unwrap_or_default();
                let distinct: BTreeSet<&char> = others.iter().collect();
                prop_assert_eq!(distinct.len(), others.len(), "{:?} before {} in {:?}", others, run, order);
            }
        }
    }
}
