//! C3: one client address has at most 64K connections to one server ip:port.

use super::{Explanation, pairs};
use crate::evidence::TrialEvidence;
use crate::plan::SourcePorts;
use crate::units::thousands;
use crate::verdict::bound::refused_for_ports;
use crate::verdict::point::{Points, Weight};

/// Every source port that TCP has, port 0 included (RFC 9293, 3.1: 16 bits).
const PORTS: u64 = 65_536;

pub(super) const EXPLANATION: Explanation =
    Explanation { mechanism: "", experiment: "", changes: "", reading: &[] };

/// The error with which the kernel refused every connect more; `None` where it was not asked, or
/// did not refuse for want of a port.
fn refused_beyond(trial: &TrialEvidence) -> Option<String> {
    let mut error = None;
    for beyond in trial.ends.iter().filter_map(|end| end.beyond.as_ref()) {
        if beyond.tried == 0 || !refused_for_ports(beyond) {
            return None;
        }
        error = beyond.refused.first().map(|(failure, _)| failure.to_string());
    }
    error
}

fn chosen(ports: &SourcePorts) -> String {
    match ports {
        SourcePorts::Kernel => "chosen by the kernel".to_owned(),
        SourcePorts::Explicit(ports) => format!("bound from {ports}"),
    }
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let mut most = 0;
    let mut ceilings: Vec<(u64, String, String)> = Vec::new();
    let mut tried = false;
    for (trial, case) in points.loads().collect::<Vec<_>>() {
        let counted = points.counted(trial, case);
        most = most.max(*counted.as_ref().unwrap_or(&0));
        if pairs(case) != 1 {
            continue;
        }
        tried = true;
        let ports = chosen(&case.setup.clients.source_ports);
        let seen = counted.and_then(|count| match refused_beyond(trial) {
            // More than there are ports needs no refusal to be a contradiction.
            _ if count > PORTS => Ok((thousands(count), false)),
            Some(error) => {
                ceilings.push((count, ports.clone(), error.clone()));
                Ok((format!("{} held, the next {error}", thousands(count)), true))
            }
            None => Err(format!("'{}': the kernel was not asked for one more, or gave it", case.name)),
        });
        let what = format!("one address holds at most {} to one ip:port, ports {ports}", thousands(PORTS));
        points.add(Weight::Must, &case.name, what, seen);
    }
    if !tried {
        let why = "no case takes one client address to one server ip:port up to the kernel's refusal";
        points.add(Weight::Must, "the plan", "one address to one ip:port", Err(why.into()));
    }
    ceilings.sort();
    let numbers: Vec<String> = ceilings
        .iter()
        .map(|(count, ports, _)| format!("{} with ports {ports}", thousands(*count)))
        .collect();
    let error = ceilings.last().map_or("", |(.., error)| error.as_str());
    // The number is that of the ports that may be used, and no limit of the server: both are conditions.
    let what = "the number is that of the usable source ports of one address, and no limit of the server";
    let measured = format!("the same run held {}", thousands(most));
    points.add(Weight::Limit, "all cases", what, Ok((measured.clone(), true)));
    format!(
        "one address held {} to one ip:port, the next was refused ({error}); it is no limit of the server: {measured}",
        numbers.join(", ")
    )
}
