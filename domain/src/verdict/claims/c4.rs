//! C4: more client addresses, server ports and server addresses multiply it.

use super::{Explanation, pairs};
use crate::capacity::Limit;
use crate::units::thousands;
use crate::verdict::bound_by;
use crate::verdict::point::{Points, Weight};

pub(super) const EXPLANATION: Explanation =
    Explanation { mechanism: "", experiment: "", changes: "", reading: &[] };

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let mut single = None;
    let mut multiplied: Vec<String> = Vec::new();
    let (mut has_single, mut has_more) = (false, false);
    for (trial, case) in points.loads().collect::<Vec<_>>() {
        let law = trial.prediction.connections;
        let count = pairs(case);
        has_single |= count == 1;
        has_more |= count > 1;
        let seen = points.counted(trial, case).and_then(|held| {
            let bound = bound_by(trial);
            if trial.prediction.bound_by != Limit::FourTuples {
                let by = trial.prediction.bound_by;
                return Err(format!("'{}' is bound by {by}, not by four-tuples", case.name));
            }
            // The law holds until another limit binds: to stay below it for another reason is no
            // contrary instant.
            if held < law && bound != Limit::FourTuples {
                return Err(format!(
                    "'{}' held {} of {} and was bound by {bound}, not by four-tuples",
                    case.name,
                    thousands(held),
                    thousands(law)
                ));
            }
            if held == law && count == 1 {
                single = Some(held);
            } else if held == law {
                multiplied.push(thousands(held));
            }
            Ok((thousands(held), held == law))
        });
        let what = format!(
            "{count} pair(s) of a source address and an ip:port hold the sum of their usable source ports, {}",
            thousands(law)
        );
        points.add(Weight::Must, &case.name, what, seen);
    }
    for (has, what) in
        [(has_single, "a single pair of address and ip:port"), (has_more, "more than one pair")]
    {
        if !has {
            points.add(Weight::Must, "the plan", what, Err(format!("no case with {what}")));
        }
    }
    multiplied.dedup();
    format!(
        "{} for one pair became {}: exactly the sum of usable source ports over all pairs",
        single.map_or_else(|| "?".into(), thousands),
        multiplied.join(", ")
    )
}
