//! Until when load may be put on the network. The agent renews it; a worker whose agent is stopped, cut
//! off or dead ends by itself, and one that was itself stopped looks at the clock before it goes on.
//!
//! ```text
//!    renewed ... renewed ... |until|--- GRACE ---|engine closes everything|--- HARD ---|process ends
//!    lanes begin things      | lanes begin nothing, answer nothing
//! ```
//! The grace runs from when the end is *noticed*: a worker that was stopped for a minute finds its
//! renewals in its input when it goes on, and needs a moment to read them. Lanes wait for that moment.

use crate::net::Nanos;
use crate::net::linux::boottime;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between the notice and the end: an agent renews once a second, but what it said while this process
/// was stopped is read in milliseconds.
const GRACE: Nanos = 500_000_000;
/// The last resort looks so often, and ends the process when it saw no lease so many times in a row.
/// It counts looks, not time: a process that was stopped has looked at nothing.
const LOOK: Duration = Duration::from_millis(250);
const HARD_LOOKS: u32 = 20;
/// The exit code of that end; EX_SOFTWARE of sysexits.h.
const HARD_EXIT: i32 = 70;

/// By hand there is no agent, and no end.
const NO_END: Nanos = Nanos::MAX;

/// The moment itself, which lanes read.
#[derive(Debug, Clone)]
pub(crate) struct Term(Arc<AtomicU64>);

impl Term {
    /// One that never ends.
    pub fn endless() -> Self {
        Self(Arc::new(AtomicU64::new(NO_END)))
    }

    /// Whether something may be begun, or answered, now.
    pub fn stands(&self, now: Nanos) -> bool {
        now < self.0.load(Ordering::Acquire)
    }
}

/// The engine's view of it.
#[derive(Debug)]
pub(crate) struct Lease {
    term: Term,
    /// When its end was noticed.
    noticed: Option<Nanos>,
}

impl Lease {
    /// None was given: nothing ends.
    pub fn endless() -> Self {
        Self { term: Term::endless(), noticed: None }
    }

    /// What lanes look at.
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// It stands until then. The first one also starts the last resort.
    pub fn renew(&mut self, until: Nanos) {
        self.noticed = None;
        if self.term.0.swap(until.min(NO_END - 1), Ordering::AcqRel) == NO_END {
            watch(&self.term);
        }
    }

    /// When it is to be looked at next.
    pub fn look_at(&self) -> Option<Nanos> {
        let until = self.term.0.load(Ordering::Acquire);
        let next = self.noticed.map_or(until, |noticed| noticed.saturating_add(GRACE));
        (until != NO_END).then_some(next)
    }

    /// Whether everything is to be closed.
    pub fn has_run_out(&mut self, now: Nanos) -> bool {
        if self.term.stands(now) {
            self.noticed = None;
            return false;
        }
        now >= self.noticed.get_or_insert(now).saturating_add(GRACE)
    }
}

/// Ends the process when nobody else does: a step that takes a minute, a lane that hangs. The kernel
/// closes what is open then, with RST. It goes with the lease.
fn watch(term: &Term) {
    let term = Arc::downgrade(&term.0);
    let body = move || {
        let mut missed = 0;
        while let Some(term) = term.upgrade().map(Term) {
            missed = if term.stands(boottime()) { 0 } else { missed + 1 };
            if missed == HARD_LOOKS {
                eprintln!("tuplelab worker: the lease is over and the work does not end: exits");
                std::process::exit(HARD_EXIT);
            }
            drop(term);
            std::thread::sleep(LOOK);
        }
    };
    let builder = std::thread::Builder::new().name("lease".into()).stack_size(64 * 1024);
    // Without it the engine's own look is all there is.
    let _ = builder.spawn(body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_lease_nothing_ends() {
        let mut lease = Lease::endless();
        assert_eq!((lease.look_at(), lease.has_run_out(NO_END - 1)), (None, false));
        assert!(lease.term().stands(NO_END - 1));
    }

    #[test]
    fn lanes_begin_nothing_from_its_end_on_and_the_engine_closes_a_moment_after_it_noticed() {
        let now = boottime();
        let mut lease = Lease::endless();
        lease.renew(now + 1_000);
        assert_eq!(lease.look_at(), Some(now + 1_000));
        assert!(lease.term().stands(now + 999) && !lease.term().stands(now + 1_000));
        // Long after its end, as after a stop: noticed now, and a renewal may still be in the input.
        let late = now + 60_000_000_000;
        assert!(!lease.has_run_out(late));
        assert_eq!(lease.look_at(), Some(late + GRACE));
        assert!(!lease.has_run_out(late + GRACE - 1));
        lease.renew(late + 5_000_000_000);
        assert!(!lease.has_run_out(late + GRACE), "it was renewed in time");
        assert!(!lease.has_run_out(late + 5_000_000_000));
        assert!(lease.has_run_out(late + 5_000_000_000 + GRACE));
    }
}
