//! The flows of one connector that were begun and are not answered yet: a bounded queue, oldest
//! first, so that no answer is waited for before the next connect.

use crate::flow::{Cause, Event, Flow, Step, Token};
use crate::net::{Nanos, Net, Watch};
use crate::timing::Begun;
use std::collections::VecDeque;
use tuplelab_domain::sample::Call;

/// A flow on its way.
pub(crate) struct Entry<S> {
    pub socket: S,
    pub flow: Flow,
    /// Which block of its lane it belongs to.
    pub block: usize,
    pub begun: Begun,
}

impl<S> Entry<S> {
    /// Makes the one call that the flow needs next.
    pub fn step<N: Net<Socket = S>>(&mut self, net: &N, now: Nanos) -> Step {
        let (flow, step) = match self.flow.unsent() {
            Some(rest) => self.flow.on(Event::Sent(net.send(&self.socket, rest)), now),
            None => {
                let mut echo = [0; Token::LENGTH];
                let received = net.receive(&self.socket, &mut echo);
                self.flow.on(Event::Received(received.map(|length| &echo[..length])), now)
            }
        };
        self.flow = flow;
        step
    }

    fn watch<N: Net<Socket = S>>(&self) -> Watch<'_, N> {
        match self.flow.unsent() {
            Some(_) => Watch::Writable(&self.socket),
            None => Watch::Readable(&self.socket),
        }
    }
}

/// How a flow left the window.
pub(crate) enum Settled<S> {
    Established { socket: S, block: usize, begun: Begun },
    Failed(Call, Cause),
}

/// At most `room` flows.
pub(crate) struct Window<S> {
    entries: VecDeque<Entry<S>>,
    room: usize,
}

impl<S> Window<S> {
    pub fn new(room: usize) -> Self {
        Self { entries: VecDeque::with_capacity(room), room }
    }

    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.room
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn push(&mut self, entry: Entry<S>) {
        self.entries.push_back(entry);
    }

    /// The next moment at which a flow's time is up: all have the same, so it is the oldest's.
    pub fn deadline(&self) -> Option<Nanos> {
        self.entries.front().map(|entry| entry.flow.deadline())
    }

    /// Everything that can become ready, oldest first.
    pub fn watch<'a, N>(&'a self) -> impl Iterator<Item = Watch<'a, N>>
    where
        N: Net<Socket = S> + 'a,
    {
        self.entries.iter().map(Entry::watch)
    }

    /// Settles flows from the oldest on, up to the first that is not answered. Servers answer
    /// mostly in order, so this finds what can be found without asking for each. Whether any left.
    pub fn settle_oldest<N: Net<Socket = S>>(
        &mut self,
        net: &N,
        now: Nanos,
        settled: &mut impl FnMut(Settled<S>),
    ) -> bool {
        let mut any = false;
        while let Some(mut entry) = self.entries.pop_front() {
            match run(&mut entry, net, now) {
                Step::Again | Step::Wait => {
                    self.entries.push_front(entry);
                    break;
                }
                end => settled(leave(entry, end)),
            }
            any = true;
        }
        any
    }

    /// Settles what is `ready` (in the order of [`Self::watch`]) or out of time, wherever it stands.
    pub fn settle_ready<N: Net<Socket = S>>(
        &mut self,
        net: &N,
        ready: &[bool],
        now: Nanos,
        settled: &mut impl FnMut(Settled<S>),
    ) {
        for index in 0..self.entries.len() {
            let Some(mut entry) = self.entries.pop_front() else { break };
            let ready = ready.get(index).copied().unwrap_or(false);
            if !ready && now < entry.flow.deadline() {
                self.entries.push_back(entry);
                continue;
            }
            match run(&mut entry, net, now) {
                Step::Again | Step::Wait => self.entries.push_back(entry),
                end => settled(leave(entry, end)),
            }
        }
    }
}

/// Calls as long as something moves.
fn run<N: Net>(entry: &mut Entry<N::Socket>, net: &N, now: Nanos) -> Step {
    loop {
        match entry.step(net, now) {
            Step::Again => {}
            other => return other,
        }
    }
}

fn leave<S>(entry: Entry<S>, end: Step) -> Settled<S> {
    match end {
        Step::Failed(call, cause) => Settled::Failed(call, cause),
        _ => Settled::Established { socket: entry.socket, block: entry.block, begun: entry.begun },
    }
}
