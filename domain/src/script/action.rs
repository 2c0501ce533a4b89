//! What a step does: one socket call, or one question to the kernel.

use super::endpoint::{Endpoint, Unresolved};
use super::groups;
use super::options::{self, Options};
use crate::ports::PortSet;
use crate::units::Span;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
}

/// How the source ports of many connects are chosen.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Choice {
    /// `connect` without `bind`: the kernel chooses address and port.
    Connect,
    /// `bind` to this address and port 0.
    BindZero(Endpoint),
    /// `bind` to this address and each of these ports.
    Explicit(Endpoint, PortSet),
}

/// How far a raw peer takes its handshakes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// SYN only; whatever comes back is counted and not answered.
    Never,
    /// SYN, and the final ACK as soon as the SYN-ACK is there.
    Full,
    /// SYN; the final ACKs only when an `ack` step says so.
    Late,
}

/// One step's call. Names (`a`, `l`) are sockets, or groups of them, of the host that the step is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `socket NAME tcp|udp [OPTION...]`
    Socket(String, Protocol, Options),
    /// `bind NAME ENDPOINT`
    Bind(String, Endpoint),
    /// `listen NAME BACKLOG`
    Listen(String, u32),
    /// `connect NAME ENDPOINT [within TIME]`: waits that long; what is not decided then stays under way.
    Connect(String, Endpoint, Duration),
    /// `finish NAME [within TIME]`: how a connect under way ended.
    Finish(String, Duration),
    /// `accept NAME LISTENER [within TIME]`
    Accept(String, String, Duration),
    /// `send NAME BYTES`
    Send(String, u32),
    /// `receive NAME [within TIME]`: the value is the number of bytes.
    Receive(String, Duration),
    /// `name NAME`: the value is the local port; details `local`, `peer` and `itself`: whether they are equal.
    Name(String),
    /// `close NAME`: a socket or a whole group.
    Close(String),
    /// `reset NAME`: close with RST.
    Reset(String),
    /// `many NAME COUNT connect ENDPOINT [bind ADDRESS:0 | bind ADDRESS:PORTS] [OPTION...] [within TIME]`:
    /// up to COUNT connects, the value is how many were established, details count the errors.
    Many {
        /// The group.
        name: String,
        /// How many at the most.
        count: u32,
        /// Where to.
        to: Endpoint,
        /// From which ports.
        choice: Choice,
        /// What is set on each socket.
        options: Options,
        /// How long to wait for those that are under way.
        within: Duration,
    },
    /// `ring NAME COUNT connect ENDPOINT [rings N] [within TIME]`: up to COUNT connected TCP sockets that
    /// are no descriptors: io_uring's direct ones. The value is how many were connected.
    Ring {
        /// The group; it can only be closed.
        name: String,
        /// How many at the most.
        count: u32,
        /// Where to.
        to: Endpoint,
        /// How many rings, each with a table of its own; `None`: as many as are needed.
        rings: Option<u32>,
        /// How long to wait for those that are under way.
        within: Duration,
    },
    /// `take NAME LISTENER [count N] [every TIME] [within TIME]`: accepts into a group all that there is; or
    /// at most N, or one every TIME, and then until N are there or the time is up. The value is how many.
    Take {
        /// The group.
        name: String,
        /// Whose connections.
        listener: String,
        /// How many at the most; `None`: all.
        count: Option<u32>,
        /// How long after one the next is taken; `None`: at once.
        every: Option<Duration>,
        /// How long to wait.
        within: Duration,
    },
    /// `fill NAME`: opens sockets until the kernel refuses; the value is how many. Details `files` (the soft
    /// RLIMIT_NOFILE) and `open` (descriptors below it that were open before).
    Fill(String),
    /// `files COUNT`: lowers or raises the soft RLIMIT_NOFILE of the host's worker; beyond the hard one that
    /// one too, which needs CAP_SYS_RESOURCE.
    Files(u64),
    /// `end`: the host's worker process ends, with all its sockets open.
    End,
    /// `stop`: the host's worker process is stopped (SIGSTOP).
    Stop,
    /// `continue`: it goes on (SIGCONT).
    Continue,
    /// `wait TIME`
    Wait(Duration),
    /// `sockets PORT`: the kernel's sockets with this local or remote port; the value is ESTABLISHED
    /// ones, details are all states, and `queued` and `backlog` of a listener.
    Sockets(u16),
    /// `capture PORT`: begins to count the segments to and from this port on the host's interfaces.
    Capture(u16),
    /// `packets`: what was captured since; details are `syn_in`, `rst_out`, ... and `syn_times`: when the
    /// first 64 SYNs of one connection came, in milliseconds since the first.
    Packets,
    /// `limits`: the limits of the host and of its agent, as details.
    Limits,
    /// `counters`: by how much the kernel's counters moved since the trial began.
    Counters,
    /// `syn COUNT ENDPOINT from ADDRESS:PORT never|full|late`: a raw peer at an address that no kernel
    /// owns opens COUNT handshakes from ascending ports; the value is how many SYN-ACKs came back.
    Syn {
        /// How many.
        count: u32,
        /// Where to.
        to: Endpoint,
        /// From which address, and from which port on.
        from: Endpoint,
        /// How far each handshake is taken.
        handshake: Handshake,
    },
    /// `ack`: the raw peer sends the final ACKs that it kept back; details count what came back.
    Ack,
}

const SHORT: Duration = Duration::from_secs(1);

pub(super) fn number<T: FromStr>(word: Option<&str>, what: &str) -> Result<T, String> {
    let word = word.ok_or_else(|| format!("{what} is missing"))?;
    word.parse().map_err(|_| format!("'{word}' is no {what}"))
}

pub(super) fn socket_name(word: Option<&str>) -> Result<String, String> {
    let name = word.ok_or("the name of a socket is missing")?;
    let good = name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_lowercase());
    if good && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
        return Ok(name.to_owned());
    }
    Err(format!("'{name}' is no name of a socket: write up to 32 small letters, digits and '_'"))
}

/// A time that one step may take.
pub(super) fn span(word: Option<&str>) -> Result<Duration, String> {
    let time = word.ok_or("a time is missing")?;
    let span = time.parse::<Span>()?.0;
    if span > Duration::from_secs(60) {
        return Err(format!("'{time}' is too long for one step: write up to a minute, \"60s\""));
    }
    Ok(span)
}

pub(super) fn endpoint(word: Option<&str>) -> Result<Endpoint, String> {
    word.ok_or("an endpoint is missing, as in server:7000")?.parse()
}

impl FromStr for Action {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        // The time may stand at the end of whatever waits.
        let mut within = None;
        if let [.., "within", time] = words.as_slice() {
            within = Some(span(Some(time))?);
            words.truncate(words.len() - 2);
        }
        let waits = matches!(
            words.first(),
            Some(&("connect" | "finish" | "accept" | "receive" | "many" | "ring" | "take"))
        );
        if within.is_some() && !waits {
            return Err(format!("'{}' does not wait: leave 'within' out", words.first().unwrap_or(&"")));
        }
        let within = within.unwrap_or(SHORT);
        let mut rest = words.into_iter();
        let verb = rest.next().ok_or("what is to be done is missing")?;
        let action = match verb {
            "socket" => {
                let name = socket_name(rest.next())?;
                let protocol = match rest.next() {
                    Some("tcp") => Protocol::Tcp,
                    Some("udp") => Protocol::Udp,
                    other => {
                        return Err(format!("'{}' is no protocol: write tcp or udp", other.unwrap_or("")));
                    }
                };
                let mut options = Options::default();
                for word in rest.by_ref() {
                    if !options.take(word)? {
                        return Err(format!("'{word}' is no option of a socket: write {}", options::ALL));
                    }
                }
                Self::Socket(name, protocol, options)
            }
            "bind" => Self::Bind(socket_name(rest.next())?, endpoint(rest.next())?),
            "listen" => Self::Listen(socket_name(rest.next())?, number(rest.next(), "backlog")?),
            "connect" => Self::Connect(socket_name(rest.next())?, endpoint(rest.next())?, within),
            "finish" => Self::Finish(socket_name(rest.next())?, within),
            "accept" => Self::Accept(socket_name(rest.next())?, socket_name(rest.next())?, within),
            "send" => Self::Send(socket_name(rest.next())?, number(rest.next(), "number of bytes")?),
            "receive" => Self::Receive(socket_name(rest.next())?, within),
            "name" => Self::Name(socket_name(rest.next())?),
            "close" => Self::Close(socket_name(rest.next())?),
            "reset" => Self::Reset(socket_name(rest.next())?),
            "many" => groups::many(&mut rest, within)?,
            "ring" => groups::ring(&mut rest, within)?,
            "take" => groups::take(&mut rest, within)?,
            "fill" => Self::Fill(socket_name(rest.next())?),
            "files" => Self::Files(number(rest.next(), "number of files")?),
            "end" => Self::End,
            "stop" => Self::Stop,
            "continue" => Self::Continue,
            "wait" => Self::Wait(span(rest.next())?),
            "sockets" => Self::Sockets(number(rest.next(), "port")?),
            "capture" => Self::Capture(number(rest.next(), "port")?),
            "packets" => Self::Packets,
            "counters" => Self::Counters,
            "limits" => Self::Limits,
            "syn" => syn(&mut rest)?,
            "ack" => Self::Ack,
            verb => {
                return Err(format!(
                    "'{verb}' is nothing that a step does: socket, bind, listen, connect, finish, accept, send, receive, name, close, \
                     reset, many, ring, take, fill, files, end, stop, continue, wait, sockets, capture, packets, counters, limits, syn, ack"
                ));
            }
        };
        match rest.next() {
            None => Ok(action),
            Some(word) => Err(format!("'{word}' is too much for '{verb}'")),
        }
    }
}

fn syn<'a>(rest: &mut impl Iterator<Item = &'a str>) -> Result<Action, String> {
    let count = number::<u32>(rest.next(), "count")?;
    if !(1..=65_536).contains(&count) {
        return Err(format!("{count} SYNs are too many (or too few) for one step: write 1 to 65536"));
    }
    let to = endpoint(rest.next())?;
    if rest.next() != Some("from") {
        return Err(
            "where the SYNs come from is missing: syn COUNT ENDPOINT from ADDRESS:PORT never|full|late"
                .into(),
        );
    }
    let from = endpoint(rest.next())?;
    let handshake = match rest.next() {
        Some("never") => Handshake::Never,
        Some("full") => Handshake::Full,
        Some("late") => Handshake::Late,
        other => {
            return Err(format!(
                "'{}' is no end of a handshake: write never, full or late",
                other.unwrap_or("")
            ));
        }
    };
    Ok(Action::Syn { count, to, from, handshake })
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One word for a time, so that it reads back as one word.
        let time = |time: &Duration| match time.as_micros() {
            micros if micros.is_multiple_of(1_000) => format!("{}ms", micros / 1_000),
            micros => format!("{micros}us"),
        };
        match self {
            Self::Socket(name, protocol, options) => {
                let protocol = if *protocol == Protocol::Tcp { "tcp" } else { "udp" };
                write!(f, "socket {name} {protocol}{options}")
            }
            Self::Bind(name, at) => write!(f, "bind {name} {at}"),
            Self::Listen(name, backlog) => write!(f, "listen {name} {backlog}"),
            Self::Connect(name, to, within) => write!(f, "connect {name} {to} within {}", time(within)),
            Self::Finish(name, within) => write!(f, "finish {name} within {}", time(within)),
            Self::Accept(name, listener, within) => {
                write!(f, "accept {name} {listener} within {}", time(within))
            }
            Self::Send(name, bytes) => write!(f, "send {name} {bytes}"),
            Self::Receive(name, within) => write!(f, "receive {name} within {}", time(within)),
            Self::Name(name) => write!(f, "name {name}"),
            Self::Close(name) => write!(f, "close {name}"),
            Self::Reset(name) => write!(f, "reset {name}"),
            Self::Many { name, count, to, choice, options, within } => {
                write!(f, "many {name} {count} connect {to}")?;
                match choice {
                    Choice::Connect => {}
                    Choice::BindZero(at) => write!(f, " bind {at}")?,
                    Choice::Explicit(at, ports) => {
                        let at = at.to_string();
                        write!(
                            f,
                            " bind {}:{ports}",
                            at.rsplit_once(':').map_or(at.as_str(), |(address, _)| address)
                        )?;
                    }
                }
                write!(f, "{options} within {}", time(within))
            }
            Self::Ring { name, count, to, rings, within } => {
                write!(f, "ring {name} {count} connect {to}")?;
                rings.iter().try_for_each(|rings| write!(f, " rings {rings}"))?;
                write!(f, " within {}", time(within))
            }
            Self::Take { name, listener, count, every, within } => {
                write!(f, "take {name} {listener}")?;
                count.iter().try_for_each(|count| write!(f, " count {count}"))?;
                every.iter().try_for_each(|every| write!(f, " every {}", time(every)))?;
                write!(f, " within {}", time(within))
            }
            Self::Fill(name) => write!(f, "fill {name}"),
            Self::Files(count) => write!(f, "files {count}"),
            Self::End => f.write_str("end"),
            Self::Stop => f.write_str("stop"),
            Self::Continue => f.write_str("continue"),
            Self::Wait(span) => write!(f, "wait {}", time(span)),
            Self::Sockets(port) => write!(f, "sockets {port}"),
            Self::Capture(port) => write!(f, "capture {port}"),
            Self::Packets => f.write_str("packets"),
            Self::Counters => f.write_str("counters"),
            Self::Limits => f.write_str("limits"),
            Self::Syn { count, to, from, handshake } => {
                let handshake = match handshake {
                    Handshake::Never => "never",
                    Handshake::Full => "full",
                    Handshake::Late => "late",
                };
                write!(f, "syn {count} {to} from {from} {handshake}")
            }
            Self::Ack => f.write_str("ack"),
        }
    }
}

impl Action {
    /// The same with every endpoint resolved.
    ///
    /// # Errors
    /// An endpoint names what the case does not have.
    pub fn resolve(
        self,
        resolve: impl Fn(Endpoint) -> Result<Endpoint, Unresolved>,
    ) -> Result<Self, Unresolved> {
        Ok(match self {
            Self::Bind(name, at) => Self::Bind(name, resolve(at)?),
            Self::Connect(name, to, within) => Self::Connect(name, resolve(to)?, within),
            Self::Many { name, count, to, choice, options, within } => Self::Many {
                name,
                count,
                to: resolve(to)?,
                choice: match choice {
                    Choice::Connect => Choice::Connect,
                    Choice::BindZero(at) => Choice::BindZero(resolve(at)?),
                    Choice::Explicit(at, ports) => Choice::Explicit(resolve(at)?, ports),
                },
                options,
                within,
            },
            Self::Ring { name, count, to, rings, within } => {
                Self::Ring { name, count, to: resolve(to)?, rings, within }
            }
            Self::Syn { count, to, from, handshake } => {
                Self::Syn { count, to: resolve(to)?, from: resolve(from)?, handshake }
            }
            other => other,
        })
    }

    /// Whether the agent does it (a question to the kernel, a signal), not the worker.
    pub fn is_the_agents(&self) -> bool {
        matches!(
            self,
            Self::Stop
                | Self::Continue
                | Self::Wait(_)
                | Self::Sockets(_)
                | Self::Capture(_)
                | Self::Packets
                | Self::Counters
                | Self::Limits
                | Self::Syn { .. }
                | Self::Ack
        )
    }

    /// How long it may take at the most.
    pub fn time(&self) -> Duration {
        let own = match self {
            Self::Connect(_, _, time)
            | Self::Finish(_, time)
            | Self::Accept(_, _, time)
            | Self::Receive(_, time)
            | Self::Wait(time)
            | Self::Take { within: time, .. }
            | Self::Ring { within: time, .. }
            | Self::Many { within: time, .. } => *time,
            _ => Duration::ZERO,
        };
        own + Duration::from_secs(20)
    }
}

impl serde::Serialize for Action {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Action {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
