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
    /// How many connections it allows: of one address pair for four-tuples, at once at one listener
    /// for the accept queue.
    pub allows: u64,
    /// What lifts it, for each kind of place among those hosts.
    pub remedies: Vec<Remedy>,
}

/// Each limit of one host by itself, the tightest first: what the capacity model says of a load that
/// has one end of every connection here, between one pair of addresses.
pub fn examine(host: &Host) -> Vec<Diagnosis> {
    let facts = &host.facts;
    let source = facts.addresses.first().copied().unwrap_or(std::net::Ipv4Addr::LOCALHOST.into());
    let tuples = usable_ports(facts, source, &SourcePorts::Kernel).len().into();
    let queue = u64::from(facts.somaxconn()) + 1;
    let part = Part { name: host.name.as_str(), facts, share: 1.0, keeps: true };
    let prediction = predict(Connections::Max, tuples, &[part], queue, Some(queue));
    let margins = prediction.margins.iter().map(|margin| Diagnosis {
        limit: margin.limit,
        place: host.name.to_string(),
        allows: margin.offered,
        remedies: remedies(margin.limit, facts.place.kind),
    });
    margins.collect()
}

/// A margin of a prediction, with what lifts it on the hosts where it applies.
pub fn diagnose(margin: &Margin, inventory: &Inventory) -> Diagnosis {
    let Margin { limit, ref place, offered } = *margin;
    Diagnosis { limit, place: place.clone(), allows: offered, remedies: lifting(limit, place, inventory) }
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
        assert!(found.windows(2).all(|pair| pair[0].allows <= pair[1].allows), "{found:?}");
        let tuples = found.iter().find(|row| row.limit == Limit::FourTuples).expect("a row");
        assert_eq!(tuples.allows, 28_232, "the kernel's default range");
        assert!(tuples.remedies[0].command.starts_with("docker run --sysctl"), "{tuples:?}");
    }

    #[test]
    fn a_margin_is_lifted_where_it_applies_and_one_of_all_clients_everywhere() {
        let inventory = Inventory { hosts: vec![in_a(Kind::Machine, "a"), in_a(Kind::Container, "b")] };
        let margin = |limit, place: &str| Margin { limit, place: place.into(), offered: 7 };
        let commands = |margin: &Margin| {
            diagnose(margin, &inventory).remedies.into_iter().map(|r| r.command).collect::<Vec<_>>()
        };
        assert_eq!(commands(&margin(Limit::OpenFiles, "a"))[0], "ulimit -n 1048576");
        assert_eq!(commands(&margin(Limit::OpenFiles, "b")).len(), 2);
        assert_eq!(commands(&margin(Limit::FourTuples, "all clients")).len(), 3, "both kinds");
        assert!(commands(&margin(Limit::Plan, "the plan")).is_empty());
    }
}
