//! How well a rate is kept, the engine beside a bare loop that sleeps until each connect is due.
//!
//! `cargo bench -p tuplelab-worker --bench ramp` (`-- 5000 20000 40000` for the rates, `--seconds 5`,
//! `--trials 3`). What is printed is the full second that was furthest off, by as much as a report would
//! tell of it (`ramp_error`), the worst of all trials beside their median; and how many connects began
//! more than an interval, and more than 1 ms, late.
#![allow(unsafe_code, reason = "the bare loop is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod common;

use common::process::Process;
use common::{Args, lab, median};
use tuplelab_domain::sample::{Ramp, Tick};
use tuplelab_domain::schedule::WorkerReport;

#[derive(Clone, Copy)]
struct Figures {
    error_ppm: f64,
    late: f64,
    cpu_micros: f64,
    rate: f64,
}

fn trial(kind: &str, rate: u64, seconds: u64) -> Figures {
    let count = rate * seconds;
    let (serve, connect) = lab::work(count, &format!("rate = \"{rate}/s\"\n"));
    let mut server = Process::start(kind, serve);
    let mut client = Process::start(kind, connect);
    server.go();
    client.go();
    let mut ticks = vec![Tick { elapsed_micros: 0, attempted: 0 }];
    let figures = client.until(|report| match report {
        WorkerReport::Sample(sample) => {
            ticks.push(Tick { elapsed_micros: sample.elapsed_micros, attempted: sample.counters.attempted });
            None
        }
        WorkerReport::Plateau(figures) => Some(figures),
        _ => None,
    });
    let accepted = server.tell();
    client.end();
    server.end();
    let ramp = Ramp::of(rate, &[(ticks, count)]).expect("a full second was seen");
    let (first, last) = (figures.first_micros.unwrap_or(0), figures.last_micros.unwrap_or(0));
    Figures {
        error_ppm: ramp.error_ppm as f64,
        late: figures.counters.late as f64,
        cpu_micros: (figures.cpu_micros + accepted.cpu_micros) as f64 / count as f64,
        rate: count as f64 / ((last - first) as f64 / 1e6),
    }
}

fn main() {
    if common::is_process() {
        return;
    }
    let args = Args::parse(&["--seconds", "--trials"], &[]);
    let (seconds, trials) = (args.number("--seconds", 5), args.number("--trials", 3));
    lab::own_namespace();
    println!("{seconds} s of ramp, in turn, {trials} trials");
    println!(
        "{:>8} {:>8} {:>12} {:>12} {:>8} {:>10} {:>12}",
        "asked/s", "", "median ppm", "worst ppm", "late", "per second", "CPU us/pair"
    );
    for rate in args.numbers_or(&[5_000, 20_000, 40_000]) {
        let pairs: Vec<[Figures; 2]> =
            (0..trials).map(|_| ["--engine", "--bare"].map(|kind| trial(kind, rate, seconds))).collect();
        for (side, name) in ["engine", "bare"].into_iter().enumerate() {
            let own = || pairs.iter().map(|pair| pair[side]);
            println!(
                "{rate:>8} {name:>8} {:>12.0} {:>12.0} {:>8.0} {:>10.0} {:>12.1}",
                median(own().map(|f| f.error_ppm)),
                own().map(|f| f.error_ppm).fold(0.0, f64::max),
                median(own().map(|f| f.late)),
                median(own().map(|f| f.rate)),
                median(own().map(|f| f.cpu_micros)),
            );
        }
    }
}
