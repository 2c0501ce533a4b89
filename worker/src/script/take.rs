//! Sockets that a host takes as they come: accepted connections, and descriptors until none is left.

use super::many::list;
use super::refusal::{Refusal, Tally};
use super::sockets::Held;
use super::{MOST, options};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tuplelab_domain::script::{Answer, Options, Protocol};

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

/// Accepts all that there is. Waits for the first until then; after it, until nothing comes any more.
pub(super) fn all(group: &mut Vec<Held>, listener: &Held, until: Instant) -> Answer {
    let before = group.len();
    let mut tally = Tally::default();
    let (mut gone, mut outcome) = (0, "ok");
    loop {
        if group.len() >= MOST {
            outcome = "FULL";
            break;
        }
        let nothing_yet = group.len() == before && gone == 0;
        let now = Instant::now();
        // The queue is emptied even where the time is up.
        let patience = if nothing_yet { until } else { until.min(now + IDLE) };
        match one(listener, patience) {
            Ok(Some(accepted)) => group.push(accepted),
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

/// Opens sockets until the kernel refuses.
pub(super) fn fill(group: &mut Vec<Held>) -> Answer {
    let before = group.len();
    let mut answer = Answer::of("FULL");
    while group.len() < MOST {
        match options::socket(Protocol::Tcp, &Options::default(), None) {
            Ok(held) => group.push(held),
            Err(refusal) => {
                answer = refusal.into();
                break;
            }
        }
    }
    answer.value((group.len() - before) as u64)
}
