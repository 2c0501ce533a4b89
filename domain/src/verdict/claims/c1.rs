//! C1: a connection is its 5-tuple.

use super::Explanation;
use crate::units::thousands;
use crate::verdict::point::{Given, Points, Weight, said};
use std::collections::BTreeSet;
use std::net::SocketAddr;

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "The kernel finds the socket of a segment in a table whose key is source address, source port, \
                destination address and destination port; TCP and UDP have a table each, and every network \
                namespace its own part of them. `bind` knows only half of the tuple: without an option it \
                refuses a taken address and port (EADDRINUSE), with SO_REUSEADDR or SO_REUSEPORT on both \
                sockets it lets them pass. `connect` knows it all, looks it up among the connections that \
                there are, and refuses a second one with EADDRNOTAVAIL. UDP keeps no connections: sockets \
                may share all five elements.",
    experiment: "One connection, then the same four-tuple again: without an option, with SO_REUSEADDR, with \
                 SO_REUSEPORT. Then connections that differ from the first in exactly one element, all alive \
                 at once, by the addresses that the sockets name and by the kernel's own count. UDP on the \
                 addresses and ports of a live TCP connection; two UDP sockets with one 5-tuple; the wildcards \
                 of IPv4 and IPv6; one 5-tuple in two network namespaces at once.",
    changes: "Refuted by a second connection with a living four-tuple, or by a connection that differs in one \
              element and is refused. Confirmed without a condition only where no two UDP sockets and no two \
              network namespaces can have the same 5-tuple at once.",
    reading: &[
        "RFC 9293, 3.3.1 Key Connection State Variables",
        "RFC 9293, 4 Glossary: connection, socket",
        "RFC 6056, 2.3 Collision of instance-ids",
        "bind(2)",
        "connect(2)",
        "socket(7), SO_REUSEADDR and SO_REUSEPORT",
        "ipv6(7), IPV6_V6ONLY",
        "network_namespaces(7)",
        "net/ipv4/inet_hashtables.c: __inet_check_established, __inet_lookup_established",
        "net/ipv4/inet_connection_sock.c: inet_csk_get_port, inet_bind_conflict",
        "net/ipv4/udp.c: udp_lib_get_port, __udp4_lib_lookup",
    ],
};

type Ends = (SocketAddr, SocketAddr);

/// In which elements two connections differ.
fn difference((own, peer): Ends, (other_own, other_peer): Ends) -> Vec<&'static str> {
    let elements = [
        ("source address", own.ip() != other_own.ip()),
        ("source port", own.port() != other_own.port()),
        ("destination address", peer.ip() != other_peer.ip()),
        ("destination port", peer.port() != other_peer.port()),
    ];
    elements.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

fn shown((own, peer): Ends) -> String {
    format!("{own} to {peer}")
}

/// The connections of these labels that were made, each four-tuple once; labels that the plan does not have
/// are passed over.
fn made<'l>(
    points: &Points<'_>,
    labels: impl IntoIterator<Item = &'l str>,
) -> Result<BTreeSet<Ends>, String> {
    let mut made = BTreeSet::new();
    for label in labels.into_iter().filter(|label| points.asks(label)) {
        let given = points.given(label)?;
        if given.answer.is_ok() {
            made.insert(given.ends()?);
        }
    }
    Ok(made)
}

/// A second socket on the first one's address and port: how far it comes.
fn twice(points: &mut Points<'_>, option: &str, name: &str, weight: Weight) -> bool {
    let label = |step: &str| format!("twice.{option}.{step}");
    let first = label("first");
    points.outcome(weight, &first, &format!("a connection of a socket with {name}"), &["ok"]);
    let before = points.given(&first).and_then(|given| given.ends());
    let what = format!("{name} on both: the second may have the same address and port");
    points.point(weight, &label("bind"), what, |given| {
        let (own, _) = before.clone()?;
        let same = given.answer.details.get("local").is_some_and(|local| *local == own.to_string());
        Ok((said(given.answer), given.answer.is_ok() && same))
    });
    let what = format!("{name} on both: but no connection with the same four-tuple");
    points.outcome(weight, &label("connect"), &what, &["EADDRNOTAVAIL"])
}

/// A connection that differs from the base in this element alone.
fn changed(points: &mut Points<'_>, element: &str) -> bool {
    let base = points.given("base").and_then(|given| given.ends());
    let label = format!("changed.{}", element.replace(' ', "-"));
    points.point(Weight::Must, &label, format!("another {element} is another connection"), |given| {
        if !given.answer.is_ok() {
            return Ok((said(given.answer), false));
        }
        let (own, base) = (given.ends()?, base?);
        match difference(own, base).as_slice() {
            [only] if *only == element => Ok((format!("{} beside {}", shown(own), shown(base)), true)),
            [] => Ok((format!("{} twice", shown(own)), false)),
            others => Err(format!("'{}' differs from 'base' in {}", given.label, others.join(" and "))),
        }
    })
}

/// The kernel counts as many connections on a port as there are different tuples.
fn alive(points: &mut Points<'_>, label: &str, expected: Result<usize, String>) {
    let what = "the kernel has as many connections as there are different tuples, all at once";
    points.point(Weight::Law, label, what, |given| {
        let (alive, expected) = (given.number("established_local")?, expected?);
        let measured = format!("{} of {expected} different ones", thousands(alive));
        Ok((measured, usize::try_from(alive) == Ok(expected)))
    });
}

/// What was sent arrived, whole.
fn arrived(points: &mut Points<'_>, protocol: &str) {
    let label = |step: &str| format!("protocol.{}.{step}", protocol.to_lowercase());
    let sent = points.given(&label("sent")).and_then(|given| given.value());
    let what = format!("{protocol} carries its own data on the shared addresses and ports");
    points.point(Weight::Law, &label("data"), what, |given| {
        let (received, sent) = (given.value()?, sent?);
        Ok((format!("{} of {} bytes", thousands(received), thousands(sent)), received == sent && sent > 0))
    });
}

/// Whether both have the very same ends; what is not connected has none.
fn same(given: Given<'_>, other: Result<Ends, String>) -> Result<(String, bool), String> {
    let other = other?;
    if !given.answer.is_ok() {
        return Ok((said(given.answer), false));
    }
    let own = given.ends()?;
    Ok((format!("{}, and {}", shown(own), shown(other)), own == other))
}

fn ends_if_ok(given: Given<'_>) -> Result<Ends, String> {
    match given.answer.is_ok() {
        true => given.ends(),
        false => Err(format!("'{}' answered {}", given.label, said(given.answer))),
    }
}

/// IPv4 and IPv6 sockets of one port.
fn wildcards(points: &mut Points<'_>) {
    let no_v6 = |given: Given<'_>| match given.answer.outcome.as_str() {
        "EAFNOSUPPORT" => Err(format!("'{}': this host has no IPv6", given.label)),
        _ => Ok(()),
    };
    points.outcome(Weight::Law, "wildcard.v4", "a listener on 0.0.0.0", &["ok"]);
    let port = points.given("wildcard.v4").and_then(|given| given.value());
    let what = "beside it one on [::] with IPV6_V6ONLY, on the same port";
    points.point(Weight::Law, "wildcard.v6only", what, |given| {
        no_v6(given)?;
        let port = port?;
        Ok((said(given.answer), given.answer.is_ok() && given.answer.value == Some(port)))
    });
    let what = "a dual-stack [::] means 0.0.0.0 too, and is refused beside it";
    points.point(Weight::Law, "wildcard.dual", what, |given| {
        no_v6(given)?;
        Ok((said(given.answer), given.answer.outcome == "EADDRINUSE"))
    });
}

/// Which namespace of which kernel a host is in.
fn namespace(points: &Points<'_>, label: &str) -> Result<(String, u64), String> {
    let given = points.given(label)?;
    Ok((given.text("boot_id")?.to_owned(), given.number("namespace")?))
}

fn namespaces(points: &mut Points<'_>) -> bool {
    let places = namespace(points, "namespace.server")
        .and_then(|server| Ok((server, namespace(points, "namespace.client")?)));
    let one = points
        .given("namespace.one")
        .and_then(ends_if_ok)
        .and_then(|ends| Ok((ends, points.given("namespace.one.still")?.answer.outcome.clone())));
    let what = "the same 5-tuple lives in two network namespaces at once";
    points.point(Weight::Limit, "namespace.two", what, |given| {
        let (server, client) = places?;
        if server == client {
            return Err("both hosts are in one network namespace, where this cannot be tried".into());
        }
        let (one, still) = one?;
        let (measured, same) = same(given, Ok(one))?;
        let kernels = if server.0 == client.0 { "of one kernel" } else { "of two kernels" };
        let measured = format!("{measured}, in namespaces {} and {} {kernels}", server.1, client.1);
        Ok((measured, same && still == "ok"))
    })
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    points.outcome(Weight::Must, "first", "a connection on a free four-tuple", &["ok"]);
    let what = "without an option a second socket may not have the same address and port";
    points.outcome(Weight::Must, "twice.plain.bind", what, &["EADDRINUSE"]);
    twice(points, "reuseaddr", "SO_REUSEADDR", Weight::Must);
    twice(points, "reuseport", "SO_REUSEPORT", Weight::Law);
    let labels = [
        "first",
        "twice.reuseaddr.first",
        "twice.reuseaddr.connect",
        "twice.reuseport.first",
        "twice.reuseport.connect",
    ];
    let expected = made(points, labels).map(|made| made.len());
    alive(points, "twice.alive", expected);

    points.outcome(Weight::Must, "base", "a connection from which others differ in one element", &["ok"]);
    let elements = ["source address", "source port", "destination address", "destination port"];
    let different = elements.into_iter().filter(|element| changed(points, element)).count();
    let tuples = made(points, points.labels_of("changed.").into_iter().chain(["base"]));
    let parts = points.given("base").and_then(|given| given.ends()).and_then(|(_, base)| {
        let tuples = tuples?;
        let here = tuples.iter().filter(|(_, peer)| peer.port() == base.port()).count();
        Ok((here, tuples.len() - here))
    });
    alive(points, "alive.here", parts.clone().map(|(here, _)| here));
    alive(points, "alive.elsewhere", parts.map(|(_, elsewhere)| elsewhere));

    points.outcome(Weight::Must, "protocol.tcp", "a TCP connection", &["ok"]);
    let tcp = points.given("protocol.tcp").and_then(ends_if_ok);
    let what = "UDP on the very addresses and ports of a live TCP connection";
    points.point(Weight::Must, "protocol.udp", what, |given| same(given, tcp));
    let what = "so at the other end";
    points.outcome(Weight::Law, "protocol.udp.listen", what, &["ok"]);
    arrived(points, "UDP");
    arrived(points, "TCP");

    let one = points.given("udp.one").and_then(ends_if_ok);
    let what = "two UDP sockets have the same 5-tuple: for UDP it is no identity";
    let udp = points.point(Weight::Limit, "udp.two", what, |given| same(given, one));
    wildcards(points);
    let namespaces = namespaces(points);

    let beyond: Vec<&str> = [
        (udp, "two UDP sockets shared one 5-tuple"),
        (namespaces, "two network namespaces had the same one at once"),
    ]
    .into_iter()
    .filter_map(|(holds, words)| holds.then_some(words))
    .collect();
    let beyond =
        if beyond.is_empty() { String::new() } else { format!("; beyond that: {}", beyond.join(", ")) };
    format!(
        "for TCP inside one namespace the same four-tuple was refused (EADDRINUSE at bind, EADDRNOTAVAIL at \
         connect), and each of {different} elements alone, like the protocol, made another connection{beyond}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, left_open_by, refuted_by};
    use crate::verdict::{ClaimId, Finding};

    #[test]
    fn a_kernel_that_makes_the_same_connection_twice_refutes_it() {
        refuted_by(
            ClaimId::C1,
            &[
                ("twice.plain.bind", "outcome", "ok", "(twice.plain.bind)"),
                ("twice.reuseaddr.connect", "outcome", "ok", "(twice.reuseaddr.connect)"),
                ("twice.reuseport.connect", "outcome", "ok", "(twice.reuseport.connect)"),
                ("twice.reuseaddr.bind", "outcome", "EADDRINUSE", "EADDRINUSE"),
                ("twice.reuseaddr.bind", "local", "10.66.2.1:26009", "ok 26,001"),
                ("twice.alive", "established_local", "4", "4 of 3 different ones"),
            ],
        );
    }

    #[test]
    fn a_kernel_for_which_one_element_is_not_enough_refutes_it() {
        for element in ["source-address", "source-port", "destination-address", "destination-port"] {
            let label = format!("changed.{element}");
            refuted_by(ClaimId::C1, &[(&label, "outcome", "EADDRNOTAVAIL", "EADDRNOTAVAIL")]);
        }
        refuted_by(
            ClaimId::C1,
            &[
                ("protocol.udp", "outcome", "EADDRINUSE", "EADDRINUSE"),
                ("protocol.udp.data", "value", "4", "4 of 5 bytes"),
                ("alive.here", "established_local", "3", "3 of 4 different ones"),
                ("wildcard.dual", "outcome", "ok", "(wildcard.dual)"),
                ("wildcard.v6only", "value", "40000", "(wildcard.v6only)"),
            ],
        );
    }

    #[test]
    fn where_no_two_sockets_share_a_tuple_it_holds_without_a_condition() {
        let verdict = changed(
            ClaimId::C1,
            &[("udp.two", "local", "10.66.2.1:26031"), ("namespace.two", "outcome", "EADDRNOTAVAIL")],
        );
        assert_eq!(verdict.verdict, Finding::Confirmed, "{}", verdict.because);
        assert!(!verdict.because.contains("beyond that"), "{}", verdict.because);
    }

    #[test]
    fn what_was_not_tried_is_left_open() {
        let server = changed(ClaimId::C1, &[]);
        assert!(server.because.contains("each of 4 elements alone"), "{}", server.because);
        left_open_by(
            ClaimId::C1,
            &[
                ("changed.source-port", "local", "10.66.2.2:26011", "in source address and source port"),
                ("wildcard.v6only", "outcome", "EAFNOSUPPORT", "no IPv6"),
                ("namespace.one", "outcome", "ENETUNREACH", "ENETUNREACH"),
            ],
        );
    }

    #[test]
    fn hosts_in_one_namespace_have_not_tried_two() {
        let places = [("namespace.client", "namespace", "1"), ("namespace.server", "namespace", "1")];
        let verdict = changed(ClaimId::C1, &places);
        assert_eq!(verdict.verdict, Finding::Inconclusive);
        assert!(verdict.because.contains("both hosts are in one network namespace"), "{}", verdict.because);
        // The first namespaces of two machines have the same number.
        let [one, two] = places;
        let verdict = changed(ClaimId::C1, &[one, two, ("namespace.client", "boot_id", "another")]);
        assert_eq!(verdict.verdict, Finding::Qualified, "{}", verdict.because);
    }
}
