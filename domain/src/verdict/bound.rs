//! Which limit bound a trial, by what was measured.

use crate::capacity::Limit;
use crate::evidence::TrialEvidence;

/// The limit that bound: the predicted one where the prediction was met exactly (and, for
/// four-tuples, the kernel refused one connect more wherever it was asked), else the one that the
/// most frequent failure names.
pub fn bound_by(trial: &TrialEvidence) -> Limit {
    if trial.agreed() == Some(trial.prediction.connections) {
        let beyond = trial.ends.iter().filter_map(|end| end.beyond.as_ref());
        let unrefused = beyond.filter(|b| b.refused.iter().map(|(_, n)| n).sum::<u64>() < b.tried).count();
        return if unrefused == 0 { trial.prediction.bound_by } else { Limit::Unknown };
    }
    let failures = trial.failures();
    let worst = failures.iter().max_by_key(|(_, count)| *count);
    match worst.map(|(failure, _)| failure.error.as_str()) {
        Some("EADDRNOTAVAIL" | "EADDRINUSE") => Limit::FourTuples,
        Some("EMFILE") => Limit::OpenFiles,
        Some("ENFILE") => Limit::SystemFiles,
        Some("ENOMEM" | "ENOBUFS") => Limit::Memory,
        Some("ETIMEDOUT" | "NO_ANSWER") if conntrack_full(trial) => Limit::Conntrack,
        Some("ETIMEDOUT" | "NO_ANSWER") if overflowed(trial) => Limit::AcceptQueue,
        _ => Limit::Unknown,
    }
}

fn conntrack_full(trial: &TrialEvidence) -> bool {
    trial.ends.iter().filter_map(|end| end.after.as_ref()).any(|after| {
        matches!((after.get("conntrack.count"), after.get("conntrack.max")), (Some(count), Some(max)) if count >= max)
    })
}

fn overflowed(trial: &TrialEvidence) -> bool {
    trial.ends.iter().any(|end| match (&end.before, &end.after) {
        (Some(before), Some(after)) => after.since(before).get("TcpExt.ListenOverflows").is_some_and(|n| *n > 0),
        _ => false,
    })
}
