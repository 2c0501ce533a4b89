//! The runs that wait for their turn, the one that has it, and what people are told of each.

use crate::clock::now_micros;
use crate::line::{Line, Waiting};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tuplelab_domain::id::RunId;
use tuplelab_proto::v1::RunUpdate;

/// How many runs may wait at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Of all users together.
    pub all: usize,
    /// Of one user.
    pub user: usize,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { all: 2_000, user: 500 }
    }
}

/// No more runs may wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// Of anybody.
    #[error(
        "the queue is full: {most} runs wait, the most that this controller's --queue-limit lets wait; \
         submit again when some are over, cancel some (tuplelab cancel RUN), or start the controller with a higher one"
    )]
    All {
        /// The limit.
        most: usize,
    },
    /// Of this user.
    #[error(
        "{most} runs of {user} wait, the most that this controller's --user-queue-limit lets wait of one user; \
         submit again when some are over, cancel some (tuplelab cancel RUN), or start the controller with a higher one"
    )]
    User {
        /// Who.
        user: String,
        /// The limit.
        most: usize,
    },
}

#[derive(Default)]
struct State {
    line: Line,
    /// Runs that an earlier life of the controller left under way: their agents' leases run.
    under_way: VecDeque<RunId>,
    /// Places that are kept, by user, for runs that are being stored.
    kept: BTreeMap<String, usize>,
    current: Option<RunId>,
    /// Whether somebody wants the current run to end.
    cancelled: bool,
    updates: BTreeMap<RunId, watch::Sender<RunUpdate>>,
}

impl State {
    fn put(&mut self, waiting: Waiting) -> usize {
        let run = waiting.run.clone();
        let update = RunUpdate { run: run.to_string(), phase: "queued".into(), ..Default::default() };
        self.updates.entry(run.clone()).or_insert_with(|| watch::channel(update).0);
        self.line.put(waiting);
        self.line.ahead_of(&run).unwrap_or(0) + usize::from(self.current.is_some())
    }
}

/// What became of the wish that a run ends.
#[derive(Debug, PartialEq, Eq)]
pub enum Cancelling {
    /// It waited and has been taken out: who asked stores its end, or puts it back.
    TakenOut(Waiting),
    /// It is under way; the conductor ends it.
    UnderWay,
    /// It neither waits nor is under way.
    Unknown,
}

/// The queue. Cheap to clone; the conductor takes from it, everybody else puts in and looks.
#[derive(Clone, Default)]
pub struct Queue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    limits: QueueLimits,
}

/// A place in the queue for one run, until that is stored. Given back when it is dropped.
pub struct Place {
    queue: Queue,
    user: String,
}

impl Place {
    /// The run is stored: it waits from now on. Says how many come before it.
    pub fn take(self, run: RunId, submitted_micros: i64) -> usize {
        let ahead = self.queue.state().put(Waiting { run, user: self.user.clone(), submitted_micros });
        self.queue.changed.notify_waiters();
        ahead
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.queue.state();
        if let Some(kept) = state.kept.get_mut(&self.user) {
            *kept -= 1;
            if *kept == 0 {
                state.kept.remove(&self.user);
            }
        }
    }
}

impl Queue {
    /// An empty queue with these limits.
    pub fn new(limits: QueueLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a place for a run of this user.
    ///
    /// # Errors
    /// As many wait as may, of all users or of this one.
    pub fn keep_place(&self, user: &str) -> Result<Place, QueueFull> {
        let mut state = self.state();
        let QueueLimits { all, user: own } = self.limits;
        if state.line.len() + state.kept.values().sum::<usize>() >= all {
            return Err(QueueFull::All { most: all });
        }
        let kept = state.kept.get(user).copied().unwrap_or(0);
        if state.line.len_of(user) + kept >= own {
            return Err(QueueFull::User { user: user.to_owned(), most: own });
        }
        state.kept.insert(user.to_owned(), kept + 1);
        Ok(Place { queue: self.clone(), user: user.to_owned() })
    }

    /// Lets runs wait (again) that are stored: whatever the limits are now, none of them is lost.
    /// `turns` says when users last had a turn.
    pub fn put_back(&self, runs: Vec<Waiting>, turns: &[(String, i64)]) {
        let mut state = self.state();
        for waiting in runs {
            state.put(waiting);
        }
        turns.iter().for_each(|(user, at)| state.line.had_turn(user, *at));
        drop(state);
        self.changed.notify_waiters();
    }

    /// These runs come before all that wait.
    pub fn take_up(&self, runs: Vec<RunId>) {
        let mut state = self.state();
        for run in runs {
            let update = RunUpdate { run: run.to_string(), ..Default::default() };
            state.updates.entry(run.clone()).or_insert_with(|| watch::channel(update).0);
            state.under_way.push_back(run);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// The next run, once there is one; it is the current one from then on.
    pub async fn next(&self) -> RunId {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let first = state.under_way.pop_front();
                let next = first.or_else(|| state.line.next(now_micros()).map(|next| next.run));
                if let Some(next) = next {
                    state.current = Some(next.clone());
                    return next;
                }
            }
            changed.await;
        }
    }

    /// This run is over; what it ended with stays visible to those who watch it.
    pub fn done(&self, run: &RunId) {
        let mut state = self.state();
        if state.current.as_ref() == Some(run) {
            state.current = None;
            state.cancelled = false;
        }
        state.updates.remove(run);
    }

    /// How many come before this run; `None` if it does not wait.
    pub fn ahead_of(&self, run: &RunId) -> Option<usize> {
        let state = self.state();
        Some(state.line.ahead_of(run)? + usize::from(state.current.is_some()))
    }

    /// Wants a run to end.
    pub fn cancel(&self, run: &RunId) -> Cancelling {
        let mut state = self.state();
        if state.current.as_ref() == Some(run) {
            state.cancelled = true;
            self.changed.notify_waiters();
            return Cancelling::UnderWay;
        }
        state.line.remove(run).map_or(Cancelling::Unknown, Cancelling::TakenOut)
    }

    /// Whether somebody wants this run, which is under way, to end.
    pub fn is_cancelled(&self, run: &RunId) -> bool {
        let state = self.state();
        state.cancelled && state.current.as_ref() == Some(run)
    }

    /// Waits until somebody wants this run to end.
    pub async fn cancelled(&self, run: &RunId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_cancelled(run) {
                return;
            }
            changed.await;
        }
    }

    /// What is told of a run that waits or is under way.
    pub fn watch(&self, run: &RunId) -> Option<watch::Receiver<RunUpdate>> {
        self.state().updates.get(run).map(watch::Sender::subscribe)
    }

    /// Tells those who watch a run; they see the latest update, not every one.
    pub fn tell(&self, run: &RunId, update: RunUpdate) {
        if let Some(sender) = self.state().updates.get(run) {
            sender.send_replace(update);
        }
    }

    /// The run that has its turn.
    pub fn current(&self) -> Option<RunId> {
        self.state().current.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> RunId {
        RunId(name.into())
    }

    fn put(queue: &Queue, user: &str, name: &str, at: i64) -> usize {
        queue.keep_place(user).expect("there is room").take(run(name), at)
    }

    #[tokio::test]
    async fn users_have_their_turns_and_are_told_how_many_come_before() {
        let queue = Queue::default();
        assert_eq!(put(&queue, "a", "a1", 1), 0);
        assert_eq!(put(&queue, "a", "a2", 2), 1);
        assert_eq!(queue.next().await, run("a1"));
        assert_eq!(put(&queue, "b", "b1", 3), 1);
        assert_eq!(queue.ahead_of(&run("a2")), Some(2));
        queue.done(&run("a1"));
        assert_eq!(queue.next().await, run("b1"));
    }

    #[tokio::test]
    async fn a_run_that_waits_is_taken_out_and_one_under_way_is_told() {
        let queue = Queue::default();
        put(&queue, "a", "a1", 1);
        put(&queue, "a", "a2", 2);
        assert_eq!(queue.next().await, run("a1"));
        let Cancelling::TakenOut(waiting) = queue.cancel(&run("a2")) else { panic!("it waits") };
        assert_eq!(
            (queue.cancel(&run("a2")), queue.cancel(&run("x"))),
            (Cancelling::Unknown, Cancelling::Unknown)
        );
        assert!(queue.watch(&run("a2")).is_some(), "its end is not stored yet");
        assert!(!queue.is_cancelled(&run("a1")));
        assert_eq!(queue.cancel(&run("a1")), Cancelling::UnderWay);
        queue.cancelled(&run("a1")).await;
        queue.done(&run("a1"));
        queue.put_back(vec![waiting], &[]);
        assert_eq!(queue.next().await, run("a2"));
        assert!(!queue.is_cancelled(&run("a2")), "that was another run");
    }

    #[test]
    fn limits_are_named_with_their_value_and_a_place_that_is_not_taken_is_free_again() {
        let queue = Queue::new(QueueLimits { all: 3, user: 2 });
        put(&queue, "a", "a1", 1);
        let place = queue.keep_place("a").expect("there is room");
        let refused = queue.keep_place("a").map(drop).expect_err("two of a user");
        assert_eq!(refused, QueueFull::User { user: "a".into(), most: 2 });
        assert!(refused.to_string().starts_with("2 runs of a wait"), "{refused}");
        drop(place);
        put(&queue, "a", "a2", 2);
        put(&queue, "b", "b1", 3);
        let refused = queue.keep_place("c").map(drop).expect_err("three of all");
        assert_eq!(refused, QueueFull::All { most: 3 });
        assert!(
            refused.to_string().contains("3 runs wait") && refused.to_string().contains("cancel"),
            "{refused}"
        );
    }
}
