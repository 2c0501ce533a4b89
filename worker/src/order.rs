//! Orders: one JSON line each. A thread reads them, so that the engine can wait for orders, lanes
//! and the clock in one place.

use crate::WorkerError;
use crate::lane::Notice;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::Sender;
use tuplelab_domain::schedule::WorkerOrder;

/// A line longer than this is no order: ten thousand lanes fit in it.
const LONGEST_LINE: u64 = 64 * 1024 * 1024;

/// Everything that can happen to the engine.
#[derive(Debug)]
pub(crate) enum Event {
    /// The agent said something.
    Order(WorkerOrder),
    /// The agent said something that is no order.
    Malformed(WorkerError),
    /// The agent is gone, or wants us gone.
    End,
    /// A lane said something.
    Lane(usize, Notice),
}

/// Reads orders until the input ends. The thread is not joined: it may sit in `read` for ever, and
/// the process ends without it.
pub(crate) fn read(input: impl Read + Send + 'static, events: Sender<Event>) -> Result<(), WorkerError> {
    let body = move || {
        let mut input = BufReader::new(input);
        loop {
            let mut line = Vec::new();
            let event = match input.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => Event::End,
                Ok(_) if line.trim_ascii().is_empty() => continue,
                Ok(_) => match serde_json::from_slice(&line) {
                    Ok(order) => Event::Order(order),
                    Err(source) => Event::Malformed(WorkerError::Malformed { line: shown(&line), source }),
                },
            };
            let is_last = matches!(event, Event::End | Event::Malformed(_));
            if events.send(event).is_err() || is_last {
                return;
            }
        }
    };
    let builder = std::thread::Builder::new().name("orders".into()).stack_size(256 * 1024);
    builder.spawn(body).map(drop).map_err(WorkerError::Reader)
}

/// Enough of a line to know it again.
fn shown(line: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(line).trim().chars().take(80).collect();
    if line.len() > text.len() + 1 { format!("{text}...") } else { text }
}
