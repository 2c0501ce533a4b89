//! The runs that wait for their turn, the one that has it, and what people are told of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{Notify, watch};
use tuplelab_domain::id::RunId;
use tuplelab_proto::v1::RunUpdate;

/// Runs that may wait at the same time.
const MOST_WAITING: usize = 1_000;

/// The queue is full.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{MOST_WAITING} runs wait already: cancel some, or submit later")]
pub struct QueueFull;

#[derive(Default)]
struct State {
    waiting: VecDeque<RunId>,
    current: Option<RunId>,
    cancelled: BTreeSet<RunId>,
    updates: BTreeMap<RunId, watch::Sender<RunUpdate>>,
}

/// The queue. Cheap to clone; the conductor takes from it, everybody else puts in and looks.
#[derive(Clone, Default)]
pub struct Queue {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Queue {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether another run may be put in.
    ///
    /// # Errors
    /// The queue is full.
    pub fn has_room(&self) -> Result<(), QueueFull> {
        if self.state().waiting.len() < MOST_WAITING { Ok(()) } else { Err(QueueFull) }
    }

    /// Puts a run at the end; says how many come before it.
    pub fn push(&self, run: RunId) -> usize {
        let mut state = self.state();
        let ahead = state.waiting.len() + usize::from(state.current.is_some());
        let update = RunUpdate { run: run.to_string(), phase: "queued".into(), ..Default::default() };
        state.updates.insert(run.clone(), watch::channel(update).0);
        state.waiting.push_back(run);
        self.changed.notify_waiters();
        ahead
    }

    /// The next run, once there is one; it is the current one from then on.
    pub async fn next(&self) -> RunId {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(run) = state.waiting.pop_front() {
                    state.current = Some(run.clone());
                    return run;
                }
            }
            changed.await;
        }
    }

    /// The current run is over; what it ended with stays visible to those who watch it.
    pub fn done(&self, run: &RunId) {
        let mut state = self.state();
        state.current = None;
        state.cancelled.remove(run);
        state.updates.remove(run);
    }

    /// Wants a run to end; `false` if it is neither waiting nor under way.
    pub fn cancel(&self, run: &RunId) -> bool {
        let mut state = self.state();
        let known = state.waiting.contains(run) || state.current.as_ref() == Some(run);
        if known {
            state.cancelled.insert(run.clone());
            // A run that waits has its turn at once, so that it ends now and not in an hour.
            if let Some(position) = state.waiting.iter().position(|other| other == run)
                && let Some(run) = state.waiting.remove(position)
            {
                state.waiting.push_front(run);
            }
            self.changed.notify_waiters();
        }
        known
    }

    /// Waits until somebody wants this run to end.
    pub async fn cancelled(&self, run: &RunId) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.state().cancelled.contains(run) {
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

    #[tokio::test]
    async fn runs_have_their_turn_in_the_order_of_their_coming() {
        let queue = Queue::default();
        assert_eq!(queue.push(run("a")), 0);
        assert_eq!(queue.push(run("b")), 1);
        assert_eq!(queue.next().await, run("a"));
        assert_eq!(queue.push(run("c")), 2);
        queue.done(&run("a"));
        assert_eq!(queue.next().await, run("b"));
    }

    #[tokio::test]
    async fn a_run_that_is_cancelled_while_it_waits_ends_before_the_others_begin() {
        let queue = Queue::default();
        queue.push(run("a"));
        queue.push(run("b"));
        assert!(queue.cancel(&run("b")));
        assert!(!queue.cancel(&run("x")));
        assert_eq!(queue.next().await, run("b"));
        queue.cancelled(&run("b")).await;
    }

    #[test]
    fn a_full_queue_says_so() {
        let queue = Queue::default();
        for number in 0..MOST_WAITING {
            queue.push(run(&number.to_string()));
        }
        assert_eq!(queue.has_room(), Err(QueueFull));
    }
}
