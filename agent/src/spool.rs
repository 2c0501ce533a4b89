//! What was said of a run and is not yet acknowledged. It is sent again after a reconnect, so that
//! nothing measured is lost with a stream; the controller stores repetitions once.

use std::collections::VecDeque;
use tracing::warn;
use tuplelab_proto::v1;

/// Messages kept at most: at one sample a second, more than an hour without a controller. Samples go
/// first when it is full; the controller sees the gap in their numbers.
const MOST: usize = 4_096;

/// The messages of one run and epoch, in order.
#[derive(Debug, Default)]
pub struct Spool {
    run: String,
    epoch: u32,
    last: u64,
    waiting: VecDeque<v1::RunMessage>,
    sent: usize,
}

impl Spool {
    /// Takes a message in and numbers it. Another run, or another epoch, starts from 1 again.
    pub fn push(&mut self, mut message: v1::RunMessage) {
        if message.run != self.run || message.epoch != self.epoch {
            *self = Self { run: message.run.clone(), epoch: message.epoch, ..Self::default() };
        }
        self.last += 1;
        message.sequence = self.last;
        if self.waiting.len() >= MOST {
            let sample = |m: &v1::RunMessage| matches!(m.body, Some(v1::run_message::Body::Sample(_)));
            let oldest = self.waiting.iter().position(sample).unwrap_or(0);
            self.waiting.remove(oldest);
            self.sent -= usize::from(oldest < self.sent);
            warn!(run = self.run, "the spool is full: the oldest sample is dropped");
        }
        self.waiting.push_back(message);
    }

    /// The next message that was not sent on this stream.
    pub fn next(&self) -> Option<&v1::RunMessage> {
        self.waiting.get(self.sent)
    }

    /// That message is on its way.
    pub fn sent(&mut self) {
        self.sent = (self.sent + 1).min(self.waiting.len());
    }

    /// A new stream: everything that waits is sent again.
    pub fn again(&mut self) {
        self.sent = 0;
    }

    /// The controller has stored everything up to `ack.sequence`.
    pub fn acknowledge(&mut self, ack: &v1::Ack) {
        if ack.run != self.run || ack.epoch != self.epoch {
            return;
        }
        while self.waiting.front().is_some_and(|message| message.sequence <= ack.sequence) {
            self.waiting.pop_front();
            self.sent = self.sent.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::run_message::Body;

    fn message(run: &str, body: Body) -> v1::RunMessage {
        v1::RunMessage { run: run.into(), body: Some(body), ..Default::default() }
    }

    fn drain(spool: &mut Spool) -> Vec<u64> {
        let mut numbers = Vec::new();
        while let Some(next) = spool.next() {
            numbers.push(next.sequence);
            spool.sent();
        }
        numbers
    }

    #[test]
    fn what_is_not_acknowledged_is_sent_again_on_a_new_stream() {
        let mut spool = Spool::default();
        (0..3).for_each(|_| spool.push(message("r", Body::Sample(Default::default()))));
        assert_eq!(drain(&mut spool), [1, 2, 3]);
        spool.acknowledge(&v1::Ack { run: "r".into(), epoch: 0, sequence: 2 });
        spool.acknowledge(&v1::Ack { run: "another".into(), epoch: 0, sequence: 3 });
        spool.push(message("r", Body::Sample(Default::default())));
        assert_eq!(drain(&mut spool), [4]);
        spool.again();
        assert_eq!(drain(&mut spool), [3, 4]);
    }

    #[test]
    fn another_run_starts_its_numbers_again() {
        let mut spool = Spool::default();
        spool.push(message("r", Body::Ready(Default::default())));
        spool.push(message("s", Body::Ready(Default::default())));
        assert_eq!(drain(&mut spool), [1]);
        assert_eq!(spool.next().map(|m| m.run.clone()), None);
    }

    #[test]
    fn a_full_spool_drops_the_oldest_sample_and_keeps_everything_else() {
        let mut spool = Spool::default();
        spool.push(message("r", Body::Ready(Default::default())));
        for _ in 0..MOST {
            spool.push(message("r", Body::Sample(Default::default())));
        }
        assert_eq!(spool.waiting.len(), MOST);
        let numbers = drain(&mut spool);
        assert_eq!(numbers.first(), Some(&1), "the word that it is ready stays");
        assert_eq!(numbers.get(1), Some(&3), "the first sample went");
    }
}
