//! Servers that do not accept all: what each listener has room for, what is accepted of it, and how
//! fast. The kernel keeps min(backlog, somaxconn) + 1 connections for `accept` (`sk_acceptq_is_full`,
//! include/net/sock.h) and drops every SYN beyond them.

use super::share::proportional;
use crate::plan::Accept;
use crate::units::Span;

/// How many connections each listener of one server takes: its queue, and its part of what the
/// application takes out; `None` where that is all of them.
pub(super) fn rooms(accept: Accept, queue: u64, listeners: usize) -> Option<Vec<u64>> {
    let parts = proportional(accept.most()?, &vec![1; listeners]);
    Some(parts.into_iter().map(|part| queue.saturating_add(part)).collect())
}

/// How many connections of each listener one server's application accepts, of those expected there.
pub(super) fn accepted(accept: Accept, expected: &[u64]) -> Vec<u64> {
    match accept.most() {
        Some(most) => proportional(most.min(expected.iter().sum()), expected),
        None => expected.to_vec(),
    }
}

/// The weights of ways (`destinations` says where each leads), cut so that no listener is given more
/// than it has room for. Where the target is beyond all rooms together they stay as they are.
pub(super) fn within(rooms: &[u64], weights: Vec<u64>, destinations: &[usize], target: u64) -> Vec<u64> {
    let mut cut = weights.clone();
    let mut here: Vec<Vec<usize>> = vec![Vec::new(); rooms.len()];
    for (way, listener) in destinations.iter().enumerate() {
        here.get_mut(*listener).into_iter().for_each(|ways| ways.push(way));
    }
    for (room, ways) in rooms.iter().zip(here) {
        let own: Vec<u64> = ways.iter().filter_map(|way| weights.get(*way).copied()).collect();
        if own.iter().sum::<u64>() > *room {
            for (way, part) in ways.into_iter().zip(proportional(*room, &own)) {
                cut.get_mut(way).into_iter().for_each(|weight| *weight = part);
            }
        }
    }
    if cut.iter().sum::<u64>() < target { weights } else { cut }
}

/// How many connections may be unanswered where a server answers at a rate: the last of them still
/// has half its time left.
pub(super) fn answered_in_time(accept: Accept, timeout: Span) -> u64 {
    match accept {
        Accept::PerSecond(rate) => (rate as f64 * timeout.0.as_secs_f64() / 2.0) as u64,
        _ => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_listener_takes_its_queue_and_its_part_of_what_is_accepted() {
        assert_eq!(rooms(Accept::Never, 21, 2), Some(vec![21, 21]));
        assert_eq!(rooms(Accept::Until(5), 21, 2), Some(vec![23, 24]));
        for accept in [Accept::All, Accept::Close, Accept::PerSecond(1)] {
            assert_eq!(rooms(accept, 21, 2), None, "{accept}");
        }
    }

    #[test]
    fn no_more_is_accepted_than_is_expected_or_allowed() {
        assert_eq!(accepted(Accept::All, &[10, 30]), [10, 30]);
        assert_eq!(accepted(Accept::Never, &[10, 30]), [0, 0]);
        assert_eq!(accepted(Accept::Until(8), &[10, 30]), [2, 6]);
        assert_eq!(accepted(Accept::Until(100), &[10, 30]), [10, 30]);
    }

    #[test]
    fn each_listener_is_given_what_it_has_room_for_unless_more_is_asked_than_all_have() {
        // Two ways to a listener with little room, one to another.
        let cut = |target| within(&[10, 500], vec![100, 100, 100], &[0, 0, 1], target);
        assert_eq!(cut(110), [5, 5, 100]);
        assert_eq!(cut(111), [100, 100, 100]);
    }

    #[test]
    fn a_slow_servers_window_is_answered_in_half_the_time() {
        let ten = Span(Duration::from_secs(10));
        assert_eq!(answered_in_time(Accept::PerSecond(3), ten), 15);
        assert_eq!(answered_in_time(Accept::All, ten), u64::MAX);
    }
}
