//! The bare client: as many lanes as ordered open at a time, as fast as it goes or when each connect is due; all lanes
//! replace at a time.

use super::{END, LEN, Relaxed, Stages, Tally, add, figures, now, own_table, pss, reset, say};
use super::{OpenAll, sockaddr, socket, token};
use crate::common::lab::PORTS;
use nix::libc;
use std::collections::VecDeque;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tuplelab_domain::sample::{Counters, Sample};
use tuplelab_domain::schedule::{BlockPorts, Connect, FlowBlock, WorkerOrder, WorkerReport};

/// As the engine: a connect, or a replacement, that begins later than this and than an interval is late.
const PUNCTUAL_NANOS: u64 = 1_000_000;
/// Flows that replace others are numbered from here on.
const REPLACING: u64 = 1 << 63;

fn sleep_until(at: u64) {
    std::thread::sleep(Duration::from_nanos(at.saturating_sub(now())));
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
    let to = sockaddr(block.destination);
    let token = token(flow);
    let fd = socket(block, port, libc::SOCK_NONBLOCK);
    // SAFETY: plain calls on a socket of our own, addresses and buffers of their true length.
    unsafe {
        libc::connect(fd, (&raw const to).cast(), LEN);
        while libc::send(fd, token.as_ptr().cast(), 16, libc::MSG_NOSIGNAL) != 16 {
            let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            libc::poll(&raw mut poll, 1, 1000);
        }
    }
    fd
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

pub fn connect(connect: &Connect, open_all: OpenAll, mut orders: impl Iterator<Item = WorkerOrder>) {
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
                // The first turn is the word to go; then as many open at a time as the order says.
                stages.wait((index + 2).saturating_sub(connect.connectors as usize).max(1));
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

pub fn open_all(connect: &Connect, blocks: &[FlowBlock], go: u64, tally: &Tally, held: &mut VecDeque<i32>) {
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
