//! Which hosts a case runs on: by role and labels, with the addresses and the rights that it asks for.

use super::assignment::Role;
use super::inventory::{Host, Inventory};
use super::reach::take_addresses;
use super::shortfall::Shortfall;
use crate::capacity::facts::HostFacts;
use crate::id::AgentName;
use crate::plan::{Case, Labels, Route, Setup};
use crate::sysctl::Sysctls;
use std::cmp::Reverse;
use std::net::IpAddr;

/// A host chosen for a case, with the case's settings made and the addresses that it uses.
pub(super) struct Chosen {
    pub(super) name: AgentName,
    pub(super) facts: HostFacts,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) sysctls: Sysctls,
    pub(super) conntrack: bool,
    pub(super) files: Option<u64>,
}

/// Servers are chosen first, then clients from those that are left. Hosts whose `role` label names
/// the role come before hosts without one; hosts of the other role come last. Names decide ties,
/// with their numbers read as numbers.
pub(super) fn choose_hosts(
    case: &Case,
    inventory: &Inventory,
    routes: &[Route],
) -> Result<(Vec<Chosen>, Vec<Chosen>), Vec<Shortfall>> {
    let Setup { servers, clients, .. } = &case.setup;
    let mut short = Vec::new();
    let mut serving = choose(
        case,
        &Wanted {
            role: Role::Server,
            hosts: servers.hosts,
            addresses: servers.addresses,
            labels: &servers.labels,
            sysctls: &servers.sysctls,
            conntrack: servers.conntrack,
            files: servers.files,
        },
        inventory,
        &[],
        &mut short,
    );
    let taken: Vec<AgentName> = serving.iter().map(|host| host.name.clone()).collect();
    let mut connecting = choose(
        case,
        &Wanted {
            role: Role::Client,
            hosts: clients.hosts,
            addresses: clients.addresses,
            labels: &clients.labels,
            sysctls: &clients.sysctls,
            conntrack: clients.conntrack,
            files: clients.files,
        },
        inventory,
        &taken,
        &mut short,
    );
    if !short.is_empty() {
        return Err(short);
    }
    let (at_servers, at_clients) = (servers.addresses as usize, clients.addresses as usize);
    take_addresses(&mut serving, &mut connecting, at_servers, at_clients, routes);
    Ok((serving, connecting))
}

/// What a cohort asks of its hosts.
struct Wanted<'a> {
    role: Role,
    hosts: u32,
    addresses: u32,
    labels: &'a Labels,
    sysctls: &'a Sysctls,
    conntrack: bool,
    files: Option<u64>,
}

/// The hosts, with every address of the family that they offer.
fn choose(
    case: &Case,
    wanted: &Wanted<'_>,
    inventory: &Inventory,
    taken: &[AgentName],
    short: &mut Vec<Shortfall>,
) -> Vec<Chosen> {
    let Wanted { role, hosts: asked, addresses, labels, sysctls, conntrack, files } = *wanted;
    let family = case.setup.load.family;
    let offered = |host: &Host| host.facts.addresses.iter().filter(|a| family.has(a)).count();
    let mut fitting: Vec<&Host> = inventory
        .hosts
        .iter()
        .filter(|host| !taken.contains(&host.name))
        .filter(|host| labels.iter().all(|(key, value)| host.labels.get(key) == Some(value)))
        .collect();
    fitting.sort_by_key(|host| {
        let rank = match host.labels.get("role") {
            Some(word) if word == role.name() => 0,
            None => 1,
            Some(_) => 2,
        };
        (rank, natural(host.name.as_str()))
    });
    let unfit = fitting.iter().filter(|h| offered(h) < addresses as usize);
    let nearest = unfit.min_by_key(|h| Reverse(offered(h))).map(|host| {
        format!("{} offers {} of {addresses} {} addresses", host.name, offered(host), family.name())
    });
    fitting.retain(|host| offered(host) >= addresses as usize);
    if fitting.len() < asked as usize {
        short.push(Shortfall::Hosts {
            case: case.name.clone(),
            role: role.name().into(),
            labels: labels.clone(),
            asked,
            offered: fitting.len() as u32,
            nearest,
        });
    }
    fitting.truncate(asked as usize);
    for host in &fitting {
        let offered = host.facts.open_files.per_table;
        if let Some(asked) = files.filter(|files| *files > offered) {
            let (case, agent) = (case.name.clone(), host.name.clone());
            short.push(Shortfall::Files { case, agent, asked, offered });
        }
        if let Some(sysctl) = sysctls.keys().next().filter(|_| !host.facts.may_set_sysctls) {
            short.push(Shortfall::Setting {
                case: case.name.clone(),
                agent: host.name.clone(),
                sysctl: *sysctl,
            });
        }
        let (of_case, agent) = (case.name.clone(), host.name.clone());
        if conntrack && !host.facts.may_set_sysctls {
            short.push(Shortfall::MayNotTrack { case: of_case, agent });
        } else if conntrack && host.facts.conntrack.or(host.facts.conntrack_available).is_none() {
            short.push(Shortfall::NoTracking { case: of_case, agent });
        }
    }
    fitting
        .into_iter()
        .map(|host| Chosen {
            name: host.name.clone(),
            facts: match conntrack {
                true => host.facts.with(sysctls).with_files(files).tracking(),
                false => host.facts.with(sysctls).with_files(files),
            },
            addresses: host.facts.addresses.iter().filter(|a| family.has(a)).copied().collect(),
            sysctls: sysctls.clone(),
            conntrack,
            files,
        })
        .collect()
}

/// A name with its last number set apart, so that host-10 comes after host-9.
fn natural(name: &str) -> (String, u64, String) {
    let digits = name.chars().rev().take_while(char::is_ascii_digit).count();
    let (stem, number) = name.split_at(name.len() - digits);
    (stem.to_owned(), number.parse().unwrap_or(0), name.to_owned())
}
