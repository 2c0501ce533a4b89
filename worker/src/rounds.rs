//! Rounds on a connecting lane's held connections: bytes that are sent and come back. A bounded queue,
//! oldest first, as the window of unanswered connections is.

use crate::flow::Cause;
use crate::net::{Nanos, Net, Watch};
use crate::tally::Tally;
use nix::errno::Errno;
use std::collections::{BTreeSet, VecDeque};
use tuplelab_domain::sample::{Call, Histogram, Occupancy, Recorder};

/// Rounds that are waited for at a time, at most: all are polled.
const MOST_WAITING: usize = 1_024;
/// No activity sends more at a time.
const MOST_BYTES: usize = 4_096;

/// A round under way.
struct Round {
    /// Which of the held connections.
    place: usize,
    begun: Nanos,
    /// Bytes that have come back.
    got: usize,
}

/// The rounds of one lane.
pub(crate) struct Rounds {
    bytes: usize,
    timeout: Nanos,
    waiting: VecDeque<Round>,
    /// Connections on which one failed: nothing more is sent there. Few, or the run has failed.
    failed: BTreeSet<usize>,
    times: Recorder,
}

impl Rounds {
    /// Rounds of so many bytes, each to be answered in this time.
    pub fn new(bytes: u32, timeout: Nanos) -> Self {
        Self {
            bytes: (bytes as usize).min(MOST_BYTES),
            timeout,
            waiting: VecDeque::with_capacity(MOST_WAITING),
            failed: BTreeSet::new(),
            times: Recorder::default(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Begins one on the connection at this place, unless the one before is still waited for.
    pub fn begin<N: Net>(&mut self, net: &N, tally: &Tally, place: usize, socket: &N::Socket) {
        // The oldest that is waited for is the only one that can be of the same connection: all others
        // have had their turn since.
        let is_waiting = self.waiting.iter().take(1).any(|round| round.place == place);
        if is_waiting || self.waiting.len() >= MOST_WAITING || self.failed.contains(&place) {
            return tally.late_rounds(1);
        }
        let begun = net.now();
        tally.round();
        match net.send(socket, &[0x5a; MOST_BYTES][..self.bytes]) {
            Ok(length) if length == self.bytes => self.waiting.push_back(Round { place, begun, got: 0 }),
            // One round's bytes always have room in a socket's buffer.
            Ok(_) => self.fail(tally, place, Call::Send, Cause::Kernel(Errno::EAGAIN)),
            Err(errno) => self.fail(tally, place, Call::Send, Cause::Kernel(errno)),
        }
    }

    /// Takes what has come back; `ready` says of each that is waited for whether it may have, oldest
    /// first; what it does not name is looked at.
    pub fn take<N: Net>(&mut self, net: &N, tally: &Tally, held: &VecDeque<N::Socket>, ready: &[bool]) {
        for index in 0..self.waiting.len() {
            let Some(round) = self.waiting.pop_front() else { break };
            let now = net.now();
            let is_over = now >= round.begun.saturating_add(self.timeout);
            if !is_over && !ready.get(index).copied().unwrap_or(true) {
                self.waiting.push_back(round);
                continue;
            }
            let Some(socket) = held.get(round.place) else { continue };
            let mut buffer = [0; MOST_BYTES];
            let rest = self.bytes.saturating_sub(round.got).max(1);
            match net.receive(socket, &mut buffer[..rest]) {
                Ok(0) => self.fail(tally, round.place, Call::Receive, Cause::Eof),
                Ok(length) if round.got + length >= self.bytes => {
                    tally.answered_round();
                    self.times.record(Occupancy::of(1, 1), now.saturating_sub(round.begun) / 1_000);
                }
                Ok(length) => self.waiting.push_back(Round { got: round.got + length, ..round }),
                Err(Errno::EAGAIN | Errno::EINTR) if is_over => {
                    self.fail(tally, round.place, Call::Receive, Cause::NoAnswer);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => self.waiting.push_back(round),
                Err(errno) => self.fail(tally, round.place, Call::Receive, Cause::Kernel(errno)),
            }
        }
    }

    /// All that is waited for, oldest first.
    pub fn watch<'a, N: Net + 'a>(
        &'a self,
        held: &'a VecDeque<N::Socket>,
    ) -> impl Iterator<Item = Watch<'a, N>> {
        self.waiting.iter().filter_map(|round| held.get(round.place)).map(Watch::Readable)
    }

    /// When the oldest has waited long enough.
    pub fn deadline(&self) -> Option<Nanos> {
        self.waiting.iter().map(|round| round.begun).min().map(|begun| begun.saturating_add(self.timeout))
    }

    /// How long those that were answered took.
    pub fn times(&self) -> Histogram {
        self.times.times().all()
    }

    /// The connection is of no use any more; what its kernel makes of it the census tells.
    fn fail(&mut self, tally: &Tally, place: usize, call: Call, cause: Cause) {
        self.failed.insert(place);
        tally.failed(call, cause);
        tally.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Local;
    use crate::net::fake::{FakeNet, Received, Script};

    #[test]
    fn what_comes_back_whole_is_answered_and_each_failure_has_its_name() {
        let net = FakeNet::new(|| ());
        let part = |length| Received::Bytes(vec![0x5a; length]);
        net.opening.borrow_mut().extend([
            Script::receiving([part(40), part(24)]),
            Script::receiving([Received::Error(Errno::ECONNRESET)]),
            Script::silent(),
            Script { sends: [Errno::EPIPE].into(), ..Script::silent() },
        ]);
        let local = Local { address: [127, 0, 0, 1].into(), port: None };
        let held: VecDeque<_> = (0..4).map(|_| net.open(local).expect("opens")).collect();
        let (tally, mut rounds) = (Tally::default(), Rounds::new(64, 1_000));
        (0..4).for_each(|place| rounds.begin(&net, &tally, place, &held[place]));
        rounds.take(&net, &tally, &held, &[]);
        rounds.begin(&net, &tally, 3, &held[3]);
        rounds.take(&net, &tally, &held, &[false, true]);
        net.now.set(5_000);
        rounds.take(&net, &tally, &held, &[]);
        assert!(rounds.is_empty());
        let counters = tally.counters();
        assert_eq!((counters.rounds, counters.answered_rounds, counters.late_rounds), (4, 1, 1));
        let failures = serde_json::to_string(&counters.failures).expect("serialises");
        assert_eq!(failures, r#"{"receive ECONNRESET":1,"receive NO_ANSWER":1,"send EPIPE":1}"#);
        assert_eq!(rounds.times().count(), 1);
    }
}
