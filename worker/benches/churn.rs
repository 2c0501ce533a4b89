//! Connections replaced during a hold, the engine beside a bare loop, in turn, in one run.
//!
//! `cargo bench -p tuplelab-worker --bench churn` (`-- 60000` for other numbers held, `--rate
//! 10000,200000`, `--seconds 3`, `--trials 3`). Both close the oldest connection with RST, open a new one
//! from the port of its block that has been free the longest, and exchange the token; both servers keep
//! what they hold under epoll and let go of what was closed.
//!
//! Churn has a rate, so it is asked for twice: at a rate that both keep, where CPU time is what there is
//! to compare, and at one above what either reaches, where what was replaced is. The engine leaves out
//! what could not begin in its time; the bare loop lags behind without end. That is the same there.
#![allow(unsafe_code, reason = "the bare loop is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

mod common;

use common::process::Process;
use common::{Args, lab, median};
use std::time::{Duration, Instant};
use tuplelab_domain::schedule::{WorkerOrder, WorkerReport};

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    cpu_micros: f64,
    late: f64,
    failed: f64,
}

fn trial(kind: &str, held: u64, rate: u64, seconds: u64) -> Figures {
    // An address has its spare ports beside those that are held.
    let sources = held.div_ceil(lab::PORTS - 1_024);
    let load = format!("churn = \"{rate}/s\"\nhold = \"{seconds}s\"\n");
    let (serve, connect) = lab::assignments(held, sources, &load, 0);
    let mut server = Process::start(kind, serve.work);
    let mut client = Process::start(kind, connect.work);
    server.go();
    client.go();
    client.plateau();
    // Until the servers' lanes have all they are to hold under watch.
    server.tell();
    std::thread::sleep(Duration::from_millis(200));
    let before = (client.tell(), server.tell());
    client.order(&WorkerOrder::Move);
    let begun = Instant::now();
    std::thread::sleep(Duration::from_secs(seconds));
    client.order(&WorkerOrder::Rest);
    client.until(|report| matches!(report, WorkerReport::Resting).then_some(()));
    let elapsed = begun.elapsed().as_secs_f64();
    let after = (client.tell(), server.tell());
    client.end();
    server.end();
    let replaced = (after.0.counters.churned - before.0.counters.churned) as f64;
    let cpu = after.0.cpu_micros + after.1.cpu_micros - before.0.cpu_micros - before.1.cpu_micros;
    let failures = |figures: &tuplelab_domain::sample::Plateau| {
        figures.counters.failures.iter().map(|(_, count)| count).sum::<u64>() as f64
    };
    Figures {
        rate: replaced / elapsed,
        cpu_micros: cpu as f64 / replaced,
        late: (after.0.counters.late - before.0.counters.late) as f64,
        failed: failures(&after.0) + failures(&after.1),
    }
}

fn main() {
    if common::is_process() {
        return;
    }
    let args = Args::parse(&["--rate", "--seconds", "--trials"], &[]);
    let (seconds, trials) = (args.number("--seconds", 3), args.number("--trials", 3));
    let mut rates = args.list("--rate");
    if rates.is_empty() {
        rates = vec![10_000, 200_000];
    }
    lab::own_namespace();
    println!("{seconds} s of churn, in turn, {trials} trials; medians, and medians of each pair's ratio");
    println!(
        "{:>8} {:>10} {:>8} {:>12} {:>12} {:>10} {:>8}",
        "held", "asked/s", "", "replaced/s", "CPU us each", "late", "failed"
    );
    for held in args.numbers_or(&[60_000]) {
        for rate in &rates {
            let pairs: Vec<[Figures; 2]> = (0..trials)
                .map(|nth| {
                    let mut kinds = ["--engine", "--bare"];
                    if nth % 2 == 1 {
                        kinds.reverse();
                    }
                    let mut pair = kinds.map(|kind| trial(kind, held, *rate, seconds));
                    if nth % 2 == 1 {
                        pair.reverse();
                    }
                    pair
                })
                .collect();
            for (side, name) in ["engine", "bare"].into_iter().enumerate() {
                let of = |what: fn(&Figures) -> f64| median(pairs.iter().map(|pair| what(&pair[side])));
                println!(
                    "{held:>8} {rate:>10} {name:>8} {:>12.0} {:>12.1} {:>10.0} {:>8.0}",
                    of(|f| f.rate),
                    of(|f| f.cpu_micros),
                    of(|f| f.late),
                    of(|f| f.failed)
                );
            }
            let ratio = |what: fn(&Figures) -> f64| median(pairs.iter().map(|[e, b]| what(e) / what(b)));
            let (rates, cpu) = (ratio(|f| f.rate), ratio(|f| f.cpu_micros));
            println!("{held:>8} {rate:>10} {:>8} {rates:>12.2} {cpu:>12.2}", "ratio");
        }
    }
}
