use super::*;
use crate::flow::Token;
use crate::lane::Signals;
use crate::lease::Term;
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
    let (signals, tally, passed) = (Signals::new(Term::endless()), Tally::default(), Cell::new(0));
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
    let (signals, tally, passed) = (Signals::new(Term::endless()), Tally::default(), Cell::new(0));
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
    run(&Station { index: 0, net: &net, signals: &signals, tally: &tally, tell: &tell }, &servers, vec![()]);
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
