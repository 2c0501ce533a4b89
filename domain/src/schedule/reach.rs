//! Which source addresses can reach which destinations, and which addresses a case therefore uses.
//!
//! A host says which networks its addresses lie on. Two addresses reach each other if one network
//! holds both, if both are of one network namespace, or if the plan declares a route. An address
//! outside every network of its host (AnyIP, a /32, a host that advertises no networks) is reached by
//! routes that somebody made on purpose and that no host knows of: it is taken to reach everybody.

use super::choose::Chosen;
use super::shortfall::Shortfall;
use crate::plan::{Case, Route};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Networks that cannot reach each other and are told of in one case.
const MOST_TOLD: usize = 8;
/// Addresses of one network that are told by name.
const MOST_NAMED: usize = 3;

/// An address, with what decides whom it reaches. Where two networks hold one address the wider of
/// them holds all of the other (CIDR), so the widest is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Site<'a> {
    boot_id: &'a str,
    namespace: u64,
    network: Option<IpNet>,
    /// Which of them: routes may be for some only.
    address: IpAddr,
}

/// The site of an address of this host.
pub(super) fn site(host: &Chosen, address: IpAddr) -> Site<'_> {
    let holding = host.facts.networks.iter().filter(|network| network.contains(&address));
    Site {
        boot_id: &host.facts.boot_id,
        namespace: host.facts.network_namespace,
        network: holding.min_by_key(|network| network.prefix_len()).map(IpNet::trunc),
        address,
    }
}

/// Whether a connection from one site finds its way to the other.
pub(super) fn reaches(source: &Site<'_>, destination: &Site<'_>, routes: &[Route]) -> bool {
    if source.address.is_ipv4() != destination.address.is_ipv4() {
        return false;
    }
    let (Some(from), Some(to)) = (source.network, destination.network) else { return true };
    let one_namespace = source.namespace == destination.namespace && source.boot_id == destination.boot_id;
    let declared =
        |route: &Route| route.from.contains(&source.address) && route.to.contains(&destination.address);
    one_namespace || from.contains(&to) || to.contains(&from) || routes.iter().any(declared)
}

/// A host's addresses that reach the same ones, as positions among the addresses that it offers.
struct Group<'a> {
    host: usize,
    site: Site<'a>,
    positions: Vec<usize>,
}

/// All hosts' addresses in groups; within a host in the order of their first addresses.
fn groups<'a>(hosts: &'a [Chosen], routes: &[Route]) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for (host, chosen) in hosts.iter().enumerate() {
        let mut own: BTreeMap<_, Group<'a>> = BTreeMap::new();
        for (position, address) in chosen.addresses.iter().enumerate() {
            let site = site(chosen, *address);
            let ends: Vec<_> =
                routes.iter().map(|r| (r.from.contains(address), r.to.contains(address))).collect();
            let group = own.entry((site.network, ends)).or_insert_with(|| Group {
                host,
                site,
                positions: Vec::new(),
            });
            group.positions.push(position);
        }
        let mut own: Vec<_> = own.into_values().collect();
        own.sort_by_key(|group| group.positions.first().copied());
        groups.extend(own);
    }
    groups
}

/// Leaves each host the addresses that the case uses: `at_servers` and `at_clients` of those that it
/// offers. Of servers those that most client hosts reach, and then those that the same clients reach
/// as the ones taken before, so that all lie together; of clients those that reach most of these, and
/// then those that reach what no other address of the host does. The order of the offer decides ties
/// and is kept.
pub(super) fn take_addresses(
    servers: &mut [Chosen],
    clients: &mut [Chosen],
    at_servers: usize,
    at_clients: usize,
    routes: &[Route],
) {
    let (serving, connecting) = (groups(servers, routes), groups(clients, routes));
    let pairs: Vec<Vec<bool>> = serving
        .iter()
        .map(|s| connecting.iter().map(|c| reaches(&c.site, &s.site, routes)).collect())
        .collect();
    let pair = |s: usize, c: usize| pairs.get(s).and_then(|row| row.get(c)).copied().unwrap_or(false);

    // How many addresses taken at servers each group of the clients reaches.
    let mut reached = vec![0usize; connecting.len()];
    let mut taken_of = vec![0usize; serving.len()];
    for host in 0..servers.len() {
        for _ in 0..at_servers {
            let score = |s: usize| {
                let by = |c: &usize| pair(s, *c);
                let mut hosts: Vec<usize> = Vec::new();
                let (mut together, mut all) = (0, 0);
                for (c, group) in connecting.iter().enumerate().filter(|(c, _)| by(c)) {
                    let size = group.positions.len().min(at_clients);
                    hosts.push(group.host);
                    together += size * reached.get(c).copied().unwrap_or(0);
                    all += size;
                }
                hosts.dedup();
                (hosts.len(), together, all)
            };
            let Some(best) = best(&serving, host, &taken_of, score) else { break };
            taken_of.iter_mut().skip(best).take(1).for_each(|taken| *taken += 1);
            reached.iter_mut().enumerate().filter(|(c, _)| pair(best, *c)).for_each(|(_, n)| *n += 1);
        }
    }
    let at_server = taken_of;
    let mut taken_of = vec![0usize; connecting.len()];
    for host in 0..clients.len() {
        let mut covered = vec![false; serving.len()];
        for _ in 0..at_clients {
            let score = |c: usize| {
                let by = |(s, _): &(usize, &usize)| pair(*s, c);
                let all: usize = at_server.iter().enumerate().filter(by).map(|(_, taken)| taken).sum();
                let new = |(s, _): &(usize, &usize)| !covered.get(*s).copied().unwrap_or(true);
                let fresh: usize =
                    at_server.iter().enumerate().filter(by).filter(new).map(|(_, taken)| taken).sum();
                (all, fresh, 0)
            };
            let Some(best) = best(&connecting, host, &taken_of, score) else { break };
            taken_of.iter_mut().skip(best).take(1).for_each(|taken| *taken += 1);
            covered.iter_mut().enumerate().filter(|(s, _)| pair(*s, best)).for_each(|(_, c)| *c = true);
        }
    }
    let (of_servers, of_clients) =
        (positions(&serving, &at_server, servers.len()), positions(&connecting, &taken_of, clients.len()));
    keep(servers, of_servers);
    keep(clients, of_clients);
}

/// The host's group with an address left that scores most; of equals that whose next address comes
/// first.
fn best(
    groups: &[Group<'_>],
    host: usize,
    taken: &[usize],
    score: impl Fn(usize) -> (usize, usize, usize),
) -> Option<usize> {
    let next = |index: usize, group: &Group<'_>| {
        group.positions.get(taken.get(index).copied().unwrap_or(0)).copied()
    };
    groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.host == host)
        .filter_map(|(index, group)| Some((index, next(index, group)?)))
        .max_by_key(|(index, position)| (score(*index), Reverse(*position)))
        .map(|(index, _)| index)
}

/// Each host's positions of the addresses that were taken, in the order of its offer.
fn positions(groups: &[Group<'_>], taken: &[usize], hosts: usize) -> Vec<Vec<usize>> {
    let mut kept = vec![Vec::new(); hosts];
    for (group, taken) in groups.iter().zip(taken) {
        if let Some(kept) = kept.get_mut(group.host) {
            kept.extend(group.positions.iter().take(*taken));
        }
    }
    kept.iter_mut().for_each(|positions| positions.sort_unstable());
    kept
}

fn keep(hosts: &mut [Chosen], kept: Vec<Vec<usize>>) {
    for (host, positions) in hosts.iter_mut().zip(kept) {
        host.addresses =
            positions.into_iter().filter_map(|position| host.addresses.get(position)).copied().collect();
    }
}

/// What stands apart among the addresses that the case uses: the addresses without anybody to
/// connect to or to be reached by, or, where `all` are asked for, every pair that cannot be.
pub(super) fn apart(
    case: &Case,
    servers: &[Chosen],
    clients: &[Chosen],
    routes: &[Route],
    all: bool,
) -> Vec<Shortfall> {
    let (serving, connecting) = (groups(servers, routes), groups(clients, routes));
    let reach = |c: &Group<'_>, s: &Group<'_>| reaches(&c.site, &s.site, routes);
    // A server's address that nobody reaches is idle; one of its others may serve all the same.
    let served = |host: usize| {
        serving.iter().filter(|s| s.host == host).any(|s| connecting.iter().any(|c| reach(c, s)))
    };
    let mut told: BTreeMap<(IpNet, IpNet), (Vec<String>, Vec<String>)> = BTreeMap::new();
    for c in &connecting {
        let alone = !serving.iter().any(|s| reach(c, s));
        for s in serving.iter().filter(|s| !reach(c, s)) {
            if !(all || alone || !served(s.host)) {
                continue;
            }
            let (Some(from), Some(to)) = (c.site.network, s.site.network) else { continue };
            let (sources, destinations) = told.entry((from, to)).or_default();
            for (names, hosts, group) in [(sources, clients, c), (destinations, servers, s)] {
                let Some(host) = hosts.get(group.host) else { continue };
                let addresses = group.positions.iter().filter_map(|position| host.addresses.get(*position));
                for address in addresses {
                    let name = format!("{} of {}", address, host.name);
                    if !names.contains(&name) && names.len() <= MOST_NAMED {
                        names.push(name);
                    }
                }
            }
        }
    }
    let listed = |mut names: Vec<String>| {
        if names.len() > MOST_NAMED {
            names.truncate(MOST_NAMED);
            names.push("others".into());
        }
        names.join(", ")
    };
    told.into_iter()
        .take(MOST_TOLD)
        .map(|((from, to), (sources, destinations))| Shortfall::Unreachable {
            case: case.name.clone(),
            sources: listed(sources),
            from,
            destinations: listed(destinations),
            to,
        })
        .collect()
}
