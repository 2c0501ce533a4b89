use super::*;
use crate::lane::Signals;
use crate::lease::Term;
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
    FlowBlock { first_flow: 40, source: [127, 0, 0, 1].into(), destination, ports, spare: PortSet::empty() }
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
    let (signals, tally, notices) =
        (Signals::new(Term::endless()), Tally::default(), RefCell::new(Vec::new()));
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
    let (signals, tally, last) =
        (Signals::new(Term::endless()), Tally::default(), RefCell::new(Counters::default()));
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
    let slow =
        Script::receiving([Received::Error(Errno::EAGAIN), Received::Error(Errno::EAGAIN), Received::Echo]);
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
