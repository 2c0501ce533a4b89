//! Whose turn it is: few lanes work at a time, in order; the others sleep.
//!
//! Several lanes that poll one listener, or connect at once on few cores, cost more than they bring
//! (measured at a million connections: 46.7 s with 51 lanes polling, 27.2 s with one at a time).

use std::sync::atomic::{AtomicUsize, Ordering};
use tuplelab_domain::schedule::ServeLane;

/// Connecting lanes: the first `permits` of those that are not done may connect. The lanes ask; only
/// the engine moves the turn on, and wakes the lane that is next.
#[derive(Debug)]
pub(crate) struct ConnectorTurns {
    permits: usize,
    done: AtomicUsize,
}

impl ConnectorTurns {
    pub fn new(permits: usize) -> Self {
        Self { permits, done: AtomicUsize::new(0) }
    }

    /// Whether that lane may connect now.
    pub fn may_connect(&self, lane: usize) -> bool {
        lane < self.done.load(Ordering::Acquire) + self.permits
    }

    /// One more lane is done. Returns the lane whose turn has come, whether or not there is one.
    pub fn give_back(&self) -> usize {
        self.done.fetch_add(1, Ordering::AcqRel) + self.permits
    }

    /// How many lanes are done.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Acquire)
    }
}

/// Accepting lanes: each listener is served by one lane at a time, in the order of the lanes that
/// name it (each at most once). The lane whose turn it is passes it on; the engine wakes the next.
#[derive(Debug)]
pub(crate) struct ListenerTurns {
    listeners: Vec<Turns>,
}

#[derive(Debug)]
struct Turns {
    lanes: Vec<usize>,
    position: AtomicUsize,
    /// Whether the first lane comes after the last.
    around: bool,
}

impl ListenerTurns {
    /// The turns that these lanes name. Where lanes let go of what they hold, turns go `around`: the
    /// first lane may have room again when the last has none.
    pub fn new(listeners: usize, lanes: &[ServeLane], around: bool) -> Self {
        let mut order = vec![Vec::new(); listeners];
        for (lane, work) in lanes.iter().enumerate() {
            for turn in &work.turns {
                if let Some(lanes) = order.get_mut(turn.listener as usize) {
                    lanes.push(lane);
                }
            }
        }
        let turns = |lanes: Vec<usize>| Turns {
            around: around && lanes.len() > 1,
            lanes,
            position: AtomicUsize::new(0),
        };
        Self { listeners: order.into_iter().map(turns).collect() }
    }

    /// Whether that listener is that lane's now.
    pub fn is_mine(&self, listener: usize, lane: usize) -> bool {
        self.lane_at(listener) == Some(lane)
    }

    /// Whether no lane comes after the one whose turn it is.
    pub fn is_last(&self, listener: usize) -> bool {
        let ends = |turns: &Turns| turns.position.load(Ordering::Acquire) + 1 >= turns.lanes.len();
        self.listeners.get(listener).is_none_or(|turns| !turns.around && ends(turns))
    }

    /// The lane whose turn it is.
    pub fn lane_at(&self, listener: usize) -> Option<usize> {
        let turns = self.listeners.get(listener)?;
        let position = turns.position.load(Ordering::Acquire);
        let position = if turns.around { position % turns.lanes.len() } else { position };
        turns.lanes.get(position).copied()
    }

    /// The lane whose turn it is passes the listener on.
    pub fn pass(&self, listener: usize) {
        if let Some(turns) = self.listeners.get(listener) {
            turns.position.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::schedule::Turn;

    #[test]
    fn as_many_lanes_connect_as_there_are_permits_and_the_rest_follow_in_order() {
        let turns = ConnectorTurns::new(2);
        assert_eq!([0, 1, 2].map(|lane| turns.may_connect(lane)), [true, true, false]);
        assert_eq!(turns.give_back(), 2);
        assert_eq!([2, 3].map(|lane| turns.may_connect(lane)), [true, false]);
    }

    #[test]
    fn a_listener_goes_from_lane_to_lane_and_stays_with_the_last() {
        let lane = |listeners: &[u32]| ServeLane {
            turns: listeners.iter().map(|&listener| Turn { listener, quota: 1 }).collect(),
        };
        let turns = ListenerTurns::new(2, &[lane(&[0]), lane(&[0, 1]), lane(&[1])], false);
        assert!(turns.is_mine(0, 0) && turns.is_mine(1, 1) && !turns.is_mine(0, 1));
        assert!(!turns.is_last(0));
        turns.pass(0);
        assert!(turns.is_mine(0, 1) && turns.is_last(0));
        assert_eq!(turns.lane_at(1), Some(1));

        let around = ListenerTurns::new(2, &[lane(&[0, 1]), lane(&[0])], true);
        around.pass(0);
        assert!(
            around.is_mine(0, 1) && !around.is_last(0) && around.is_last(1),
            "one lane alone is the last"
        );
        around.pass(0);
        assert!(around.is_mine(0, 0));
    }
}
