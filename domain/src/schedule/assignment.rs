//! What one agent, and one worker of it, will do in one trial: every address, port, count and time.
//! Nothing is left to choose.

use crate::id::AgentName;
use crate::plan::{Accept, Activity, Close};
use crate::ports::PortSet;
use crate::sample::{Plateau, Sample};
use crate::script::{Action, Answer};
use crate::sysctl::Sysctls;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Active opener (client) or passive opener (server), RFC 9293.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Listens and accepts.
    Server,
    /// Connects.
    Client,
}

impl Role {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// One agent's part of one trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who does it.
    pub agent: AgentName,
    /// Kernel settings to make before, and to put back after, the trial.
    pub sysctls: Sysctls,
    /// Whether to make connection tracking active in the host's network namespace for the trial.
    #[serde(default)]
    pub conntrack: bool,
    /// The descriptors that each of the worker's tables may hold (its soft RLIMIT_NOFILE); `None` is
    /// as many as the host allows.
    #[serde(default)]
    pub files: Option<u64>,
    /// Which sockets are this assignment's own, when the kernel is asked.
    pub census: CensusFilter,
    /// What the worker does.
    pub work: Work,
}

impl Assignment {
    /// Which end of the flows this is.
    pub fn role(&self) -> Role {
        match self.work {
            Work::Serve(_) => Role::Server,
            Work::Connect(_) => Role::Client,
            Work::Script(role) => role,
        }
    }
}

/// Which of a kernel's sockets belong to an assignment. Both ends may lie on one host, and hosts
/// that are loopback addresses share one namespace: so it names this end's side and addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CensusFilter {
    /// The side on which the assignment's sockets are.
    pub role: Role,
    /// The listening endpoints: all that this client connects to, or this server's own.
    pub servers: Vec<SocketAddr>,
    /// The source addresses: this client's own, or all that may connect to this server.
    pub clients: Vec<IpAddr>,
}

/// A worker's work: serve or connect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Open listeners, accept, answer.
    Serve(Serve),
    /// Open connections, hold them.
    Connect(Connect),
    /// Do the steps of a script as they come, as a host of this role.
    Script(Role),
}

/// A passive opener's work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// One passive socket per endpoint, which the lanes inherit.
    pub listeners: Vec<Listener>,
    /// The lanes; each is a thread with a descriptor table of its own.
    pub lanes: Vec<ServeLane>,
    /// What is done with finished handshakes. A rate is that of all lanes together.
    #[serde(default)]
    pub accept: Accept,
    /// Whether clients send a token and wait for it to come back.
    #[serde(default = "yes")]
    pub answered: bool,
    /// Whether held connections are watched: one that its client closes is let go, and what comes on it
    /// is sent back. The number is how many connections a lane may hold beyond its quotas, since what
    /// was closed may not have been noticed yet.
    #[serde(default)]
    pub watch: Option<u32>,
}

/// What schedules and orders meant that did not speak of answers yet.
fn yes() -> bool {
    true
}

/// A passive endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// The backlog given to `listen(2)`; the kernel cuts it to somaxconn.
    pub backlog: u32,
}

/// The listeners that one lane accepts from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServeLane {
    /// In the order of the listeners. A listener that appears in several lanes is served by one at
    /// a time: the first lane that names it until its quota is held, then the next.
    pub turns: Vec<Turn>,
}

/// One lane's turn at one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Index into `Serve::listeners`.
    pub listener: u32,
    /// How many connections this lane takes from it. The last lane that names a listener keeps
    /// accepting after that, so that nobody is left in the queue; unless only so many are to be
    /// accepted at all (`Accept::Never`, `Accept::Until`): then the quotas add up to them.
    pub quota: u32,
}

/// An active opener's work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// The lanes; each is a thread with a descriptor table of its own.
    pub lanes: Vec<ConnectLane>,
    /// How many lanes may connect at the same time; the others wait their turn.
    pub connectors: u32,
    /// How many connections one connector may have begun that were not answered yet.
    pub window: u32,
    /// Connects begun per second over all lanes, evenly spaced; `None` is as fast as it goes.
    pub rate: Option<f64>,
    /// In place of the rate, where there are any: when each connect over all lanes is due.
    #[serde(default)]
    pub stretches: Vec<Stretch>,
    /// How long a flow may take from `connect` to its answer before it has failed.
    pub timeout_micros: u64,
    /// Whether to try one connect more per block at the plateau, to hear the kernel refuse it.
    pub beyond: bool,
    /// Whether a flow is established once its token came back; else, once its handshake is over.
    #[serde(default = "yes")]
    pub answered: bool,
    /// Whether connections are replaced while they are held, from `move` to `rest`.
    #[serde(default)]
    pub churn: Option<Churn>,
    /// What is sent, and sent back, on each held connection, from `move` to `rest`.
    #[serde(default)]
    pub activity: Option<Activity>,
}

/// The oldest of the held connections is closed and a new one opened in its place: same source address
/// and destination, the next port that is not in use.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Churn {
    /// Connections replaced per second over all lanes, evenly spaced.
    pub rate: f64,
    /// How one is closed.
    pub close: Close,
    /// How many new ones each lane may have begun that were not answered yet: all lanes replace at a
    /// time.
    pub window: u32,
}

/// A stretch of a ramp's timetable: so many connects, evenly spaced over so long; none is a pause, and
/// those of no time are all due at once. The first stretch begins at Go, each when the one before it
/// was to be over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// How many connects.
    pub connects: u64,
    /// Over how long, in microseconds.
    pub micros: u64,
}

/// The flows that one lane opens, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectLane {
    /// Blocks of flows, opened one after the other.
    pub blocks: Vec<FlowBlock>,
}

/// Flows from one source address to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowBlock {
    /// The number of its first flow; the others follow. Flow numbers are unique within a case.
    pub first_flow: u64,
    /// The address that the flows leave from.
    pub source: IpAddr,
    /// The listener that they go to.
    pub destination: SocketAddr,
    /// Their source ports.
    pub ports: BlockPorts,
    /// Source ports beside those, for connections that replace others.
    #[serde(default)]
    pub spare: PortSet,
}

/// How the source ports of a block are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockPorts {
    /// By us: one flow per port, in ascending order. `bind` with SO_REUSEADDR, so that one port can
    /// be used towards several destinations.
    Explicit(PortSet),
    /// By the kernel at `connect` (bound to the address with IP_BIND_ADDRESS_NO_PORT): this many.
    Kernel(u32),
}

impl BlockPorts {
    /// How many flows.
    pub fn count(&self) -> u32 {
        match self {
            Self::Explicit(ports) => ports.len(),
            Self::Kernel(count) => *count,
        }
    }
}

impl ConnectLane {
    /// How many flows these blocks have.
    pub fn flows_of(blocks: &[FlowBlock]) -> u64 {
        blocks.iter().map(|block| u64::from(block.ports.count())).sum()
    }
}

impl Connect {
    /// How many flows all lanes together are to open.
    pub fn flows(&self) -> u64 {
        self.lanes.iter().map(|lane| ConnectLane::flows_of(&lane.blocks)).sum()
    }
}

impl Serve {
    /// How many connections all lanes together are to hold.
    pub fn quota(&self) -> u64 {
        self.lanes.iter().flat_map(|lane| &lane.turns).map(|turn| u64::from(turn.quota)).sum()
    }
}

/// What an agent says to its worker: one JSON line each on the worker's standard input. The end of
/// the input means: close everything and exit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerOrder {
    /// First: what to do. The worker binds its listeners, starts its lanes, answers `ready`.
    Prepare {
        /// The first eight bytes of each connection's token.
        token: u64,
        /// The descriptors that each table may hold, from `ready` on; `None` is the hard limit.
        #[serde(default)]
        files: Option<u64>,
        /// The work.
        work: Work,
    },
    /// Load may be put on the network until this moment (CLOCK_BOOTTIME, nanoseconds): given before
    /// `prepare` and renewed while the worker lives. Past it no lane begins anything, and the worker
    /// closes everything unless it is renewed at once. A worker that is given none has no bound.
    Lease {
        /// The moment.
        until_boottime_nanos: u64,
    },
    /// Clients begin to connect at this moment (CLOCK_BOOTTIME, nanoseconds; the past means now);
    /// for all it is the zero of their samples. Servers accept since `ready`.
    Go {
        /// The moment.
        at_boottime_nanos: u64,
    },
    /// Open nothing more; what is open stays. The plateau follows.
    Halt,
    /// The hold begins: from here on held connections are replaced or used, as the work says. Only
    /// clients whose work says so, after their plateau.
    Move,
    /// The hold is over: nothing more begins. `resting` follows once all that was begun has ended.
    Rest,
    /// Say the figures as they are at this moment: `told` follows. At any time after `ready`.
    Tell,
    /// Make this call of a script; `answered` follows. Only where the work is a script.
    Step {
        /// The step's position in the script, from 0.
        number: u32,
        /// The call.
        action: Action,
    },
    /// Close everything with RST, answer `released`, exit. What a script's steps left open closes as
    /// the socket's own options say.
    Release,
}

/// What a worker says: one JSON line each on its standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerReport {
    /// Listeners are bound, lanes are up.
    Ready,
    /// Once a second from Go to Release.
    Sample(Sample),
    /// Nothing more will open. Clients: once, after Go. Servers: none.
    Plateau(Plateau),
    /// The answer to `rest`: nothing is under way any more.
    Resting,
    /// The answer to `tell`: the figures at this moment, whatever the phase.
    Told(Plateau),
    /// What the kernel said to a step.
    Answered {
        /// The step's position in the script.
        number: u32,
        /// The kernel's words.
        answer: Answer,
    },
    /// Every socket is closed; the last words, with the last sample and plateau-like figures.
    Released(Plateau),
    /// The work could not be prepared, or not be gone on with; the worker exits.
    Failed {
        /// Thing, value and remedy, for people.
        why: String,
    },
}
