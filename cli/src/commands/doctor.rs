//! `doctor`: which limit binds on these hosts, at which number, and the command that lifts it there.

use super::check;
use crate::args::DoctorArgs;
use crate::exit::{Done, Exit, Stop};
use crate::output::{plain, print, print_json};
use serde::Serialize;
use tuplelab_domain::environment::{Diagnosis, Kind, Place, Remedy, diagnose, examine, lifts};
use tuplelab_domain::schedule::{Host, Inventory, place};
use tuplelab_domain::units::thousands;
use tuplelab_proto::dial::Address;

/// A host by itself.
#[derive(Serialize)]
struct Examined<'a> {
    host: &'a str,
    place: Place,
    kernel: &'a str,
    settings: &'a tuplelab_domain::sysctl::Sysctls,
    /// Ports on which sockets listen, or that they hold, in the way of source ports.
    ports_held: usize,
    limits: Vec<Diagnosis>,
}

/// A case of a plan.
#[derive(Serialize)]
struct Case<'a> {
    case: &'a str,
    connections: u64,
    limits: Vec<Diagnosis>,
}

/// Why a plan does not fit.
#[derive(Serialize)]
struct Short {
    why: String,
    remedies: Vec<Remedy>,
}

/// Examines hosts, by themselves or for a plan.
pub async fn doctor(args: DoctorArgs, controller: Option<Address>) -> Done {
    let Some(path) = &args.plan else {
        let inventory = match (&args.inventory, controller) {
            (Some(path), _) => check::read_inventory(path)?,
            (None, Some(address)) => check::ask_inventory(&address).await?,
            (None, None) => this_host()?,
        };
        return alone(&inventory, args.json);
    };
    let (text, name) = super::read_plan(path)?;
    let plan = super::checked(&text, &name)?;
    let (inventory, hosts) = check::inventory(args.inventory.as_deref(), controller, &plan).await?;
    let schedule = match place(&plan, &inventory) {
        Ok(schedule) => schedule,
        Err(shortfalls) => {
            let short = shortfalls
                .iter()
                .map(|s| Short { why: s.to_string(), remedies: lifts(s, &inventory) })
                .collect::<Vec<_>>();
            if args.json {
                print_json(&serde_json::json!({ "hosts": hosts, "short": short }))?;
            } else {
                let mut text = format!("{name} does not fit on {hosts}:\n");
                for Short { why, remedies } in &short {
                    text += &format!("{}\n{}", plain(why), lines(remedies));
                }
                print(&text)?;
            }
            return Ok(Exit::CapacityShort);
        }
    };
    let cases: Vec<Case> = plan
        .cases
        .iter()
        .zip(&schedule.cases)
        .filter(|(_, placed)| !placed.assignments.is_empty() && placed.steps.is_empty())
        .map(|(case, placed)| Case {
            case: &case.name,
            connections: placed.prediction.connections,
            limits: placed
                .prediction
                .margins
                .iter()
                .map(|margin| diagnose(margin, &case.setup.clients.source_ports, &inventory))
                .collect(),
        })
        .collect();
    if args.json {
        return print_json(&serde_json::json!({ "hosts": hosts, "cases": cases }));
    }
    let mut text = format!("{name} fits on {hosts}\n");
    for case in &cases {
        text += &format!("\n{}: {} connections\n", plain(case.case), thousands(case.connections));
        // The one that binds, and the one that binds next; --json has them all.
        for (limit, word) in case.limits.iter().take(2).zip(["bound by", "then by"]) {
            text += &format!("  {word} {}", shown(limit));
        }
    }
    print(&text)
}

fn alone(inventory: &Inventory, json: bool) -> Done {
    let hosts = inventory.hosts.iter().map(|host| {
        let Host { name, facts, .. } = host;
        Examined {
            host: name.as_str(),
            place: facts.place,
            kernel: &facts.kernel,
            settings: &facts.sysctls,
            ports_held: facts.bound.len(),
            limits: examine(host),
        }
    });
    let hosts: Vec<Examined> = hosts.collect();
    if json {
        return print_json(&serde_json::json!({ "hosts": hosts }));
    }
    if hosts.is_empty() {
        return Err(Stop::new(Exit::NotFound, "no agent is attached: start one with 'tuplelab agent'"));
    }
    let mut text = String::new();
    for host in &hosts {
        let below = if host.place.virtual_machine == Some(true) { " on a virtual machine" } else { "" };
        let kind = match host.place.kind {
            Kind::Unknown => "place unknown".to_owned(),
            kind => kind.to_string(),
        };
        text += &format!("{}: {kind}{below}, Linux {}\n", host.host, plain(host.kernel));
        host.limits.iter().for_each(|limit| text += &format!("  {}", shown(limit)));
        for (name, value) in host.settings {
            text += &format!("  {} = {}\n", name.name(), plain(value));
        }
        text += &format!("  {} sockets hold a port\n", host.ports_held);
    }
    text += "\nfour_tuples: from all addresses of a host to one listener; \
             accept_queue: at one listener that does not accept, and only there\n";
    print(&text)
}

fn shown(limit: &Diagnosis) -> String {
    let Diagnosis { limit, place, allows, remedies } = limit;
    format!(
        "{:<13} {:>14}  ({}: {})\n{}",
        limit.name(),
        thousands(*allows),
        plain(place),
        limit.source(),
        lines(remedies)
    )
}

fn lines(remedies: &[Remedy]) -> String {
    remedies.iter().map(|remedy| format!("      {}: {}\n", remedy.at, remedy.command)).collect()
}

/// This host as it is, without an agent: its own addresses, else loopback.
fn this_host() -> Result<Inventory, Stop> {
    let loopback = tuplelab_agent::AddressSelector::Address(std::net::Ipv4Addr::LOCALHOST.into());
    let failed = |what: String| Stop::new(Exit::Failed, format!("this host cannot be examined: {what}"));
    let facts = tuplelab_agent::host_facts(&[], None, false)
        .or_else(|_| tuplelab_agent::host_facts(&[loopback], None, false))
        .map_err(|error| failed(error.to_string()))?;
    let name = "here".parse().map_err(|error: tuplelab_domain::id::BadName| failed(error.to_string()))?;
    Ok(Inventory { hosts: vec![Host { name, labels: [].into(), facts }] })
}
