//! A lane: a thread with a descriptor table of its own, so that one process can hold more
//! connections than one table may. A lane owns its flows; no descriptor ever leaves it.

use crate::WorkerError;
use crate::lease::Term;
use crate::net::linux::{LaneFd, LinuxNet};
use crate::net::{Nanos, Net};
use crate::tally::Tally;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::thread::{Builder, JoinHandle};
use tuplelab_domain::sample::Beyond;

/// A lane calls few functions and keeps its flows on the heap; and there may be a hundred lanes.
const STACK_BYTES: usize = 128 * 1024;
/// Room is reserved for no more than this: fs.nr_open, the most that a table may hold, is 2^20 unless
/// it was raised. An order that asks for more costs no memory before it is refused by the kernel.
pub(crate) const LARGEST_TABLE: usize = 1 << 20;
/// Naps and paced connects end within this of their time (the kernel's default is 50 us).
const TIMER_SLACK_NANOS: u64 = 1_000;

/// What the engine has ordered so far; every lane reads it, only the engine writes it.
#[derive(Debug)]
pub(crate) struct Signals {
    go: AtomicU64,
    moves: AtomicU64,
    rests: AtomicBool,
    halted: AtomicBool,
    released: AtomicBool,
    term: Term,
}

/// No boot lasts five centuries.
const NO_GO: Nanos = Nanos::MAX;

impl Signals {
    /// Nothing is ordered yet, under a lease.
    pub fn new(term: Term) -> Self {
        Self {
            term,
            go: AtomicU64::new(NO_GO),
            moves: AtomicU64::new(NO_GO),
            rests: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    /// When to begin, once that is known.
    pub fn go(&self) -> Option<Nanos> {
        Some(self.go.load(Ordering::Acquire)).filter(|at| *at != NO_GO)
    }

    /// Begin then.
    pub fn set_go(&self, at: Nanos) {
        self.go.store(at, Ordering::Release);
    }

    /// Since when held connections move, once they do; still after they were told to rest.
    pub fn moves(&self) -> Option<Nanos> {
        Some(self.moves.load(Ordering::Acquire)).filter(|at| *at != NO_GO)
    }

    /// They move from this moment on.
    pub fn set_moves(&self, at: Nanos) {
        self.moves.store(at, Ordering::Release);
    }

    /// They rest.
    pub fn rest(&self) {
        self.rests.store(true, Ordering::Release);
    }

    /// Whether they are to rest.
    pub fn is_resting(&self) -> bool {
        self.rests.load(Ordering::Acquire) || self.is_released()
    }

    /// Open nothing more.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::Release);
    }

    /// Close everything.
    pub fn release(&self) {
        self.released.store(true, Ordering::Release);
    }

    /// Whether the lease allows to begin, or answer, something now.
    pub fn may_act(&self, now: Nanos) -> bool {
        self.term.stands(now)
    }

    /// Whether nothing more is to be opened.
    pub fn is_halted(&self) -> bool {
        self.halted.load(Ordering::Acquire) || self.is_released()
    }

    /// Whether everything is to be closed.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}

/// What a lane tells the engine. A lane sends few of these in its life, however many its flows.
#[derive(Debug)]
pub(crate) enum Notice {
    /// A connecting lane opens nothing more, and every flow is established or failed.
    Done {
        /// For each of its blocks, whether every flow of it was established.
        complete: Vec<bool>,
    },
    /// What the kernel said to one connect more.
    Probed(Beyond),
    /// Nothing is under way any more on a connecting lane's held connections.
    Rested,
    /// An accepting lane has passed this listener on.
    Passed(usize),
    /// The lane cannot go on.
    Broken(WorkerError),
}

/// Where a lane works: what it can reach of the kernel, of the orders, and of the engine.
pub(crate) struct Station<'a, N: Net> {
    pub index: usize,
    pub net: &'a N,
    pub signals: &'a Signals,
    pub tally: &'a Tally,
    pub tell: &'a dyn Fn(Notice),
}

/// The engine's hold on a running lane.
pub(crate) struct Lane {
    pub tally: Arc<Tally>,
    call: EventFd,
    thread: JoinHandle<()>,
}

/// What a lane does between its start and its end.
pub(crate) trait Task: Send + 'static {
    fn run(self, station: &Station<'_, LinuxNet>, listeners: Vec<LaneFd>);
}

impl Lane {
    /// Starts a lane that inherits these listeners; it answers on `up` once its table is its own.
    pub fn start(
        index: usize,
        listeners: Vec<RawFd>,
        signals: Arc<Signals>,
        task: impl Task,
        tell: impl Fn(Notice) + Send + 'static,
        up: Sender<Result<(), WorkerError>>,
    ) -> Result<Self, WorkerError> {
        let call = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
            .map_err(|errno| WorkerError::Lane { lane: index, what: "its eventfd", errno })?;
        let call_fd = call.as_fd().as_raw_fd();
        let tally = Arc::new(Tally::default());
        let own_tally = Arc::clone(&tally);
        let body = move || {
            // Not having it makes naps a little longer, nothing else.
            let _ = nix::sys::prctl::set_timerslack(TIMER_SLACK_NANOS);
            match LinuxNet::own_table(call_fd, &listeners) {
                Ok((net, listeners)) => {
                    let _ = up.send(Ok(()));
                    // Let the engine see that all have answered, whatever this lane does next.
                    drop(up);
                    let (signals, tally) = (&*signals, &*own_tally);
                    let station = Station { index, net: &net, signals, tally, tell: &tell };
                    let end = catch_unwind(AssertUnwindSafe(|| task.run(&station, listeners)));
                    own_tally.closed();
                    if end.is_err() {
                        tell(Notice::Broken(WorkerError::LanePanicked { lane: index }));
                    }
                }
                Err(errno) => {
                    let what = "a descriptor table of its own";
                    let _ = up.send(Err(WorkerError::Lane { lane: index, what, errno }));
                }
            }
        };
        let thread =
            Builder::new().name(format!("lane-{index}")).stack_size(STACK_BYTES).spawn(body).map_err(
                |e| {
                    let errno = nix::errno::Errno::from_raw(e.raw_os_error().unwrap_or(0));
                    WorkerError::Lane { lane: index, what: "its thread", errno }
                },
            )?;
        Ok(Self { tally, call, thread })
    }

    /// Wakes it, to look at its orders.
    pub fn call(&self) {
        // It fails only when the counter is full, and then the lane is being called anyway.
        let _ = self.call.write(1);
    }

    /// Waits until it has closed everything.
    pub fn join(self) {
        // A panic was reported by the lane itself.
        let _ = self.thread.join();
    }
}
