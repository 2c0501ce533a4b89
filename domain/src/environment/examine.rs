//! What a doctor says of hosts: each limit, its number, and what lifts it there.

use super::{Kind, Remedy, remedies};
use crate::capacity::{Limit, Margin, Part, predict, usable_ports};
use crate::plan::{Connections, SourcePorts};
use crate::schedule::{Host, Inventory, Shortfall};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One limit of a host, or of several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// Which.
    pub limit: Limit,
    /// Where it applies: a host, or the hosts that share a kernel.
    pub place: String,
    /// How many connections it allows: to one listener for four-tuples, at once at one listener that
    /// does not accept for the accept queue.
    pub allows: u64,
    /// What lifts it, for each kind of place among those hosts.
    pub remedies: Vec<Remedy>,
}

/// Each limit of one host by itself, the tightest first: what the capacity model says of a load that
/// has one end of every connection here, from all of its addresses of one family to one listener. The accept queue
/// comes last, whatever its number: it binds only where a server does not accept.
pub fn examine(host: &Host) -> Vec<Diagnosis> {
    let facts = &host.facts;
    let ports = |source| u64::from(usable_ports(facts, source, &SourcePorts::Kernel).len());
    // Without an address nothing is opened but to itself.
    let tuples = if facts.addresses.is_empty() {
        ports(std::net::Ipv4Addr::LOCALHOST.into())
    } else {
        // A listener's address has one family.
        let of =
            |v4| facts.addresses.iter().filter(move |a| a.is_ipv4() == v4).copied().map(ports).sum::<u64>();
        of(true).max(of(false))
    };
    let queue = u64::from(facts.somaxconn()) + 1;
    let part = Part { name: host.name.as_str(), facts, share: 1.0, keeps: true };
    let prediction = predict(Connections::Max, tuples, &[part], queue, Some(queue));
    let mut found: Vec<Diagnosis> = prediction
        .margins
        .iter()
        .map(|margin| Diagnosis {
            limit: margin.limit,
            place: host.name.to_string(),
            allows: margin.offered,
            remedies: remedies(margin.limit, facts.place.kind),
        })
        .collect();
    found.sort_by_key(|row| row.limit == Limit::AcceptQueue);
    found
}

/// A margin of a prediction, with what lifts it on the hosts where it applies. The kernel's port
/// range lifts nothing where the plan says the source ports itself.
pub fn diagnose(margin: &Margin, ports: &SourcePorts, inventory: &Inventory) -> Diagnosis {
    let Margin { limit, ref place, offered } = *margin;
    let by_plan = limit == Limit::FourTuples && matches!(ports, SourcePorts::Explicit(_));
    let remedies = if by_plan { vec![Remedy::of_the_plan(limit)] } else { lifting(limit, place, inventory) };
    Diagnosis { limit, place: place.clone(), allows: offered, remedies }
}

/// What lifts the limit that a plan does not fit by; nothing where no limit of a host is in the way.
pub fn lifts(shortfall: &Shortfall, inventory: &Inventory) -> Vec<Remedy> {
    match shortfall {
        Shortfall::Capacity { limit, place, .. } | Shortfall::Nothing { limit, place, .. } => {
            lifting(*limit, place, inventory)
        }
        Shortfall::Files { agent, .. } => lifting(Limit::OpenFiles, agent.as_str(), inventory),
        Shortfall::Hosts { .. }
        | Shortfall::Setting { .. }
        | Shortfall::MayNotTrack { .. }
        | Shortfall::NoTracking { .. }
        | Shortfall::Unreachable { .. }
        | Shortfall::Step { .. } => Vec::new(),
    }
}

/// For each kind of place among the hosts that `place` names; among all where it names none
/// ("all clients").
fn lifting(limit: Limit, place: &str, inventory: &Inventory) -> Vec<Remedy> {
    let names = |host: &&Host| place.split(' ').any(|word| word == host.name.as_str());
    let mut kinds: BTreeSet<Kind> =
        inventory.hosts.iter().filter(names).map(|h| h.facts.place.kind).collect();
    if kinds.is_empty() {
        kinds = inventory.hosts.iter().map(|host| host.facts.place.kind).collect();
    }
    kinds.into_iter().flat_map(|kind| remedies(limit, kind)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_lab::host;

    fn in_a(kind: Kind, name: &str) -> Host {
        let mut host = host(name, None, &["10.66.1.1"]);
        host.facts.place.kind = kind;
        host
    }

    #[test]
    fn a_hosts_own_limits_are_the_models_the_tightest_first() {
        let found = examine(&in_a(Kind::Container, "a"));
        let (queue, others) = found.split_last().expect("rows");
        assert_eq!(queue.limit, Limit::AcceptQueue, "it binds only who does not accept");
        assert!(others.windows(2).all(|pair| pair[0].allows <= pair[1].allows), "{found:?}");
        let tuples = found.iter().find(|row| row.limit == Limit::FourTuples).expect("a row");
        assert_eq!(tuples.allows, 28_232, "the kernel's default range");
        assert!(tuples.remedies[0].command.starts_with("docker run --sysctl"), "{tuples:?}");
    }

    #[test]
    fn a_margin_is_lifted_where_it_applies_and_one_of_all_clients_everywhere() {
        let inventory = Inventory { hosts: vec![in_a(Kind::Machine, "a"), in_a(Kind::Container, "b")] };
        let margin = |limit, place: &str| Margin { limit, place: place.into(), offered: 7 };
        let commands = |margin: &Margin| {
            diagnose(margin, &SourcePorts::Kernel, &inventory)
                .remedies
                .into_iter()
                .map(|r| r.command)
                .collect::<Vec<_>>()
        };
        assert_eq!(commands(&margin(Limit::OpenFiles, "a"))[0], "ulimit -n 1048576");
        assert_eq!(commands(&margin(Limit::OpenFiles, "b")).len(), 2);
        assert_eq!(commands(&margin(Limit::FourTuples, "all clients")).len(), 3, "both kinds");
        assert!(commands(&margin(Limit::Plan, "the plan")).is_empty());
    }

    #[test]
    fn four_tuples_are_counted_over_all_addresses_of_one_family() {
        let host = host("a", None, &["10.66.1.1", "fd66::1", "10.66.1.2"]);
        let tuples = examine(&host).into_iter().find(|row| row.limit == Limit::FourTuples).expect("a row");
        assert_eq!(tuples.allows, 2 * 28_232);
    }

    #[test]
    fn nobody_is_told_to_widen_the_kernels_range_for_ports_that_the_plan_says() {
        let inventory = Inventory { hosts: vec![in_a(Kind::Machine, "a")] };
        let margin = Margin { limit: Limit::FourTuples, place: "all clients".into(), offered: 7 };
        let explicit = SourcePorts::Explicit(crate::ports::PortSet::range(1024, 2047));
        let found = diagnose(&margin, &explicit, &inventory).remedies;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].at, "in the plan");
        assert!(!found[0].command.contains("sysctl"), "{found:?}");
    }
}
