//! The active opener's lane: opens its blocks of flows in order, as fast as it may, keeps a window of
//! unanswered ones, and holds the rest at four bytes each.

use crate::flow::{Cause, Flow, Step, Token};
use crate::lane::{LARGEST_TABLE, Notice, Station};
use crate::net::{Local, Nanos, Net};
use crate::pacer::Pacer;
use crate::rounds::Rounds;
use crate::slots::{Slot, Slots};
use crate::timing::Timing;
use crate::turns::ConnectorTurns;
use crate::window::{Entry, Settled, Window};
use nix::errno::Errno;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tuplelab_domain::plan::{Activity, Close};
use tuplelab_domain::sample::{Beyond, Call, Failures};
use tuplelab_domain::schedule::{BlockPorts, Churn, Connect, ConnectLane, FlowBlock};

/// How long a connector with a full window leaves the server to answer several before it looks
/// again. Waking for each single answer costs more than it brings.
const NAP_NANOS: Nanos = 100_000;
/// So often answers are looked for between two connects: the moment of an answer is known to this.
const LOOK_NANOS: Nanos = 100_000;
/// An oldest flow that hangs for so long (a lost SYN) may hide answers behind it: then all flows are
/// looked at, so often. Of a full window of 2,048 that is some 200 us each time.
const HANGS_NANOS: Nanos = 10_000_000;
/// In a wait for a paced connect that is shorter than this only the oldest flow is watched; in a
/// longer one, all of them.
const SHORT_WAIT_NANOS: Nanos = 1_000_000;
/// Flows that replace others are numbered from here on, by their block and their turn.
const REPLACING: u64 = 1 << 63;
/// So many refusals in a row that say "no more left" end a block: the rest would be refused too,
/// and a search through a full range of ports costs milliseconds each.
const SHORTAGES_IN_A_ROW: u32 = 16;

/// What the connecting lanes of a worker share.
pub(crate) struct Clients {
    pub token: u64,
    pub work: Connect,
    pub turns: ConnectorTurns,
    pub pacer: Option<Pacer>,
    pub timing: Timing,
    /// For each lane, the blocks to try one connect more in, once the engine has decided.
    pub probes: Vec<Mutex<Option<Vec<usize>>>>,
}

/// A connecting lane's life: wait for Go and for its turn, open, hold, close.
pub(crate) fn run<N: Net>(station: &Station<'_, N>, clients: &Clients) {
    let blocks = clients.work.lanes.get(station.index).map_or(&[][..], |lane| &lane.blocks);
    let Station { net, signals, .. } = station;
    let mut connector = Connector::new(station, clients, blocks);
    while !signals.is_halted() {
        match signals.go().filter(|_| clients.turns.may_connect(station.index)) {
            Some(go) if net.now() >= go => {
                connector.open(go);
                break;
            }
            later => net.sleep(later),
        }
    }
    (station.tell)(Notice::Done { complete: connector.complete() });
    let mut rested = false;
    while !signals.is_released() {
        if !rested && (signals.moves().is_some() || signals.is_resting()) {
            connector.moves();
            rested = true;
            (station.tell)(Notice::Rested);
            continue;
        }
        let probes = clients.probes.get(station.index).and_then(|probes| {
            // Held for a moment only, so a poisoned lock still holds a whole value.
            probes.lock().unwrap_or_else(PoisonError::into_inner).take()
        });
        match probes {
            Some(probes) => (station.tell)(Notice::Probed(connector.beyond(&probes))),
            None => net.sleep(None),
        }
    }
}

struct Connector<'a, N: Net> {
    station: &'a Station<'a, N>,
    clients: &'a Clients,
    blocks: &'a [FlowBlock],
    window: Window<N::Socket>,
    /// The oldest first.
    held: VecDeque<N::Socket>,
    /// For each block, how many of its flows were established.
    established: Vec<u32>,
    /// When answers are to be looked for again, and when behind an oldest flow that hangs.
    next_look: Nanos,
    next_search: Nanos,
}

/// Whether the next connect may begin.
enum Leave {
    Never,
    /// Its time runs from when it is called.
    Now,
    /// Its time runs from then.
    Since(Nanos),
}

impl<'a, N: Net> Connector<'a, N> {
    fn new(station: &'a Station<'a, N>, clients: &'a Clients, blocks: &'a [FlowBlock]) -> Self {
        let flows = ConnectLane::flows_of(blocks) as usize;
        Self {
            station,
            clients,
            blocks,
            window: Window::new(clients.work.window as usize),
            // Reserved once; the pages become memory as flows fill them.
            held: VecDeque::with_capacity(flows.min(LARGEST_TABLE)),
            established: vec![0; blocks.len()],
            next_look: 0,
            next_search: 0,
        }
    }

    /// Opens every block, then waits until each flow is established or has failed.
    fn open(&mut self, go: Nanos) {
        for (index, block) in self.blocks.iter().enumerate() {
            match &block.ports {
                BlockPorts::Explicit(ports) => self.open_block(index, block, ports.iter().map(Some), go),
                BlockPorts::Kernel(count) => {
                    self.open_block(index, block, (0..*count).map(|_| None), go);
                }
            }
        }
        while !self.window.is_empty() && !self.station.signals.is_released() {
            self.settle();
        }
    }

    fn open_block(
        &mut self,
        index: usize,
        block: &FlowBlock,
        ports: impl Iterator<Item = Option<u16>>,
        go: Nanos,
    ) {
        let mut shortages = 0;
        for (flow, port) in (block.first_flow..).zip(ports) {
            let due = match self.wait_for_leave(go) {
                Leave::Never => return,
                Leave::Now => None,
                Leave::Since(due) => Some(due),
            };
            let now = self.station.net.now();
            self.station.tally.attempted(now);
            let local = Local { address: block.source, port };
            match self.begin(index, local, block.destination, flow, now, due) {
                Ok(()) => shortages = 0,
                Err((call, cause)) => {
                    self.station.tally.failed(call, cause);
                    shortages = if is_shortage(port, call, cause) { shortages + 1 } else { 0 };
                    if shortages == SHORTAGES_IN_A_ROW {
                        return;
                    }
                }
            }
        }
    }

    /// Waits until the window has room and the pace allows the next connect.
    fn wait_for_leave(&mut self, go: Nanos) -> Leave {
        let Station { net, signals, tally, .. } = self.station;
        let pacer = self.clients.pacer.as_ref();
        let due = pacer.map(|pacer| pacer.take().from(go));
        while !signals.is_halted() {
            if self.window.is_full() {
                self.settle();
                continue;
            }
            let now = net.now();
            self.look(now);
            let Some((pacer, due)) = pacer.zip(due) else { return Leave::Now };
            match pacer.begin(due, now) {
                Ok(()) => {
                    if due.is_late(now) {
                        tally.late();
                    }
                    return Leave::Since(due.at);
                }
                Err(until) => {
                    self.settle_oldest();
                    if until - now < SHORT_WAIT_NANOS {
                        net.wait(self.window.watch().take(1), Some(until));
                    } else {
                        self.settle_until(Some(until));
                    }
                }
            }
        }
        Leave::Never
    }

    /// Takes the answers that have come, every now and then.
    fn look(&mut self, now: Nanos) {
        if now < self.next_look {
            return;
        }
        self.next_look = now.saturating_add(LOOK_NANOS);
        self.settle_oldest();
        let timeout = self.clients.work.timeout_micros.saturating_mul(1_000);
        let since = self.window.deadline().map(|deadline| deadline.saturating_sub(timeout));
        let hangs = since.is_some_and(|since| now.saturating_sub(since) > HANGS_NANOS);
        if hangs && now >= self.next_search {
            self.next_search = now.saturating_add(HANGS_NANOS);
            self.settle_until(Some(now));
        }
    }

    /// One connect, and the first attempt to send its token: on a host's own links the handshake is
    /// over when `connect` returns.
    fn begin(
        &mut self,
        block: usize,
        local: Local,
        to: SocketAddr,
        flow: u64,
        now: Nanos,
        due: Option<Nanos>,
    ) -> Result<(), (Call, Cause)> {
        let net = self.station.net;
        let kernel = |(call, errno)| (call, Cause::Kernel(errno));
        let socket = net.open(local).map_err(kernel)?;
        let begun = self.clients.timing.begin(due.unwrap_or_else(|| net.now()));
        net.connect(&socket, to).map_err(|errno| kernel((Call::Connect, errno)))?;
        let deadline = now.saturating_add(self.clients.work.timeout_micros.saturating_mul(1_000));
        let flow = Flow::begin(Token::new(self.clients.token, flow), deadline, self.clients.work.answered);
        let mut entry = Entry { socket, flow, block, begun };
        match entry.step(net, now) {
            Step::Failed(call, cause) => return Err((call, cause)),
            Step::Established => {
                let settled = Settled::Established { socket: entry.socket, block, begun };
                keep(self.station, self.clients, &mut self.held, &mut self.established, settled);
            }
            Step::Again | Step::Wait => self.window.push(entry),
        }
        Ok(())
    }

    /// Waits until something in the window moved, or the engine calls.
    fn settle(&mut self) {
        if self.settle_oldest() {
            return;
        }
        let signals = self.station.signals;
        let halted = signals.is_halted();
        self.station.net.sleep(Some(self.station.net.now() + NAP_NANOS));
        // A nap takes the engine's call with it, so what that was about is looked at before a wait
        // that only another call would end.
        if signals.is_released() || signals.is_halted() != halted {
            return;
        }
        if !self.settle_oldest() {
            self.settle_until(None);
        }
    }

    fn settle_oldest(&mut self) -> bool {
        let Self { station, clients, window, held, established, .. } = self;
        let now = station.net.now();
        window.settle_oldest(station.net, now, &mut |settled| {
            keep(station, clients, held, established, settled);
        })
    }

    fn settle_until(&mut self, until: Option<Nanos>) {
        let Self { station, clients, window, held, established, .. } = self;
        let until = window.deadline().into_iter().chain(until).min();
        let ready = station.net.wait(window.watch(), until);
        let now = station.net.now();
        window.settle_ready(station.net, &ready, now, &mut |settled| {
            keep(station, clients, held, established, settled);
        });
    }

    /// What the work says of held connections, from `move` to `rest`; after that nothing is under way.
    fn moves(&mut self) {
        let Some(since) = self.station.signals.moves() else { return };
        self.station.tally.ramp_over();
        if let Some(churn) = &self.clients.work.churn {
            self.churn(churn, since);
        }
        while !self.window.is_empty() && !self.station.signals.is_released() {
            self.settle_until(None);
        }
        if let Some(activity) = &self.clients.work.activity {
            self.exchange(activity, since);
        }
    }

    /// Has a round on each held connection in turn, at even intervals, and then waits for those that are
    /// not answered yet.
    fn exchange(&mut self, activity: &Activity, since: Nanos) {
        let Self { station, clients, held, .. } = self;
        let Station { net, signals, tally, index, .. } = station;
        let per_second = held.len() as f64 / activity.every.0.as_secs_f64();
        let mut rounds = Rounds::new(activity.bytes, clients.work.timeout_micros.saturating_mul(1_000));
        if let Some(mut slots) = Slots::new(per_second, since, *index, clients.work.lanes.len()) {
            while !signals.is_resting() {
                match slots.take(net.now()) {
                    Slot::Wait(due) => {
                        let until = rounds.deadline().into_iter().chain([due]).min();
                        let ready = net.wait(rounds.watch(held), until);
                        rounds.take(*net, tally, held, &ready);
                    }
                    Slot::Now { number, late } => {
                        tally.late_rounds(late);
                        let place = (number % held.len() as u64) as usize;
                        if let Some(socket) = held.get(place) {
                            rounds.begin(*net, tally, place, socket);
                        }
                    }
                }
            }
        }
        while !rounds.is_empty() && !signals.is_released() {
            let ready = net.wait(rounds.watch(held), rounds.deadline());
            rounds.take(*net, tally, held, &ready);
        }
        tally.rounds_over(rounds.times());
    }

    /// Replaces the oldest held connection again and again, at this lane's part of the rate.
    fn churn(&mut self, churn: &Churn, since: Nanos) {
        let Station { net, signals, tally, index, .. } = self.station;
        let own = ConnectLane::flows_of(self.blocks) as f64;
        let all = self.clients.work.flows().max(1) as f64;
        let Some(mut slots) =
            Slots::new(churn.rate * own / all, since, *index, self.clients.work.lanes.len())
        else {
            return;
        };
        let mut spare: Vec<VecDeque<u16>> =
            self.blocks.iter().map(|block| block.spare.iter().collect()).collect();
        while !signals.is_resting() {
            self.settle_oldest();
            let now = net.now();
            match slots.take(now) {
                Slot::Wait(due) if due - now < SHORT_WAIT_NANOS => net.sleep(Some(due)),
                Slot::Wait(due) => self.settle_until(Some(due)),
                Slot::Now { number, late } => {
                    tally.late_by(late);
                    if self.window.len() < churn.window as usize {
                        self.replace(churn.close, &mut spare, number, now);
                    } else {
                        // Its moment is lost: what could not begin is not made up for.
                        tally.late();
                        // Looking again at once would take from the server the time to answer in.
                        net.sleep(Some(now + NAP_NANOS));
                    }
                }
            }
        }
    }

    /// Closes the oldest connection and opens one in its place, from the port of its block that has
    /// been free the longest.
    fn replace(&mut self, close: Close, spare: &mut [VecDeque<u16>], number: u64, now: Nanos) {
        let Station { net, tally, .. } = self.station;
        let Some(oldest) = self.held.pop_front() else { return };
        let ends = net.ends(&oldest);
        net.close(oldest, close);
        tally.closed_one();
        tally.attempted(now);
        let found = ends.ok().and_then(|(from, to)| {
            let is_its = |block: &FlowBlock| block.source == from.ip() && block.destination == to;
            let index = self.blocks.iter().position(is_its)?;
            Some((index, self.blocks.get(index)?, spare.get_mut(index)?, from.port()))
        });
        let Some((index, block, free, port)) = found else {
            // The kernel no longer knows its ends: the other end has reset it.
            return tally.failed(Call::Connect, Cause::Kernel(Errno::ENOTCONN));
        };
        let port = match block.ports {
            BlockPorts::Kernel(_) => None,
            BlockPorts::Explicit(_) => {
                free.push_back(port);
                free.pop_front()
            }
        };
        let flow = REPLACING.wrapping_add(block.first_flow << 24).wrapping_add(number);
        let local = Local { address: block.source, port };
        if let Err((call, cause)) = self.begin(index, local, block.destination, flow, now, None) {
            tally.failed(call, cause);
            free.extend(port);
        }
    }

    fn complete(&self) -> Vec<bool> {
        let all = |(block, established): (&FlowBlock, &u32)| *established == block.ports.count();
        self.blocks.iter().zip(&self.established).map(all).collect()
    }

    /// One connect more in each of these blocks, at once given up: the refusal is what is asked for.
    fn beyond(&self, probes: &[usize]) -> Beyond {
        let net = self.station.net;
        let mut tried = 0;
        let mut refused = Failures::default();
        for block in probes.iter().filter_map(|index| self.blocks.get(*index)) {
            let port = match &block.ports {
                BlockPorts::Explicit(ports) => ports.bounds().map(|(first, _)| first),
                BlockPorts::Kernel(_) => None,
            };
            tried += 1;
            let one_more = net.open(Local { address: block.source, port }).and_then(|socket| {
                net.connect(&socket, block.destination).map_err(|errno| (Call::Connect, errno))
            });
            if let Err((call, errno)) = one_more {
                refused.add(call, Cause::Kernel(errno).name(), 1);
            }
        }
        Beyond { tried, refused: refused.iter().map(|(failure, count)| (failure.clone(), count)).collect() }
    }
}

fn keep<N: Net>(
    station: &Station<'_, N>,
    clients: &Clients,
    held: &mut VecDeque<N::Socket>,
    established: &mut [u32],
    settled: Settled<N::Socket>,
) {
    match settled {
        Settled::Established { socket, block, begun } => {
            // Now, and not when the first of several was looked at.
            let now = station.net.now();
            clients.timing.established(station.index, begun, now);
            held.push_back(socket);
            station.tally.established(now);
            if let Some(count) = established.get_mut(block) {
                *count += 1;
            }
        }
        Settled::Failed(call, cause) => station.tally.failed(call, cause),
    }
}

/// Whether a refusal means that something has run out: descriptors, memory, or ports where the
/// kernel chooses them. A chosen port that is taken says nothing about the next.
fn is_shortage(port: Option<u16>, call: Call, cause: Cause) -> bool {
    match (call, cause) {
        (Call::Socket, Cause::Kernel(errno)) => {
            matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
        }
        (Call::Connect, Cause::Kernel(Errno::EADDRNOTAVAIL)) => port.is_none(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::Signals;
    use crate::net::fake::{FakeNet, Received, Script};
    use crate::pacer::Pace;
    use crate::tally::Tally;
    use std::cell::RefCell;
    use tuplelab_domain::ports::PortSet;
    use tuplelab_domain::sample::{ConnectTimes, Counters};
    use tuplelab_domain::schedule::ConnectLane;

    struct Outcome {
        counters: Counters,
        times: ConnectTimes,
        complete: Vec<bool>,
        beyond: Option<Beyond>,
        connects: Vec<Nanos>,
        most_open: usize,
        left_open: usize,
    }

    fn block(ports: BlockPorts) -> FlowBlock {
        let destination = ([127, 0, 0, 2], 7_000).into();
        FlowBlock {
            first_flow: 40,
            source: [127, 0, 0, 1].into(),
            destination,
            ports,
            spare: PortSet::empty(),
        }
    }

    fn explicit(count: u16) -> FlowBlock {
        block(BlockPorts::Explicit(PortSet::range(1, count)))
    }

    /// Runs one lane over these blocks with these scripts, to its release.
    fn lane(blocks: Vec<FlowBlock>, scripts: Vec<Script>, window: u32, rate: Option<f64>) -> Outcome {
        lane_that(true, blocks, scripts, window, rate)
    }

    /// The same, waiting for answers or not.
    fn lane_that(
        answered: bool,
        blocks: Vec<FlowBlock>,
        scripts: Vec<Script>,
        window: u32,
        rate: Option<f64>,
    ) -> Outcome {
        lane_with(&Wide { timeout_micros: 1_000, window, answered }, blocks, scripts, rate)
    }

    /// How much a lane may have open, for how long, and for what.
    struct Wide {
        timeout_micros: u64,
        window: u32,
        answered: bool,
    }

    fn lane_with(wide: &Wide, blocks: Vec<FlowBlock>, scripts: Vec<Script>, rate: Option<f64>) -> Outcome {
        let work = Connect {
            lanes: vec![ConnectLane { blocks }],
            connectors: 1,
            window: wide.window,
            rate,
            stretches: Vec::new(),
            timeout_micros: wide.timeout_micros,
            beyond: true,
            answered: wide.answered,
            churn: None,
            activity: None,
        };
        let clients = Clients {
            token: 5,
            turns: ConnectorTurns::new(1),
            pacer: rate.and_then(Pace::per_second).map(Pacer::new),
            timing: Timing::new(&work),
            probes: vec![Mutex::new(Some(vec![0]))],
            work,
        };
        let (signals, tally, notices) = (Signals::new(), Tally::default(), RefCell::new(Vec::new()));
        signals.set_go(1_000_000);
        let net = FakeNet::new(|| signals.release());
        net.opening.borrow_mut().extend(scripts);
        let tell = |notice| notices.borrow_mut().push(notice);
        run(&Station { index: 0, net: &net, signals: &signals, tally: &tally, tell: &tell }, &clients);
        let (mut complete, mut beyond) = (Vec::new(), None);
        for notice in notices.take() {
            match notice {
                Notice::Done { complete: blocks } => complete = blocks,
                Notice::Probed(probed) => beyond = Some(probed),
                other => panic!("a connector says nothing like {other:?}"),
            }
        }
        Outcome {
            counters: tally.counters(),
            times: clients.timing.times(),
            complete,
            beyond,
            connects: net.connects.take(),
            most_open: net.most_open.get(),
            left_open: net.open.get(),
        }
    }

    fn failures(outcome: &Outcome) -> String {
        serde_json::to_string(&outcome.counters.failures).expect("serialises")
    }

    #[test]
    fn answered_flows_are_held_until_release() {
        let outcome = lane(vec![explicit(50)], vec![Script::receiving([Received::Echo])], 4, None);
        assert_eq!((outcome.counters.attempted, outcome.counters.established), (50, 50));
        assert_eq!(outcome.complete, [true]);
        assert_eq!((outcome.most_open, outcome.left_open), (51, 0), "fifty and the one beyond");
    }

    #[test]
    fn each_way_of_failing_is_counted_as_its_own_and_the_others_go_on() {
        let error = |errno| Received::Error(errno);
        let scripts = vec![
            Script { open: Err((Call::Bind, Errno::EADDRINUSE)), ..Script::silent() },
            Script { connect: Err(Errno::EADDRNOTAVAIL), ..Script::silent() },
            Script { sends: [Errno::ECONNREFUSED].into(), ..Script::silent() },
            Script { sends: [Errno::EAGAIN, Errno::EHOSTUNREACH].into(), ..Script::silent() },
            Script::receiving([error(Errno::EAGAIN), error(Errno::ECONNRESET)]),
            Script::receiving([Received::Bytes(vec![])]),
            Script::receiving([Received::Bytes(vec![9; 16])]),
            Script::receiving([Received::Echo]),
        ];
        let outcome = lane(vec![explicit(8)], scripts, 3, None);
        assert_eq!(
            failures(&outcome),
            r#"{"bind EADDRINUSE":1,"connect EADDRNOTAVAIL":1,"connect ECONNREFUSED":1,"connect EHOSTUNREACH":1,"receive ECONNRESET":1,"receive EOF":1,"receive WRONG_ANSWER":1}"#
        );
        assert_eq!((outcome.counters.attempted, outcome.counters.established), (8, 1));
        assert_eq!(outcome.complete, [false]);
    }

    #[test]
    fn a_stopped_server_leaves_the_flow_unanswered() {
        let outcome = lane(vec![explicit(10)], vec![Script::silent()], 4, None);
        assert_eq!(failures(&outcome), r#"{"receive NO_ANSWER":10}"#);
        assert_eq!(outcome.most_open, 4, "never more than the window");
    }

    #[test]
    fn a_handshake_that_never_ends_has_timed_out() {
        let scripts = vec![Script { sends: vec![Errno::EAGAIN; 1_000].into(), ..Script::silent() }];
        assert_eq!(failures(&lane(vec![explicit(3)], scripts, 4, None)), r#"{"connect ETIMEDOUT":3}"#);
    }

    #[test]
    fn without_an_answer_to_wait_for_a_finished_handshake_is_established() {
        let over = lane_that(false, vec![explicit(10)], vec![Script::silent()], 1, None);
        assert_eq!((over.counters.established, over.complete), (10, vec![true]));
        assert_eq!(over.most_open, 11, "held, though the window has room for one; and the one beyond");

        // A queue of three places, a window of two: what finds no place hangs until its time is up.
        let hangs = Script { sends: vec![Errno::EAGAIN; 1_000].into(), ..Script::silent() };
        let scripts = [vec![Script::silent(); 3], vec![hangs]].concat();
        let full = lane_that(false, vec![explicit(8)], scripts, 2, None);
        assert_eq!((full.counters.attempted, full.counters.established), (8, 3));
        assert_eq!(failures(&full), r#"{"connect ETIMEDOUT":5}"#);

        // A handshake that ends later, and one that was reset since.
        let later = Script { sends: [Errno::EAGAIN, Errno::EAGAIN].into(), ..Script::silent() };
        let reset = Script { sends: [Errno::ECONNRESET].into(), ..Script::silent() };
        let refused = Script { sends: [Errno::ECONNREFUSED].into(), ..Script::silent() };
        let some = lane_that(false, vec![explicit(3)], vec![later, reset, refused], 4, None);
        assert_eq!(some.counters.established, 2);
        assert_eq!(failures(&some), r#"{"connect ECONNREFUSED":1}"#);
    }

    #[test]
    fn sixteen_refusals_for_want_of_descriptors_end_a_block_with_only_those_counted() {
        let full = Script { open: Err((Call::Socket, Errno::EMFILE)), ..Script::silent() };
        let outcome = lane(vec![explicit(10_000)], vec![full], 4, None);
        assert_eq!(failures(&outcome), r#"{"socket EMFILE":16}"#);
        assert_eq!(outcome.counters.attempted, 16);
    }

    #[test]
    fn the_kernels_range_ends_a_block_but_a_port_of_ours_that_is_taken_does_not() {
        let taken = || vec![Script { connect: Err(Errno::EADDRNOTAVAIL), ..Script::silent() }];
        let kernel = lane(vec![block(BlockPorts::Kernel(100))], taken(), 4, None);
        assert_eq!(failures(&kernel), r#"{"connect EADDRNOTAVAIL":16}"#);
        let ours = lane(vec![explicit(100)], taken(), 4, None);
        assert_eq!(failures(&ours), r#"{"connect EADDRNOTAVAIL":100}"#);
    }

    #[test]
    fn paced_connects_begin_when_they_are_due() {
        let scripts = || vec![Script::receiving([Received::Echo])];
        let paced = lane(vec![explicit(4)], scripts(), 64, Some(1_000.0));
        assert_eq!(paced.connects[..4], [1_000_000, 2_000_000, 3_000_000, 4_000_000]);
        assert_eq!(paced.counters.late, 0);
    }

    #[test]
    fn paced_connects_that_had_to_wait_for_the_window_begin_late_and_are_counted() {
        let paced = lane(vec![explicit(4)], vec![Script::silent()], 1, Some(1_000_000.0));
        // Each of them takes its whole time, a millisecond, and the next waits for it.
        assert_eq!(paced.counters.late, 2, "the second one only by a millisecond");
        assert_eq!(paced.counters.attempted, 4);
    }

    /// A lane of three flows on ports 1 to 3 with two to spare, that replaces one every millisecond until
    /// so many are begun.
    fn churned(close: Close, scripts: Vec<Script>, until: usize) -> (Outcome, Vec<u16>, Vec<Close>) {
        let mut block = explicit(3);
        block.spare = PortSet::range(4, 5);
        let work = Connect {
            lanes: vec![ConnectLane { blocks: vec![block] }],
            connectors: 1,
            window: 4,
            rate: None,
            stretches: Vec::new(),
            timeout_micros: 1_000,
            beyond: false,
            answered: true,
            churn: Some(Churn { rate: 1_000.0, close, window: 4 }),
            activity: None,
        };
        let clients = Clients {
            token: 5,
            turns: ConnectorTurns::new(1),
            pacer: None,
            timing: Timing::new(&work),
            probes: vec![Mutex::new(None)],
            work,
        };
        let (signals, tally, last) = (Signals::new(), Tally::default(), RefCell::new(Counters::default()));
        signals.set_go(1);
        let net = FakeNet::new(|| {
            last.replace(tally.counters());
            signals.release();
        });
        net.opening.borrow_mut().extend(scripts);
        let tell = |notice| match notice {
            Notice::Done { .. } => signals.set_moves(1_000_000_000),
            Notice::Rested => assert!(signals.is_resting()),
            other => panic!("a connector says nothing like {other:?}"),
        };
        // The engine's order to rest comes with a connect here, so that time and not luck ends it.
        net.when_connected.replace(Some(Box::new(|count| {
            if count >= until {
                signals.rest();
            }
        })));
        run(&Station { index: 0, net: &net, signals: &signals, tally: &tally, tell: &tell }, &clients);
        let connects = net.connects.take();
        let outcome = Outcome {
            counters: last.take(),
            complete: Vec::new(),
            beyond: None,
            connects,
            times: clients.timing.times(),
            most_open: net.most_open.get(),
            left_open: net.open.get(),
        };
        (outcome, net.locals.take().iter().map(SocketAddr::port).collect(), net.closes.take())
    }

    #[test]
    fn the_oldest_is_replaced_from_the_port_that_was_free_the_longest() {
        let answered = || vec![Script::receiving([Received::Echo])];
        let (outcome, ports, closes) = churned(Close::Fin, answered(), 9);
        assert_eq!(ports, [1, 2, 3, 4, 5, 1, 2, 3, 4]);
        assert_eq!(closes, [Close::Fin; 6]);
        let counters = outcome.counters;
        assert_eq!((counters.attempted, counters.established, counters.held), (9, 9, 3));
        assert_eq!((counters.closed, counters.churned, counters.standing()), (6, 6, 3));
        assert_eq!((outcome.most_open, outcome.left_open), (3, 0), "closed first, then opened");
        assert_eq!(outcome.connects[3..6], [1_000_000_000, 1_001_000_000, 1_002_000_000]);
    }

    #[test]
    fn a_replacement_that_fails_is_a_failure_and_leaves_one_less() {
        let answered = || Script::receiving([Received::Echo]);
        let taken = Script { connect: Err(Errno::EADDRNOTAVAIL), ..Script::silent() };
        let (outcome, ports, _) =
            churned(Close::Rst, vec![answered(), answered(), answered(), taken, answered()], 5);
        assert_eq!(failures(&outcome), r#"{"connect EADDRNOTAVAIL":1}"#);
        assert_eq!(ports, [1, 2, 3, 4, 5]);
        let counters = outcome.counters;
        assert_eq!((counters.closed, counters.churned, counters.standing(), counters.held), (2, 1, 2, 2));
    }

    #[test]
    fn the_time_of_a_connect_that_was_held_up_runs_from_when_it_was_due() {
        // The first is answered when its second look at it comes, 100 us later; meanwhile three are due.
        let slow = Script::receiving([
            Received::Error(Errno::EAGAIN),
            Received::Error(Errno::EAGAIN),
            Received::Echo,
        ]);
        let prompt = Script::receiving([Received::Echo]);
        let paced = lane(vec![explicit(4)], vec![slow, prompt], 1, Some(100_000.0));
        assert_eq!((paced.counters.established, paced.counters.late), (4, 0));
        let all = paced.times.all();
        assert_eq!(all.count(), 4);
        assert!(all.quantile(0.0) >= Some(70), "all were held up with it: {all:?}");
        let by_tenth: Vec<u64> = paced.times.by_occupancy.iter().map(|times| times.count()).collect();
        assert_eq!(by_tenth, [1, 0, 1, 0, 0, 1, 0, 1, 0, 0], "none, a quarter, half, three quarters held");
    }

    #[test]
    fn without_a_pace_a_time_runs_from_the_connect_and_failures_have_none() {
        let slow = Script { sends: [Errno::EAGAIN].into(), ..Script::receiving([Received::Echo]) };
        let refused = Script { connect: Err(Errno::ECONNREFUSED), ..Script::silent() };
        let outcome = lane(vec![explicit(3)], vec![refused, slow], 4, None);
        assert_eq!((outcome.counters.established, outcome.times.all().count()), (2, 2));
    }

    #[test]
    fn an_oldest_flow_that_hangs_hides_no_answer_behind_it_for_long() {
        let hangs = Script { sends: vec![Errno::EAGAIN; 10_000].into(), ..Script::silent() };
        let scripts = vec![hangs, Script::receiving([Received::Echo])];
        let wide = Wide { timeout_micros: 1_000_000, window: 64, answered: true };
        let outcome = lane_with(&wide, vec![explicit(60)], scripts, Some(2_000.0));
        assert_eq!(failures(&outcome), r#"{"connect ETIMEDOUT":1}"#);
        // Those of the last 10 ms are seen when the lane waits for the rest: here, at its end.
        let most = outcome.times.all().quantile(0.6).expect("59 of them");
        assert!(most <= 11_000, "{most} us, where the first one took a second");
    }

    #[test]
    fn the_connect_beyond_tells_what_the_kernel_said() {
        let answered = || Script::receiving([Received::Echo]);
        let refused = Script { connect: Err(Errno::EADDRNOTAVAIL), ..Script::silent() };
        let beyond = lane(vec![explicit(2)], vec![answered(), answered(), refused], 4, None).beyond;
        let beyond = beyond.expect("it was tried");
        let refused: Vec<_> = beyond.refused.iter().map(|(f, count)| (f.to_string(), *count)).collect();
        assert_eq!((beyond.tried, refused), (1, vec![("connect EADDRNOTAVAIL".to_owned(), 1)]));
    }
}
