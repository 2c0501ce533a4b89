//! Two workers, real sockets on loopback addresses, orders and reports as JSON lines. Each test has
//! addresses of its own (127.77.N.x), so that they run side by side.
#![allow(clippy::unwrap_used, reason = "a test fails where it fails")]

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tuplelab_domain::plan::{Accept, Close};
use tuplelab_domain::ports::PortSet;
use tuplelab_domain::sample::{Counters, Plateau, Sample};
use tuplelab_domain::schedule::{
    BlockPorts, Churn, Connect, ConnectLane, FlowBlock, Listener, Serve, ServeLane, Stretch, Turn, Work,
    WorkerOrder, WorkerReport,
};
use tuplelab_worker::{WorkerError, main_loop};

/// A worker in a thread, at the other end of two pipes.
struct Worker {
    orders: Option<PipeWriter>,
    reports: BufReader<PipeReader>,
    thread: JoinHandle<Result<(), WorkerError>>,
    samples: Vec<Sample>,
}

impl Worker {
    fn start() -> Self {
        let (input, orders) = pipe().unwrap();
        let (reports, output) = pipe().unwrap();
        let thread = std::thread::spawn(move || main_loop(input, output));
        Self { orders: Some(orders), reports: BufReader::new(reports), thread, samples: Vec::new() }
    }

    fn ready(work: Work) -> Self {
        let mut worker = Self::start();
        worker.say(&WorkerOrder::Prepare { token: 77, files: None, work });
        assert_eq!(worker.hear(), WorkerReport::Ready);
        worker
    }

    fn say(&mut self, order: &WorkerOrder) {
        self.say_text(&serde_json::to_string(order).unwrap());
    }

    fn say_text(&mut self, line: &str) {
        self.orders.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn go(&mut self) {
        self.say(&WorkerOrder::Go { at_boottime_nanos: 0 });
    }

    /// The next report that is no sample.
    fn hear(&mut self) -> WorkerReport {
        loop {
            let mut line = String::new();
            assert_ne!(self.reports.read_line(&mut line).unwrap(), 0, "the worker has ended");
            match serde_json::from_str(&line).unwrap() {
                WorkerReport::Sample(sample) => self.samples.push(sample),
                other => return other,
            }
        }
    }

    fn plateau(&mut self) -> Plateau {
        match self.hear() {
            WorkerReport::Plateau(plateau) => plateau,
            other => panic!("no plateau but {other:?}"),
        }
    }

    fn tell(&mut self) -> Plateau {
        self.say(&WorkerOrder::Tell);
        match self.hear() {
            WorkerReport::Told(figures) => figures,
            other => panic!("nothing told but {other:?}"),
        }
    }

    fn release(mut self) -> Plateau {
        self.say(&WorkerOrder::Release);
        loop {
            match self.hear() {
                WorkerReport::Released(figures) => {
                    self.thread.join().unwrap().unwrap();
                    return figures;
                }
                WorkerReport::Plateau(_) => {}
                other => panic!("not released but {other:?}"),
            }
        }
    }

    fn failed(mut self) -> String {
        match self.hear() {
            WorkerReport::Failed { why } => {
                assert!(self.thread.join().unwrap().is_err());
                why
            }
            other => panic!("no failure but {other:?}"),
        }
    }
}

fn ip(test: u8, host: u8) -> IpAddr {
    Ipv4Addr::new(127, 77, test, host).into()
}

fn server(test: u8) -> SocketAddr {
    SocketAddr::new(ip(test, 1), 7_000)
}

/// One listener, and a lane for each quota.
fn serve(endpoint: SocketAddr, quotas: &[u32]) -> Work {
    let lane = |quota: &u32| ServeLane { turns: vec![Turn { listener: 0, quota: *quota }] };
    let listeners = vec![Listener { endpoint, backlog: 4_096 }];
    let lanes = quotas.iter().map(lane).collect();
    Work::Serve(Serve { listeners, lanes, accept: Accept::All, answered: true, watch: None })
}

fn client() -> Connect {
    Connect {
        lanes: Vec::new(),
        connectors: 1,
        window: 64,
        rate: None,
        stretches: Vec::new(),
        timeout_micros: 10_000_000,
        beyond: false,
        answered: true,
        churn: None,
        activity: None,
    }
}

/// A lane that opens these ports from 127.77.test.2 to the test's server.
fn lane(test: u8, first_flow: u64, ports: BlockPorts) -> ConnectLane {
    ConnectLane {
        blocks: vec![FlowBlock {
            first_flow,
            source: ip(test, 2),
            destination: server(test),
            ports,
            spare: PortSet::empty(),
        }],
    }
}

fn ports(low: u16, high: u16) -> BlockPorts {
    BlockPorts::Explicit(PortSet::range(low, high))
}

fn connect(lanes: Vec<ConnectLane>, more: Connect) -> Work {
    Work::Connect(Connect { lanes, ..more })
}

fn failures(figures: &Plateau) -> String {
    serde_json::to_string(&figures.counters.failures).unwrap()
}

/// How many of the kernel's sockets have a local address of this test, by state (in hex, as in
/// include/net/tcp_states.h).
fn sockets(test: u8, state: &str) -> usize {
    let ours = format!("{test:02X}4D7F:");
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let of_us = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields[1].get(2..9) == Some(ours.as_str()) && fields[3] == state
    };
    table.lines().skip(1).filter(of_us).count()
}

const ESTABLISHED: &str = "01";
const TIME_WAIT: &str = "06";
const LISTEN: &str = "0A";

#[test]
fn three_thousand_flows_are_answered_held_over_lanes_and_leave_nothing_behind() {
    let mut server = Worker::ready(serve(server(1), &[1_000, 1_000, 1_000]));
    let lanes = vec![
        lane(1, 0, ports(20_001, 21_500)),
        lane(1, 1_500, ports(21_501, 23_000)),
        lane(1, 0, ports(9, 8)),
    ];
    let mut client = Worker::ready(connect(lanes, Connect { beyond: true, ..client() }));
    server.go();
    client.go();
    let plateau = client.plateau();
    assert_eq!(failures(&plateau), "{}");
    assert_eq!((plateau.counters.attempted, plateau.counters.held), (3_000, 3_000));
    assert!(plateau.first_micros <= plateau.last_micros && plateau.last_micros.is_some());
    assert!(plateau.go_nanos.is_some());
    let times = plateau.connect_times.unwrap();
    assert_eq!(times.all().count(), 3_000);
    let by_tenth: Vec<u64> = times.by_occupancy.iter().map(|times| times.count()).collect();
    assert_eq!(by_tenth.iter().sum::<u64>(), 3_000);
    assert!(by_tenth[0] >= 300, "those that began before a tenth was answered: {by_tenth:?}");
    let beyond = plateau.beyond.unwrap();
    let refused: Vec<_> = beyond.refused.iter().map(|(f, count)| (f.to_string(), *count)).collect();
    assert_eq!((beyond.tried, refused), (2, vec![("connect EADDRNOTAVAIL".to_owned(), 2)]));

    let told = server.tell();
    assert_eq!((told.counters.attempted, told.counters.held, told.counters.strangers), (3_000, 3_000, 0));
    assert_eq!(told.connect_times, None, "a server connects to nobody");
    assert_eq!(sockets(1, ESTABLISHED), 6_000);
    assert_eq!(sockets(1, LISTEN), 1);

    let released = client.release();
    assert_eq!((released.counters.established, released.counters.held), (3_000, 0));
    assert_eq!(server.release().counters.held, 0);
    assert_eq!([ESTABLISHED, TIME_WAIT, LISTEN].map(|state| sockets(1, state)), [0, 0, 0]);
}

#[test]
fn a_server_that_is_released_first_leaves_no_time_wait_either() {
    let server = Worker::ready(serve(server(2), &[200]));
    let mut client = Worker::ready(connect(vec![lane(2, 0, ports(20_001, 20_200))], client()));
    client.go();
    assert_eq!(client.plateau().counters.established, 200);
    server.release();
    client.release();
    assert_eq!([ESTABLISHED, TIME_WAIT].map(|state| sockets(2, state)), [0, 0]);
}

#[test]
fn a_port_that_a_foreign_listener_has_is_counted_and_the_others_go_on() {
    let server = Worker::ready(serve(server(3), &[100]));
    let _foreign = TcpListener::bind((ip(3, 2), 20_050)).unwrap();
    let mut client = Worker::ready(connect(vec![lane(3, 0, ports(20_001, 20_100))], client()));
    client.go();
    let plateau = client.plateau();
    assert_eq!(failures(&plateau), r#"{"bind EADDRINUSE":1}"#);
    assert_eq!((plateau.counters.attempted, plateau.counters.established), (100, 99));
    client.release();
    server.release();
}

#[test]
fn where_nobody_listens_every_connect_is_refused() {
    let mut client = Worker::ready(connect(vec![lane(4, 0, ports(20_001, 20_100))], client()));
    client.go();
    let plateau = client.plateau();
    assert_eq!(failures(&plateau), r#"{"connect ECONNREFUSED":100}"#);
    assert_eq!(plateau.last_micros, None);
    assert_eq!(plateau.connect_times.unwrap().all().count(), 0, "a failure has no time");
    client.release();
}

#[test]
fn a_server_that_never_answers_leaves_every_flow_unanswered() {
    let _deaf = TcpListener::bind(server(5)).unwrap();
    let short = Connect { timeout_micros: 200_000, window: 10, ..client() };
    let mut client = Worker::ready(connect(vec![lane(5, 0, ports(20_001, 20_020))], short));
    client.go();
    assert_eq!(failures(&client.plateau()), r#"{"receive NO_ANSWER":20}"#);
    client.release();
    assert_eq!(sockets(5, TIME_WAIT), 0);
}

#[test]
fn halt_lets_the_window_drain_and_release_does_not_wait_for_it() {
    let _deaf = TcpListener::bind(server(6)).unwrap();
    let work = |low, timeout_micros| {
        let lanes = vec![lane(6, 0, ports(low, low + 999)), lane(6, 1_000, ports(low + 1_000, low + 1_999))];
        connect(lanes, Connect { timeout_micros, window: 10, ..client() })
    };
    let mut client = Worker::ready(work(20_001, 500_000));
    client.go();
    client.say(&WorkerOrder::Halt);
    let plateau = client.plateau();
    assert_eq!(plateau.counters.attempted, plateau.counters.failures.total());
    assert!(plateau.counters.attempted < 2_000);
    client.release();

    let mut client = Worker::ready(work(30_001, 3_600_000_000));
    client.go();
    let began = Instant::now();
    assert_eq!(client.release().counters.established, 0);
    assert!(began.elapsed() < Duration::from_secs(60), "an hour's timeout was not waited for");
}

#[test]
fn the_end_of_the_input_closes_everything() {
    let mut server = Worker::ready(serve(server(7), &[100]));
    let mut client = Worker::ready(connect(vec![lane(7, 0, ports(20_001, 20_100))], client()));
    client.go();
    assert_eq!(client.plateau().counters.established, 100);
    for worker in [&mut client, &mut server] {
        worker.orders = None;
    }
    client.thread.join().unwrap().unwrap();
    server.thread.join().unwrap().unwrap();
    assert_eq!([ESTABLISHED, TIME_WAIT, LISTEN].map(|state| sockets(7, state)), [0, 0, 0]);
}

#[test]
fn a_stranger_is_dropped_and_the_lane_answers_on() {
    let mut server_worker = Worker::ready(serve(server(8), &[10]));
    let mut stranger = TcpStream::connect(server(8)).unwrap();
    stranger.write_all(&[0; 16]).unwrap();
    let mut closed = [0; 1];
    assert!(std::io::Read::read(&mut stranger, &mut closed).is_err(), "closed with RST");
    let mut client = Worker::ready(connect(vec![lane(8, 0, ports(20_001, 20_010))], client()));
    client.go();
    assert_eq!(client.plateau().counters.established, 10);
    let told = server_worker.tell();
    assert_eq!((told.counters.strangers, told.counters.held), (1, 10));
    client.release();
    server_worker.release();
}

#[test]
fn a_pace_is_kept_and_what_was_late_is_said() {
    let server = Worker::ready(serve(server(9), &[200]));
    let paced = Connect { rate: Some(1_000.0), connectors: 2, ..client() };
    let lanes = vec![lane(9, 0, ports(20_001, 20_100)), lane(9, 100, ports(20_101, 20_200))];
    let mut client = Worker::ready(connect(lanes, paced));
    client.go();
    let plateau = client.plateau();
    assert_eq!(plateau.counters.established, 200);
    // No flow begins before it is due, so the last is answered 199 ms after Go at the earliest.
    assert!(plateau.last_micros >= Some(199_000));
    assert!(plateau.counters.late <= 200);
    let times = plateau.connect_times.unwrap().all();
    assert_eq!(times.count(), 200);
    assert!(times.quantile(0.5) <= times.quantile(0.99) && times.quantile(0.99) <= times.max());
    client.release();
    server.release();
}

#[test]
fn stages_begin_when_they_are_due_and_a_burst_comes_as_one() {
    let server = Worker::ready(serve(server(22), &[200]));
    let stretch = |connects, micros| Stretch { connects, micros };
    let staged = Connect {
        stretches: vec![stretch(50, 100_000), stretch(0, 300_000), stretch(100, 0), stretch(50, 100_000)],
        connectors: 2,
        ..client()
    };
    let lanes = vec![lane(22, 0, ports(20_001, 20_100)), lane(22, 100, ports(20_101, 20_200))];
    let mut client = Worker::ready(connect(lanes, staged));
    client.go();
    let plateau = client.plateau();
    assert_eq!((plateau.counters.established, failures(&plateau).as_str()), (200, "{}"));
    // The last one is due 98 ms into the last stage.
    assert!(plateau.last_micros >= Some(498_000), "{:?}", plateau.last_micros);
    client.release();
    server.release();
}

#[test]
fn a_worker_that_waits_for_a_distant_pace_or_go_obeys_at_once() {
    let slow = Connect { rate: Some(0.001), ..client() };
    let began = Instant::now();
    let mut client = Worker::ready(connect(vec![lane(10, 0, ports(20_001, 20_100))], slow));
    client.go();
    client.release();
    let mut client = Worker::ready(connect(vec![lane(10, 0, ports(20_001, 20_100))], self::client()));
    client.say(&WorkerOrder::Go { at_boottime_nanos: u64::MAX / 2 });
    client.say(&WorkerOrder::Halt);
    assert_eq!(client.plateau().counters.attempted, 0);
    client.release();
    assert!(began.elapsed() < Duration::from_secs(60));
}

/// A server that accepts like this, with so few places in its queue, and does not wait for tokens.
fn serve_like(test: u8, accept: Accept, quota: u32, backlog: u32) -> Work {
    let lanes = vec![ServeLane { turns: vec![Turn { listener: 0, quota }] }];
    let listeners = vec![Listener { endpoint: server(test), backlog }];
    Work::Serve(Serve { listeners, lanes, accept, answered: false, watch: None })
}

/// A client that opens so many and waits for no answers.
fn unanswered(test: u8, count: u16) -> Worker {
    let short = Connect { timeout_micros: 1_500_000, answered: false, ..client() };
    Worker::ready(connect(vec![lane(test, 0, ports(20_001, 20_000 + count))], short))
}

/// Waits until the server's counters are as they should be.
fn until(server: &mut Worker, enough: impl Fn(&Counters) -> bool) {
    let began = Instant::now();
    while !enough(&server.tell().counters) {
        assert!(began.elapsed() < Duration::from_secs(20), "it took too long");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_queue_that_nobody_empties_holds_one_more_than_its_backlog_and_the_rest_hangs() {
    let mut server = Worker::ready(serve_like(17, Accept::Never, 0, 20));
    let mut client = unanswered(17, 25);
    server.go();
    client.go();
    let plateau = client.plateau();
    assert_eq!(
        (plateau.counters.established, failures(&plateau).as_str()),
        (21, r#"{"connect ETIMEDOUT":4}"#)
    );
    assert_eq!(sockets(17, ESTABLISHED), 2 * 21, "both ends of each");
    assert_eq!(server.tell().counters.attempted, 0);
    assert_eq!(sockets(17, LISTEN), 1, "it listens until release");
    client.release();
    server.release();
    assert_eq!([ESTABLISHED, TIME_WAIT, LISTEN].map(|state| sockets(17, state)), [0, 0, 0]);
}

#[test]
fn after_so_many_are_accepted_the_rest_stays_queued() {
    let mut server = Worker::ready(serve_like(18, Accept::Until(5), 5, 20));
    let mut client = unanswered(18, 10);
    server.go();
    client.go();
    assert_eq!(client.plateau().counters.established, 10);
    until(&mut server, |counters| counters.held >= 5);
    std::thread::sleep(Duration::from_millis(100));
    let told = server.tell().counters;
    assert_eq!((told.attempted, told.established, told.held), (5, 5, 5));
    assert_eq!(sockets(18, ESTABLISHED), 2 * 10);
    client.release();
    server.release();
}

#[test]
fn a_server_that_closes_at_once_holds_nothing_and_its_clients_were_connected() {
    let mut server = Worker::ready(serve_like(19, Accept::Close, 100, 4_096));
    let mut client = unanswered(19, 100);
    server.go();
    client.go();
    let plateau = client.plateau();
    assert_eq!((plateau.counters.established, failures(&plateau).as_str()), (100, "{}"));
    until(&mut server, |counters| counters.established == 100);
    assert_eq!(server.tell().counters.held, 0);
    assert_eq!([ESTABLISHED, TIME_WAIT].map(|state| sockets(19, state)), [0, 0]);
    client.release();
    server.release();
}

#[test]
fn a_slow_server_answers_all_at_its_rate() {
    let mut work = serve_like(20, Accept::PerSecond(100), 51, 4_096);
    if let Work::Serve(serve) = &mut work {
        serve.answered = true;
    }
    let mut server = Worker::ready(work);
    let mut client = Worker::ready(connect(vec![lane(20, 0, ports(20_001, 20_051))], client()));
    server.go();
    client.go();
    let plateau = client.plateau();
    assert_eq!((plateau.counters.established, failures(&plateau).as_str()), (51, "{}"));
    // Fifty intervals of 10 ms; the first and the last may each be a millisecond off.
    assert!(plateau.last_micros >= Some(498_000), "{:?}", plateau.last_micros);
    assert_eq!(server.tell().counters.held, 51);
    client.release();
    server.release();
}

#[test]
fn the_kernel_chooses_ports_and_a_pair_over_two_lanes_is_tried_once_more() {
    let server = Worker::ready(serve(server(11), &[200]));
    let lanes = vec![lane(11, 0, BlockPorts::Kernel(50)), lane(11, 50, BlockPorts::Kernel(50))];
    let mut client = Worker::ready(connect(lanes, Connect { beyond: true, ..client() }));
    client.go();
    let plateau = client.plateau();
    assert_eq!((failures(&plateau).as_str(), plateau.counters.established), ("{}", 100));
    let beyond = plateau.beyond.unwrap();
    assert_eq!((beyond.tried, beyond.refused), (1, vec![]), "there were more ports to be had");
    client.release();
    server.release();
    assert_eq!(sockets(11, TIME_WAIT), 0);
}

#[test]
fn flows_over_ipv6_are_answered_too() {
    let endpoint: SocketAddr = "[::1]:7112".parse().unwrap();
    if TcpListener::bind("[::1]:0").is_err() {
        return; // a host without IPv6
    }
    let server = Worker::ready(serve(endpoint, &[60]));
    let block = |first_flow, ports| FlowBlock {
        first_flow,
        source: endpoint.ip(),
        destination: endpoint,
        ports,
        spare: PortSet::empty(),
    };
    let blocks = vec![block(0, ports(20_001, 20_030)), block(30, BlockPorts::Kernel(30))];
    let mut client = Worker::ready(connect(vec![ConnectLane { blocks }], client()));
    client.go();
    let plateau = client.plateau();
    assert_eq!((failures(&plateau).as_str(), plateau.counters.established), ("{}", 60));
    client.release();
    server.release();
}

/// Replaces connections of two lanes until 300 are, and returns both ends' last words and how many ports
/// are in TIME_WAIT.
fn churn(test: u8, close: Close, spare: PortSet) -> (Plateau, Plateau, usize) {
    let mut work = serve(server(test), &[50, 50]);
    if let Work::Serve(serve) = &mut work {
        serve.watch = Some(20);
    }
    let mut server_worker = Worker::ready(work);
    let mut lanes = vec![lane(test, 0, ports(20_001, 20_050)), lane(test, 50, ports(20_051, 20_100))];
    let half = spare.len() / 2;
    lanes[0].blocks[0].spare = spare.slice(0, half);
    lanes[1].blocks[0].spare = spare.slice(half, half);
    let churn = Some(Churn { rate: 1_000.0, close, window: 4 });
    let mut client = Worker::ready(connect(lanes, Connect { churn, ..client() }));
    client.go();
    assert_eq!(client.plateau().counters.held, 100);
    client.say(&WorkerOrder::Move);
    until(&mut client, |counters| counters.churned >= 300);
    client.say(&WorkerOrder::Rest);
    assert_eq!(client.hear(), WorkerReport::Resting);
    let told = client.tell();
    until(&mut server_worker, |counters| counters.closed == told.counters.closed);
    // Both ends of each, as before. A table that is read while other tests churn may name one twice.
    let began = Instant::now();
    while sockets(test, ESTABLISHED) != 200 {
        assert!(began.elapsed() < Duration::from_secs(20), "{} are held", sockets(test, ESTABLISHED));
    }
    let (served, waiting) = (server_worker.tell(), sockets(test, TIME_WAIT));
    client.release();
    server_worker.release();
    assert_eq!([ESTABLISHED, LISTEN].map(|state| sockets(test, state)), [0, 0]);
    (told, served, waiting)
}

#[test]
fn connections_are_replaced_with_a_reset_and_both_ends_hold_as_many_as_before() {
    let (told, served, waiting) = churn(23, Close::Rst, PortSet::range(20_101, 20_110));
    assert_eq!(failures(&told), "{}");
    for end in [&told.counters, &served.counters] {
        assert_eq!((end.standing(), end.held), (100, 100), "{end:?}");
    }
    assert_eq!((told.counters.closed, waiting), (told.counters.churned, 0));
}

#[test]
fn connections_that_are_replaced_with_fin_leave_their_ports_in_time_wait() {
    let (told, served, waiting) = churn(24, Close::Fin, PortSet::range(20_101, 24_100));
    assert_eq!(failures(&told), "{}");
    assert_eq!((told.counters.standing(), served.counters.standing()), (100, 100));
    assert!(waiting as u64 >= told.counters.closed.min(300), "{waiting} of {}", told.counters.closed);
}

#[test]
fn held_connections_have_their_rounds_and_each_is_timed() {
    let mut work = serve(server(26), &[25, 25]);
    if let Work::Serve(serve) = &mut work {
        serve.watch = Some(1);
    }
    let mut server_worker = Worker::ready(work);
    let lanes = vec![lane(26, 0, ports(20_001, 20_025)), lane(26, 25, ports(20_026, 20_050))];
    let activity = Some("4096B every 100ms".parse().unwrap());
    let mut client = Worker::ready(connect(lanes, Connect { activity, ..client() }));
    client.go();
    client.plateau();
    assert_eq!(client.tell().round_trips, None);
    client.say(&WorkerOrder::Move);
    until(&mut client, |counters| counters.answered_rounds >= 150);
    client.say(&WorkerOrder::Rest);
    assert_eq!(client.hear(), WorkerReport::Resting);
    let told = client.tell();
    assert_eq!((failures(&told).as_str(), told.counters.held), ("{}", 50));
    assert_eq!(told.counters.rounds, told.counters.answered_rounds);
    assert_eq!(told.round_trips.map(|times| times.count()), Some(told.counters.rounds));
    let served = server_worker.tell().counters;
    assert_eq!((served.held, served.closed, served.failures.total()), (50, 0, 0));
    client.release();
    server_worker.release();
}

#[test]
fn where_nothing_moves_rest_is_answered_at_once() {
    let mut server_worker = Worker::ready(serve(server(25), &[10]));
    let mut client = Worker::ready(connect(vec![lane(25, 0, ports(20_001, 20_010))], client()));
    client.go();
    client.plateau();
    for worker in [&mut client, &mut server_worker] {
        worker.say(&WorkerOrder::Move);
        worker.say(&WorkerOrder::Rest);
        assert_eq!(worker.hear(), WorkerReport::Resting);
    }
    client.release();
    server_worker.release();
}

#[test]
fn samples_are_numbered_from_go_on() {
    let server = Worker::ready(serve(server(12), &[10]));
    let mut client = Worker::ready(connect(vec![lane(12, 0, ports(20_001, 20_010))], client()));
    client.go();
    client.plateau();
    std::thread::sleep(Duration::from_millis(1_200));
    client.tell();
    let numbers: Vec<u64> = client.samples.iter().map(|sample| sample.sequence).collect();
    assert_eq!(numbers[..2], [0, 1]);
    assert_eq!(client.samples[1].counters.held, 10);
    assert!(client.samples[1].elapsed_micros >= 1_000_000);
    client.release();
    server.release();
}

#[test]
fn a_halt_before_go_is_a_plateau_with_nothing() {
    let mut client = Worker::ready(connect(vec![lane(13, 0, ports(20_001, 20_010))], client()));
    client.say(&WorkerOrder::Halt);
    let plateau = client.plateau();
    assert_eq!((plateau.counters.attempted, plateau.first_micros), (0, None));
    client.go();
    assert_eq!(client.release().counters.attempted, 0);
}

#[test]
fn a_client_without_flows_is_at_its_plateau_when_it_goes() {
    let mut client = Worker::ready(connect(vec![], Connect { beyond: true, ..client() }));
    client.go();
    assert_eq!(client.plateau().beyond.map(|beyond| beyond.tried), Some(0));
    client.release();
}

#[test]
fn release_needs_neither_go_nor_prepare() {
    assert_eq!(Worker::start().release().counters.attempted, 0);
    let server = Worker::ready(serve(server(14), &[10]));
    assert_eq!(server.release().first_micros, None);
    assert_eq!(sockets(14, LISTEN), 0);
}

#[test]
fn orders_that_make_no_sense_are_refused_with_a_remedy() {
    let refused = |line: &str| {
        let mut worker = Worker::start();
        worker.say_text(line);
        worker.failed()
    };
    assert!(refused("{\"go\":{\"at_boottime_nanos\":1}}").contains("send 'prepare' first"));
    assert!(refused("\"halt\"").contains("send 'prepare' first"));
    assert!(refused("\"stop\"").contains("unknown variant `stop`"));
    assert!(refused("\u{0}").contains("send one JSON order on each line"));

    let mut twice = Worker::ready(serve(server(15), &[1]));
    twice.say(&WorkerOrder::Prepare { token: 1, files: None, work: serve(server(15), &[1]) });
    assert!(twice.failed().contains("start another one"));
    assert_eq!(sockets(15, LISTEN), 0);

    let mut worker = Worker::start();
    let work = connect(vec![], Connect { window: 0, ..client() });
    worker.say(&WorkerOrder::Prepare { token: 1, files: None, work });
    assert!(worker.failed().contains("window is 0: choose one from 1"));
}

#[test]
fn an_endpoint_that_is_taken_or_not_ours_fails_the_preparation() {
    let prepare = |endpoint| {
        let mut worker = Worker::start();
        worker.say(&WorkerOrder::Prepare { token: 1, files: None, work: serve(endpoint, &[1]) });
        worker.failed()
    };
    let _foreign = TcpListener::bind(server(16)).unwrap();
    let why = prepare(server(16));
    assert!(why.contains("127.77.16.1:7000") && why.contains("EADDRINUSE"), "{why}");
    let why = prepare("192.0.2.1:7000".parse().unwrap());
    assert!(why.contains("EADDRNOTAVAIL") && why.contains("add it to an interface"), "{why}");
}

/// A moment from now on the clock of leases.
fn moment(after: Duration) -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).unwrap();
    u64::try_from(Duration::from(now).saturating_add(after).as_nanos()).unwrap()
}

/// Two workers under leases; the client connects slowly.
fn leased(test: u8, lease: Duration) -> (Worker, Worker) {
    let mut server = Worker::start();
    let mut client = Worker::start();
    let slow = Connect { rate: Some(50.0), ..self::client() };
    let works =
        [serve(self::server(test), &[1_000]), connect(vec![lane(test, 0, ports(20_001, 21_000))], slow)];
    for (worker, work) in [&mut server, &mut client].into_iter().zip(works) {
        worker.say(&WorkerOrder::Lease { until_boottime_nanos: moment(lease) });
        worker.say(&WorkerOrder::Prepare { token: 77, files: None, work });
        assert_eq!(worker.hear(), WorkerReport::Ready);
        worker.go();
    }
    (server, client)
}

#[test]
fn workers_whose_lease_ends_close_everything_by_themselves_and_say_why() {
    let (server, client) = leased(60, Duration::from_millis(700));
    let begun = Instant::now();
    assert!(client.failed().contains("the lease ended"));
    assert!(server.failed().contains("the lease ended"));
    assert!(begun.elapsed() < Duration::from_secs(30), "nobody told them to");
    assert_eq!([ESTABLISHED, TIME_WAIT, LISTEN].map(|state| sockets(60, state)), [0, 0, 0]);
}

#[test]
fn a_lease_that_is_renewed_goes_on_and_one_that_has_ended_allows_no_connect() {
    let (mut server, mut client) = leased(61, Duration::from_secs(60));
    // It ends now, and is renewed a moment after: nothing is closed, nothing is begun in between.
    client.say(&WorkerOrder::Lease { until_boottime_nanos: 1 });
    let attempted = client.tell().counters.attempted;
    std::thread::sleep(Duration::from_millis(150));
    assert_eq!(client.tell().counters.attempted, attempted);
    client.say(&WorkerOrder::Lease { until_boottime_nanos: moment(Duration::from_secs(60)) });
    while client.tell().counters.attempted <= attempted + 2 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(server.tell().counters.held > 0);
    client.release();
    server.release();
}

#[test]
fn a_worker_that_is_given_no_work_ends_with_its_lease_too() {
    let mut worker = Worker::start();
    worker.say(&WorkerOrder::Lease { until_boottime_nanos: 1 });
    assert!(worker.failed().contains("the lease ended"));
}
