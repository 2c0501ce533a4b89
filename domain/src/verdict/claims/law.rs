//! How many source ports a `many` step of a script has, by the law of C3: what the kernel chooses from is
//! ip_local_port_range without ip_local_reserved_ports and without every port that a TCP socket of the
//! namespace holds by `bind`.
//!
//! Everything is of the case: its settings, its steps up to this one, and what those answered.

use crate::plan::{Case, SourcePorts};
use crate::ports::PortSet;
use crate::schedule::Role;
use crate::script::{Action, Answer, Choice, Endpoint, HostRef, Options, Place, Protocol, Step};
use crate::sysctl::{Sysctl, Sysctls};
use crate::units::thousands;
use crate::verdict::point::{Given, Points, Weight, said};
use std::collections::BTreeMap;

/// Ports that sockets of a name hold.
struct Held {
    by: By,
    ports: PortSet,
}

/// How they came to it.
enum By {
    /// By `bind`, on an address: nobody else is given them.
    Bound(Place),
    /// By a connect to there that chose them, from an address: shared with every other destination.
    Chosen(Place, Endpoint),
}

/// The ports that the step can use, and how many connects it was asked for.
pub(super) fn usable(given: Given<'_>) -> Result<(PortSet, u64), String> {
    let steps = &given.case.setup.steps;
    let position = steps.iter().position(|step| step.label.as_deref() == Some(given.label));
    let (at, step) = position
        .and_then(|at| Some((at, steps.get(at)?)))
        .ok_or_else(|| format!("no step is labelled '{}'", given.label))?;
    let Action::Many { count, to, choice, options, .. } = &step.action else {
        return Err(format!("'{}' labels a step that does not open many", given.label));
    };
    let held = held_before(given, at, step.host)?;
    let gone = |blocks: &dyn Fn(&By) -> bool| {
        let blocking = held.iter().filter(|held| blocks(&held.by));
        blocking.fold(PortSet::empty(), |sum, held| sum.union(&held.ports))
    };
    // Of explicit ports each is tried once.
    let tried = match choice {
        Choice::Explicit(_, ports) => ports.slice(0, *count),
        Choice::Connect | Choice::BindZero(_) => PortSet::empty(),
    };
    let asked = if tried.is_empty() { *count } else { tried.len() };
    let usable = match choice {
        Choice::Explicit(from, _) => tried.minus(&gone(&|by| {
            let (By::Bound(own) | By::Chosen(own, _)) = by;
            *own == from.place || *own == Place::Any || from.place == Place::Any
        })),
        Choice::Connect | Choice::BindZero(_) => {
            let from = source(choice);
            let range = own_range(range(given, step.host)?, options);
            range.minus(&reserved(given, step.host)?).minus(&gone(&|by| match by {
                By::Bound(_) => true,
                By::Chosen(own, there) => *own == from && there == to,
            }))
        }
    };
    Ok((usable, asked.into()))
}

/// At the ceiling of what `connect` chooses.
pub(super) const NO_PORT: &str = "connect EADDRNOTAVAIL";
/// At the ceiling of what `bind` gives.
pub(super) const IN_USE: &str = "bind EADDRINUSE";

/// A step that opens many gets what the law gives, and is refused beyond it with this error.
pub(super) fn by_the_law(points: &mut Points<'_>, label: &str, what: &str, error: &str) -> bool {
    points.point(Weight::Law, label, what, |given| {
        let (usable, asked) = usable(given)?;
        let answer = given.answer;
        let value = given.value()?;
        if given.number("pending")? > 0 {
            return Err(format!("'{label}': some connects were not decided in time"));
        }
        if !["ok", "EADDRNOTAVAIL", "EADDRINUSE"].contains(&answer.outcome.as_str()) {
            return Err(format!("'{label}' was bound by something else: {}", said(answer)));
        }
        let expected = asked.min(u64::from(usable.len()));
        let outcome = if asked > expected { error } else { "ok" };
        let within = ["lowest", "highest"]
            .into_iter()
            .filter_map(|end| answer.number(end))
            .all(|port| u16::try_from(port).is_ok_and(|port| usable.contains(port)));
        let measured = format!("{} of {}, then {}", thousands(value), thousands(asked), said(answer));
        let measured = if answer.is_ok() { thousands(value) } else { measured };
        let right = value == expected && said_is(given, outcome) && within;
        let measured =
            if right { measured } else { format!("{measured}; the law gives {}", thousands(expected)) };
        Ok((measured, right))
    })
}

fn said_is(given: Given<'_>, outcome: &str) -> bool {
    match outcome {
        "ok" => given.answer.is_ok(),
        _ => said(given.answer) == outcome,
    }
}

/// Both steps used the very same source ports.
pub(super) fn same_ports(points: &mut Points<'_>, first: &str, label: &str) {
    let ports = |given: Given<'_>| {
        let mut ports = given.numbers("ports")?;
        ports.sort_unstable();
        if ports.len() as u64 != given.value()? {
            return Err(format!("'{}' lists not all of its ports", given.label));
        }
        Ok(ports)
    };
    let before = points.given(first).and_then(ports);
    let what = format!("on the very ports of '{first}'");
    points.point(Weight::Law, label, what, |given| {
        let (ports, before) = (ports(given)?, before?);
        let shared = ports.iter().filter(|port| before.binary_search(port).is_ok()).count() as u64;
        let all = ports == before && !ports.is_empty();
        Ok((format!("{} of {} are the same", thousands(shared), thousands(ports.len() as u64)), all))
    });
}

/// How many ports a load's case names for one pair; `None` where it leaves that to the host.
pub(super) fn most(case: &Case) -> Result<Option<u64>, String> {
    let len = |ports: &PortSet| u64::from(ports.len());
    let clients = &case.setup.clients;
    match (&clients.source_ports, clients.sysctls.get(&Sysctl::IpLocalPortRange)) {
        (SourcePorts::Explicit(ports), _) => Ok(Some(len(ports))),
        (SourcePorts::Kernel, Some(range)) => Ok(Some(len(&ports(range)?))),
        (SourcePorts::Kernel, None) => Ok(None),
    }
}

/// Without `bind` the first address of a host is the source.
fn source(choice: &Choice) -> Place {
    match choice {
        Choice::Connect => Place::Own(0),
        Choice::BindZero(at) | Choice::Explicit(at, _) => at.place,
    }
}

/// The range from which the host's kernel chooses in this case.
fn range(given: Given<'_>, host: HostRef) -> Result<PortSet, String> {
    if let Some(range) = sysctls(given, host).get(&Sysctl::IpLocalPortRange) {
        return ports(range);
    }
    let steps = given.case.setup.steps.iter().enumerate();
    let asked = steps.filter(|(_, step)| step.host == host && step.action == Action::Limits);
    let found = asked.filter_map(|(at, _)| answer(given, at)?.details.get("ip_local_port_range")).next();
    match found {
        Some(range) => ports(range),
        None => Err(format!("'{}' neither sets ip_local_port_range nor asks for it", given.case.name)),
    }
}

fn reserved(given: Given<'_>, host: HostRef) -> Result<PortSet, String> {
    sysctls(given, host).get(&Sysctl::IpLocalReservedPorts).map_or_else(
        || Ok(PortSet::empty()),
        |text| text.parse().map_err(|_| format!("'{text}' is no list of ports")),
    )
}

fn sysctls<'a>(given: Given<'a>, host: HostRef) -> &'a Sysctls {
    match host.role {
        Role::Server => &given.case.setup.servers.sysctls,
        Role::Client => &given.case.setup.clients.sysctls,
    }
}

/// "32768-60999", or as the kernel writes it: "32768 60999".
pub(super) fn ports(range: &str) -> Result<PortSet, String> {
    let mut bounds = range.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    let mut bound = || bounds.next().and_then(|word| word.parse().ok());
    match (bound(), bound()) {
        (Some(low), Some(high)) if low <= high => Ok(PortSet::range(low, high)),
        _ => Err(format!("'{range}' is no range of ports")),
    }
}

/// IP_LOCAL_PORT_RANGE: each of its bounds counts where it lies within the namespace's
/// (`inet_sk_get_local_port_range`).
fn own_range(range: PortSet, options: &Options) -> PortSet {
    let (Some((low, high)), Some((own_low, own_high))) = (range.bounds(), options.port_range) else {
        return range;
    };
    let within = |own, other| if range.contains(own) { own } else { other };
    let (low, high) = (within(own_low, low), within(own_high, high));
    if low <= high { PortSet::range(low, high) } else { PortSet::empty() }
}

fn answer<'a>(given: Given<'a>, at: usize) -> Option<&'a Answer> {
    let observation = given.trial.observations.iter().find(|one| one.step as usize == at)?;
    Some(&observation.answer)
}

/// What the host's sockets hold when the step of this position is done.
fn held_before(given: Given<'_>, at: usize, host: HostRef) -> Result<Vec<Held>, String> {
    let steps = given.case.setup.steps.iter().enumerate().take(at);
    let mut walk = Walk::default();
    for (position, step) in steps {
        if step.host != host {
            // It may be the other end of one of ours, and so the end that keeps TIME_WAIT.
            walk.closed_elsewhere |= matches!(step.action, Action::Close(_) | Action::End);
            continue;
        }
        let found = answer(given, position);
        walk.take(step, found).map_err(|why| format!("'{step}' {why}: it is not known what is held"))?;
    }
    if let Some(name) = walk.unlisted.first() {
        return Err(format!("not all ports of '{name}' are listed: it is not known what is held"));
    }
    Ok(walk.held.into_values().flatten().chain(walk.time_wait).collect())
}

/// The sockets of a host, as far as its steps have come.
#[derive(Default)]
struct Walk {
    udp: Vec<String>,
    held: BTreeMap<String, Vec<Held>>,
    connected: Vec<String>,
    /// Groups of which not every port is known.
    unlisted: Vec<String>,
    closed_elsewhere: bool,
    time_wait: Vec<Held>,
}

impl Walk {
    fn take(&mut self, step: &Step, answer: Option<&Answer>) -> Result<(), String> {
        match &step.action {
            Action::Socket(name, Protocol::Udp, _) => self.udp.push(name.clone()),
            Action::Bind(name, to) if !self.udp.contains(name) => {
                let answer = answer.ok_or("was not done")?;
                let port = answer.value.and_then(|port| u16::try_from(port).ok());
                match port.filter(|_| answer.is_ok()) {
                    Some(port) => self.hold(name, By::Bound(to.place), PortSet::of([port])),
                    None => return Err(format!("answered {}", answer.outcome)),
                }
            }
            Action::Connect(name, ..) => {
                self.connected.push(name.clone());
                self.closed_elsewhere = false;
            }
            Action::Many { name, to, choice, options, .. } => {
                let answer = answer.ok_or("was not done")?;
                let listed = answer.details.get("ports").map_or("", String::as_str);
                let ports = PortSet::of(listed.split(',').filter_map(|word| word.parse().ok()));
                let whole = u64::from(ports.len()) >= answer.value.unwrap_or(0);
                let chosen = matches!(choice, Choice::Connect) || options.no_port;
                let from = source(choice);
                let by = if chosen { By::Chosen(from, *to) } else { By::Bound(from) };
                self.connected.push(name.clone());
                self.hold(name, by, ports);
                if !whole {
                    self.unlisted.push(name.clone());
                }
            }
            Action::Close(name) => {
                let held = self.held.remove(name).unwrap_or_default();
                if self.connected.contains(name) && !self.closed_elsewhere {
                    // Who closes first keeps TIME_WAIT, and with it the bucket of the port.
                    self.time_wait.extend(held);
                }
            }
            Action::Reset(name) => {
                self.held.remove(name);
                self.unlisted.retain(|other| other != name);
            }
            Action::End => {
                self.held.clear();
                self.unlisted.clear();
            }
            _ => {}
        }
        Ok(())
    }

    fn hold(&mut self, name: &str, by: By, ports: PortSet) {
        self.held.entry(name.to_owned()).or_default().push(Held { by, ports });
    }
}
