//! The bare loop: the engine's orders and reports, and nothing but system calls between them.
//!
//! It knows one listener, explicit ports, IPv4, RST. With a rate it sleeps until each connect is due;
//! with churn it replaces the oldest connection whenever one is due, and never leaves one out.

use super::TOKEN;
use super::lab::PORTS;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tuplelab_domain::sample::{Counters, Plateau, Sample};
use tuplelab_domain::schedule::{BlockPorts, Connect, FlowBlock, Serve, Work, WorkerOrder, WorkerReport};

const LEN: u32 = size_of::<libc::sockaddr_in>() as u32;
/// As the engine: a connect, or a replacement, that begins later than this and than an interval is late.
const PUNCTUAL_NANOS: u64 = 1_000_000;
/// Flows that replace others are numbered from here on.
const REPLACING: u64 = 1 << 63;

pub fn main() {
    // SAFETY: plain calls. As the engine, it uses the hard limit and steps back behind others.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        libc::nice(5);
    }
    let mut lines =
        std::io::stdin().lines().map(|line| serde_json::from_str::<WorkerOrder>(&line.unwrap()).unwrap());
    let Some(WorkerOrder::Prepare { work, .. }) = lines.next() else { panic!("prepare first") };
    match work {
        Work::Serve(serve) => server(&serve, lines),
        Work::Connect(connect) => client(&connect, lines),
        Work::Script(_) => panic!("the bare loop bears load"),
    }
}

pub fn say(report: &WorkerReport) {
    println!("{}", serde_json::to_string(report).unwrap());
}

/// CLOCK_BOOTTIME in nanoseconds.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

fn sleep_until(at: u64) {
    std::thread::sleep(Duration::from_nanos(at.saturating_sub(now())));
}

fn cpu_micros() -> u64 {
    // SAFETY: getrusage fills a struct of our own.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}

/// First and last are moments of CLOCK_BOOTTIME in microseconds.
pub fn figures(counters: Counters, first: u64, last: u64, ready: u64) -> Plateau {
    Plateau {
        first_micros: Some(first),
        last_micros: Some(last),
        cpu_micros: cpu_micros(),
        pss_ready_bytes: Some(ready),
        pss_bytes: Some(pss()),
        counters,
        beyond: None,
        go_nanos: None,
        connect_times: None,
        round_trips: None,
    }
}

pub fn pss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn sockaddr(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let address: SocketAddrV4 = address;
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// A stage that all threads of a process go through; each waits for the one that it is to act in.
struct Stages {
    stage: Mutex<usize>,
    changed: Condvar,
    resting: AtomicBool,
}

const END: usize = usize::MAX;

impl Stages {
    const fn new() -> Self {
        Self { stage: Mutex::new(0), changed: Condvar::new(), resting: AtomicBool::new(false) }
    }
    fn wait(&self, mine: usize) {
        drop(self.changed.wait_while(self.stage.lock().unwrap(), |stage| *stage < mine).unwrap());
    }
    /// Whether it has come by then.
    fn wait_until(&self, mine: usize, until: u64) -> bool {
        let time = Duration::from_nanos(until.saturating_sub(now()));
        let guard = self.stage.lock().unwrap();
        !self.changed.wait_timeout_while(guard, time, |stage| *stage < mine).unwrap().1.timed_out()
    }
    fn pass(&self) {
        let mut stage = self.stage.lock().unwrap();
        *stage = stage.saturating_add(1);
        drop(stage);
        self.changed.notify_all();
    }
    fn end(&self) {
        self.resting.store(true, Relaxed);
        *self.stage.lock().unwrap() = END;
        self.changed.notify_all();
    }
    fn is_over(&self) -> bool {
        *self.stage.lock().unwrap() == END
    }
}

#[derive(Default)]
struct Tally {
    attempted: AtomicU64,
    established: AtomicU64,
    late: AtomicU64,
    closed: AtomicU64,
    churned: AtomicU64,
}

impl Tally {
    fn counters(&self) -> Counters {
        Counters {
            attempted: self.attempted.load(Relaxed),
            established: self.established.load(Relaxed),
            late: self.late.load(Relaxed),
            closed: self.closed.load(Relaxed),
            churned: self.churned.load(Relaxed),
            ..Counters::default()
        }
    }
}

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

fn linger(fd: i32) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    let (at, length) = ((&raw const linger).cast(), size_of::<libc::linger>() as u32);
    // SAFETY: an option of our own socket.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, at, length) };
}

fn reset(fd: i32) {
    linger(fd);
    // SAFETY: a descriptor of this thread's own table, used no more.
    unsafe { libc::close(fd) };
}

/// A table of its own, and a timer that is as exact as the engine's.
fn own_table() {
    // SAFETY: plain calls about the calling thread.
    unsafe {
        libc::unshare(libc::CLONE_FILES);
        libc::prctl(libc::PR_SET_TIMERSLACK, 1_000, 0, 0, 0);
    }
}

/// Accepts into `pending` what there is room for; whether there was any.
fn accept(listener: i32, pending: &mut Vec<i32>, room: usize) -> bool {
    let before = pending.len();
    while pending.len() < room {
        let none = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: asks for no address.
        let fd = unsafe { libc::accept4(listener, none.cast(), none.cast(), libc::SOCK_NONBLOCK) };
        if fd < 0 {
            break;
        }
        pending.push(fd);
    }
    pending.len() > before
}

/// Sends back the tokens that have come; those answered are handed over.
fn greet(pending: &mut Vec<i32>, mut answered: impl FnMut(i32)) {
    let mut token = [0u8; 16];
    pending.retain(|fd| {
        // SAFETY: a buffer of our own, of that length.
        unsafe {
            if libc::recv(*fd, token.as_mut_ptr().cast(), 16, 0) != 16 {
                return true;
            }
            libc::send(*fd, token.as_ptr().cast(), 16, libc::MSG_NOSIGNAL);
        }
        answered(*fd);
        false
    });
}

fn server(serve: &Serve, mut orders: impl Iterator<Item = WorkerOrder>) {
    let (stages, tally) = (&Stages::new(), &Tally::default());
    // SAFETY: plain calls on a socket of our own.
    let listener = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        linger(fd);
        let at = sockaddr(serve.listeners[0].endpoint);
        assert_eq!(libc::bind(fd, (&raw const at).cast(), LEN), 0);
        assert_eq!(libc::listen(fd, 4096), 0);
        fd
    };
    let quotas: Vec<u32> = serve.lanes.iter().map(|lane| lane.turns[0].quota).collect();
    let total: u64 = quotas.iter().map(|quota| u64::from(*quota)).sum();
    std::thread::scope(|scope| {
        for (index, quota) in quotas.into_iter().enumerate() {
            let quota = quota as usize;
            scope.spawn(move || {
                own_table();
                let mut held: Vec<i32> = Vec::with_capacity(quota);
                let mut pending: Vec<i32> = Vec::new();
                stages.wait(index);
                while held.len() < quota && !stages.is_over() {
                    let some = accept(listener, &mut pending, quota - held.len());
                    let before = held.len();
                    greet(&mut pending, |fd| held.push(fd));
                    tally.established.fetch_add((held.len() - before) as u64, Relaxed);
                    if !some && held.len() == before {
                        std::thread::sleep(Duration::from_micros(500));
                    }
                }
                stages.pass();
                match serve.watch {
                    Some(spare) => watch(listener, &held, quota + spare as usize, stages, tally),
                    None => stages.wait(END),
                }
                for fd in held {
                    // SAFETY: closed once, or not at all where it was closed under watch.
                    unsafe { libc::close(fd) };
                }
            });
        }
        let ready = pss();
        say(&WorkerReport::Ready);
        for order in orders.by_ref() {
            match order {
                WorkerOrder::Tell => {
                    while tally.established.load(Relaxed) < total {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    say(&WorkerReport::Told(figures(tally.counters(), 0, 0, ready)));
                }
                WorkerOrder::Release => break,
                _ => {}
            }
        }
        stages.end();
    });
    say(&WorkerReport::Released(figures(tally.counters(), 0, 0, 0)));
}

/// Lets go of what its client has closed, and accepts what comes in its place, until the end.
fn watch(listener: i32, held: &[i32], room: usize, stages: &Stages, tally: &Tally) {
    // SAFETY: descriptors of this thread's own table, events in an array of our own.
    unsafe {
        let epoll = libc::epoll_create1(0);
        let keep = |fd: i32| {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
            libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event);
        };
        held.iter().for_each(|fd| keep(*fd));
        let mut count = held.len();
        let mut pending: Vec<i32> = Vec::new();
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        let mut byte = [0u8; 1];
        while !stages.is_over() {
            let found = libc::epoll_wait(epoll, events.as_mut_ptr(), 256, 0).max(0) as usize;
            for event in &events[..found] {
                let fd = event.u64 as i32;
                if libc::recv(fd, byte.as_mut_ptr().cast(), 1, 0) <= 0 {
                    libc::close(fd);
                    count -= 1;
                    add(&tally.closed);
                }
            }
            let some = accept(listener, &mut pending, room.saturating_sub(count));
            let before = count;
            greet(&mut pending, |fd| {
                keep(fd);
                count += 1;
            });
            tally.established.fetch_add((count - before) as u64, Relaxed);
            if found == 0 && !some && count == before {
                libc::usleep(500);
            }
        }
    }
}

/// Evenly spaced moments.
struct Pace {
    since: u64,
    interval: f64,
}

impl Pace {
    fn due(&self, number: u64) -> u64 {
        self.since + (number as f64 * self.interval) as u64
    }
    fn is_late(&self, due: u64, now: u64) -> bool {
        now.saturating_sub(due) > PUNCTUAL_NANOS.max(self.interval as u64)
    }
}

/// A connect begun, and its token sent.
fn open(block: &FlowBlock, port: u16, flow: u64) -> i32 {
    let (from, to) = (sockaddr(SocketAddr::new(block.source, port)), sockaddr(block.destination));
    let mut token = [0u8; 16];
    token[..8].copy_from_slice(&TOKEN.to_be_bytes());
    token[8..].copy_from_slice(&flow.to_be_bytes());
    let one = 1i32;
    // SAFETY: plain calls on a socket of our own, addresses and buffers of their true length.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const one).cast(), 4);
        assert_eq!(libc::bind(fd, (&raw const from).cast(), LEN), 0);
        libc::connect(fd, (&raw const to).cast(), LEN);
        while libc::send(fd, token.as_ptr().cast(), 16, libc::MSG_NOSIGNAL) != 16 {
            let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            libc::poll(&raw mut poll, 1, 1000);
        }
        fd
    }
}

fn is_answered(fd: i32) -> bool {
    let mut echo = [0u8; 16];
    // SAFETY: a buffer of our own.
    unsafe { libc::recv(fd, echo.as_mut_ptr().cast(), 16, 0) == 16 }
}

fn wait_for_answer(fd: i32, millis: i32) {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry of our own.
    unsafe { libc::poll(&raw mut poll, 1, millis) };
}

fn client(connect: &Connect, mut orders: impl Iterator<Item = WorkerOrder>) {
    let (stages, tally, go) = (&Stages::new(), &Tally::default(), &AtomicU64::new(0));
    let moved = &AtomicU64::new(0);
    let total = connect.flows();
    let lanes = connect.lanes.len();
    std::thread::scope(|scope| {
        for (index, lane) in connect.lanes.iter().enumerate() {
            scope.spawn(move || {
                own_table();
                let flows: usize = lane.blocks.iter().map(|block| block.ports.count() as usize).sum();
                let mut held: VecDeque<i32> = VecDeque::with_capacity(flows);
                // The first turn is the word to go.
                stages.wait(index + 1);
                open_all(connect, &lane.blocks, go.load(Relaxed), tally, &mut held);
                stages.pass();
                stages.wait(lanes + 2);
                if connect.churn.is_some() && !stages.is_over() {
                    churn(connect, index, moved.load(Relaxed), stages, tally, &mut held);
                    stages.pass();
                    stages.wait(END);
                }
                held.into_iter().for_each(reset);
            });
        }
        let ready = pss();
        say(&WorkerReport::Ready);
        for order in orders.by_ref() {
            match order {
                WorkerOrder::Go { .. } => {
                    go.store(now(), Relaxed);
                    stages.pass();
                    sample_until(stages, lanes + 1, go.load(Relaxed), tally);
                    let (first, last) = (go.load(Relaxed) / 1_000, now() / 1_000);
                    say(&WorkerReport::Plateau(figures(tally.counters(), first, last, ready)));
                }
                WorkerOrder::Tell => {
                    say(&WorkerReport::Told(figures(tally.counters(), 0, 0, ready)));
                }
                WorkerOrder::Move => {
                    moved.store(now(), Relaxed);
                    stages.pass();
                }
                WorkerOrder::Rest => {
                    stages.resting.store(true, Relaxed);
                    stages.wait(2 * lanes + 2);
                    say(&WorkerReport::Resting);
                }
                WorkerOrder::Release => break,
                _ => {}
            }
        }
        stages.end();
    });
    say(&WorkerReport::Released(figures(Counters { established: total, ..Counters::default() }, 0, 0, 0)));
}

/// Says the counters at each whole second until that stage has come.
fn sample_until(stages: &Stages, stage: usize, go: u64, tally: &Tally) {
    let mut sequence = 0;
    loop {
        if stages.wait_until(stage, go + (sequence + 1) * 1_000_000_000) {
            return;
        }
        sequence += 1;
        say(&WorkerReport::Sample(Sample {
            sequence,
            elapsed_micros: (now() - go) / 1_000,
            cpu_micros: 0,
            counters: tally.counters(),
        }));
    }
}

fn open_all(connect: &Connect, blocks: &[FlowBlock], go: u64, tally: &Tally, held: &mut VecDeque<i32>) {
    let window = connect.window as usize;
    let pace = connect.rate.map(|rate| Pace { since: go, interval: 1e9 / rate });
    let mut open_ones: VecDeque<i32> = VecDeque::with_capacity(window);
    let mut answer = |fd: i32| {
        while !is_answered(fd) {
            wait_for_answer(fd, 1_000);
        }
        held.push_back(fd);
        add(&tally.established);
    };
    for block in blocks {
        let BlockPorts::Explicit(ports) = &block.ports else { panic!("explicit ports") };
        for (flow, port) in (block.first_flow..).zip(ports.iter()) {
            if open_ones.len() == window {
                answer(open_ones.pop_front().unwrap());
            }
            if let Some(pace) = &pace {
                let due = pace.due(flow);
                sleep_until(due);
                if pace.is_late(due, now()) {
                    add(&tally.late);
                }
            }
            add(&tally.attempted);
            open_ones.push_back(open(block, port, flow));
        }
    }
    open_ones.drain(..).for_each(answer);
}

/// Replaces the oldest again and again: closes it with RST, opens one from the port that has been free
/// the longest, and exchanges the token.
fn churn(
    connect: &Connect,
    lane: usize,
    since: u64,
    stages: &Stages,
    tally: &Tally,
    held: &mut VecDeque<i32>,
) {
    let Some(churn) = &connect.churn else { return };
    let blocks = &connect.lanes[lane].blocks;
    let own = held.len() as f64 / connect.flows() as f64;
    let pace = Pace { since, interval: 1e9 / (churn.rate * own) };
    let window = churn.window as usize;
    let explicit = |block: &FlowBlock| match &block.ports {
        BlockPorts::Explicit(ports) => ports.clone(),
        BlockPorts::Kernel(_) => panic!("explicit ports"),
    };
    // What is held, in its order: block and port.
    let mut ends: VecDeque<(usize, u16)> = VecDeque::with_capacity(PORTS as usize);
    for (index, block) in blocks.iter().enumerate() {
        ends.extend(explicit(block).iter().map(|port| (index, port)));
    }
    let mut free: Vec<VecDeque<u16>> = blocks.iter().map(|block| block.spare.iter().collect()).collect();
    let mut open_ones: VecDeque<i32> = VecDeque::with_capacity(window);
    let mut number = 0;
    let keep = |fd: i32, held: &mut VecDeque<i32>| {
        held.push_back(fd);
        add(&tally.established);
        add(&tally.churned);
    };
    while !stages.resting.load(Relaxed) {
        while open_ones.front().is_some_and(|fd| is_answered(*fd)) {
            open_ones.pop_front().into_iter().for_each(|fd| keep(fd, held));
        }
        if open_ones.len() >= window {
            // As the engine with a full window: a nap, not a wake for each answer.
            std::thread::sleep(Duration::from_micros(100));
            continue;
        }
        let (due, now) = (pace.due(number), now());
        if now < due {
            sleep_until(due.min(now + 1_000_000));
            continue;
        }
        if pace.is_late(due, now) {
            add(&tally.late);
        }
        let (Some(oldest), Some((block, port))) = (held.pop_front(), ends.pop_front()) else { break };
        reset(oldest);
        add(&tally.closed);
        free[block].push_back(port);
        let port = free[block].pop_front().unwrap();
        add(&tally.attempted);
        open_ones.push_back(open(&blocks[block], port, REPLACING + number));
        ends.push_back((block, port));
        number += 1;
    }
    for fd in open_ones {
        while !is_answered(fd) {
            wait_for_answer(fd, 1_000);
        }
        keep(fd, held);
    }
}
