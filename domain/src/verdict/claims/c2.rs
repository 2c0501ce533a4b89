//! C2: a server listens and talks on the same port; clients take different, random source ports.

use super::Explanation;
use crate::units::thousands;
use crate::verdict::point::{Points, Weight, said};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "A connection that a listener accepts is a new socket with the listener's own port; what tells \
                it from the others is its peer. It does not need the listener any more. Where a client does not \
                choose its port, `connect` does: a hash of source address, destination address, destination \
                port and a secret of the boot says where to begin, and from there it goes up, a random 1 to 8 \
                steps of two at a time, through the ports of one parity first, that of the range's low end. The \
                beginning cannot be foretold from outside; the next port can, nearly. `bind` to port 0 begins \
                at a random port each time, among those of the other parity first.",
    experiment: "Connections to one listener: the local port of each accepted socket, their peers, their data \
                 before and after the listener is closed, and what a new connect then gets. Then ports in the \
                 order in which the kernel drew them: how far each is from the one before, and whether a second \
                 batch goes on where the first ended; beside them ports drawn by `bind` to port 0. Then where \
                 sequences begin that differ in one of destination port, source and destination address.",
    changes: "Refuted if an accepted socket has another local port than its listener, or connections of one \
              client share a port. Confirmed without a condition on a kernel whose successive ports are \
              independent random numbers.",
    reading: &[
        "RFC 9293, 3.9.1 User/TCP Interface (OPEN, passive)",
        "RFC 6056, 3.3.4 Algorithm 4: Double-Hash Port Selection Algorithm",
        "accept(2)",
        "ip(7), ip_local_port_range and IP_BIND_ADDRESS_NO_PORT",
        "net/ipv4/inet_hashtables.c: __inet_hash_connect",
        "net/core/secure_seq.c: secure_ipv4_port_ephemeral",
        "net/ipv4/inet_connection_sock.c: inet_csk_find_open_port, inet_csk_clone_lock",
    ],
};

/// A step of a search that goes up by a random 0 to 7 times two, and two more, is no larger
/// (`__inet_hash_connect`: `get_random_u32_below(8) * step`), unless ports are taken.
const LARGEST_STEP: u64 = 16;

/// Forward by no more than this is near: of independent ports few are, even in a range of a thousand.
const NEAR: u64 = 64;

/// The ports that the kernel chooses from, as `limits` said it.
#[derive(Debug, Clone, Copy)]
struct Range {
    low: u64,
    high: u64,
}

impl Range {
    fn of(points: &Points<'_>, label: &str) -> Result<Self, String> {
        let given = points.given(label)?;
        let text = given.text("ip_local_port_range")?;
        let ends = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
        let (low, high) = ends.ok_or_else(|| format!("'{text}' is no range of ports"))?;
        // Below that every port is near every other.
        if high < low + 16 * NEAR {
            return Err(format!("the range {text} is too narrow to tell steps from chance"));
        }
        Ok(Self { low, high })
    }

    /// How many ports a search goes round: an even number of them.
    fn round(self) -> u64 {
        (self.high - self.low + 1) & !1
    }

    /// How far up from one to the other; after the high end comes the low one.
    fn step(self, from: u64, to: u64) -> u64 {
        (to + self.round() - from % self.round()) % self.round()
    }
}

/// Ports in the order drawn.
struct Drawn {
    ports: Vec<u64>,
    steps: Vec<u64>,
    range: Range,
}

impl Drawn {
    fn of(points: &Points<'_>, label: &str, range: Result<Range, String>) -> Result<Self, String> {
        let range = range?;
        let given = points.given(label)?;
        let ports = given.numbers("ports")?;
        if ports.len() < 3 || given.value()? < ports.len() as u64 {
            return Err(format!("'{label}' has too few connections: {}", said(given.answer)));
        }
        let steps = ports.windows(2).filter_map(|pair| Some(range.step(*pair.first()?, *pair.last()?)));
        Ok(Self { steps: steps.collect(), ports, range })
    }

    fn share(&self, is: impl Fn(u64) -> bool) -> f64 {
        self.steps.iter().filter(|step| is(**step)).count() as f64 / self.steps.len() as f64
    }

    /// Most follow closely on the one before: no independent draws, of which NEAR / range would.
    fn follows(&self) -> bool {
        self.share(|step| (1..=NEAR).contains(&step)) > 0.5
    }

    /// The steps by how often each was taken: the most frequent ten.
    fn histogram(&self) -> String {
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        self.steps.iter().for_each(|step| *counts.entry(*step).or_default() += 1);
        let mut counts: Vec<(u64, u64)> = counts.into_iter().collect();
        counts.sort_by_key(|(step, count)| (std::cmp::Reverse(*count), *step));
        counts.truncate(10);
        counts.sort_unstable();
        let words: Vec<String> = counts.iter().map(|(step, count)| format!("{step} x{count}")).collect();
        words.join(", ")
    }

    fn median(&self) -> u64 {
        let mut steps = self.steps.clone();
        steps.sort_unstable();
        steps.get(steps.len() / 2).copied().unwrap_or(0)
    }
}

/// The first half: the server's ports.
fn talk(points: &mut Points<'_>) -> u64 {
    points.outcome(Weight::Law, "talk.listener", "a listener", &["ok"]);
    let port = points.given("talk.listener").and_then(|given| given.value());
    let accepted = points.given("talk.accepted").and_then(|given| given.value());
    let what = "every accepted socket has the listener's own port";
    points.point(Weight::Must, "talk.accepted", what, |given| {
        let (count, port) = (given.value()?, port?);
        let locals = given.numbers("local_ports")?;
        let shown: Vec<String> = locals.iter().map(u64::to_string).collect();
        let measured = format!("{} accepted on {port}: local port {}", thousands(count), shown.join(", "));
        Ok((measured, locals == [port]))
    });
    points.point(Weight::Must, "talk.accepted", "their peers are all different", |given| {
        let (count, peers) = (given.value()?, given.number("peers")?);
        Ok((format!("{} peers of {}", thousands(peers), thousands(count)), peers == count && count > 1))
    });
    points.point(Weight::Must, "talk.clients", "connections of one client have different ports", |given| {
        let ports = given.numbers("ports")?;
        let different = ports.iter().collect::<BTreeSet<_>>().len();
        let (count, listed) = (given.value()?, ports.len());
        let measured = format!("{} connections, {different} ports of {listed} listed", thousands(count));
        Ok((measured, different == listed && listed > 1))
    });
    let count = accepted.clone();
    points.point(Weight::Law, "talk.alive", "the connections outlive the listener", |given| {
        let (alive, listeners) = (given.number("established_local")?, given.number("listeners")?);
        let measured = format!("{} connections, {listeners} listeners", thousands(alive));
        Ok((measured, alive == count? && listeners == 0))
    });
    for (label, sent, what) in [
        ("talk.data", "talk.sent", "they carry data"),
        ("talk.after", "talk.sent-after", "and do so when the listener is closed"),
    ] {
        let sent = points.given(sent).and_then(|given| given.value());
        points.point(Weight::Law, label, what, |given| {
            let (received, sent) = (given.value()?, sent?);
            let measured = format!("{} of {} bytes", thousands(received), thousands(sent));
            Ok((measured, received == sent && sent > 0))
        });
    }
    let what = "a new connect then finds nobody";
    points.outcome(Weight::Law, "talk.refused", what, &["ECONNREFUSED"]);
    accepted.unwrap_or(0)
}

/// Whether the ports of a label follow one another; adds what that says of "random".
fn dependence(points: &mut Points<'_>, label: &str, by: &str, range: &Result<Range, String>) -> bool {
    let drawn = Drawn::of(points, label, range.clone());
    let what = format!("ports chosen by {by}: each near the one before, or independent numbers");
    points.point(Weight::Limit, label, what, |_| {
        let drawn = drawn?;
        let near = drawn.share(|step| (1..=NEAR).contains(&step));
        let measured = format!(
            "{:.0}% of {} steps go up by at most {NEAR} ({:.1}% of independent ones would), the median is {}",
            near * 100.0,
            drawn.steps.len(),
            NEAR as f64 * 100.0 / drawn.range.round() as f64,
            thousands(drawn.median()),
        );
        Ok((measured, drawn.follows()))
    })
}

/// How the ports of a sequence follow one another.
fn sequence(points: &mut Points<'_>, label: &str, range: &Result<Range, String>) {
    let drawn = || Drawn::of(points, label, range.clone());
    let (steps, parity) = (drawn(), drawn());
    let what = format!("successive ports go up by an even step of at most {LARGEST_STEP}, free ports given");
    points.point(Weight::Law, label, what, |_| {
        let drawn = steps?;
        let share = drawn.share(|step| step % 2 == 0 && (2..=LARGEST_STEP).contains(&step));
        Ok((format!("{:.0}%: {}", share * 100.0, drawn.histogram()), share >= 0.9))
    });
    let what = "all of one parity, that of the range's low end, while it lasts";
    points.point(Weight::Law, label, what, |_| {
        let drawn = parity?;
        if drawn.ports.len() as u64 > drawn.range.round() / 4 {
            return Err(format!("'{label}' drew so many that one parity may be used up"));
        }
        let odd = drawn.ports.iter().filter(|port| **port % 2 == 1).count();
        let other = if drawn.range.low % 2 == 0 { odd } else { drawn.ports.len() - odd };
        let measured = format!("{} even, {odd} odd, from {} on", drawn.ports.len() - odd, drawn.range.low);
        Ok((measured, other == 0))
    });
}

/// The first ports of connections that differ in one element: were they of one sequence, the last would
/// be no farther from the first than all the steps in between.
fn beginnings(points: &mut Points<'_>, group: &str, element: &str, range: &Result<Range, String>) -> bool {
    let labels = points.labels_of(&format!("begin.{group}."));
    let Some(first) = labels.first().copied() else { return false };
    let all: Result<Vec<Drawn>, String> =
        labels.iter().map(|label| Drawn::of(points, label, range.clone())).collect();
    let what = format!("where a sequence begins depends on the {element}");
    points.point(Weight::Law, first, what, |_| {
        let all = all?;
        if all.len() < 3 {
            return Err(format!("{} sequences are too few to tell chance from one sequence", all.len()));
        }
        let range = all.first().map(|drawn| drawn.range).ok_or("no sequence")?;
        let begins: Vec<u64> = all.iter().filter_map(|drawn| drawn.ports.first().copied()).collect();
        let drawn: u64 = all.iter().map(|drawn| drawn.ports.len() as u64).sum();
        // The shortest arc that holds all of them is what the widest gap leaves.
        let mut sorted = begins.clone();
        sorted.sort_unstable();
        let next = sorted.iter().cycle().skip(1);
        let widest = sorted.iter().zip(next).map(|(from, to)| range.step(*from, *to)).max().unwrap_or(0);
        let arc = range.round() - widest;
        let words: Vec<String> = begins.iter().map(u64::to_string).collect();
        let measured =
            format!("{} (one sequence would stay within {})", words.join(", "), drawn * LARGEST_STEP);
        Ok((measured, widest > 0 && arc > drawn * LARGEST_STEP))
    })
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let accepted = talk(points);
    let range = Range::of(points, "drawn.limits");
    let first = dependence(points, "drawn.first", "`connect`", &range);
    let then = dependence(points, "drawn.then", "`connect`, a second time", &range);
    let mut range_of_steps = String::new();
    // Of a kernel that draws independent numbers these say nothing: there is no sequence.
    if first {
        sequence(points, "drawn.first", &range);
    }
    if then {
        sequence(points, "drawn.then", &range);
    }
    if first && then {
        let (before, after) =
            (Drawn::of(points, "drawn.first", range.clone()), Drawn::of(points, "drawn.then", range.clone()));
        if let Ok(drawn) = &before {
            let most = drawn.steps.iter().max().copied().unwrap_or(0);
            range_of_steps = format!(" in steps of {} to {most}", drawn.steps.iter().min().unwrap_or(&0));
        }
        let what = "the same pair of addresses again goes on where it ended";
        points.point(Weight::Law, "drawn.then", what, |_| {
            let (before, after) = (before?, after?);
            let (Some(last), Some(next)) = (before.ports.last(), after.ports.first()) else {
                return Err("no ports".into());
            };
            let step = before.range.step(*last, *next);
            Ok((format!("{next} after {last}"), (1..=NEAR).contains(&step)))
        });
    }
    let bound = dependence(points, "drawn.bound", "`bind` to port 0", &range);
    let asked = points.asks("drawn.bound");

    let range = Range::of(points, "begin.limits");
    let begins: Vec<&str> =
        [("port", "destination port"), ("source", "source address"), ("destination", "destination address")]
            .into_iter()
            .filter_map(|(group, element)| beginnings(points, group, element, &range).then_some(element))
            .collect();

    let server = format!(
        "all {} accepted sockets had the listener's port, and the clients different ones",
        thousands(accepted)
    );
    if !first && !then {
        return format!("{server}, drawn like independent random numbers");
    }
    let bound = match (asked, bound) {
        (true, false) => "; only `bind` to port 0 draws like chance",
        (true, true) => "; `bind` to port 0 does so too",
        (false, _) => "",
    };
    let begins = match begins.as_slice() {
        [] => String::new(),
        elements => format!(" from a start of their own for each {}", elements.join(", ")),
    };
    format!("{server}; but not random ones: ascending{range_of_steps}{begins}{bound}")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, left_open_by, refuted_by};
    use crate::verdict::{ClaimId, Finding};

    /// As many ports as a batch has, each far from the one before: 7,919 is prime.
    fn scattered(count: u64) -> String {
        let ports: Vec<String> = (0..count).map(|n| (32_768 + n * 7_919 % 28_232).to_string()).collect();
        ports.join(",")
    }

    fn ascending(count: u64, from: u64, step: u64) -> String {
        let ports: Vec<String> = (0..count).map(|n| (from + n * step).to_string()).collect();
        ports.join(",")
    }

    #[test]
    fn a_server_that_talks_on_another_port_refutes_it() {
        refuted_by(
            ClaimId::C2,
            &[
                ("talk.accepted", "local_ports", "7100,40000", "local port 7100, 40000"),
                ("talk.accepted", "peers", "49", "49 peers of 50"),
                ("talk.clients", "ports", "40000,40002,40000", "2 ports of 3"),
                ("talk.after", "value", "100", "100 of 150 bytes"),
                ("talk.alive", "established_local", "0", "0 connections"),
                ("talk.refused", "outcome", "ok", "(talk.refused)"),
            ],
        );
    }

    #[test]
    fn independent_ports_confirm_it() {
        let ports = scattered(200);
        let verdict =
            changed(ClaimId::C2, &[("drawn.first", "ports", &ports), ("drawn.then", "ports", &ports)]);
        assert_eq!(verdict.verdict, Finding::Confirmed, "{}", verdict.because);
        assert!(verdict.because.contains("independent random numbers"), "{}", verdict.because);
    }

    #[test]
    fn another_way_to_go_on_refutes_what_is_said_of_sequences() {
        refuted_by(
            ClaimId::C2,
            &[
                ("drawn.first", "ports", &ascending(200, 40_000, 1), "1 x199"),
                ("drawn.first", "ports", &ascending(200, 40_000, 20), "20 x199"),
                ("drawn.first", "ports", &ascending(200, 40_001, 2), "0 even, 200 odd"),
                ("drawn.then", "ports", &ascending(200, 33_000, 2), "33000 after"),
            ],
        );
        let shared: Vec<(String, String)> =
            (0..4).map(|n| (format!("begin.source.{}", n + 1), ascending(3, 50_000 + n * 20, 6))).collect();
        let shared: Vec<(&str, &str, &str)> =
            shared.iter().map(|(label, ports)| (label.as_str(), "ports", ports.as_str())).collect();
        let verdict = changed(ClaimId::C2, &shared);
        assert_eq!(verdict.verdict, Finding::Refuted, "{}", verdict.because);
        assert!(verdict.because.contains("50000, 50020, 50040, 50060"), "{}", verdict.because);
    }

    #[test]
    fn a_sequence_that_goes_round_the_end_of_the_range_is_still_one() {
        let round: Vec<String> = (0..200).map(|n| (32_768 + (28_000 + n * 2) % 28_232).to_string()).collect();
        // Where it goes on is another point's: the second batch begins two after it.
        let then = ascending(200, 32_768 + (28_000 + 400) % 28_232, 2);
        let verdict = changed(
            ClaimId::C2,
            &[("drawn.first", "ports", &round.join(",")), ("drawn.then", "ports", &then)],
        );
        assert_eq!(verdict.verdict, Finding::Qualified, "{}", verdict.because);
    }

    #[test]
    fn ports_drawn_by_bind_that_follow_one_another_are_said_to() {
        let verdict = changed(ClaimId::C2, &[("drawn.bound", "ports", &ascending(200, 40_001, 2))]);
        assert_eq!(verdict.verdict, Finding::Qualified);
        assert!(verdict.because.ends_with("`bind` to port 0 does so too"), "{}", verdict.because);
    }

    #[test]
    fn what_was_not_tried_is_left_open() {
        left_open_by(
            ClaimId::C2,
            &[
                ("drawn.limits", "ip_local_port_range", "40000-40999", "too narrow"),
                ("drawn.limits", "ip_local_port_range", "many", "no range of ports"),
                ("begin.port.2", "ports", "40000", "too few connections"),
            ],
        );
    }
}
