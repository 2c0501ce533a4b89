//! What the kernel refused.

use nix::errno::Errno;
use std::collections::BTreeMap;
use std::io;
use tuplelab_domain::script::Answer;

/// A call, and why the kernel did not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub call: &'static str,
    pub errno: Errno,
}

impl Refusal {
    /// For `map_err` on a call of socket2's.
    pub(super) fn of(call: &'static str) -> impl Fn(io::Error) -> Self {
        move |error| Self { call, errno: errno(&error) }
    }
}

/// The errno of an error; all that comes here are the kernel's.
pub(super) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        Self::of(format!("{:?}", refusal.errno)).detail("call", refusal.call)
    }
}

/// What was refused of many calls.
#[derive(Debug, Default)]
pub(super) struct Tally {
    first: Option<Refusal>,
    counts: BTreeMap<String, u32>,
}

impl Tally {
    pub(super) fn add(&mut self, refusal: Refusal) {
        self.first.get_or_insert(refusal);
        *self.counts.entry(format!("{} {:?}", refusal.call, refusal.errno)).or_default() += 1;
    }

    /// The outcome of the whole: the first refusal, or what it is without one; and all counts.
    pub(super) fn answer(&self, without: &str) -> Answer {
        let answer = self.first.map_or_else(|| Answer::of(without), Answer::from);
        self.counts.iter().fold(answer, |answer, (name, count)| answer.detail(name, count))
    }
}
