//! The active opener's lane: opens its blocks of flows in order, as fast as it may, keeps a window of
//! unanswered ones, and holds the rest at four bytes each.

use crate::flow::{Cause, Flow, Token};
use crate::lane::{Notice, Station};
use crate::net::{Local, Nanos, Net};
use crate::pacer::Pacer;
use crate::turns::ConnectorTurns;
use crate::window::{Entry, Settled, Window};
use nix::errno::Errno;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tuplelab_domain::sample::{Beyond, Call, Failures};
use tuplelab_domain::schedule::{BlockPorts, Connect, FlowBlock};

/// How long a connector with a full window leaves the server to answer several before it looks
/// again. Waking for each single answer costs more than it brings.
const NAP_NANOS: Nanos = 100_000;
/// A wait for a paced connect that is shorter than this is slept through; in a longer one, answers
/// are taken as they come.
const SHORT_WAIT_NANOS: Nanos = 1_000_000;
/// So many refusals in a row that say "no more left" end a block: the rest would be refused too,
/// and a search through a full range of ports costs milliseconds each.
const SHORTAGES_IN_A_ROW: u32 = 16;

/// What the connecting lanes of a worker share.
pub(crate) struct Clients {
    pub token: u64,
    pub work: Connect,
    pub turns: ConnectorTurns,
    pub pacer: Option<Pacer>,
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
    while !signals.is_released() {
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
    held: Vec<N::Socket>,
    /// For each block, how many of its flows were established.
    established: Vec<u32>,
}

impl<'a, N: Net> Connector<'a, N> {
    fn new(station: &'a Station<'a, N>, clients: &'a Clients, blocks: &'a [FlowBlock]) -> Self {
        let flows: usize = blocks.iter().map(|block| block.ports.count() as usize).sum();
        Self {
            station,
            clients,
            blocks,
            window: Window::new(clients.work.window as usize),
            // Reserved once; the pages become memory as flows fill them.
            held: Vec::with_capacity(flows),
            established: vec![0; blocks.len()],
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
            if !self.wait_for_leave(go) {
                return;
            }
            let now = self.station.net.now();
            self.station.tally.attempted(now);
            let local = Local { address: block.source, port };
            match self.begin(index, local, block.destination, flow, now) {
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

    /// Waits until the window has room and the pace allows the next connect; `false` is never.
    fn wait_for_leave(&mut self, go: Nanos) -> bool {
        let Station { net, signals, tally, .. } = self.station;
        let pacer = self.clients.pacer.as_ref();
        let due = pacer.map(|pacer| go + pacer.take());
        while !signals.is_halted() {
            if self.window.is_full() {
                self.settle();
                continue;
            }
            let Some((pacer, due)) = pacer.zip(due) else { return true };
            let now = net.now();
            if now >= due {
                if pacer.pace.is_late(due, now) {
                    tally.late();
                }
                return true;
            }
            self.settle_oldest();
            if due - now < SHORT_WAIT_NANOS {
                net.sleep(Some(due));
            } else {
                self.settle_until(Some(due));
            }
        }
        false
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
    ) -> Result<(), (Call, Cause)> {
        let net = self.station.net;
        let kernel = |(call, errno)| (call, Cause::Kernel(errno));
        let socket = net.open(local).map_err(kernel)?;
        net.connect(&socket, to).map_err(|errno| kernel((Call::Connect, errno)))?;
        let deadline = now.saturating_add(self.clients.work.timeout_micros.saturating_mul(1_000));
        let flow = Flow::begin(Token::new(self.clients.token, flow), deadline);
        let mut entry = Entry { socket, flow, block };
        if let crate::flow::Step::Failed(call, cause) = entry.step(net, now) {
            return Err((call, cause));
        }
        self.window.push(entry);
        Ok(())
    }

    /// Waits until something in the window moved, or the engine calls.
    fn settle(&mut self) {
        if self.settle_oldest() {
            return;
        }
        self.station.net.sleep(Some(self.station.net.now() + NAP_NANOS));
        if !self.settle_oldest() {
            self.settle_until(None);
        }
    }

    fn settle_oldest(&mut self) -> bool {
        let Self { station, window, held, established, .. } = self;
        let now = station.net.now();
        window.settle_oldest(station.net, now, &mut |settled| {
            keep(station, held, established, settled, now);
        })
    }

    fn settle_until(&mut self, until: Option<Nanos>) {
        let Self { station, window, held, established, .. } = self;
        let until = window.deadline().into_iter().chain(until).min();
        let ready = station.net.wait(window.watch(), until);
        let now = station.net.now();
        window.settle_ready(station.net, &ready, now, &mut |settled| {
            keep(station, held, established, settled, now);
        });
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
    held: &mut Vec<N::Socket>,
    established: &mut [u32],
    settled: Settled<N::Socket>,
    now: Nanos,
) {
    match settled {
        Settled::Established { socket, block } => {
            held.push(socket);
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
