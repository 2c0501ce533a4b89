//! The bare server: one lane accepts at a time; under watch all of them, wherever there is room.

use super::{
    AcceptAll, END, LEN, Relaxed, Stages, Tally, add, figures, linger, own_table, pss, say, sockaddr,
};
use nix::libc;
use std::time::Duration;
use tuplelab_domain::schedule::{Serve, WorkerOrder, WorkerReport};

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

pub fn accept_all(listener: i32, quota: usize, stages: &Stages, tally: &Tally, hold: &dyn Fn(&[i32])) {
    let mut held: Vec<i32> = Vec::with_capacity(quota);
    let mut pending: Vec<i32> = Vec::new();
    while held.len() < quota && !stages.is_over() {
        let some = accept(listener, &mut pending, quota - held.len());
        let before = held.len();
        greet(&mut pending, |fd| held.push(fd));
        tally.established.fetch_add((held.len() - before) as u64, Relaxed);
        if !some && held.len() == before {
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    hold(&held);
    for fd in held {
        // SAFETY: closed once, or not at all where it was closed under watch.
        unsafe { libc::close(fd) };
    }
}

pub fn serve(serve: &Serve, accept_all: AcceptAll, mut orders: impl Iterator<Item = WorkerOrder>) {
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
    let lanes = quotas.len();
    std::thread::scope(|scope| {
        for (index, quota) in quotas.into_iter().enumerate() {
            let quota = quota as usize;
            scope.spawn(move || {
                own_table();
                stages.wait(index);
                accept_all(listener, quota, stages, tally, &|held| {
                    stages.pass();
                    match serve.watch {
                        Some(spare) => {
                            // Not before all are full: the others' spare room would keep the last from it.
                            stages.wait(lanes);
                            watch(listener, held, quota + spare as usize, stages, tally);
                        }
                        None => stages.wait(END),
                    }
                });
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
