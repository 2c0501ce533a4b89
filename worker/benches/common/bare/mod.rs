//! The bare loop: the engine's orders and reports, and nothing but system calls between them.
//!
//! It knows one listener, explicit ports, IPv4, RST. With a rate it sleeps until each connect is due;
//! with churn it replaces the oldest connection whenever one is due, and never leaves one out.

pub mod client;
pub mod server;

use super::TOKEN;
use nix::libc;
use nix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::net::{SocketAddr, SocketAddrV4};
pub use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use tuplelab_domain::sample::{Counters, Plateau};
use tuplelab_domain::schedule::{Connect, FlowBlock, Work, WorkerOrder, WorkerReport};

pub const LEN: u32 = size_of::<libc::sockaddr_in>() as u32;

/// Opens all flows of a lane and holds them, the word to go being at that time.
pub type OpenAll = fn(&Connect, &[FlowBlock], u64, &Tally, &mut VecDeque<i32>);
/// Accepts and answers a lane's quota, then calls the last with what it holds, and closes it.
pub type AcceptAll = fn(i32, usize, &Stages, &Tally, &dyn Fn(&[i32]));

/// How lanes do their work.
pub struct Lanes {
    pub open_all: OpenAll,
    pub accept_all: AcceptAll,
}

/// With nothing but plain calls.
pub const PLAIN: Lanes = Lanes { open_all: client::open_all, accept_all: server::accept_all };

pub fn main(lanes: &Lanes) {
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
        Work::Serve(serve) => server::serve(&serve, lanes.accept_all, lines),
        Work::Connect(connect) => client::connect(&connect, lanes.open_all, lines),
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

pub fn sockaddr(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let address: SocketAddrV4 = address;
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

/// What a flow sends, and hears back.
pub fn token(flow: u64) -> [u8; 16] {
    let mut token = [0u8; 16];
    token[..8].copy_from_slice(&TOKEN.to_be_bytes());
    token[8..].copy_from_slice(&flow.to_be_bytes());
    token
}

/// A socket bound to that port of the block's source.
pub fn socket(block: &FlowBlock, port: u16, flags: i32) -> i32 {
    let from = sockaddr(SocketAddr::new(block.source, port));
    let one = 1i32;
    // SAFETY: plain calls on a socket of our own, an address and an option of their true length.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | flags, 0);
        libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, (&raw const one).cast(), 4);
        assert_eq!(libc::bind(fd, (&raw const from).cast(), LEN), 0);
        fd
    }
}

/// A stage that all threads of a process go through; each waits for the one that it is to act in.
pub struct Stages {
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
    pub fn is_over(&self) -> bool {
        *self.stage.lock().unwrap() == END
    }
}

#[derive(Default)]
pub struct Tally {
    pub attempted: AtomicU64,
    pub established: AtomicU64,
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

pub fn add(counter: &AtomicU64) {
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
