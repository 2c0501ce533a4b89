//! The bare loop with its connects and accepts through io_uring: chains of linked calls, handed over in
//! batches, one answer for each chain.
//!
//! A client's chain is connect, send, receive (socket and bind are plain calls: the bind decides the
//! port); a server's is accept, receive, send, on a direct descriptor, since only that has a number
//! before it is accepted. Orders, lanes, their turns, and reports are those of the bare loop.

use crate::common::bare::{self, LEN, Lanes, Relaxed, Stages, Tally, add, sockaddr, socket, token};
use io_uring::squeue::{Entry, Flags};
use io_uring::types::{DestinationSlot, Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode};
use nix::libc;
use std::collections::VecDeque;
use std::time::Duration;
use tuplelab_domain::schedule::{BlockPorts, Connect, FlowBlock};

/// So many accepts wait at a time, as many as a client's default window.
const ACCEPTS: usize = 64;
const TOKEN_LEN: u32 = 16;
/// Who waits for half of its chains waits no longer than the bare server naps: the other end may have
/// fewer under way, at the end of a lane.
const NAP: Duration = Duration::from_micros(500);

/// A server or a client, as the order says.
pub fn main() {
    bare::main(&Lanes { open_all, accept_all });
}

/// What the calls of a chain point to, until it has ended.
struct Chain {
    fd: i32,
    to: libc::sockaddr_in,
    token: [u8; 16],
}

struct Ring {
    ring: IoUring,
    chains: Box<[Chain]>,
    free: Vec<usize>,
}

impl Ring {
    fn new(chains: usize) -> Self {
        // The kernel's own advice for one thread that hands over and reaps (io_uring_setup(2)).
        let mut builder = IoUring::builder();
        let ring = builder.setup_single_issuer().setup_defer_taskrun().build((3 * chains) as u32);
        let none = || Chain { fd: -1, to: sockaddr(([0, 0, 0, 0], 0).into()), token: [0; 16] };
        Self {
            ring: ring.expect("io_uring_setup"),
            chains: (0..chains).map(|_| none()).collect(),
            free: (0..chains).rev().collect(),
        }
    }

    fn under_way(&self) -> usize {
        self.chains.len() - self.free.len()
    }

    /// Queues the calls of that chain: each begins when the one before has succeeded, and only the last
    /// answers.
    fn push(&mut self, chain: usize, calls: [Entry; 3]) {
        let [first, second, last] = calls.map(|call| call.user_data(chain as u64));
        let linked = Flags::IO_LINK | Flags::SKIP_SUCCESS;
        // SAFETY: what they point to is in `chains`, which stays in place and is dropped after the ring.
        let pushed = unsafe {
            self.ring.submission().push_multiple(&[first.flags(linked), second.flags(linked), last])
        };
        pushed.expect("the queue has room for all chains");
    }

    /// Hands over what is queued, waits for so many answers or the nap, and takes all.
    fn turn(&mut self, want: usize, mut ended: impl FnMut(&Chain)) {
        let time = Timespec::from(NAP);
        let args = SubmitArgs::new().timespec(&time);
        if let Err(error) = self.ring.submitter().submit_with_args(want, &args) {
            let passing = [libc::ETIME, libc::EINTR].map(Some);
            assert!(passing.contains(&error.raw_os_error()), "io_uring_enter: {error}");
        }
        for answer in self.ring.completion() {
            assert_eq!(answer.result(), TOKEN_LEN as i32, "a chain's answer, or its negative errno");
            let chain = answer.user_data() as usize;
            ended(&self.chains[chain]);
            self.free.push(chain);
        }
    }
}

fn open_all(connect: &Connect, blocks: &[FlowBlock], _: u64, tally: &Tally, held: &mut VecDeque<i32>) {
    assert!(connect.rate.is_none() && connect.churn.is_none(), "this peer opens as fast as it goes");
    let mut ring = Ring::new(connect.window as usize);
    let mut answered = |chain: &Chain| {
        held.push_back(chain.fd);
        add(&tally.established);
    };
    for block in blocks {
        let BlockPorts::Explicit(ports) = &block.ports else { panic!("explicit ports") };
        for (flow, port) in (block.first_flow..).zip(ports.iter()) {
            while ring.free.is_empty() {
                // Half of them at a time: fewer wakes, and never all of them idle.
                ring.turn(ring.chains.len().div_ceil(2), &mut answered);
            }
            let index = ring.free.pop().unwrap();
            add(&tally.attempted);
            let fd = socket(block, port, 0);
            ring.chains[index] = Chain { fd, to: sockaddr(block.destination), token: token(flow) };
            let chain = &mut ring.chains[index];
            let (to, token) = ((&raw const chain.to).cast(), chain.token.as_mut_ptr());
            let calls = [
                opcode::Connect::new(Fd(fd), to, LEN).build(),
                opcode::Send::new(Fd(fd), token, TOKEN_LEN).flags(libc::MSG_NOSIGNAL).build(),
                opcode::Recv::new(Fd(fd), token, TOKEN_LEN).flags(libc::MSG_WAITALL).build(),
            ];
            ring.push(index, calls);
        }
    }
    while ring.under_way() > 0 {
        ring.turn(ring.under_way(), &mut answered);
    }
}

fn accept_all(listener: i32, quota: usize, stages: &Stages, tally: &Tally, hold: &dyn Fn(&[i32])) {
    let mut ring = Ring::new(ACCEPTS.min(quota));
    ring.ring.submitter().register_files_sparse(quota as u32).expect("io_uring_register");
    let (mut begun, mut answered) = (0, 0);
    while answered < quota && !stages.is_over() {
        while begun < quota
            && let Some(index) = ring.free.pop()
        {
            let none = std::ptr::null_mut::<libc::c_void>();
            let slot = Fixed(begun as u32);
            let at = DestinationSlot::try_from_slot_target(slot.0).unwrap();
            let token = ring.chains[index].token.as_mut_ptr();
            let calls = [
                opcode::Accept::new(Fd(listener), none.cast(), none.cast()).file_index(Some(at)).build(),
                opcode::Recv::new(slot, token, TOKEN_LEN).flags(libc::MSG_WAITALL).build(),
                opcode::Send::new(slot, token, TOKEN_LEN).flags(libc::MSG_NOSIGNAL).build(),
            ];
            ring.push(index, calls);
            begun += 1;
        }
        let before = answered;
        ring.turn(ring.under_way().div_ceil(2), |_| answered += 1);
        tally.established.fetch_add((answered - before) as u64, Relaxed);
    }
    hold(&[]);
    // A ring goes in its own time; its sockets are to be closed when this returns.
    ring.ring.submitter().unregister_files().expect("io_uring_register");
}
