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
/// So often it is looked whether a lease that has ended was renewed.
const NO_LEASE_NANOS: Nanos = 10_000_000;
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
            if self.rests_without_lease(now) {
                continue;
            }
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

    /// Without a lease nothing is begun or answered; it may be renewed in a moment, or all is closed.
    fn rests_without_lease(&self, now: Nanos) -> bool {
        let rests = !self.station.signals.may_act(now);
        if rests {
            self.station.net.sleep(Some(now + NO_LEASE_NANOS));
        }
        rests
    }

    fn settle_oldest(&mut self) -> bool {
        let Self { station, clients, window, held, established, .. } = self;
        let now = station.net.now();
        if !station.signals.may_act(now) {
            return false;
        }
        window.settle_oldest(station.net, now, &mut |settled| {
            keep(station, clients, held, established, settled);
        })
    }

    fn settle_until(&mut self, until: Option<Nanos>) {
        let Self { station, window, .. } = self;
        let until = window.deadline().into_iter().chain(until).min();
        let ready = station.net.wait(window.watch(), until);
        let now = station.net.now();
        if self.rests_without_lease(now) {
            return;
        }
        let Self { station, clients, window, held, established, .. } = self;
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
                let now = net.now();
                if !signals.may_act(now) {
                    net.sleep(Some(now + NO_LEASE_NANOS));
                    continue;
                }
                match slots.take(now) {
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
            if self.rests_without_lease(now) {
                continue;
            }
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
        let may_act = |_: &&FlowBlock| self.station.signals.may_act(net.now());
        for block in probes.iter().filter_map(|index| self.blocks.get(*index)).take_while(may_act) {
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
#[path = "connector_tests.rs"]
mod tests;
