//! C3: one client address has at most 64K connections to one server ip:port.

use super::law::{self, IN_USE, NO_PORT, by_the_law, same_ports};
use super::{Explanation, pairs};
use crate::capacity::Limit;
use crate::evidence::TrialEvidence;
use crate::plan::{Case, SourcePorts};
use crate::ports::PortSet;
use crate::script::{Action, Step};
use crate::sysctl::Sysctl;
use crate::units::thousands;
use crate::verdict::bound::{bound_by, refused_for_ports};
use crate::verdict::point::{Given, Points, Weight, said};

/// Every source port that TCP has, port 0 included (RFC 9293, 3.1: 16 bits).
const PORTS: u64 = 65_536;

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "A connection is found by source address, source port, destination address and destination \
        port. Towards one ip:port one client address has nothing left to vary but its 16-bit source port: \
        65,536 on the wire, 65,535 that bind() can name (0 means: choose one), 64,512 without the privileged \
        ones, and 28,232 where connect() chooses from ip_local_port_range as it is by default. The choice \
        leaves out reserved ports and every port that a TCP socket of the namespace holds by bind(), on \
        whatever local address: a listener, a socket that is only bound, a connection that was bound \
        explicitly, and its TIME_WAIT. Ports that connect() chose itself are shared between destinations. \
        bind(address, 0) knows no destination yet, so it takes ports that nobody has: one range for all \
        destinations, unless IP_BIND_ADDRESS_NO_PORT leaves the choice to connect().",
    experiment: "Loads take one address to one ip:port, with ports chosen by the kernel and with explicit \
        ones, until the kernel refuses one more; both kernels count. A raw peer opens 65,536 handshakes, \
        port 0 among them, from an address that no kernel owns. Scripts ask for more ports than a small \
        range has, while one kind of socket after the other holds one of them, and note which call refused. \
        Ten equal parts of a range show how much longer the kernel looks as ports become scarce.",
    changes: "More than 65,536 connections from one address to one ip:port; a number other than range less \
        reserved less bound ports; another error at the ceiling; bind to port 0 sharing ports between \
        destinations.",
    reading: &[
        "RFC 9293, 3.1 (ports have 16 bits)",
        "RFC 6056, 3 (how ports are chosen)",
        "RFC 6335, 6 (which ports there are)",
        "ip(7): ip_local_port_range, IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE",
        "connect(2): EADDRNOTAVAIL",
        "bind(2): EADDRINUSE",
        "Documentation/networking/ip-sysctl.rst: ip_local_port_range, ip_local_reserved_ports",
        "net/ipv4/inet_hashtables.c: __inet_hash_connect",
        "net/ipv4/inet_connection_sock.c: inet_csk_find_open_port, inet_csk_bind_conflict, inet_sk_get_local_port_range",
        "net/ipv4/sysctl_net_ipv4.c: ipv4_local_port_range",
    ],
};

/// A load that came to its ceiling.
struct Ceiling {
    held: u64,
    ports: String,
    error: String,
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let ceilings = loads(points);
    let wire = on_the_wire(points);
    kernels_choice(points);
    refusals(points);
    one_range_or_many(points);
    own_range(points);
    scarcity(points);
    slow_load(points);
    sentence(points, ceilings, wire)
}

/// How the loads of one address to one ip:port ended.
fn loads(points: &mut Points<'_>) -> Vec<Ceiling> {
    let label = "default.range";
    points.point(Weight::Law, label, "the kernel chooses from ip_local_port_range", |given| {
        let text = given.text("ip_local_port_range")?;
        Ok((format!("{text}: {}", how_many(&law::ports(text)?)), true))
    });
    let default = points.given(label).and_then(|given| law::ports(given.text("ip_local_port_range")?)).ok();
    let mut ceilings = Vec::new();
    let mut tried = false;
    for (trial, case) in points.loads().filter(|(_, case)| pairs(case) == 1).collect::<Vec<_>>() {
        tried = true;
        let ports = chosen(case);
        let counted = points.counted(trial, case);
        let seen = counted.and_then(|held| at_the_ceiling(trial, case, held, default.as_ref()));
        let what = format!(
            "one address to one ip:port, ports {ports}: as many as are usable, never more than 65,536"
        );
        let (mut held, mut error) = (0, String::new());
        let seen = seen.map(|(count, refusal, fits)| {
            (held, error) = (count, refusal.clone());
            (format!("{}, then {refusal}", thousands(count)), fits)
        });
        if points.add(Weight::Must, &case.name, what, seen) {
            ceilings.push(Ceiling { held, ports, error });
        }
    }
    if !tried {
        let why = "no case takes one client address to one server ip:port up to the kernel's refusal";
        points.add(Weight::Must, "the plan", "one address to one ip:port", Err(why.into()));
    }
    ceilings
}

fn chosen(case: &Case) -> String {
    match &case.setup.clients.source_ports {
        SourcePorts::Kernel => "chosen by the kernel".to_owned(),
        SourcePorts::Explicit(ports) => format!("bound from {ports}"),
    }
}

/// What a load held, how one more was refused, and whether that is what it should have held.
fn at_the_ceiling(
    trial: &TrialEvidence,
    case: &Case,
    held: u64,
    default: Option<&PortSet>,
) -> Result<(u64, String, bool), String> {
    if held > PORTS {
        // That needs no refusal to be a contradiction.
        return Ok((held, "no end".into(), false));
    }
    let law = &trial.prediction;
    let by = if law.bound_by == Limit::FourTuples { bound_by(trial) } else { law.bound_by };
    let early = held < law.connections && by == Limit::FourTuples;
    let refusal =
        refused_beyond(trial).or_else(|| early.then(|| most_frequent(trial))?).ok_or_else(|| {
            format!(
                "'{}': the kernel was not asked for one more, or did not refuse for want of a port",
                case.name
            )
        })?;
    if held <= law.connections && by != Limit::FourTuples {
        return Err(format!("'{}' held {} and was bound by {by}", case.name, thousands(held)));
    }
    if early && share_a_namespace(trial) {
        return Err(format!(
            "'{}' held {} of {}: its hosts share a network namespace, where others bind ports too",
            case.name,
            thousands(held),
            thousands(law.connections)
        ));
    }
    // The model knows who holds ports of the range; there are never more than the range has.
    let most = law::most(case)?.or_else(|| default.map(|range| u64::from(range.len())));
    let fits = held == law.connections && most.is_none_or(|most| held <= most);
    Ok((held, refusal, fits))
}

fn most_frequent(trial: &TrialEvidence) -> Option<String> {
    let failures = trial.failures();
    let worst = failures.iter().max_by_key(|(_, count)| *count);
    worst.map(|(failure, _)| failure.to_string())
}

/// Hosts on loopback addresses are all one host to the kernel.
fn share_a_namespace(trial: &TrialEvidence) -> bool {
    let listeners =
        trial.ends.iter().filter_map(|end| end.census.as_ref()).flat_map(|census| &census.listeners);
    listeners.into_iter().any(|listener| listener.endpoint.ip().is_loopback())
}

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

fn how_many(ports: &PortSet) -> String {
    let even = ports.iter().filter(|port| port % 2 == 0).count() as u64;
    let all = u64::from(ports.len());
    format!("{} ports, {} even and {} odd", thousands(all), thousands(even), thousands(all - even))
}

/// The raw peer's handshakes: how many were held, where it tried all of the 65,536.
fn on_the_wire(points: &mut Points<'_>) -> Option<u64> {
    points.point(
        Weight::Law,
        "wire.handshakes",
        "every port of a TCP header is answered, 0 included",
        |given| {
            let (answered, asked) = (given.value()?, syns(given)?);
            if answered == 0 && given.number("rst")? == 0 {
                return Err("nothing came back to the raw peer's address: no way leads there".into());
            }
            if answered < asked && given.number("dropped")? > 0 {
                return Err("SYN-ACKs came faster than the raw peer could read them".into());
            }
            Ok((format!("{} of {}", thousands(answered), thousands(asked)), answered == asked))
        },
    );
    let sent = points.given("wire.handshakes").and_then(|given| Ok((given.value()?, syns(given)?)));
    let mut held = None;
    points.point(Weight::Law, "wire.held", "as many wait ESTABLISHED in the accept queue", |given| {
        let (count, (answered, asked)) = (given.value()?, sent?);
        let queue = given.number("backlog")? + 1;
        if answered == 0 {
            return Err("nothing came back to the raw peer's address: no way leads there".into());
        }
        if queue < asked {
            return Err(format!("the accept queue has {} places only", thousands(queue)));
        }
        held = Some(count).filter(|count| *count == asked);
        Ok((thousands(count), count == asked && count <= PORTS))
    });
    let what = "accept cannot name a peer of port 0 and gives it up";
    points.outcome(Weight::Law, "wire.zero", what, &["ECONNABORTED"]);
    points.outcome(Weight::Law, "wire.one", "the one behind it is accepted", &["ok"]);
    held
}

/// How many handshakes the step asked for: none is begun beyond port 65535.
fn syns(given: Given<'_>) -> Result<u64, String> {
    let step = given.case.setup.steps.iter().find(|step| step.label.as_deref() == Some(given.label));
    match step {
        Some(Step { action: Action::Syn { count, from, .. }, .. }) => {
            Ok(u64::from(*count).min(PORTS - u64::from(from.port)))
        }
        _ => Err(format!("'{}' labels a step that sends no SYN", given.label)),
    }
}

/// The law: range less reserved less held by `bind`.
fn kernels_choice(points: &mut Points<'_>) {
    let known = [
        ("law.nothing", "where nobody holds a port the kernel chooses from all of its range"),
        ("law.listener", "a listener in the range takes one port from the kernel's choice"),
        ("law.other_address", "a listener on another local address takes one too"),
        ("law.bound_only", "a socket that is only bound takes one too"),
        ("law.connection", "a connection that was bound explicitly takes one too"),
        ("law.time_wait", "TIME_WAIT of such a connection keeps the port"),
        ("law.udp", "a UDP socket takes none"),
        ("law.reserved", "reserved ports are left out, and so is a listener's"),
    ];
    for (label, what) in known {
        by_the_law(points, label, what, NO_PORT);
    }
    points.point(Weight::Law, "law.nothing", "even and odd ports alike, to the last one", |given| {
        let (usable, asked) = law::usable(given)?;
        let (even, odd) = (given.number("even")?, given.number("odd")?);
        if asked < u64::from(usable.len()) {
            return Err("the step did not ask for all of the range".into());
        }
        let all_even = usable.iter().filter(|port| port % 2 == 0).count() as u64;
        let measured = format!("{} even and {} odd", thousands(even), thousands(odd));
        Ok((measured, even == all_even && odd == u64::from(usable.len()) - all_even))
    });
    let client = points.given("law.nothing").and_then(|given| given.value());
    points.point(Weight::Law, "law.nothing.server", "the server's kernel has as many", |given| {
        let (value, client) = (given.value()?, client?);
        Ok((thousands(value), value == client))
    });
    points.point(
        Weight::Law,
        "law.time_wait.state",
        "the connection that was bound explicitly is in TIME_WAIT",
        |given| {
            let count = given.number("time_wait")?;
            Ok((format!("time_wait {count}"), count == 1))
        },
    );
    let explicit = [
        (
            "explicit.other_address",
            "explicit ports: neither reserved ones nor a listener on another address take one",
        ),
        ("explicit.wildcard", "explicit ports: a listener on every address takes one"),
        ("explicit.same_address", "explicit ports: a listener on the same address takes one"),
    ];
    for (label, what) in explicit {
        by_the_law(points, label, what, IN_USE);
    }
}

/// Which call says that there is no port.
fn refusals(points: &mut Points<'_>) {
    let ceilings = [
        ("ceiling.connect", "at the ceiling without bind", NO_PORT),
        ("ceiling.no_port", "at the ceiling with IP_BIND_ADDRESS_NO_PORT", NO_PORT),
        ("ceiling.explicit", "at the ceiling with an explicit bind", IN_USE),
        ("ceiling.bind0", "at the ceiling with bind to port 0", IN_USE),
    ];
    for (label, when, error) in ceilings {
        points.point(Weight::Law, label, format!("{when}: {error}"), |given| {
            let value = given.value()?;
            Ok((format!("{}, {value} more", said(given.answer)), said(given.answer) == error && value == 0))
        });
    }
}

/// bind(address, 0): one range over all destinations; else one for each.
fn one_range_or_many(points: &mut Points<'_>) {
    for label in ["bind0.first", "bind0.second", "bind0.third"] {
        let what = "bind to port 0 shares one range over all destinations";
        by_the_law(points, label, what, IN_USE);
    }
    for (how, way) in [("no_port", "with IP_BIND_ADDRESS_NO_PORT"), ("connect", "without bind")] {
        let first = format!("{how}.first");
        for number in ["first", "second", "third"] {
            let label = format!("{how}.{number}");
            by_the_law(points, &label, &format!("{way} every destination has all of the range"), NO_PORT);
            if number != "first" {
                same_ports(points, &first, &label);
            }
        }
    }
    by_the_law(points, "explicit.all", "explicit ports: all of the range", IN_USE);
}

/// IP_LOCAL_PORT_RANGE, and how wide the namespace's range may be.
fn own_range(points: &mut Points<'_>) {
    by_the_law(points, "own_range.inside", "IP_LOCAL_PORT_RANGE narrows it for one socket", NO_PORT);
    by_the_law(
        points,
        "own_range.outside",
        "IP_LOCAL_PORT_RANGE outside of the namespace's range is passed over",
        NO_PORT,
    );
    points.point(
        Weight::Law,
        "widest.range",
        "with ip_unprivileged_port_start <= 1 the range may begin at port 1",
        |given| {
            let set = given.case.setup.clients.sysctls.get(&Sysctl::IpLocalPortRange);
            let set = set.ok_or_else(|| format!("'{}' does not set ip_local_port_range", given.case.name))?;
            let range = given.text("ip_local_port_range")?;
            Ok((range.to_owned(), law::ports(range)? == law::ports(set)?))
        },
    );
    by_the_law(points, "widest", "the kernel chooses from the widest range", NO_PORT);
}

/// How much longer connect() looks as ports become scarce: `slow.1`, `slow.2`, ... are equal parts of a
/// range, one after the other.
fn scarcity(points: &mut Points<'_>) {
    let labels = points.labels_of("slow.");
    let (Some(first), Some(last)) = (labels.first(), labels.last()) else { return };
    if first == last {
        return;
    }
    let each = |given: Given<'_>| {
        let (micros, begun) = (given.number("begin_micros")?, given.number("begun")?);
        micros.checked_div(begun).ok_or_else(|| format!("'{}' began nothing", given.label))
    };
    let curve: Result<Vec<u64>, String> =
        labels.iter().map(|label| points.given(label).and_then(each)).collect();
    let what = "as ports become scarce the kernel's choice takes several times as long";
    points.point(Weight::Limit, last, what, |given| {
        let (own, curve) = (each(given)?, curve?);
        let words: Vec<String> = curve.iter().map(u64::to_string).collect();
        let slower = own >= 2 * curve.first().copied().unwrap_or(0).max(1);
        Ok((format!("{} us a connect, part by part", words.join(", ")), slower))
    });
}

/// The same in the loads: how long all of them took.
fn slow_load(points: &mut Points<'_>) {
    let mut micros: [Option<(f64, String)>; 2] = [None, None];
    let mut place = "";
    for (trial, case) in points.loads().filter(|(_, case)| pairs(case) == 1) {
        let kernel = case.setup.clients.source_ports == SourcePorts::Kernel;
        let (Ok(held), Some(rate)) = (points.counted(trial, case), trial.rate_per_second()) else { continue };
        let each = 1e6 / rate;
        let [own, explicit] = &mut micros;
        let slowest = if kernel { own } else { explicit };
        if slowest.as_ref().is_none_or(|(known, _)| *known < each) {
            if kernel {
                place = &case.name;
            }
            *slowest = Some((each, format!("{} in {:.1} s", thousands(held), held as f64 / rate)));
        }
    }
    let [Some((chosen, long)), Some((bound, short))] = micros else { return };
    let what = "to choose all ports takes the kernel longer than to bind each of them";
    let measured = format!("{long} chosen, {short} bound");
    points.add(Weight::Limit, place, what, Ok((measured, chosen > 2.0 * bound)));
}

fn sentence(points: &mut Points<'_>, mut ceilings: Vec<Ceiling>, wire: Option<u64>) -> String {
    ceilings.sort_by_key(|ceiling| ceiling.held);
    ceilings.dedup_by(|one, other| (one.held, &one.ports) == (other.held, &other.ports));
    let most = points.loads().filter_map(|(trial, case)| points.counted(trial, case).ok()).max().unwrap_or(0);
    let numbers: Vec<String> = ceilings
        .iter()
        .map(|ceiling| format!("{} (ports {})", thousands(ceiling.held), ceiling.ports))
        .collect();
    let Some(Ceiling { held: largest, error, .. }) = ceilings.last() else {
        // Each load says why itself.
        return "no load came to its ceiling".into();
    };
    let mut text = format!(
        "one address held {} connections to one ip:port, the next was refused ({error})",
        numbers.join(", ")
    );
    if let Some(wire) = wire {
        text.push_str(&format!("; on the wire, port 0 included, {} were half-way", thousands(wire)));
    }
    // "64K" is what a header can say; what a host may use of it is the number, and has its conditions.
    let held: Vec<String> = ceilings.iter().map(|ceiling| thousands(ceiling.held)).collect();
    let what = "the number is that of the ports that may be used, not 65,536";
    points.add(Weight::Limit, "all loads", what, Ok((held.join(", "), *largest < PORTS)));
    if most > *largest {
        let more = format!("the same run held {}", thousands(most));
        points.add(Weight::Limit, "all loads", "it is no limit of the server", Ok((more.clone(), true)));
        text.push_str(&format!("; it is no limit of the server: {more}"));
    }
    text
}
