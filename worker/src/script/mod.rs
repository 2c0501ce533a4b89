//! A host's part of a script: named sockets, and the calls that the script's steps make on them.
//!
//! What lives here: one call after another, each answered with what the kernel said. What does not:
//! rates and lanes (a load's), questions about the kernel's state (the agent's). Where to start:
//! [`Script::perform`]; then `sockets.rs` (one socket), `many.rs` and `take.rs` (a group of them),
//! `files.rs` (descriptors), `rings.rs` (connections without one).
//!
//! An answer that is no errno, `ok`, `eof` or `pending` is a fault of the script, and no evidence:
//! `UNKNOWN` (no such name), `TAKEN` (the name is in use), `GROUP` (the call is for one socket and the
//! name means another number of them, or a ring's), `FULL` (a group has [`MOST`] sockets), `UNRESOLVED` (an
//! endpoint without an address), `AGENT` (the step is the agent's).

mod files;
mod many;
mod options;
mod raw;
mod refusal;
mod rings;
mod sockets;
mod take;
#[cfg(test)]
mod tests;
mod uring;

use refusal::{Refusal, Tally};
use sockets::Held;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tuplelab_domain::script::{Action, Answer, Choice, Endpoint, Options, Protocol};
use uring::Ring;

/// A group has no more sockets than this: what needs more is a load.
pub const MOST: usize = 20_000;

/// The worker's named sockets. When this is dropped they close with RST: a TIME_WAIT would refuse ports to
/// the next script. (What rings hold closes with FIN.)
#[derive(Debug, Default)]
pub struct Script {
    groups: BTreeMap<String, Group>,
}

/// What a name means.
#[derive(Debug, Default)]
struct Group {
    /// What a `socket` step asked for, until another step uses it: its family is that of the first
    /// endpoint, so an IPv4 one may have to make way for an IPv6 one.
    unused: Option<(Protocol, Options)>,
    sockets: Vec<Held>,
    /// Connections that are no descriptors: they can be held and closed, and nothing else.
    rings: Vec<Ring>,
}

impl Script {
    /// Makes the action's call and says what the kernel answered; detail `micros` is how long that took,
    /// waiting included.
    pub fn perform(&mut self, action: &Action) -> Answer {
        let begun = Instant::now();
        let answer = self.attempt(action).unwrap_or_else(|answer| answer);
        answer.detail("micros", begun.elapsed().as_micros())
    }

    fn attempt(&mut self, action: &Action) -> Result<Answer, Answer> {
        Ok(match action {
            Action::Socket(name, protocol, options) => {
                self.is_free(name)?;
                let sockets = vec![options::socket(*protocol, options, None)?];
                let unused = Some((*protocol, *options));
                self.groups.insert(name.clone(), Group { unused, sockets, ..Group::default() });
                Answer::of("ok")
            }
            Action::Bind(name, at) => {
                let at = address(*at)?;
                self.one(name, Some(at))?.bind(at)?
            }
            Action::Listen(name, backlog) => self.one(name, None)?.listen(*backlog)?,
            Action::Connect(name, to, within) => {
                let to = address(*to)?;
                self.one(name, Some(to))?.connect(to, until(*within))?
            }
            Action::Finish(name, within) => self.finish(name, *within)?,
            Action::Accept(name, listener, within) => {
                self.is_free(name)?;
                let listener = self.one(listener, None)?;
                match take::one(listener, until(*within))? {
                    None => Answer::of("pending"),
                    Some(accepted) => {
                        let answer = accepted.endpoints(Answer::of("ok"));
                        let sockets = vec![accepted];
                        self.groups.insert(name.clone(), Group { sockets, ..Group::default() });
                        answer
                    }
                }
            }
            Action::Send(name, bytes) => over(self.all(name)?, |held| held.send(*bytes)),
            Action::Receive(name, within) => {
                let until = until(*within);
                over(self.all(name)?, |held| held.receive(until))
            }
            Action::Name(name) => {
                let sockets = self.all(name)?;
                match sockets.as_slice() {
                    [one] => one.name()?,
                    sockets => many::ports(sockets, Answer::of("ok")),
                }
            }
            Action::Close(name) => {
                let group = self.groups.remove(name).ok_or_else(unknown)?;
                let in_rings: u64 = group.rings.iter().map(|ring| u64::from(ring.connected())).sum();
                Answer::of("ok").value(group.sockets.len() as u64 + in_rings)
            }
            Action::Reset(name) => {
                self.no_rings(name)?;
                let group = self.groups.remove(name).ok_or_else(unknown)?;
                let count = group.sockets.len() as u64;
                // Every one is closed, whatever is refused to one of them.
                let refused: Vec<Refusal> =
                    group.sockets.into_iter().filter_map(|held| held.reset().err()).collect();
                let answer = refused.first().map_or_else(|| Answer::of("ok"), |first| (*first).into());
                answer.value(count)
            }
            Action::Many { name, count, to, choice, options, within } => {
                let to = address(*to)?;
                let from = match choice {
                    Choice::Connect => many::From::Anywhere,
                    Choice::BindZero(at) => many::From::AnyPort(address(*at)?),
                    Choice::Explicit(at, ports) => many::From::Ports(address(*at)?, ports),
                };
                many::open(self.more(name)?, *count, to, &from, options, *within)
            }
            Action::Ring { name, count, to, rings, within } => {
                let to = address(*to)?;
                self.is_free(name)?;
                let (answer, rings) = rings::open(*count, to, *rings, *within)?;
                if !rings.is_empty() {
                    self.groups.insert(name.clone(), Group { rings, ..Group::default() });
                }
                answer
            }
            Action::Take { name, listener, count, every, within } => {
                let pace = take::Pace { count: *count, every: *every, until: until(*within) };
                self.one(listener, None)?;
                // The listener and the group are two entries of the same map: this one is taken out.
                let mut taken = std::mem::take(self.more(name)?);
                let answer = match self.one(listener, None) {
                    Ok(listener) => take::all(&mut taken, listener, pace),
                    // The name is the listener's own.
                    Err(_) => Answer::of("TAKEN"),
                };
                *self.more(name)? = taken;
                answer
            }
            Action::Fill(name) => files::fill(self.more(name)?)?,
            Action::Files(count) => files::limit(*count)?,
            // The caller ends the process, once this answer is on its way.
            Action::End => Answer::of("ok"),
            Action::Stop
            | Action::Continue
            | Action::Wait(_)
            | Action::Sockets(_)
            | Action::Capture(_)
            | Action::Packets
            | Action::Counters
            | Action::Limits
            | Action::Syn { .. }
            | Action::Ack => Answer::of("AGENT"),
        })
    }

    fn is_free(&self, name: &str) -> Result<(), Answer> {
        if self.groups.contains_key(name) { Err(Answer::of("TAKEN")) } else { Ok(()) }
    }

    /// A call on sockets needs descriptors.
    fn no_rings(&self, name: &str) -> Result<(), Answer> {
        match self.groups.get(name) {
            Some(group) if !group.rings.is_empty() => Err(Answer::of("GROUP")),
            _ => Ok(()),
        }
    }

    /// All sockets of a name, in the family of what they are used for.
    fn open(&mut self, name: &str, at: Option<SocketAddr>) -> Result<&mut Vec<Held>, Answer> {
        self.no_rings(name)?;
        let group = self.groups.get_mut(name).ok_or_else(unknown)?;
        if let Some((protocol, options)) = group.unused.take()
            && at.is_some_and(|at| at.is_ipv6())
            && !group.sockets.iter().all(Held::is_v6)
        {
            // It is made again in the family of what it is used for; the other goes first, so that a
            // full table has room.
            group.sockets.clear();
            group.sockets.push(options::socket(protocol, &options, at)?);
        }
        Ok(&mut group.sockets)
    }

    fn all(&mut self, name: &str) -> Result<&mut Vec<Held>, Answer> {
        self.open(name, None)
    }

    /// The only socket of a name.
    fn one(&mut self, name: &str, at: Option<SocketAddr>) -> Result<&mut Held, Answer> {
        match self.open(name, at)?.as_mut_slice() {
            [one] => Ok(one),
            _ => Err(Answer::of("GROUP")),
        }
    }

    /// The group that a step adds to: a new one, or one that has sockets already.
    fn more(&mut self, name: &str) -> Result<&mut Vec<Held>, Answer> {
        let group = self.groups.entry(name.to_owned()).or_default();
        let taken = group.unused.is_some() || !group.rings.is_empty();
        if taken { Err(Answer::of("TAKEN")) } else { Ok(&mut group.sockets) }
    }

    fn finish(&mut self, name: &str, within: Duration) -> Result<Answer, Answer> {
        let sockets = self.all(name)?;
        if let [one] = sockets.as_mut_slice() {
            return Ok(one.finish(until(within))?);
        }
        let mut tally = Tally::default();
        many::settle(sockets, until(within), &mut tally);
        Ok(many::answer(sockets, &tally, false))
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        for group in std::mem::take(&mut self.groups).into_values() {
            for held in group.sockets {
                let _ = held.reset();
            }
        }
    }
}

/// The same call on each socket of a group, in order: the sum, the first that was not `ok`, and how
/// many there were of each outcome.
fn over(sockets: &mut [Held], mut call: impl FnMut(&mut Held) -> Answer) -> Answer {
    if let [one] = sockets {
        return call(one);
    }
    let mut whole = Answer::of("ok").detail("sockets", sockets.len());
    let mut sum = 0u64;
    let mut outcomes: BTreeMap<String, u32> = BTreeMap::new();
    for held in sockets {
        let answer = call(held);
        sum = sum.saturating_add(answer.value.unwrap_or(0));
        if whole.is_ok() && !answer.is_ok() {
            whole.outcome.clone_from(&answer.outcome);
            whole.details.extend(answer.details.get("call").map(|call| ("call".to_owned(), call.clone())));
        }
        *outcomes.entry(answer.outcome).or_default() += 1;
    }
    outcomes.iter().fold(whole.value(sum), |whole, (outcome, count)| whole.detail(outcome, count))
}

fn address(endpoint: Endpoint) -> Result<SocketAddr, Answer> {
    endpoint.address().ok_or_else(|| Answer::of("UNRESOLVED").detail("endpoint", endpoint))
}

fn unknown() -> Answer {
    Answer::of("UNKNOWN").detail("why", "no step before this one made a socket of that name on this host")
}

/// When a wait is over. No step of a script waits longer than a minute, so the sum cannot overflow.
fn until(within: Duration) -> Instant {
    Instant::now() + within.min(Duration::from_secs(60))
}
