//! A trial's lanes, from their start to their end.

use crate::WorkerError;
use crate::acceptor::{self, Servers};
use crate::connector::{self, Clients};
use crate::gate::Gate;
use crate::lane::{Lane, Notice, Signals, Station, Task};
use crate::lease::Term;
use crate::net::Nanos;
use crate::net::linux::{self, LaneFd, LinuxNet};
use crate::order::Event;
use crate::pacer::{Pace, Pacer};
use crate::timing::Timing;
use crate::turns::{ConnectorTurns, ListenerTurns};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use tuplelab_domain::sample::{Beyond, ConnectTimes, Counters, Histogram};
use tuplelab_domain::schedule::{BlockPorts, Connect, Serve, Work};

/// The running lanes. Dropping it closes everything, whatever the reason.
pub(crate) struct Trial {
    lanes: Vec<Lane>,
    signals: Arc<Signals>,
    role: Role,
}

enum Role {
    Server(Arc<Servers>),
    Client {
        clients: Arc<Clients>,
        /// For each lane that is done, which of its blocks are complete.
        complete: Vec<Vec<bool>>,
        /// Lanes whose held connections are at rest after they moved.
        rested: usize,
        /// Lanes that are still trying one connect more.
        probing: usize,
        beyond: Option<Beyond>,
    },
}

/// Whether a client has come to its plateau.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    StillOpening,
    Plateau,
    /// Nothing that moved is under way any more.
    Resting,
}

struct ServeTask(Arc<Servers>);

impl Task for ServeTask {
    fn run(self, station: &Station<'_, LinuxNet>, listeners: Vec<LaneFd>) {
        acceptor::run(station, &self.0, listeners);
    }
}

struct ConnectTask(Arc<Clients>);

impl Task for ConnectTask {
    fn run(self, station: &Station<'_, LinuxNet>, _: Vec<LaneFd>) {
        connector::run(station, &self.0);
    }
}

impl Trial {
    /// Binds the listeners and starts the lanes; returns when every lane is up.
    pub fn start(token: u64, work: Work, term: Term, events: &Sender<Event>) -> Result<Self, WorkerError> {
        match work {
            Work::Serve(work) => Self::serve(token, work, term, events),
            Work::Connect(work) => Self::connect(token, work, term, events),
            Work::Script(_) => Err(WorkerError::OutOfTurn("a script has steps and no lanes; 'prepare'")),
        }
    }

    fn serve(token: u64, work: Serve, term: Term, events: &Sender<Event>) -> Result<Self, WorkerError> {
        let listeners: Vec<OwnedFd> = work
            .listeners
            .iter()
            .map(|listener| {
                linux::listen(listener).map_err(|(call, errno)| WorkerError::Listener {
                    endpoint: listener.endpoint,
                    call: call.name(),
                    errno,
                })
            })
            .collect::<Result<_, _>>()?;
        let kept: Vec<Vec<RawFd>> = work
            .lanes
            .iter()
            .map(|lane| {
                let of_turn = |listener: u32| listeners.get(listener as usize).map(AsRawFd::as_raw_fd);
                lane.turns.iter().filter_map(|turn| of_turn(turn.listener)).collect()
            })
            .collect();
        let turns = ListenerTurns::new(work.listeners.len(), &work.lanes, work.watch.is_some());
        let servers = Arc::new(Servers { token, gate: Gate::of(work.accept), work, turns });
        let mut trial = Self::idle(Role::Server(Arc::clone(&servers)), term);
        trial.start_lanes(kept, || ServeTask(Arc::clone(&servers)), events)?;
        // The lanes have theirs; a listener closes only when every table has let go of it.
        drop(listeners);
        Ok(trial)
    }

    fn connect(token: u64, work: Connect, term: Term, events: &Sender<Event>) -> Result<Self, WorkerError> {
        let lanes = work.lanes.len();
        let clients = Arc::new(Clients {
            token,
            turns: ConnectorTurns::new(work.connectors as usize),
            pacer: Pace::ordered(&work).map(Pacer::new),
            timing: Timing::new(&work),
            probes: (0..lanes).map(|_| Mutex::new(None)).collect(),
            work,
        });
        let complete = vec![Vec::new(); lanes];
        let role =
            Role::Client { clients: Arc::clone(&clients), complete, rested: 0, probing: 0, beyond: None };
        let mut trial = Self::idle(role, term);
        trial.start_lanes(vec![Vec::new(); lanes], || ConnectTask(Arc::clone(&clients)), events)?;
        Ok(trial)
    }

    fn idle(role: Role, term: Term) -> Self {
        Self { lanes: Vec::new(), signals: Arc::new(Signals::new(term)), role }
    }

    /// One lane for each set of inherited listeners. After an error, those that did start are ended
    /// by dropping the trial.
    fn start_lanes<T: Task>(
        &mut self,
        inherited: Vec<Vec<RawFd>>,
        task: impl Fn() -> T,
        events: &Sender<Event>,
    ) -> Result<(), WorkerError> {
        let (up, ups) = channel();
        let mut started = Ok(());
        for (index, listeners) in inherited.into_iter().enumerate() {
            let events = events.clone();
            let tell = move |notice| {
                // The engine may have gone already; then nobody needs to know.
                let _ = events.send(Event::Lane(index, notice));
            };
            match Lane::start(index, listeners, Arc::clone(&self.signals), task(), tell, up.clone()) {
                Ok(lane) => self.lanes.push(lane),
                Err(error) => {
                    started = Err(error);
                    break;
                }
            }
        }
        drop(up);
        // Waits for all, also after an error: until then they may still inherit from our table.
        ups.into_iter().fold(started, Result::and)
    }

    /// Clients begin then.
    pub fn go(&self, at: Nanos) {
        self.signals.set_go(at);
        self.call_all();
    }

    /// Clients open nothing more. A server goes on answering, so that their windows drain.
    pub fn halt(&self) {
        if let Role::Client { .. } = self.role {
            self.signals.halt();
            self.call_all();
        }
    }

    /// Held connections move from this moment on, where the work says how.
    pub fn moves(&self, at: Nanos) {
        if let Role::Client { .. } = self.role {
            self.signals.set_moves(at);
            self.call_all();
        }
    }

    /// They rest; `Progress::Resting` is when all do.
    pub fn rest(&self) -> Progress {
        self.signals.rest();
        self.call_all();
        self.resting()
    }

    fn resting(&self) -> Progress {
        match &self.role {
            Role::Client { rested, .. } if *rested < self.lanes.len() => Progress::StillOpening,
            Role::Client { .. } | Role::Server(_) => Progress::Resting,
        }
    }

    fn call_all(&self) {
        self.lanes.iter().for_each(Lane::call);
    }

    fn call(&self, lane: Option<usize>) {
        if let Some(lane) = lane.and_then(|index| self.lanes.get(index)) {
            lane.call();
        }
    }

    /// Takes note of what a lane said.
    pub fn on(&mut self, lane: usize, notice: Notice) -> Result<Progress, WorkerError> {
        match (notice, &mut self.role) {
            (Notice::Broken(error), _) => return Err(error),
            (Notice::Passed(listener), Role::Server(servers)) => {
                let next = servers.turns.lane_at(listener);
                self.call(next);
            }
            (Notice::Done { complete: blocks }, Role::Client { clients, complete, .. }) => {
                if let Some(complete) = complete.get_mut(lane) {
                    *complete = blocks;
                }
                let next = clients.turns.give_back();
                self.call(Some(next));
                return Ok(self.after_opening());
            }
            (Notice::Rested, Role::Client { rested, .. }) => {
                *rested += 1;
                return Ok(self.resting());
            }
            (Notice::Probed(more), Role::Client { probing, beyond, .. }) => {
                *probing = probing.saturating_sub(1);
                let sum = beyond.get_or_insert(Beyond { tried: 0, refused: Vec::new() });
                sum.tried += more.tried;
                for (failure, count) in more.refused {
                    match sum.refused.iter_mut().find(|(known, _)| *known == failure) {
                        Some((_, sum)) => *sum += count,
                        None => sum.refused.push((failure, count)),
                    }
                }
                if *probing == 0 {
                    return Ok(Progress::Plateau);
                }
            }
            (Notice::Passed(_), Role::Client { .. })
            | (Notice::Done { .. } | Notice::Probed(_) | Notice::Rested, Role::Server(_)) => {}
        }
        Ok(Progress::StillOpening)
    }

    /// Once every lane is done: asks for one connect more where the order wants it, else there is
    /// the plateau. Only now, because what one lane lacks another may still hold back.
    pub fn after_opening(&mut self) -> Progress {
        let Role::Client { clients, complete, probing, beyond, .. } = &mut self.role else {
            return Progress::StillOpening;
        };
        if clients.turns.done() < self.lanes.len() {
            return Progress::StillOpening;
        }
        if !clients.work.beyond {
            return Progress::Plateau;
        }
        *beyond = Some(Beyond { tried: 0, refused: Vec::new() });
        if self.signals.is_halted() {
            return Progress::Plateau;
        }
        let mut asked = Vec::new();
        for (lane, blocks) in probes(&clients.work, complete).into_iter().enumerate() {
            if let Some(slot) = clients.probes.get(lane).filter(|_| !blocks.is_empty()) {
                *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(blocks);
                asked.push(lane);
            }
        }
        *probing = asked.len();
        asked.iter().for_each(|lane| self.call(Some(*lane)));
        if asked.is_empty() { Progress::Plateau } else { Progress::StillOpening }
    }

    /// Whether there is any lane to hear from.
    pub fn has_lanes(&self) -> bool {
        !self.lanes.is_empty()
    }

    /// All lanes' counters together.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        self.lanes.iter().for_each(|lane| sum.merge(&lane.tally.counters()));
        sum
    }

    /// When the first connect was begun (or connection accepted), and the last flow established.
    pub fn span(&self) -> (Option<Nanos>, Option<Nanos>) {
        let tallies = || self.lanes.iter().map(|lane| &lane.tally);
        (tallies().filter_map(|t| t.first()).min(), tallies().filter_map(|t| t.last()).max())
    }

    /// How long rounds on held connections took, once they are over.
    pub fn round_trips(&self) -> Option<Histogram> {
        let mut all: Option<Histogram> = None;
        for own in self.lanes.iter().filter_map(|lane| lane.tally.round_trips()) {
            all.get_or_insert_default().merge(&own);
        }
        all
    }

    /// What the kernel said to one connect more, once it was asked.
    pub fn beyond(&self) -> Option<Beyond> {
        match &self.role {
            Role::Client { beyond, .. } => beyond.clone(),
            Role::Server(_) => None,
        }
    }

    /// How long the connects took so far.
    pub fn times(&self) -> Option<ConnectTimes> {
        match &self.role {
            Role::Client { clients, .. } => Some(clients.timing.times()),
            Role::Server(_) => None,
        }
    }

    /// Closes everything, all lanes at a time; returns the last figures when nothing is open.
    pub fn release(&mut self) -> Figures {
        self.signals.release();
        self.call_all();
        let tallies: Vec<_> = self.lanes.iter().map(|lane| Arc::clone(&lane.tally)).collect();
        let (first, last) = self.span();
        self.lanes.drain(..).for_each(Lane::join);
        let mut counters = Counters::default();
        tallies.iter().for_each(|tally| counters.merge(&tally.counters()));
        Figures { first, last, counters, times: self.times() }
    }
}

/// What is known of a trial at one moment.
#[derive(Default)]
pub(crate) struct Figures {
    pub first: Option<Nanos>,
    pub last: Option<Nanos>,
    pub counters: Counters,
    pub times: Option<ConnectTimes>,
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.release();
    }
}

/// For each lane, the blocks to try one connect more in. A block whose ports we chose is tried when
/// it is complete. Where the kernel chooses, a pair of source and destination may be spread over
/// several lanes: it is tried once, when all of its blocks are complete.
fn probes(work: &Connect, complete: &[Vec<bool>]) -> Vec<Vec<usize>> {
    let is_complete =
        |lane: usize, block: usize| complete.get(lane).and_then(|c| c.get(block)).copied().unwrap_or(false);
    let mut probes = vec![Vec::new(); work.lanes.len()];
    let mut pairs: BTreeMap<(IpAddr, SocketAddr), (usize, usize, bool)> = BTreeMap::new();
    for (lane, blocks) in work.lanes.iter().map(|lane| &lane.blocks).enumerate() {
        for (index, block) in blocks.iter().enumerate().filter(|(_, block)| block.ports.count() > 0) {
            match block.ports {
                BlockPorts::Explicit(_) if is_complete(lane, index) => probes[lane].push(index),
                BlockPorts::Explicit(_) => {}
                BlockPorts::Kernel(_) => {
                    let all = pairs.entry((block.source, block.destination)).or_insert((lane, index, true));
                    all.2 &= is_complete(lane, index);
                }
            }
        }
    }
    for (lane, index, _) in pairs.into_values().filter(|(.., all)| *all) {
        probes[lane].push(index);
    }
    probes
}
