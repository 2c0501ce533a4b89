//! From hosts to a ceiling: each limit says how many connections the whole case can have before it
//! binds; the smallest wins.

use super::facts::HostFacts;
use super::limit::{Limit, Margin, Prediction};
use crate::plan::Connections;
use std::collections::BTreeMap;

/// Kernel memory that one end of an idle connection takes, with slack: TCP socket 2,368 B,
/// sock_inode 832 B, file 192 B, dentry 192 B and the buckets; about 7.9 KB a pair was measured on
/// Linux 6.18 (docs/PERFORMANCE.md).
pub const BYTES_PER_END: u64 = 4_096;

/// Memory left alone on every kernel: a twentieth of what is available, and this much more.
const BYTES_KEPT: u64 = 256 << 20;

/// Descriptors of a table that hold no connection: standard streams, listeners, a wake-up, slack.
pub const DESCRIPTORS_KEPT: u64 = 64;

/// Descriptors that a kernel needs for everything else while a lab runs.
const SYSTEM_FILES_KEPT: u64 = 8_192;

/// Lanes (threads) that one worker may have at most; a thousand tables of even 1,024 descriptors
/// are a million connections.
const MOST_LANES: u64 = 1_024;

/// One host's part in a case, as far as the model cares.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// The host's name, for the margins.
    pub name: &'a str,
    /// Its limits, with the case's own settings.
    pub facts: &'a HostFacts,
    /// Of every connection of the case, the share that has an end here (0 to 1).
    pub share: f64,
    /// Whether its application keeps a descriptor for each of them: a server that does not accept,
    /// or closes at once, keeps none.
    pub keeps: bool,
}

/// How many connections a case can hold.
///
/// `tuples` is the sum, over all source address and destination pairs, of usable source ports;
/// `accept_queue` the shortest accept queue among the listeners. Hosts with one boot id share one
/// kernel's memory and descriptors; hosts with one network namespace share one connection table.
/// `room` is how many the servers' queues and applications take where these do not accept all.
pub fn predict(
    asked: Connections,
    tuples: u64,
    parts: &[Part<'_>],
    accept_queue: u64,
    room: Option<u64>,
) -> Prediction {
    let mut margins = vec![Margin { limit: Limit::FourTuples, place: "all clients".into(), offered: tuples }];
    margins.extend(room.map(|offered| Margin {
        limit: Limit::AcceptQueue,
        place: "all servers".into(),
        offered,
    }));
    let mut kernels: BTreeMap<&str, Vec<&Part<'_>>> = BTreeMap::new();
    let mut namespaces: BTreeMap<(&str, u64), Vec<&Part<'_>>> = BTreeMap::new();
    for part in parts {
        kernels.entry(&part.facts.boot_id).or_default().push(part);
        namespaces.entry((&part.facts.boot_id, part.facts.network_namespace)).or_default().push(part);
        if !part.keeps {
            continue;
        }
        let files = &part.facts.open_files;
        let per_table = files.per_table.saturating_sub(DESCRIPTORS_KEPT);
        let lanes = files.threads.min(MOST_LANES);
        let offered = shared(per_table.saturating_mul(lanes), part.share);
        margins.push(Margin { limit: Limit::OpenFiles, place: part.name.into(), offered });
    }
    for hosts in kernels.values() {
        let share = hosts.iter().map(|part| part.share).sum();
        let place = names(hosts);
        // One kernel, one memory: every host reads the same number, or a smaller one of its cgroup.
        let available = hosts.iter().map(|part| part.facts.memory_available).min().unwrap_or(0);
        let budget = (available - available / 20).saturating_sub(BYTES_KEPT);
        margins.push(Margin {
            limit: Limit::Memory,
            place: place.clone(),
            offered: shared(budget / BYTES_PER_END, share),
        });
        let keeping = || hosts.iter().filter(|part| part.keeps);
        if keeping().any(|part| !part.facts.open_files.exempt) {
            let share = keeping().map(|part| part.share).sum();
            let files = hosts.iter().map(|part| part.facts.open_files);
            let free = files.map(|f| f.system.saturating_sub(f.allocated)).min().unwrap_or(0);
            let offered = shared(free.saturating_sub(SYSTEM_FILES_KEPT), share);
            margins.push(Margin { limit: Limit::SystemFiles, place, offered });
        }
    }
    for hosts in namespaces.values() {
        let Some(conntrack) = hosts.iter().find_map(|part| part.facts.conntrack) else { continue };
        // Both ends in one namespace are one entry there.
        let share = hosts.iter().map(|part| part.share).sum::<f64>().min(1.0);
        let offered = shared(conntrack.max.saturating_sub(conntrack.count), share);
        margins.push(Margin { limit: Limit::Conntrack, place: names(hosts), offered });
    }
    if let Connections::Exactly(count) = asked {
        margins.push(Margin { limit: Limit::Plan, place: "the plan".into(), offered: count });
    }
    margins.sort_by_key(|margin| (margin.offered, margin.limit));
    let tightest = margins.first();
    let bound_by = tightest.map_or(Limit::Unknown, |margin| margin.limit);
    Prediction {
        connections: tightest.map_or(0, |margin| margin.offered),
        bound_by,
        next_bound: margins.iter().map(|margin| margin.limit).find(|limit| *limit != bound_by),
        margins,
        accept_queue,
    }
}

/// How many connections a budget of ends allows where each connection costs `share` of one.
fn shared(budget: u64, share: f64) -> u64 {
    if share <= 0.0 { u64::MAX } else { (budget as f64 / share) as u64 }
}

fn names(hosts: &[&Part<'_>]) -> String {
    match hosts {
        [one] => one.name.to_owned(),
        [first, .., last] => format!("{} to {} (one kernel)", first.name, last.name),
        [] => String::new(),
    }
}
