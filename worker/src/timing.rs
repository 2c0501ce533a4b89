//! How long connects take, counted where the engine can read it without stopping a lane.

use crate::net::Nanos;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tuplelab_domain::sample::{ConnectTimes, Occupancy, Recorder};
use tuplelab_domain::schedule::Connect;

/// A recorder is 1.4 MB, and is locked for some 50 ns of the 20 us and more that a connect takes: so
/// many serve all the lanes that connect at a time, on the largest hosts too.
const MOST_RECORDERS: usize = 4;

/// A connect that was begun: since when its time runs, and how full the worker was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Begun {
    since: Nanos,
    occupancy: Occupancy,
}

/// What all connecting lanes of a worker count their times in.
#[derive(Debug)]
pub(crate) struct Timing {
    flows: u64,
    established: AtomicU64,
    recorders: Vec<Mutex<Recorder>>,
}

impl Timing {
    /// For this work: a recorder for each lane that may connect at a time, not for each lane.
    pub fn new(work: &Connect) -> Self {
        let recorders = work.lanes.len().min(work.connectors as usize).min(MOST_RECORDERS);
        Self {
            flows: work.flows(),
            established: AtomicU64::new(0),
            recorders: (0..recorders).map(|_| Mutex::default()).collect(),
        }
    }

    /// A connect begins whose time runs since then.
    pub fn begin(&self, since: Nanos) -> Begun {
        let established = self.established.load(Ordering::Relaxed);
        Begun { since, occupancy: Occupancy::of(established, self.flows) }
    }

    /// It is established. Lanes next to each other, as those that connect at a time mostly are, have
    /// recorders of their own; all lanes may have the same.
    pub fn established(&self, lane: usize, begun: Begun, now: Nanos) {
        self.established.fetch_add(1, Ordering::Relaxed);
        let micros = now.saturating_sub(begun.since).div_ceil(1_000);
        if let Some(recorder) = lane.checked_rem(self.recorders.len()).and_then(|i| self.recorders.get(i)) {
            recorder.lock().unwrap_or_else(PoisonError::into_inner).record(begun.occupancy, micros);
        }
    }

    /// The counts at this moment, all lanes together.
    pub fn times(&self) -> ConnectTimes {
        let mut sum = ConnectTimes::default();
        for recorder in &self.recorders {
            sum.merge(&recorder.lock().unwrap_or_else(PoisonError::into_inner).times());
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::ports::PortSet;
    use tuplelab_domain::schedule::{BlockPorts, ConnectLane, FlowBlock};

    #[test]
    fn times_of_all_lanes_add_up_by_how_full_the_worker_was_when_they_began() {
        let block = FlowBlock {
            first_flow: 0,
            source: [127, 0, 0, 1].into(),
            destination: ([127, 0, 0, 2], 7_000).into(),
            ports: BlockPorts::Explicit(PortSet::range(1, 1)),
            spare: PortSet::empty(),
        };
        let work = Connect {
            lanes: vec![ConnectLane { blocks: vec![block] }; 10],
            connectors: 2,
            window: 1,
            rate: None,
            stretches: Vec::new(),
            timeout_micros: 1,
            beyond: false,
            answered: true,
            churn: None,
            activity: None,
        };
        let timing = Timing::new(&work);
        let begun: Vec<Begun> = (0..9).map(|_| timing.begin(1_000)).collect();
        begun.iter().enumerate().for_each(|(lane, begun)| timing.established(lane, *begun, 6_001));
        timing.established(9, timing.begin(1_000), 1_000);
        let times = timing.times();
        assert_eq!(times.by_occupancy[0].steps(), [(6, 9)], "5 us and a bit are not done within 5 us");
        assert_eq!(times.by_occupancy[9].steps(), [(1, 1)], "nine of ten were established");
        let none = Timing::new(&Connect { lanes: Vec::new(), ..work });
        none.established(0, none.begin(0), 5);
        assert_eq!(none.times(), ConnectTimes::default());
    }
}
