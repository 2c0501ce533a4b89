//! What was said of runs and is not yet acknowledged: in memory, and written through to a file, so that
//! neither a lost stream nor the end of this process loses what was measured. It is said again on every
//! new stream, also by the next process; the controller stores repetitions once.

mod frame;
mod journal;
#[cfg(test)]
mod tests;

pub use journal::JournalError;

use frame::{Record, message_frame};
use journal::Journal;
use prost::Message as _;
use std::collections::VecDeque;
use std::path::Path;
use tracing::{info, warn};
use tuplelab_proto::v1;

/// Messages and bytes kept at most: at one sample a second, more than an hour without a controller.
/// Samples go first when it is full; the controller sees the gap in the worker's own numbers.
const MOST: usize = 4_096;
const MOST_BYTES: usize = 16 << 20;
/// Messages that may be on their way at a time: a controller that is behind with its store holds so many
/// of each agent, and goes on reading beats.
const WINDOW: usize = 256;
/// The file is written anew when it is longer than this and twice what waits.
const SLACK_BYTES: u64 = 64 << 10;

/// The messages of all runs that wait, in order.
#[derive(Debug, Default)]
pub struct Spool {
    /// The run and epoch that were spoken of last, and the last number of that.
    run: String,
    epoch: u32,
    last: u64,
    waiting: VecDeque<v1::RunMessage>,
    /// Of those that wait, in bytes.
    bytes: usize,
    /// So many of them were sent on this stream.
    sent: usize,
    journal: Option<Journal>,
}

impl Spool {
    /// The spool of this name in this directory, with everything that an earlier process left there.
    ///
    /// # Errors
    /// See [`JournalError`]; nothing is changed then.
    pub fn open(folder: &Path, name: &str) -> Result<Self, JournalError> {
        let (journal, records) = Journal::open(folder, name)?;
        let mut spool = Self::default();
        for record in records {
            match record {
                Record::Message(message) => spool.take_in(*message),
                Record::Ack(ack) => {
                    spool.drop_stored(&ack);
                    spool.speaks_of(&ack.run, ack.epoch, ack.sequence);
                }
            }
        }
        spool.journal = Some(journal);
        if !spool.waiting.is_empty() {
            info!(
                messages = spool.waiting.len(),
                "an earlier life of this agent left what was not acknowledged"
            );
        }
        Ok(spool)
    }

    /// Takes a message in and numbers it. Another run, or another epoch, starts from 1.
    pub fn push(&mut self, mut message: v1::RunMessage) {
        self.speaks_of(&message.run, message.epoch, 0);
        message.sequence = self.last + 1;
        if let Some(journal) = &mut self.journal {
            journal.append(&Record::Message(Box::new(message.clone())));
        }
        self.take_in(message);
        self.tidy();
    }

    fn speaks_of(&mut self, run: &str, epoch: u32, sequence: u64) {
        if run != self.run || epoch != self.epoch {
            let of = |m: &&v1::RunMessage| m.run == run && m.epoch == epoch;
            let last = self.waiting.iter().filter(of).map(|m| m.sequence).max().unwrap_or(0);
            (self.run, self.epoch, self.last) = (run.to_owned(), epoch, last);
        }
        self.last = self.last.max(sequence);
    }

    fn take_in(&mut self, message: v1::RunMessage) {
        self.speaks_of(&message.run, message.epoch, message.sequence);
        self.bytes += message.encoded_len();
        self.waiting.push_back(message);
        while self.waiting.len() > MOST || self.bytes > MOST_BYTES {
            let sample = |m: &v1::RunMessage| matches!(m.body, Some(v1::run_message::Body::Sample(_)));
            let oldest = self.waiting.iter().position(sample).unwrap_or(0);
            warn!(run = self.run, "the spool is full: its oldest sample is dropped");
            self.remove(oldest);
        }
    }

    fn remove(&mut self, position: usize) {
        if let Some(message) = self.waiting.remove(position) {
            self.bytes -= message.encoded_len();
            self.sent -= usize::from(position < self.sent);
        }
    }

    /// The next message that was not sent on this stream, if another one may be on its way.
    pub fn next(&self) -> Option<&v1::RunMessage> {
        self.waiting.get(self.sent).filter(|_| self.sent < WINDOW)
    }

    /// That message is on its way.
    pub fn sent(&mut self) {
        self.sent = (self.sent + 1).min(self.waiting.len());
    }

    /// Whether anything is not acknowledged.
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// A new stream: everything that waits is sent again.
    pub fn again(&mut self) {
        self.sent = 0;
    }

    /// The controller has stored everything of that run and epoch up to that number.
    pub fn acknowledge(&mut self, ack: &v1::Ack) {
        if self.drop_stored(ack) == 0 {
            return;
        }
        if let Some(journal) = &mut self.journal {
            journal.append(&Record::Ack(ack.clone()));
        }
        self.tidy();
    }

    fn drop_stored(&mut self, ack: &v1::Ack) -> usize {
        let before = self.waiting.len();
        let mut position = 0;
        while let Some(message) = self.waiting.get(position) {
            let stored =
                message.run == ack.run && message.epoch == ack.epoch && message.sequence <= ack.sequence;
            if stored { self.remove(position) } else { position += 1 }
        }
        before - self.waiting.len()
    }

    /// Writes the file anew where most of it is of no use any more, or where it lacks something.
    fn tidy(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        let useful: usize = self.bytes + self.waiting.len() * message_frame(&v1::RunMessage::default()).len();
        if !journal.wants_all() && journal.length() <= SLACK_BYTES + 2 * useful as u64 {
            return;
        }
        // The last number stays, also where nothing waits: numbers are never given twice.
        let stored = self.waiting.iter().filter(|m| m.run == self.run && m.epoch == self.epoch);
        let stored = stored.map(|m| m.sequence - 1).min().unwrap_or(self.last);
        let ack = v1::Ack { run: self.run.clone(), epoch: self.epoch, sequence: stored };
        let waiting = self.waiting.iter().map(|message| Record::Message(Box::new(message.clone())));
        journal.replace(&std::iter::once(Record::Ack(ack)).chain(waiting).collect::<Vec<_>>());
    }
}
