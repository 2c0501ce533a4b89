//! C4: more client addresses, server ports and server addresses multiply it.

use super::{Explanation, law, pairs};
use crate::capacity::Limit;
use crate::evidence::TrialEvidence;
use crate::plan::Case;
use crate::units::thousands;
use crate::verdict::bound_by;
use crate::verdict::point::{Points, Weight};

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "The kernel finds a connection by its whole four-tuple, so a source port that is in use \
        towards one destination is free towards every other, and free again for another source address. The \
        total is the sum, over every pair of a source address and a destination ip:port, of the source ports \
        that are usable for it. One listening socket takes all of them: it has no ports to run out of. It \
        goes on until another limit binds: descriptors, memory, a connection table.",
    experiment: "Loads vary one factor at a time, then all three, on explicit ports and on those that the \
        kernel chooses, each until the kernels refuse one more; both kernels count and name the same \
        four-tuples. A script compares, port by port, what one range gives towards several destinations and \
        from another source address.",
    changes: "A total other than the sum of usable source ports while nothing else binds; a port that is \
        refused to a second destination or a second source address because a first one has it.",
    reading: &[
        "RFC 9293, 3.3.1 and 4 (a connection is a pair of sockets, each an address and a port)",
        "tcp(7), ip(7): ip_local_port_range",
        "net/ipv4/inet_hashtables.c: __inet_check_established, inet_ehashfn, __inet_hash_connect",
        "net/ipv4/inet_hashtables.c: inet_lookup_listener (any source is the same listener's)",
    ],
};

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let mut single: Vec<u64> = Vec::new();
    let mut multiplied: Vec<String> = Vec::new();
    let (mut has_single, mut has_more) = (false, false);
    for (trial, case) in points.loads().collect::<Vec<_>>() {
        let count = pairs(case);
        has_single |= count == 1;
        has_more |= count > 1;
        let seen = points.counted(trial, case).and_then(|held| by_the_law(trial, case, held));
        if let (Ok((_, true)), Ok(held)) = (&seen, points.counted(trial, case)) {
            if count == 1 {
                single.push(held);
            } else {
                multiplied.push(format!("{} = {} of {}", thousands(held), product(case), each(held, count)));
            }
        }
        let what = format!("{} hold the sum of their usable source ports", product(case));
        points.add(Weight::Must, &case.name, what, seen);
    }
    for (has, what) in
        [(has_single, "a single pair of address and ip:port"), (has_more, "more than one pair")]
    {
        if !has {
            points.add(Weight::Must, "the plan", what, Err(format!("no case with {what}")));
        }
    }
    same_ports(points);
    single.sort_unstable();
    single.dedup();
    multiplied.dedup();
    let single: Vec<String> = single.into_iter().map(thousands).collect();
    format!(
        "one pair held {}, and more of them {}: exactly the sum of usable source ports over all pairs",
        single.join(", "),
        multiplied.join(", ")
    )
}

/// How many ports each of the pairs had, on average.
fn each(held: u64, pairs: u64) -> String {
    let about = if held.is_multiple_of(pairs.max(1)) { "" } else { "about " };
    format!("{about}{} ports", thousands(held / pairs.max(1)))
}

/// "2 sources x 3 ip:ports".
fn product(case: &Case) -> String {
    let setup = &case.setup;
    let sources = u64::from(setup.clients.hosts) * u64::from(setup.clients.addresses);
    let destinations = pairs(case) / sources.max(1);
    let word = |count: u64, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!("{} x {}", word(sources, "source"), word(destinations, "ip:port"))
}

/// What a load held, and whether it is the sum.
fn by_the_law(trial: &TrialEvidence, case: &Case, held: u64) -> Result<(String, bool), String> {
    let law = trial.prediction.connections;
    if trial.prediction.bound_by != Limit::FourTuples {
        return Err(format!("'{}' is bound by {}, not by four-tuples", case.name, trial.prediction.bound_by));
    }
    let bound = bound_by(trial);
    // The law holds until another limit binds: to stay below it for another reason is no contrary
    // instant.
    if held < law && bound != Limit::FourTuples {
        return Err(format!(
            "'{}' held {} of {} and was bound by {bound}, not by four-tuples",
            case.name,
            thousands(held),
            thousands(law)
        ));
    }
    // The model knows whose ports are taken; there are no more than the case names.
    let most = law::most(case)?.map(|each| pairs(case) * each);
    let right = held == law && most.is_none_or(|most| held <= most);
    let measured = thousands(held);
    Ok((if right { measured } else { format!("{measured}, the sum is {}", thousands(law)) }, right))
}

/// One range of ports serves every destination and every source address, port by port.
fn same_ports(points: &mut Points<'_>) {
    let first = "ports.one";
    let steps = [
        (first, "one ip:port has all of the range"),
        ("ports.other_port", "another port has all of the range too"),
        ("ports.other_address", "another address has all of the range too"),
        ("ports.other_source", "another source address has all of it, towards the same ip:port"),
    ];
    for (label, what) in steps {
        law::by_the_law(points, label, what, law::NO_PORT);
        if label != first {
            law::same_ports(points, first, label);
        }
    }
}
