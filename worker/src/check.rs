//! Whether an order's work can be done at all. The schedule leaves no choices, but a worker is also
//! started by hand.

use crate::pacer::Pace;
use tuplelab_domain::schedule::{Connect, Serve, Work};

/// A window is walked and polled as a whole; a larger one brings nothing.
const WIDEST_WINDOW: u32 = 16_384;

/// Why work cannot be done.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadWork {
    /// A lane names a listener that is not there.
    #[error("lane {lane} takes a turn at listener {listener}, but there are {listeners}: name one from 0 on")]
    NoSuchListener {
        /// The lane's position.
        lane: usize,
        /// The listener it names.
        listener: u32,
        /// How many there are.
        listeners: usize,
    },
    /// A lane names a listener twice.
    #[error(
        "lane {lane} takes two turns at listener {listener}: join them into one, with the sum of the quotas"
    )]
    TwoTurns {
        /// The lane's position.
        lane: usize,
        /// The listener it names.
        listener: u32,
    },
    /// Nobody would accept there.
    #[error("listener {0} is named by no lane: give a lane a turn at it, or leave it out")]
    UnusedListener(usize),
    /// Nobody may ever connect.
    #[error("connectors is 0: let at least 1 lane connect at a time")]
    NoConnectors,
    /// No flow, or too many, could wait for its answer.
    #[error("window is {0}: choose one from 1 to {WIDEST_WINDOW}")]
    BadWindow(u32),
    /// The pace is none.
    #[error("rate is {0} connects a second: choose a positive number, or null for as fast as it goes")]
    BadRate(f64),
    /// Every flow would have failed at once.
    #[error("timeout_micros is 0: leave a flow some time to be answered")]
    NoTimeout,
    /// Source and destination of a block are of two families.
    #[error("block {block} of lane {lane} goes from {from} to {to}: choose addresses of one family")]
    TwoFamilies {
        /// The lane's position.
        lane: usize,
        /// The block's position in it.
        block: usize,
        /// The source address.
        from: std::net::IpAddr,
        /// The destination.
        to: std::net::SocketAddr,
    },
}

/// Finds the first thing that makes the work impossible.
pub(crate) fn check(work: &Work) -> Result<(), BadWork> {
    match work {
        Work::Serve(work) => check_serve(work),
        Work::Connect(work) => check_connect(work),
        // Its steps come one by one, and each is answered for itself.
        Work::Script(_) => Ok(()),
    }
}

fn check_serve(work: &Serve) -> Result<(), BadWork> {
    let listeners = work.listeners.len();
    let mut named = vec![false; listeners];
    for (lane, turns) in work.lanes.iter().map(|lane| &lane.turns).enumerate() {
        for (position, turn) in turns.iter().enumerate() {
            if turns.iter().take(position).any(|before| before.listener == turn.listener) {
                return Err(BadWork::TwoTurns { lane, listener: turn.listener });
            }
            let Some(named) = named.get_mut(turn.listener as usize) else {
                return Err(BadWork::NoSuchListener { lane, listener: turn.listener, listeners });
            };
            *named = true;
        }
    }
    named.iter().position(|named| !named).map_or(Ok(()), |unused| Err(BadWork::UnusedListener(unused)))
}

fn check_connect(work: &Connect) -> Result<(), BadWork> {
    if work.connectors == 0 {
        return Err(BadWork::NoConnectors);
    }
    if !(1..=WIDEST_WINDOW).contains(&work.window) {
        return Err(BadWork::BadWindow(work.window));
    }
    if let Some(rate) = work.rate.filter(|rate| Pace::per_second(*rate).is_none()) {
        return Err(BadWork::BadRate(rate));
    }
    if work.timeout_micros == 0 {
        return Err(BadWork::NoTimeout);
    }
    for (lane, blocks) in work.lanes.iter().map(|lane| &lane.blocks).enumerate() {
        for (index, block) in blocks.iter().enumerate() {
            if block.source.is_ipv4() != block.destination.is_ipv4() {
                let (from, to) = (block.source, block.destination);
                return Err(BadWork::TwoFamilies { lane, block: index, from, to });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::schedule::{Listener, ServeLane, Turn};

    #[test]
    fn every_listener_needs_a_lane_and_every_turn_a_listener() {
        let listener = Listener { endpoint: ([127, 0, 0, 1], 7).into(), backlog: 1 };
        let serve = |listeners: usize, turns: &[u32]| {
            let turns = turns.iter().map(|&listener| Turn { listener, quota: 1 }).collect();
            check(&Work::Serve(Serve {
                listeners: vec![listener; listeners],
                lanes: vec![ServeLane { turns }],
                accept: tuplelab_domain::plan::Accept::All,
                answered: true,
                watch: None,
            }))
        };
        assert_eq!(serve(2, &[0, 1]), Ok(()));
        assert_eq!(serve(1, &[0, 0]), Err(BadWork::TwoTurns { lane: 0, listener: 0 }));
        assert_eq!(serve(2, &[0]), Err(BadWork::UnusedListener(1)));
        assert_eq!(serve(1, &[1]), Err(BadWork::NoSuchListener { lane: 0, listener: 1, listeners: 1 }));
    }
}
