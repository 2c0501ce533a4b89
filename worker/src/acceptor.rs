//! The passive opener's lane: accepts in batches from the listeners whose turn it has, answers each
//! connection's token, holds it at four bytes, passes the listener on when its share is held. It also
//! leaves connections in the queue, takes them slowly or closes them, where the order says so.

use crate::flow::{Cause, Greeting, Reply};
use crate::gate::Gate;
use crate::held::Held;
use crate::lane::{LARGEST_TABLE, Notice, Station};
use crate::net::{Nanos, Net, Watch};
use crate::turns::ListenerTurns;
use nix::errno::Errno;
use std::collections::VecDeque;
use tuplelab_domain::plan::{Accept, Close};
use tuplelab_domain::sample::Call;
use tuplelab_domain::schedule::{Serve, Turn};

/// Accepted in one go at most, so that answers do not wait for the end of a burst.
const BATCH: u32 = 256;
/// Between two batches in a ramp: the next then finds several. Of 200 us to 2 ms, and of sleeping in
/// accept or epoll instead, this was the fastest.
const NAP_NANOS: Nanos = 500_000;
/// A lane that found nothing for so long sleeps until something comes.
const RAMP_OVER_NANOS: Nanos = 20_000_000;
/// How long a connection may take to send its token before it is a stranger.
const GREETING_NANOS: Nanos = 2_000_000_000;
/// Connections that have sent no token yet; of more than these, the oldest is dropped.
const PENDING: usize = 4_096;
/// So often it is looked whether a lease that has ended was renewed.
const NO_LEASE_NANOS: Nanos = 10_000_000;
/// After an accept that failed for want of descriptors or memory: the connections stay queued.
const BACK_OFF_NANOS: Nanos = 100_000_000;
const LONGEST_BACK_OFF_NANOS: Nanos = 1_000_000_000;

/// What the accepting lanes of a worker share.
pub(crate) struct Servers {
    pub token: u64,
    pub work: Serve,
    pub turns: ListenerTurns,
    /// Where connections are accepted at a rate.
    pub gate: Option<Gate>,
}

impl Servers {
    /// Whether that lane still takes connections from that listener once its quota is held: the last
    /// one does, so that nobody is left in the queue; but not where only so many are to be accepted.
    fn goes_on(&self, listener: usize) -> bool {
        self.work.accept.most().is_none() && self.turns.is_last(listener)
    }
}

/// What a client sends at a time on a held connection is no longer than this (`load.activity`).
const ECHO_BYTES: usize = 4_096;

/// An accepting lane's life: accept and answer until all is held, hold, close. `listeners` are those
/// of its turns, in the same order.
pub(crate) fn run<N: Net>(station: &Station<'_, N>, servers: &Servers, listeners: Vec<N::Listener>) {
    let turns = servers.work.lanes.get(station.index).map_or(&[][..], |lane| &lane.turns);
    let quota: usize = turns.iter().map(|turn| turn.quota as usize).sum();
    let mut acceptor = Acceptor {
        station,
        servers,
        posts: listeners.into_iter().zip(turns).map(|(listener, turn)| Post::new(listener, *turn)).collect(),
        pending: VecDeque::new(),
        // Only the last lane can get more than its quota, and then this grows.
        held: Held::new(quota.min(LARGEST_TABLE), servers.work.watch.is_some()),
        quota,
        moved: Vec::new(),
    };
    let net = station.net;
    let mut last_work = net.now();
    while !station.signals.is_released() {
        let now = net.now();
        if !station.signals.may_act(now) {
            net.sleep(Some(now + NO_LEASE_NANOS));
            continue;
        }
        let found = acceptor.round();
        let now = net.now();
        match found {
            Found::More => last_work = now,
            Found::Some => {
                last_work = now;
                net.sleep(Some(now + NAP_NANOS));
            }
            Found::Nothing if acceptor.is_waiting_to_end(now, last_work) => {
                net.sleep(Some(now + NAP_NANOS));
            }
            Found::Nothing => acceptor.sleep(now),
        }
    }
}

/// What one round over the listeners and the pending connections found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Nothing,
    Some,
    More,
}

/// A lane's place at one listener.
struct Post<L> {
    listener: L,
    turn: Turn,
    /// Accepted so far, answered or not.
    taken: u32,
    /// Not before this moment again, after a failure or because of the rate; and the pause that the
    /// next failure would cost.
    retry_at: Nanos,
    back_off: Nanos,
}

impl<L> Post<L> {
    fn new(listener: L, turn: Turn) -> Self {
        Self { listener, turn, taken: 0, retry_at: 0, back_off: BACK_OFF_NANOS }
    }

    /// How many of its quota are still to be accepted.
    fn left(&self) -> u32 {
        self.turn.quota.saturating_sub(self.taken)
    }
}

struct Acceptor<'a, N: Net> {
    station: &'a Station<'a, N>,
    servers: &'a Servers,
    posts: Vec<Post<N::Listener>>,
    pending: VecDeque<(N::Socket, Greeting)>,
    held: Held<N::Socket>,
    /// The sum of its turns' quotas.
    quota: usize,
    /// Keys of held connections on which something happened; room for them that is used again.
    moved: Vec<usize>,
}

impl<N: Net> Acceptor<'_, N> {
    fn round(&mut self) -> Found {
        let mut found = Found::Nothing;
        self.look();
        for index in 0..self.posts.len() {
            found = found.max(self.accept(index));
        }
        if self.greet() { found.max(Found::Some) } else { found }
    }

    /// How many this lane is still to take from there. Where held connections are watched they may
    /// have gone again, so it is the room that the lane has now.
    fn left(&self, post: &Post<N::Listener>) -> u32 {
        match self.servers.work.watch {
            None => post.left(),
            Some(spare) => {
                let room = self.quota + spare as usize;
                u32::try_from(room.saturating_sub(self.held.watched() + self.pending.len()))
                    .unwrap_or(u32::MAX)
            }
        }
    }

    /// Looks after the held connections under watch: what has come is sent back, what has ended is let
    /// go.
    fn look(&mut self) {
        let Self { station, servers, held, moved, .. } = self;
        if servers.work.watch.is_none() {
            return;
        }
        let Station { net, tally, .. } = station;
        net.moved(moved);
        let mut bytes = [0; ECHO_BYTES];
        for key in moved.drain(..) {
            let Some(socket) = held.get(key) else { continue };
            let (how, failed) = match net.receive(socket, &mut bytes) {
                // Whoever closes with FIN is answered with one, or would see no TIME_WAIT but a reset.
                Ok(0) => (Close::Fin, None),
                // What was sent back is little, and nothing else is on its way: it is never cut short.
                Ok(length) => match net.send(socket, &bytes[..length]) {
                    Ok(_) => continue,
                    Err(errno) => (Close::Rst, Some((Call::Send, errno))),
                },
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // So a client closes that leaves no TIME_WAIT.
                Err(Errno::ECONNRESET) => (Close::Rst, None),
                Err(errno) => (Close::Rst, Some((Call::Receive, errno))),
            };
            if let Some((call, errno)) = failed {
                tally.failed(call, Cause::Kernel(errno));
            }
            if let Some(socket) = held.remove(key) {
                net.close(socket, how);
                tally.closed_one();
            }
        }
    }

    /// Accepts a batch at one post, if it is this lane's turn there.
    fn accept(&mut self, index: usize) -> Found {
        let left = self.posts.get(index).map_or(0, |post| self.left(post));
        let Self { station, servers, posts, pending, held, .. } = self;
        let Some(post) = posts.get_mut(index) else { return Found::Nothing };
        let listener = post.turn.listener as usize;
        let turns = &servers.turns;
        let now = station.net.now();
        if now < post.retry_at || !turns.is_mine(listener, station.index) {
            return Found::Nothing;
        }
        let is_last = turns.is_last(listener);
        let pass = || {
            turns.pass(listener);
            (station.tell)(Notice::Passed(listener));
            Found::Some
        };
        let room = if servers.goes_on(listener) { BATCH } else { BATCH.min(left) };
        let before = post.taken;
        let mut found = Found::Nothing;
        for _ in 0..room {
            if let Some(opens_at) = servers.gate.as_ref().map(Gate::opens_at).filter(|at| now < *at) {
                post.retry_at = opens_at;
                return found;
            }
            match station.net.accept(&post.listener) {
                Ok(socket) => {
                    found = Found::Some;
                    station.tally.attempted(now);
                    post.taken += 1;
                    post.back_off = BACK_OFF_NANOS;
                    servers.gate.iter().for_each(|gate| gate.pass(now));
                    if servers.work.accept == Accept::Close {
                        drop(socket);
                        station.tally.established(now);
                        station.tally.let_go();
                        continue;
                    }
                    if !servers.work.answered {
                        hold(station, held, socket, now);
                        continue;
                    }
                    if pending.len() >= PENDING && pending.pop_front().is_some() {
                        station.tally.stranger();
                    }
                    pending.push_back((socket, Greeting::begin(now + GREETING_NANOS)));
                }
                Err(Errno::EAGAIN) => return found,
                // The connection's own trouble: the next may be well.
                Err(errno @ (Errno::ECONNABORTED | Errno::EPROTO | Errno::EINTR)) => {
                    station.tally.failed(Call::Accept, Cause::Kernel(errno));
                }
                Err(errno) => {
                    station.tally.failed(Call::Accept, Cause::Kernel(errno));
                    if errno == Errno::EMFILE && !is_last {
                        return pass();
                    }
                    post.retry_at = now + post.back_off;
                    post.back_off = (post.back_off * 2).min(LONGEST_BACK_OFF_NANOS);
                    return found;
                }
            }
        }
        match (is_last, left.saturating_sub(post.taken - before)) {
            (false, 0) => pass(),
            (true, 0) if !servers.goes_on(listener) => found,
            _ => Found::More,
        }
    }

    /// Takes the tokens that have come and answers them; whether there were any.
    fn greet(&mut self) -> bool {
        let Self { station, servers, pending, held, .. } = self;
        let Station { net, tally, .. } = station;
        let now = net.now();
        let mut any = false;
        for _ in 0..pending.len() {
            let Some((socket, mut greeting)) = pending.pop_front() else { break };
            let reply = loop {
                let mut buffer = [0; crate::flow::Token::LENGTH];
                let rest = &mut buffer[..greeting.missing()];
                let received = net.receive(&socket, rest).map(|length| &rest[..length]);
                let reply;
                (greeting, reply) = greeting.on(received, servers.token, now);
                if reply != Reply::Again {
                    break reply;
                }
            };
            any |= reply != Reply::Wait;
            match reply {
                Reply::Again | Reply::Wait => pending.push_back((socket, greeting)),
                Reply::Echo(token) => match net.send(&socket, &token.0) {
                    Ok(_) => hold(station, held, socket, now),
                    Err(errno) => tally.failed(Call::Send, Cause::Kernel(errno)),
                },
                Reply::Stranger => tally.stranger(),
                Reply::Failed(call, cause) => tally.failed(call, cause),
            }
        }
        any
    }

    /// Whether a ramp may still be on, so that it is worth looking again soon.
    fn is_waiting_to_end(&self, now: Nanos, last_work: Nanos) -> bool {
        let busy = self.active(now).next().is_some() || !self.pending.is_empty();
        busy && now < last_work + RAMP_OVER_NANOS
    }

    /// The posts where it is this lane's turn to accept, and nothing failed a moment ago.
    fn active(&self, now: Nanos) -> impl Iterator<Item = &Post<N::Listener>> {
        let may_accept = move |post: &&Post<_>| {
            let listener = post.turn.listener as usize;
            let is_mine = self.servers.turns.is_mine(listener, self.station.index);
            is_mine && post.retry_at <= now && (self.left(post) > 0 || self.servers.goes_on(listener))
        };
        self.posts.iter().filter(may_accept)
    }

    /// Sleeps until there is something to do. Without pending connections there is no timer: nothing
    /// wakes during the hold.
    fn sleep(&self, now: Nanos) {
        let retry = self.posts.iter().map(|post| post.retry_at).filter(|at| *at > now);
        let silent = self.pending.front().map(|(_, greeting)| greeting.deadline());
        let until = retry.chain(silent).min();
        let incoming = self.active(now).map(|post| Watch::Incoming(&post.listener));
        let tokens = self.pending.iter().map(|(socket, _)| Watch::Readable(socket));
        let kept = self.servers.work.watch.map(|_| Watch::Kept);
        self.station.net.wait(incoming.chain(tokens).chain(kept), until);
    }
}

fn hold<N: Net>(station: &Station<'_, N>, held: &mut Held<N::Socket>, socket: N::Socket, now: Nanos) {
    match held.push(station.net, socket) {
        Ok(()) => station.tally.established(now),
        Err(errno) => station.tally.failed(Call::Receive, Cause::Kernel(errno)),
    }
}

#[cfg(test)]
#[path = "acceptor_tests.rs"]
mod tests;
