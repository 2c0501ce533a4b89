//! Connections without descriptors: as many rings as the tables of one process's limit ask for.

use super::files;
use super::refusal::{Refusal, Tally};
use super::uring::Ring;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tuplelab_domain::script::Answer;

/// Opens rings until `count` sockets are begun, or all of a batch are refused; then waits until all are
/// decided or the time is up. Without a number of rings there are as many as make no table larger than
/// the soft RLIMIT_NOFILE; with one, the table is as large as it must be, which the kernel may refuse.
///
/// The value is how many are connected. Details: `rings`, `table` (slots of each), `files` (the soft
/// RLIMIT_NOFILE), `open` (the process's ordinary descriptors, those of the rings among them), `pending`,
/// `begin_micros`, and each error with its number.
pub(super) fn open(
    count: u32,
    to: SocketAddr,
    rings: Option<u32>,
    within: Duration,
) -> Result<(Answer, Vec<Ring>), Refusal> {
    let files = files::soft_limit()?;
    let table = match rings {
        Some(rings) => count.div_ceil(rings.max(1)),
        None => u32::try_from(files).unwrap_or(u32::MAX).clamp(1, count.max(1)),
    };
    let mut tally = Tally::default();
    let mut made: Vec<Ring> = Vec::new();
    let beginning = Instant::now();
    let mut left = count;
    while left > 0 {
        let some = left.min(table);
        match begin(table, some, to, &mut tally, &mut made) {
            Ok(true) => left -= some,
            Ok(false) => break,
            Err(refusal) => {
                tally.add(refusal);
                break;
            }
        }
    }
    let took = beginning.elapsed();
    let until = super::until(within);
    for ring in &mut made {
        if let Err(refusal) = ring.settle(until, &mut tally) {
            tally.add(refusal);
        }
    }
    let sum = |of: fn(&Ring) -> u32| made.iter().map(of).map(u64::from).sum::<u64>();
    let pending = sum(Ring::under_way);
    let answer = tally
        .answer(if pending > 0 { "pending" } else { "ok" })
        .value(sum(Ring::connected))
        .detail("pending", pending)
        .detail("rings", made.len())
        .detail("table", table)
        .detail("files", files)
        .detail("begin_micros", took.as_micros());
    let answer = match files::open_below(u64::MAX) {
        Ok(open) => answer.detail("open", open),
        Err(_) => answer,
    };
    Ok((answer, made))
}

fn begin(
    table: u32,
    count: u32,
    to: SocketAddr,
    tally: &mut Tally,
    made: &mut Vec<Ring>,
) -> Result<bool, Refusal> {
    let mut ring = Ring::open(table, to)?;
    let may_go_on = ring.connect(count, tally);
    // Whatever was refused in the end: what is connected is held.
    made.push(ring);
    may_go_on
}
