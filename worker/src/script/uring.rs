//! One io_uring with a table of direct descriptors: sockets that have a slot in the ring's table and no
//! number in the process's (`io_uring_register_files(3)`, `io_uring_prep_socket_direct(3)`; Linux 5.19).
#![allow(unsafe_code, reason = "the kernel reads an address through a pointer that an entry carries")]

use super::refusal::{Refusal, Tally};
use io_uring::types::{DestinationSlot, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use nix::errno::Errno;
use socket2::{Domain, SockAddr};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use std::{fmt, io};

/// So many calls are handed over at once.
const BATCH: u32 = 256;

/// How long the kernel may take to make sockets, or to take calls over: it does both at once, unless
/// it lacks memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// In an entry's `user_data`, above the slot: it is a connect.
const CONNECT: u64 = 1 << 32;

/// A ring and its sockets, which close when this is dropped.
pub(super) struct Ring {
    // Before `to`, so that it is gone before what its entries point to.
    uring: IoUring,
    to: Box<SockAddr>,
    domain: Domain,
    /// Slots with a socket that no connect was begun on.
    idle: Vec<u32>,
    /// Sockets, and connects, whose end is not known.
    making: u32,
    under_way: u32,
    connected: u32,
}

impl Ring {
    /// A ring with an empty table. The kernel refuses one with more slots than the soft RLIMIT_NOFILE
    /// (EMFILE, `io_sqe_files_register` in `io_uring/rsrc.c`): that limit reaches this far and no further.
    pub(super) fn open(slots: u32, to: SocketAddr) -> Result<Self, Refusal> {
        let uring = IoUring::new(BATCH).map_err(Refusal::of("io_uring_setup"))?;
        uring.submitter().register_files_sparse(slots).map_err(Refusal::of("io_uring_register"))?;
        let domain = Domain::for_address(to);
        Ok(Self {
            uring,
            to: Box::new(to.into()),
            domain,
            idle: Vec::new(),
            making: 0,
            under_way: 0,
            connected: 0,
        })
    }

    pub(super) fn connected(&self) -> u32 {
        self.connected
    }

    pub(super) fn under_way(&self) -> u32 {
        self.under_way
    }

    /// Makes sockets in the first slots and begins to connect them; says whether more may succeed: a
    /// batch of which all were refused is the last.
    pub(super) fn connect(&mut self, count: u32, tally: &mut Tally) -> Result<bool, Refusal> {
        for first in (0..count).step_by(BATCH as usize) {
            let slots: Vec<u32> = (first..count.min(first.saturating_add(BATCH))).collect();
            let before = self.connected;
            let sockets: Vec<_> = slots.iter().filter_map(|slot| self.socket(*slot)).collect();
            self.making += u32::try_from(sockets.len()).unwrap_or(u32::MAX);
            self.begin(&sockets, tally)?;
            let until = Instant::now() + PATIENCE;
            while self.making > 0 && Instant::now() < until {
                self.wait(PATIENCE, tally)?;
            }
            let idle = std::mem::take(&mut self.idle);
            let connects: Vec<_> = idle.into_iter().map(|slot| self.connection(slot)).collect();
            let under_way = self.under_way;
            self.under_way += u32::try_from(connects.len()).unwrap_or(u32::MAX);
            self.begin(&connects, tally)?;
            if self.connected == before && self.under_way <= under_way {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until all are decided or it is `until`.
    pub(super) fn settle(&mut self, until: Instant, tally: &mut Tally) -> Result<(), Refusal> {
        while self.under_way > 0 {
            let left = until.saturating_duration_since(Instant::now());
            self.wait(left, tally)?;
            if left.is_zero() {
                break;
            }
        }
        Ok(())
    }

    fn socket(&self, slot: u32) -> Option<squeue::Entry> {
        // No flags: a direct descriptor has none to inherit, and io_uring itself does not block.
        let to = DestinationSlot::try_from_slot_target(slot).ok()?;
        let socket = opcode::Socket::new(self.domain.into(), libc::SOCK_STREAM, 0).file_index(Some(to));
        Some(socket.build().user_data(slot.into()))
    }

    fn connection(&self, slot: u32) -> squeue::Entry {
        let to = opcode::Connect::new(Fixed(slot), self.to.as_ptr().cast(), self.to.len());
        to.build().user_data(CONNECT | u64::from(slot))
    }

    /// Hands the calls over, at most a batch of them, and takes what is answered at once.
    fn begin(&mut self, calls: &[squeue::Entry], tally: &mut Tally) -> Result<(), Refusal> {
        // SAFETY: the only pointers in entries of this module are those that `connection` makes, to the
        // address in `self.to`: it is boxed, never changed, and dropped after the ring.
        let pushed = unsafe { self.uring.submission().push_multiple(calls) };
        // Every batch fits, for the queue is emptied below.
        pushed.map_err(|_| Refusal { call: "io_uring_enter", errno: Errno::EBUSY })?;
        let until = Instant::now() + PATIENCE;
        while !self.uring.submission().is_empty() {
            self.wait(Duration::ZERO, tally)?;
            if Instant::now() > until {
                return Err(Refusal { call: "io_uring_enter", errno: Errno::EAGAIN });
            }
        }
        Ok(())
    }

    /// Hands over what is queued, waits that long for an answer, and takes all that there are.
    fn wait(&mut self, time: Duration, tally: &mut Tally) -> Result<(), Refusal> {
        let time = Timespec::from(time);
        match self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&time)) {
            Err(error) if !is_passing(&error) => return Err(Refusal::of("io_uring_enter")(error)),
            Ok(_) | Err(_) => {}
        }
        let answers: Vec<(u64, i32)> =
            self.uring.completion().map(|answer| (answer.user_data(), answer.result())).collect();
        for (call, result) in answers {
            let slot = u32::try_from(call & !CONNECT).unwrap_or(u32::MAX);
            let is_connect = call & CONNECT != 0;
            let count = if is_connect { &mut self.under_way } else { &mut self.making };
            *count = count.saturating_sub(1);
            if result >= 0 {
                if is_connect {
                    self.connected += 1
                } else {
                    self.idle.push(slot)
                }
                continue;
            }
            let call = if is_connect { "connect" } else { "socket" };
            tally.add(Refusal { call, errno: Errno::from_raw(-result) });
            if is_connect {
                // What was refused is closed.
                let _ = self.uring.submitter().register_files_update(slot, &[-1]);
            }
        }
        Ok(())
    }
}

/// The time was up; or the queue of answers was full, and is emptied next; or a signal came.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EBUSY | libc::EAGAIN | libc::EINTR))
}

impl Drop for Ring {
    /// The ring itself goes in its own time (`io_ring_exit_work` in `io_uring/io_uring.c`); its sockets are
    /// to be closed when this returns, as those of descriptors are.
    fn drop(&mut self) {
        let _ = self.uring.submitter().unregister_files();
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} connected, {} under way)", self.connected, self.under_way)
    }
}
