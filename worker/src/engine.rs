//! The control loop: one place that hears the agent, the lanes and the clock, and answers.
//!
//! ```text
//! agent   --> Prepare   listeners bound, lanes started   --> Ready      (or Failed)
//!         --> Go        a sample at Go and each second   --> Sample ...
//!                       clients: nothing more opens      --> Plateau
//!         --> Move      clients: held connections are replaced, where the work says so
//!         --> Rest      clients: all that was begun has ended   --> Resting
//!         --> Tell      the figures as they are           --> Told
//!         --> Halt      clients: as above, early
//!         --> Lease     load may go on until then; past it, and a moment, as Release, and Failed
//!         --> Release   every lane closes with RST       --> Released, and the worker ends
//! end of input, at any time: as Release
//! ```
//! A script's worker takes, between Ready and Release, only:
//! ```text
//!         --> Step      one socket call                   --> Answered
//! ```

use crate::WorkerError;
use crate::check::check;
use crate::lease::Lease;
use crate::net::Nanos;
use crate::net::linux::boottime;
use crate::order::{self, Event};
use crate::process;
use crate::script::Script;
use crate::trial::{Figures, Progress, Trial};
use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tuplelab_domain::sample::{Beyond, Plateau, Sample};
use tuplelab_domain::schedule::{Work, WorkerOrder, WorkerReport};
use tuplelab_domain::script::Action;

const SECOND: Nanos = 1_000_000_000;

/// Does one trial's work: orders from `input`, reports to `output`, a JSON line each, until
/// `Release` or the end of the input. Nothing is left open when it returns.
///
/// An error was also reported as [`WorkerReport::Failed`], unless the output itself failed.
pub fn main_loop(input: impl Read + Send + 'static, output: impl Write) -> Result<(), WorkerError> {
    process::prepare();
    let mut reports = Reports { output };
    let worked = work(input, &mut reports);
    if let Err(error) = &worked
        && !matches!(error, WorkerError::Output(_))
    {
        reports.write(&WorkerReport::Failed { why: error.in_full() })?;
    }
    worked
}

fn work(input: impl Read + Send + 'static, reports: &mut Reports<impl Write>) -> Result<(), WorkerError> {
    // Not bounded by its type, but by what is said: an agent says five things in a trial, a lane
    // two, and one more for each of its turns.
    let (sender, events) = channel();
    order::read(input, sender.clone())?;
    let mut lease = Lease::endless();
    let (token, files, work) = loop {
        if lease.has_run_out(boottime()) {
            return Err(WorkerError::LeaseEnded);
        }
        match next(&events, lease.look_at()) {
            Some(Event::Order(WorkerOrder::Lease { until_boottime_nanos })) => {
                lease.renew(until_boottime_nanos)
            }
            Some(Event::Order(WorkerOrder::Prepare { token, files, work })) => break (token, files, work),
            Some(Event::Order(WorkerOrder::Release)) => {
                let nothing = Figures::default();
                return reports.write(&WorkerReport::Released(plateau(nothing, None, None, None, None)));
            }
            Some(Event::Order(WorkerOrder::Go { .. })) => return Err(WorkerError::OutOfTurn("go")),
            Some(Event::Order(WorkerOrder::Halt)) => return Err(WorkerError::OutOfTurn("halt")),
            Some(Event::Order(WorkerOrder::Move)) => return Err(WorkerError::OutOfTurn("move")),
            Some(Event::Order(WorkerOrder::Rest)) => return Err(WorkerError::OutOfTurn("rest")),
            Some(Event::Order(WorkerOrder::Tell)) => return Err(WorkerError::OutOfTurn("tell")),
            Some(Event::Order(WorkerOrder::Step { .. })) => return Err(WorkerError::OutOfTurn("step")),
            Some(Event::Malformed(error)) => return Err(error),
            Some(Event::End) => return Ok(()),
            Some(Event::Lane(..)) | None => {}
        }
    };
    check(&work)?;
    if matches!(work, Work::Script(_)) {
        return perform(lease, &events, reports);
    }
    let engine = Engine::start(token, work, lease, &sender)?;
    if let Some(files) = files {
        process::limit_files(files).map_err(|errno| WorkerError::Files { files, errno })?;
    }
    engine.run(&events, reports)
}

/// A script: one step after the other, until the last one, `end`, or the end of the input.
fn perform(
    mut lease: Lease,
    events: &Receiver<Event>,
    reports: &mut Reports<impl Write>,
) -> Result<(), WorkerError> {
    let mut script = Script::default();
    let term = lease.term();
    reports.write(&WorkerReport::Ready)?;
    loop {
        if lease.has_run_out(boottime()) {
            return Err(WorkerError::LeaseEnded);
        }
        match next(events, lease.look_at()) {
            Some(Event::Order(WorkerOrder::Lease { until_boottime_nanos })) => {
                lease.renew(until_boottime_nanos)
            }
            Some(Event::Order(WorkerOrder::Step { .. })) if !term.stands(boottime()) => {
                return Err(WorkerError::LeaseEnded);
            }
            Some(Event::Order(WorkerOrder::Step { number, action })) => {
                let answer = script.perform(&action);
                reports.write(&WorkerReport::Answered { number, answer })?;
                if action == Action::End {
                    // The process ends with its sockets open: closing them is the kernel's part.
                    std::mem::forget(script);
                    return Ok(());
                }
            }
            Some(Event::Order(WorkerOrder::Release)) => {
                drop(script);
                let nothing = Figures::default();
                return reports.write(&WorkerReport::Released(plateau(nothing, None, None, None, None)));
            }
            Some(Event::Order(WorkerOrder::Prepare { .. })) => return Err(WorkerError::PreparedTwice),
            Some(Event::Order(WorkerOrder::Go { .. })) => return Err(WorkerError::OutOfTurn("go")),
            Some(Event::Order(WorkerOrder::Halt)) => return Err(WorkerError::OutOfTurn("halt")),
            Some(Event::Order(WorkerOrder::Move)) => return Err(WorkerError::OutOfTurn("move")),
            Some(Event::Order(WorkerOrder::Rest)) => return Err(WorkerError::OutOfTurn("rest")),
            Some(Event::Order(WorkerOrder::Tell)) => return Err(WorkerError::OutOfTurn("tell")),
            Some(Event::Malformed(error)) => return Err(error),
            Some(Event::End) => return Ok(()),
            Some(Event::Lane(..)) | None => {}
        }
    }
}

/// The next event, or `None` at `until`.
fn next(events: &Receiver<Event>, until: Option<Nanos>) -> Option<Event> {
    match until {
        // We hold a sender ourselves, so the channel cannot end before us.
        None => Some(events.recv().unwrap_or(Event::End)),
        Some(until) => match events.recv_timeout(Duration::from_nanos(until.saturating_sub(boottime()))) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::End),
        },
    }
}

struct Engine {
    trial: Trial,
    lease: Lease,
    pss_ready: Option<u64>,
    /// The zero of the samples.
    go: Option<Nanos>,
    /// The next sample's position, and when it is due.
    sequence: u64,
    tick: Option<Nanos>,
    plateau_reported: bool,
    rest: Rest,
}

/// Whether held connections were to rest, and whether it was said that they do: once, and not before it was
/// asked for, though lanes on which nothing moves rest at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    NotAsked,
    Asked,
    Reported,
}

impl Engine {
    fn start(token: u64, work: Work, lease: Lease, events: &Sender<Event>) -> Result<Self, WorkerError> {
        let trial = Trial::start(token, work, lease.term(), events)?;
        let pss_ready = process::pss_bytes();
        Ok(Self {
            trial,
            lease,
            pss_ready,
            go: None,
            sequence: 0,
            tick: None,
            plateau_reported: false,
            rest: Rest::NotAsked,
        })
    }

    fn run(mut self, events: &Receiver<Event>, reports: &mut Reports<impl Write>) -> Result<(), WorkerError> {
        reports.write(&WorkerReport::Ready)?;
        loop {
            if self.lease.has_run_out(boottime()) {
                if self.go.is_some() {
                    reports.write(&self.sample())?;
                }
                return Err(WorkerError::LeaseEnded);
            }
            let until = self.tick.into_iter().chain(self.lease.look_at()).min();
            let progress = match next(events, until) {
                Some(Event::Order(WorkerOrder::Lease { until_boottime_nanos })) => {
                    self.lease.renew(until_boottime_nanos);
                    Progress::StillOpening
                }
                Some(Event::Order(WorkerOrder::Go { at_boottime_nanos })) => self.on_go(at_boottime_nanos),
                Some(Event::Order(WorkerOrder::Halt)) => self.on_halt(),
                Some(Event::Order(WorkerOrder::Move)) => {
                    self.trial.moves(boottime());
                    Progress::StillOpening
                }
                Some(Event::Order(WorkerOrder::Rest)) => {
                    if self.rest == Rest::NotAsked {
                        self.rest = Rest::Asked;
                    }
                    self.trial.rest()
                }
                Some(Event::Order(WorkerOrder::Tell)) => {
                    reports.write(&WorkerReport::Told(self.figures()))?;
                    Progress::StillOpening
                }
                Some(Event::Order(WorkerOrder::Release)) => return reports.write(&self.release()),
                Some(Event::Order(WorkerOrder::Prepare { .. })) => return Err(WorkerError::PreparedTwice),
                Some(Event::Order(WorkerOrder::Step { .. })) => return Err(WorkerError::OutOfTurn("step")),
                Some(Event::Malformed(error)) => return Err(error),
                Some(Event::End) => {
                    // Nobody may be there to read it.
                    let _ = reports.write(&self.release());
                    return Ok(());
                }
                Some(Event::Lane(lane, notice)) => self.trial.on(lane, notice)?,
                None => {
                    if self.tick.is_some_and(|tick| tick <= boottime()) {
                        reports.write(&self.sample())?;
                    }
                    Progress::StillOpening
                }
            };
            if progress == Progress::Resting && self.rest == Rest::Asked {
                self.rest = Rest::Reported;
                reports.write(&WorkerReport::Resting)?;
            }
            if progress == Progress::Plateau && !self.plateau_reported {
                self.plateau_reported = true;
                reports.write(&WorkerReport::Plateau(self.figures()))?;
            }
        }
    }

    /// The first Go counts; a repeated one changes nothing. The past means now.
    fn on_go(&mut self, at: Nanos) -> Progress {
        if self.go.is_none() {
            let go = at.max(boottime());
            self.go = Some(go);
            self.tick = Some(go);
            self.trial.go(go);
        }
        self.if_no_lane_opens()
    }

    fn on_halt(&mut self) -> Progress {
        self.trial.halt();
        self.if_no_lane_opens()
    }

    /// A client without lanes hears from none, and is at its plateau at once.
    fn if_no_lane_opens(&mut self) -> Progress {
        if self.trial.has_lanes() { Progress::StillOpening } else { self.trial.after_opening() }
    }

    fn sample(&mut self) -> WorkerReport {
        let now = boottime();
        let go = self.go.unwrap_or(now);
        let sequence = self.sequence;
        self.sequence += 1;
        // On the next whole second after Go; a worker that was late skips one, it does not hurry.
        self.tick = Some(go + (now.saturating_sub(go) / SECOND + 1) * SECOND);
        WorkerReport::Sample(Sample {
            sequence,
            elapsed_micros: now.saturating_sub(go) / 1_000,
            cpu_micros: process::cpu_micros(),
            counters: self.trial.counters(),
        })
    }

    /// The figures at this moment; the set size first, without the memory of the others.
    fn figures(&self) -> Plateau {
        let pss = process::pss_bytes();
        let (first, last) = self.trial.span();
        let figures = Figures { first, last, counters: self.trial.counters(), times: self.trial.times() };
        let round_trips = self.trial.round_trips();
        let beyond = self.trial.beyond();
        Plateau { round_trips, ..plateau(figures, self.go, self.pss_ready, pss, beyond) }
    }

    /// Closes everything. The set size is that from before, while the flows were held; the counters
    /// and the CPU time are those of the end.
    fn release(&mut self) -> WorkerReport {
        let pss = process::pss_bytes();
        let beyond = self.trial.beyond();
        let figures = self.trial.release();
        WorkerReport::Released(plateau(figures, self.go, self.pss_ready, pss, beyond))
    }
}

fn plateau(
    figures: Figures,
    go: Option<Nanos>,
    pss_ready_bytes: Option<u64>,
    pss_bytes: Option<u64>,
    beyond: Option<Beyond>,
) -> Plateau {
    let since_go = |at: Option<Nanos>| Some(at?.saturating_sub(go?) / 1_000);
    Plateau {
        first_micros: since_go(figures.first),
        last_micros: since_go(figures.last),
        cpu_micros: process::cpu_micros(),
        pss_ready_bytes,
        pss_bytes,
        counters: figures.counters,
        beyond,
        go_nanos: go,
        connect_times: figures.times,
        round_trips: None,
    }
}

struct Reports<W> {
    output: W,
}

impl<W: Write> Reports<W> {
    fn write(&mut self, report: &WorkerReport) -> Result<(), WorkerError> {
        let mut line = serde_json::to_vec(report).map_err(|e| WorkerError::Output(e.into()))?;
        line.push(b'\n');
        self.output.write_all(&line).and_then(|()| self.output.flush()).map_err(WorkerError::Output)
    }
}
