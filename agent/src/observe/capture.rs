//! A count of the segments to and from one port, kept by a thread from `capture` on.

use super::packet::Tap;
use super::refused;
use super::tally::Tally;
use nix::errno::Errno;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tuplelab_domain::script::Answer;

/// How long a segment that was caused just now may still be under way.
const SETTLE: Duration = Duration::from_millis(20);
/// How long the reader is given to catch up with what the kernel keeps for it.
const CATCH_UP: Duration = Duration::from_secs(2);
/// How often an idle reader looks whether it should end.
const PULSE: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// How often the reader found nothing left to read.
    drained: AtomicU64,
    tally: Mutex<Tally>,
    dropped: AtomicU64,
    failed: Mutex<Option<Errno>>,
}

/// A capture under way; ends when it is dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins. What is sent after this returned is seen.
    pub fn begin(port: u16) -> Result<Self, Errno> {
        let tap = Tap::open()?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let reader = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || read(&tap, port, &theirs))
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EAGAIN)))?;
        Ok(Self { shared, reader: Some(reader) })
    }

    /// What was seen since it began. Detail `dropped` counts packets, of any port, that came too fast;
    /// `behind` stands where the reader had not yet seen everything.
    pub fn packets(&self) -> Answer {
        std::thread::sleep(SETTLE);
        let (drained, begun) = (self.shared.drained.load(Ordering::Acquire), Instant::now());
        let mut behind = true;
        while behind && begun.elapsed() < CATCH_UP {
            behind = self.shared.drained.load(Ordering::Acquire) == drained;
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some(errno) = *self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            return refused(errno);
        }
        let answer =
            self.shared.tally.lock().unwrap_or_else(PoisonError::into_inner).describe(Answer::of("ok"));
        let answer = answer.detail("dropped", self.shared.dropped.load(Ordering::Acquire));
        if behind { answer.detail("behind", "yes") } else { answer }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn read(tap: &Tap, port: u16, shared: &Shared) {
    let begun = Instant::now();
    while !shared.stop.load(Ordering::Acquire) {
        match drain(tap, port, shared, begun) {
            Ok(true) => {
                shared.drained.fetch_add(1, Ordering::Release);
                tap.wait(PULSE);
            }
            Ok(false) => {}
            Err(errno) => {
                *shared.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(errno);
                shared.drained.fetch_add(1, Ordering::Release);
                return;
            }
        }
    }
}

/// Counts what is there, at most so many that the reader still hears that it should end; says whether
/// that was all.
fn drain(tap: &Tap, port: u16, shared: &Shared, begun: Instant) -> Result<bool, Errno> {
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..4096 {
        let Some((sight, segment)) = tap.next()? else {
            shared.dropped.fetch_add(tap.dropped()?.into(), Ordering::Release);
            return Ok(true);
        };
        tally.add(port, sight, &segment, begun.elapsed());
    }
    Ok(false)
}
