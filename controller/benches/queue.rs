//! 1,000 plans of 20 clients: how long submissions and cancels take, and that none is lost, though the
//! controller is killed (-9) in the middle. `cargo bench -p tuplelab-controller --bench queue`; other
//! numbers with `-- CLIENTS PLANS`. The controller is a real one in a process of its own, over gRPC and
//! on a database in TUPLELAB_BENCH_DIR (default: the directory for temporary files); its two hosts are
//! stand-ins that open nothing, so that runs wait.
#![expect(clippy::print_stdout, reason = "it prints what it measured")]

#[path = "../tests/crowd/mod.rs"]
mod crowd;

use crowd::{Controller, attached, crowd as submit_all, hosts, lab};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tuplelab_controller::store::Store;
use tuplelab_proto::v1::{CancelRequest, ListRunsRequest};

#[tokio::main]
async fn main() {
    crowd::be_a_controller().await;
    let numbers: Vec<usize> = std::env::args().filter_map(|word| word.parse().ok()).collect();
    let (clients, plans) = match numbers.as_slice() {
        [clients, plans] => (*clients, *plans),
        _ => (20, 50),
    };
    let base = std::env::var_os("TUPLELAB_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::tempdir_in(base).expect("a folder");
    let db = folder.path().join("lab.db");
    let mut controller = Controller::start(&db, &[]);
    hosts(controller.address, &Arc::default());
    attached(controller.address).await;

    let begun = Instant::now();
    let all = submit_all(&mut controller, clients, plans).await;
    let took = begun.elapsed();
    let mut client = lab(controller.address).await;
    let listed = client.list_runs(ListRunsRequest { limit: 10_000 }).await.expect("lists").into_inner().runs;
    let stored: BTreeSet<&str> = listed.iter().map(|run| run.run.as_str()).collect();
    let acknowledged: BTreeSet<&str> = all.iter().map(|one| one.run.as_str()).collect();
    let lost = acknowledged.difference(&stored).count();
    let more = listed.len() - acknowledged.len();
    println!("{clients} clients, {plans} plans each, in {:.1} s", took.as_secs_f64());
    println!("acknowledged {}, stored {}, lost {lost}, more than asked for {more}", all.len(), listed.len());
    tell("submit", all.iter().filter(|one| !one.again).map(|one| one.took).collect());
    tell(
        "submit over the kill and the new start",
        all.iter().filter(|one| one.again).map(|one| one.took).collect(),
    );

    let mut cancels = Vec::new();
    for one in all.iter().rev().step_by(5) {
        let begun = Instant::now();
        client.cancel(CancelRequest { run: one.run.clone() }).await.expect("it waits");
        cancels.push(begun.elapsed());
    }
    tell("cancel of a run that waits", cancels);
    controller.kill();
    let found = Store::inspect(&db).await.expect("the database is one");
    println!("the database after a second kill: {} problems", found.problems.len());
    let whole = lost == 0 && more == 0 && all.len() == acknowledged.len() && found.problems.is_empty();
    std::process::exit(i32::from(!whole));
}

fn tell(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |share: f64| {
        let rank = ((share * times.len() as f64).ceil() as usize).clamp(1, times.len().max(1));
        times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!(
        "{what}: {}, p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
        times.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
}
