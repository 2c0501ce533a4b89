//! Connections that a host accepts as they come.

use super::MOST;
use super::many::list;
use super::refusal::{Refusal, Tally};
use super::sockets::Held;
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tuplelab_domain::script::Answer;

/// A queue that was empty for so long is taken to be done.
const IDLE: Duration = Duration::from_millis(50);

/// So many connections in a row may be gone before they could be accepted.
const ENOUGH: u32 = 64;

/// One connection, or none until then.
///
/// The listener is asked first whether there is one: `accept` finds a descriptor before it looks at
/// the queue, and says EMFILE of an empty one too.
pub(super) fn one(listener: &Held, until: Instant) -> Result<Option<Held>, Refusal> {
    loop {
        if listener.wait(PollFlags::POLLIN, until) {
            match listener.accept() {
                Err(Refusal { errno: Errno::EAGAIN, .. }) => {}
                other => return other.map(Some),
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
    }
}

/// How connections are taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// How many at the most; `None`: all.
    pub count: Option<u32>,
    /// How long after one the next is taken; `None`: at once.
    pub every: Option<Duration>,
    /// When the time is up.
    pub until: Instant,
}

impl Pace {
    /// A number to wait for, or a pace to keep: then an empty queue is not the end.
    fn is_patient(self) -> bool {
        self.count.is_some() || self.every.is_some()
    }

    fn has_enough(self, taken: usize) -> bool {
        self.count.is_some_and(|count| taken >= count as usize)
    }

    /// Sleeps until the next is due, but not beyond the end; says whether there is a next.
    fn rest(self) -> bool {
        let Some(every) = self.every else { return true };
        let left = self.until.saturating_duration_since(Instant::now());
        std::thread::sleep(every.min(left));
        every < left
    }
}

/// Accepts as many as the pace says. Without one: waits for the first until the time is up; after it,
/// until nothing comes any more.
pub(super) fn all(group: &mut Vec<Held>, listener: &Held, pace: Pace) -> Answer {
    let before = group.len();
    let mut tally = Tally::default();
    let (mut gone, mut outcome) = (0, "ok");
    while !pace.has_enough(group.len() - before) {
        if group.len() >= MOST {
            outcome = "FULL";
            break;
        }
        let nothing_yet = group.len() == before && gone == 0;
        let now = Instant::now();
        // The queue is emptied even where the time is up.
        let patience = if nothing_yet || pace.is_patient() { pace.until } else { pace.until.min(now + IDLE) };
        match one(listener, patience) {
            Ok(Some(accepted)) => {
                group.push(accepted);
                if !pace.has_enough(group.len() - before) && !pace.rest() {
                    break;
                }
            }
            Ok(None) => {
                if nothing_yet {
                    outcome = "pending";
                }
                break;
            }
            Err(refusal) => {
                tally.add(refusal);
                gone += 1;
                // A connection that is gone makes way for the next; anything else comes again.
                if refusal.errno != Errno::ECONNABORTED || gone >= ENOUGH {
                    break;
                }
            }
        }
    }
    let taken = &group[before..];
    let locals: BTreeSet<u16> = taken.iter().filter_map(|held| Some(held.local().ok()?.port())).collect();
    let peers: BTreeSet<_> = taken.iter().filter_map(|held| held.peer().ok()).collect();
    tally
        .answer(outcome)
        .value(taken.len() as u64)
        .detail("local_ports", list(&locals))
        .detail("peers", peers.len())
}
