//! Which limit bound a trial, by what was measured.

use crate::capacity::Limit;
use crate::evidence::TrialEvidence;
use crate::sample::Beyond;

/// What `connect`, or an explicit `bind`, says when no four-tuple is left.
const PORTS_ARE_OUT: [&str; 2] = ["EADDRNOTAVAIL", "EADDRINUSE"];

/// The limit that bound: the predicted one where the prediction was met exactly (and, for
/// four-tuples, the kernel refused one connect more wherever it was asked; for a full connection
/// table, the table shows it where more were tried), else the one that the most frequent failure
/// names.
pub fn bound_by(trial: &TrialEvidence) -> Limit {
    if trial.agreed() == Some(trial.prediction.connections) {
        let refused = trial.ends.iter().filter_map(|end| end.beyond.as_ref()).all(refused_for_ports);
        let excess = trial.target > trial.prediction.connections;
        let full = trial.prediction.bound_by != Limit::Conntrack || !excess || conntrack_full(trial);
        return if refused && full { trial.prediction.bound_by } else { Limit::Unknown };
    }
    let failures = trial.failures();
    let worst = failures.iter().max_by_key(|(_, count)| *count);
    match worst.map(|(failure, _)| failure.error.as_str()) {
        Some(error) if PORTS_ARE_OUT.contains(&error) => Limit::FourTuples,
        Some("EMFILE") => Limit::OpenFiles,
        Some("ENFILE") => Limit::SystemFiles,
        Some("ENOMEM" | "ENOBUFS") => Limit::Memory,
        Some("ETIMEDOUT" | "NO_ANSWER") if conntrack_full(trial) => Limit::Conntrack,
        Some("ETIMEDOUT" | "NO_ANSWER") if overflowed(trial) => Limit::AcceptQueue,
        _ => Limit::Unknown,
    }
}

/// Whether the kernel refused every connect beyond the schedule, and for want of a four-tuple.
pub(super) fn refused_for_ports(beyond: &Beyond) -> bool {
    let refused =
        beyond.refused.iter().filter(|(failure, _)| PORTS_ARE_OUT.contains(&failure.error.as_str()));
    refused.map(|(_, count)| count).sum::<u64>() >= beyond.tried
}

fn conntrack_full(trial: &TrialEvidence) -> bool {
    trial.ends.iter().filter_map(|end| end.after.as_ref()).any(|after| {
        matches!((after.get("conntrack.count"), after.get("conntrack.max")), (Some(count), Some(max)) if count >= max)
    })
}

fn overflowed(trial: &TrialEvidence) -> bool {
    trial.ends.iter().any(|end| match (&end.before, &end.after) {
        (Some(before), Some(after)) => {
            after.since(before).get("TcpExt.ListenOverflows").is_some_and(|n| *n > 0)
        }
        _ => false,
    })
}
