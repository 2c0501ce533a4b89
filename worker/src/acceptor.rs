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
mod tests {
    use super::*;
    use crate::flow::Token;
    use crate::lane::Signals;
    use crate::net::fake::{FakeNet, Received, Script};
    use crate::tally::Tally;
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use tuplelab_domain::sample::Counters;
    use tuplelab_domain::schedule::{Listener, ServeLane};

    const TRIAL: u64 = 5;

    struct Outcome {
        counters: Counters,
        passed: usize,
        still_queued: usize,
        slept_until: Nanos,
        /// When the last one was answered.
        last: Nanos,
        most_open: usize,
    }

    /// Runs the first of `lanes` lanes, each with this quota, on these connections, until it sleeps
    /// without a timer.
    fn lane(lanes: usize, quota: u32, incoming: Vec<Result<Script, Errno>>) -> Outcome {
        lane_that(Accept::All, true, lanes, quota, incoming)
    }

    /// The same, with this way to accept, and to wait for a token or not.
    fn lane_that(
        accept: Accept,
        answered: bool,
        lanes: usize,
        quota: u32,
        incoming: Vec<Result<Script, Errno>>,
    ) -> Outcome {
        let endpoint = ([127, 0, 0, 1], 7_000).into();
        let turn = ServeLane { turns: vec![Turn { listener: 0, quota }] };
        let listeners = vec![Listener { endpoint, backlog: 9 }];
        let work = Serve { listeners, lanes: vec![turn.clone(); lanes], accept, answered, watch: None };
        let turns = ListenerTurns::new(1, &work.lanes, false);
        let servers = Servers { token: TRIAL, gate: Gate::of(accept), work, turns };
        let (signals, tally, passed) = (Signals::new(), Tally::default(), Cell::new(0));
        let last = RefCell::new(Counters::default());
        let net = FakeNet::new(|| {
            last.replace(tally.counters());
            signals.release();
        });
        net.incoming.borrow_mut().extend(incoming);
        let tell = |notice| match notice {
            Notice::Passed(0) => passed.set(passed.get() + 1),
            other => panic!("an acceptor says nothing like {other:?}"),
        };
        let station = Station { index: 0, net: &net, signals: &signals, tally: &tally, tell: &tell };
        run(&station, &servers, vec![()]);
        assert_eq!(net.open.get(), 0, "everything is closed at the end");
        let still_queued = net.incoming.borrow().len();
        Outcome {
            counters: last.take(),
            passed: passed.get(),
            still_queued,
            slept_until: net.now.get(),
            last: tally.last().unwrap_or(0),
            most_open: net.most_open.get(),
        }
    }

    fn caller(token: Token) -> Result<Script, Errno> {
        Ok(Script::receiving([Received::Bytes(token.0.to_vec())]))
    }

    fn ours(flow: u64) -> Result<Script, Errno> {
        caller(Token::new(TRIAL, flow))
    }

    #[test]
    fn a_lane_that_holds_its_share_passes_the_listener_on() {
        let outcome = lane(2, 3, (0..5).map(ours).collect());
        assert_eq!((outcome.counters.held, outcome.passed, outcome.still_queued), (3, 1, 2));
    }

    #[test]
    fn the_last_lane_takes_all_that_come() {
        let outcome = lane(1, 3, (0..600).map(ours).collect());
        assert_eq!((outcome.counters.held, outcome.passed, outcome.still_queued), (600, 0, 0));
    }

    #[test]
    fn strangers_are_dropped_and_counted() {
        let other_trial = caller(Token::new(TRIAL + 1, 0));
        let outcome = lane(1, 9, vec![ours(0), other_trial, Ok(Script::silent()), ours(1)]);
        assert_eq!((outcome.counters.held, outcome.counters.strangers), (2, 2));
        assert!(outcome.slept_until >= GREETING_NANOS, "the silent one had its time");
    }

    #[test]
    fn a_caller_that_goes_away_is_a_failure_and_no_stranger() {
        let gone = Ok(Script::receiving([Received::Bytes(vec![])]));
        let reset = Ok(Script::receiving([Received::Error(Errno::ECONNRESET)]));
        let outcome = lane(1, 9, vec![gone, reset]);
        let json = serde_json::to_string(&outcome.counters.failures).expect("serialises");
        assert_eq!(json, r#"{"receive ECONNRESET":1,"receive EOF":1}"#);
        assert_eq!(outcome.counters.strangers, 0);
    }

    #[test]
    fn of_too_many_silent_callers_the_oldest_are_dropped() {
        let outcome = lane(1, 9, vec![Ok(Script::silent()); PENDING + 10]);
        assert_eq!(outcome.counters.strangers, PENDING as u64 + 10);
    }

    #[test]
    fn a_full_table_passes_the_listener_on_where_another_lane_follows() {
        let outcome = lane(2, 9, vec![ours(0), Err(Errno::EMFILE), ours(1)]);
        assert_eq!((outcome.counters.held, outcome.passed, outcome.still_queued), (1, 1, 1));
    }

    #[test]
    fn where_nobody_accepts_all_stay_in_the_queue_and_the_lane_sleeps() {
        let outcome = lane_that(Accept::Never, false, 1, 0, (0..5).map(ours).collect());
        assert_eq!((outcome.counters, outcome.still_queued), (Counters::default(), 5));
        assert_eq!(outcome.slept_until, 1, "it never woke by itself");
    }

    #[test]
    fn only_so_many_are_accepted_also_by_the_last_lane() {
        let outcome = lane_that(Accept::Until(3), false, 1, 3, vec![Ok(Script::silent()); 5]);
        assert_eq!((outcome.counters.established, outcome.counters.held), (3, 3));
        assert_eq!((outcome.passed, outcome.still_queued), (0, 2));
        let first = lane_that(Accept::Until(6), false, 2, 3, vec![Ok(Script::silent()); 5]);
        assert_eq!((first.counters.held, first.passed, first.still_queued), (3, 1, 2));
    }

    #[test]
    fn what_is_closed_at_once_is_counted_and_not_held() {
        let outcome = lane_that(Accept::Close, false, 1, 9, vec![Ok(Script::silent()); 600]);
        assert_eq!((outcome.counters.attempted, outcome.counters.established), (600, 600));
        assert_eq!((outcome.counters.held, outcome.most_open), (0, 1));
    }

    #[test]
    fn without_a_token_to_wait_for_what_is_accepted_is_held() {
        let outcome = lane_that(Accept::All, false, 1, 9, vec![Ok(Script::silent()); 5]);
        assert_eq!((outcome.counters.held, outcome.counters.strangers), (5, 0));
        assert!(outcome.slept_until < GREETING_NANOS, "nobody was waited for");
    }

    #[test]
    fn a_slow_server_accepts_at_even_intervals() {
        let outcome = lane_that(Accept::PerSecond(200), true, 1, 9, (0..21).map(ours).collect());
        assert_eq!((outcome.counters.held, outcome.still_queued), (21, 0));
        // Twenty intervals of 5 ms, and a little lateness that was made up for.
        let (least, most) = (98_000_000, 106_000_000);
        assert!((least..most).contains(&outcome.last), "{}", outcome.last);
    }

    #[test]
    fn a_watched_connection_is_answered_and_let_go_when_its_client_closes() {
        let turn = ServeLane { turns: vec![Turn { listener: 0, quota: 2 }] };
        let listeners = vec![Listener { endpoint: ([127, 0, 0, 1], 7_000).into(), backlog: 9 }];
        let lanes = vec![turn.clone(), turn];
        let work = Serve { listeners, lanes, accept: Accept::All, answered: false, watch: Some(1) };
        let turns = ListenerTurns::new(1, &work.lanes, true);
        let servers = Servers { token: TRIAL, gate: None, work, turns };
        let (signals, tally, passed) = (Signals::new(), Tally::default(), Cell::new(0));
        let (last, step, held_first) = (RefCell::new(Counters::default()), Cell::new(0), Cell::new(0));
        let (kept, moving) = (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(Vec::new())));
        let idle = || {
            match step.replace(step.get() + 1) {
                // Three are held, two by quota and one beyond; the first says something, the second and
                // the third end.
                0 => {
                    held_first.set(kept.borrow().len());
                    moving.borrow_mut().extend(kept.borrow().iter().copied());
                }
                // Its room is another lane's to fill until the turn comes round.
                1 => servers.turns.pass(0),
                _ => {
                    last.replace(tally.counters());
                    signals.release();
                }
            }
        };
        let mut net = FakeNet::new(idle);
        (net.kept, net.moving) = (Rc::clone(&kept), Rc::clone(&moving));
        let said = Script::receiving([Received::Bytes(vec![7; 64])]);
        let end = Script::receiving([Received::Bytes(Vec::new())]);
        let reset = Script::receiving([Received::Error(Errno::ECONNRESET)]);
        let incoming = [said, end, reset].into_iter().chain([Script::silent(), Script::silent()]);
        net.incoming.borrow_mut().extend(incoming.map(Ok));
        let tell = |notice| match notice {
            Notice::Passed(0) => passed.set(passed.get() + 1),
            other => panic!("an acceptor says nothing like {other:?}"),
        };
        run(
            &Station { index: 0, net: &net, signals: &signals, tally: &tally, tell: &tell },
            &servers,
            vec![()],
        );
        assert_eq!(held_first.get(), 3, "its quota and one beyond");
        assert_eq!(net.closes.take(), [Close::Fin, Close::Rst]);
        let counters = last.take();
        assert_eq!((counters.established, counters.closed, counters.held), (5, 2, 3));
        assert_eq!((counters.failures.total(), passed.get()), (0, 2));
    }

    #[test]
    fn a_full_table_of_the_last_lane_waits_and_tries_again() {
        let outcome = lane(1, 9, vec![ours(0), Err(Errno::EMFILE), Err(Errno::EMFILE), ours(1)]);
        assert_eq!((outcome.counters.held, outcome.counters.failures.total()), (2, 2));
        assert!(outcome.slept_until >= 3 * BACK_OFF_NANOS, "100 ms, then 200 ms");
    }
}
