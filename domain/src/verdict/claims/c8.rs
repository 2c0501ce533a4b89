//! C8: one passive socket a port, many active ones.

use super::Explanation;
use crate::units::thousands;
use crate::verdict::chance::{Evenness, UNLIKELY};
use crate::verdict::point::{Points, Weight};

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "A listener holds an address and a port: a second socket is refused there by `bind`, with \
                SO_REUSEADDR too as soon as one listens. The connections that it accepts share its port \
                without being bound again. What is held is ip:port, not the port: another address has ports of \
                its own, 0.0.0.0 stands for all of them. With SO_REUSEPORT on all, set by one user, any number \
                may listen on one ip:port; a hash of the four-tuple then chooses the listener of each SYN. \
                Each has a queue of its own, and what is in it is reset when it is closed.",
    experiment: "Second sockets on a listener's ip:port: with no option, with SO_REUSEADDR before and after \
                 the first listens, with SO_REUSEPORT on all and on all but one; a wildcard beside a specific \
                 address, and which of them is connected; one port at two addresses. 2,000 connections over two \
                 and over four listeners with SO_REUSEPORT, judged by a chi-square test at both ends: too \
                 unequal for even chances, or too equal (turns taken). The same four-tuples twice: the very \
                 same split. One of two listeners closed: RSTs on the wire, errors at the clients.",
    changes: "Refuted by a kernel that binds a second plain socket to a listener's ip:port, or lets two listen \
              with SO_REUSEADDR alone. Confirmed without a condition only where SO_REUSEPORT and a second \
              address give no second listener on the port. With net.ipv4.tcp_migrate_req = 1 (Linux 5.14) \
              queued connections move to another listener instead of being reset; a BPF program \
              (SO_ATTACH_REUSEPORT_EBPF) may choose instead of the hash.",
    reading: &[
        "RFC 9293, 3.9.1 User/TCP Interface (OPEN, passive)",
        "RFC 9293, 3.10.7.2 LISTEN STATE",
        "socket(7), SO_REUSEADDR and SO_REUSEPORT",
        "listen(2)",
        "net/ipv4/inet_connection_sock.c: inet_csk_get_port, inet_csk_listen_start, inet_csk_listen_stop",
        "net/ipv4/inet_hashtables.c: __inet_lookup_listener, compute_score",
        "net/core/sock_reuseport.c: reuseport_select_sock, reuseport_select_sock_by_hash",
    ],
};

fn one_and_many(points: &mut Points<'_>) -> u64 {
    points.outcome(Weight::Must, "one.listener", "a listener", &["ok"]);
    let clients = points.given("active.clients").and_then(|given| given.value());
    let many = clients.clone().unwrap_or(0);
    let expected = clients.clone();
    let what = "one passive socket and many active ones have the same local port";
    points.point(Weight::Must, "active.sockets", what, |given| {
        let (listeners, active) = (given.number("listeners")?, given.number("established_local")?);
        let measured = format!("{listeners} listening, {} connected", thousands(active));
        Ok((measured, listeners == 1 && active > 1 && active == expected?))
    });
    points.point(Weight::Law, "active.accepted", "each is a socket of its own", |given| {
        let (count, peers) = (given.value()?, given.number("peers")?);
        let measured = format!("{} accepted, {} peers", thousands(count), thousands(peers));
        Ok((measured, count == clients? && peers == count))
    });
    let what = "a second plain socket is refused on a listener's ip:port";
    points.outcome(Weight::Must, "plain.bind", what, &["EADDRINUSE"]);
    many
}

fn reuseaddr(points: &mut Points<'_>) {
    let what = "SO_REUSEADDR on both: two may be bound while neither listens";
    points.outcome(Weight::Law, "reuseaddr.before", what, &["ok"]);
    points.outcome(Weight::Law, "reuseaddr.first", "one of them may listen", &["ok"]);
    let what = "the other, bound before, may not listen any more";
    points.outcome(Weight::Must, "reuseaddr.listen", what, &["EADDRINUSE"]);
    let what = "nor may a third be bound once one listens";
    points.outcome(Weight::Must, "reuseaddr.bind", what, &["EADDRINUSE"]);
}

/// SO_REUSEPORT and addresses: where there is more than one passive socket; how many listened on one ip:port,
/// and whether another address or the wildcard did.
fn several(points: &mut Points<'_>) -> (u64, bool, bool) {
    let all = points.given("reuseport.all").and_then(|given| given.number("listeners")).unwrap_or(0);
    let what = "SO_REUSEPORT on all: several listen on one ip:port";
    let reuseport = points.point(Weight::Limit, "reuseport.all", what, |given| {
        let listeners = given.number("listeners")?;
        Ok((format!("{listeners} listening"), listeners > 1))
    });
    let what = "a socket without it is refused beside them";
    points.outcome(Weight::Law, "reuseport.not-all", what, &["EADDRINUSE"]);

    let what = "SO_REUSEADDR does not bring a specific address beside a listening wildcard";
    points.outcome(Weight::Law, "wildcard.reuseaddr", what, &["EADDRINUSE"]);
    let what = "SO_REUSEPORT does";
    let wildcard = points.outcome(Weight::Limit, "wildcard.reuseport", what, &["ok"]);
    let clients = points.given("wildcard.clients").and_then(|given| given.value());
    // Where it does not listen nobody wins.
    if wildcard || !points.asks("wildcard.reuseport") || points.given("wildcard.reuseport").is_err() {
        points.point(
            Weight::Law,
            "wildcard.specific",
            "and the specific one gets every connection",
            |given| {
                let (count, clients) = (given.value()?, clients?);
                Ok((format!("{count} of {clients}"), count == clients && clients > 0))
            },
        );
        points.value(Weight::Law, "wildcard.wildcard", "the wildcard gets none", 0);
    }

    points.outcome(Weight::Must, "addresses.one", "a listener at one address", &["ok"]);
    let port = points.given("addresses.one").and_then(|given| given.value());
    let what = "the same port at another address needs no option: what is held is ip:port";
    let addresses = points.point(Weight::Limit, "addresses.two", what, |given| {
        let (ok, port) = (given.answer.is_ok(), port?);
        let at = given.answer.details.get("local").map_or("nowhere", String::as_str);
        Ok((format!("{}, at {at}", given.answer.outcome), ok && given.answer.value == Some(port)))
    });
    let expected = points.given("addresses.two").and_then(|given| {
        points.given("addresses.one")?;
        Ok(if given.answer.is_ok() { 2 } else { 1 })
    });
    points.point(Weight::Law, "addresses.both", "as the kernel counts them", |given| {
        let listeners = given.number("listeners")?;
        Ok((format!("{listeners} listening"), listeners == expected?))
    });
    (if reuseport { all } else { 0 }, wildcard, addresses)
}

/// Counts of labels that must all be there.
fn counts(points: &Points<'_>, labels: &[&str]) -> Result<Vec<u64>, String> {
    labels.iter().map(|label| points.given(label)?.value()).collect()
}

fn joined(counts: &[u64]) -> String {
    let words: Vec<String> = counts.iter().map(|count| thousands(*count)).collect();
    words.join(" / ")
}

/// How listeners with SO_REUSEPORT share connections; the splits that were seen.
fn spread(points: &mut Points<'_>) -> Vec<String> {
    let mut splits: Vec<String> = Vec::new();
    let mut whole: Option<Result<Evenness, String>> = None;
    let mut first = None;
    for clients in points.labels_of("spread.").into_iter().filter(|label| label.ends_with(".clients")) {
        let group = clients.trim_end_matches("clients");
        let labels: Vec<&str> =
            points.labels_of(group).into_iter().filter(|label| *label != clients).collect();
        let Some(label) = labels.first().copied() else { continue };
        first.get_or_insert(label);
        let clients = points.given(clients).and_then(|given| given.value());
        let counts =
            counts(points, &labels).and_then(|counts| match (counts.iter().sum::<u64>(), clients?) {
                (sum, held) if sum == held => Ok(counts),
                (sum, held) => Err(format!("{} of {} were accepted", thousands(sum), thousands(held))),
            });
        let evenness = counts.clone().and_then(|counts| {
            let few = || format!("{} connections are too few for a test", counts.iter().sum::<u64>());
            // The usual rule for the test's approximation is a mean of five; ten is on the safe side.
            let enough = counts.iter().sum::<u64>() >= 10 * counts.len() as u64;
            Evenness::of(&counts).filter(|_| enough).ok_or_else(few)
        });
        if let Ok(counts) = &counts {
            splits.push(joined(counts));
        }
        let what = format!("{} listeners get what even chances give, as from a hash", labels.len());
        let seen = evenness.clone().and_then(|evenness| {
            let p = evenness.p_as_unequal();
            let measured = format!(
                "{}: chi-square {:.2} with {} degree(s) of freedom, p {p:.4}",
                joined(&counts?),
                evenness.statistic,
                evenness.freedom
            );
            Ok((measured, p > UNLIKELY))
        });
        points.add(Weight::Law, label, what, seen);
        whole = Some(match (whole, evenness) {
            (None, evenness) => evenness,
            (Some(Ok(before)), Ok(evenness)) => Ok(before.and(evenness)),
            (Some(Err(why)), _) | (_, Err(why)) => Err(why),
        });
    }
    if let (Some(whole), Some(first)) = (whole, first) {
        let seen = whole.map(|whole| {
            let p = whole.p_as_equal();
            let measured = format!(
                "chi-square of all splits {:.2} with {} degrees of freedom, as equal by chance: p {p:.4}",
                whole.statistic, whole.freedom
            );
            (measured, p > UNLIKELY)
        });
        points.add(Weight::Law, first, "they do not take turns: that would be more equal than chance", seen);
    }
    splits
}

/// The same four-tuples a second time.
fn again(points: &mut Points<'_>) {
    // A connection that was not made again would be missing somewhere.
    let made = |label| points.given(label).and_then(|given| given.value());
    let made = made("again.clients.1").and_then(|first| match made("again.clients.2")? {
        second if second == first => Ok(()),
        second => Err(format!("{first} connections, and then {second}")),
    });
    for label in points.labels_of("again.once.") {
        let made = made.clone();
        let twice = label.replace("once", "twice");
        let first = points.given(label).and_then(|given| given.value());
        points.point(Weight::Law, &twice, "the same four-tuples meet the same listener again", |given| {
            made?;
            let (first, second) = (first?, given.value()?);
            Ok((format!("{} and again {}", thousands(first), thousands(second)), first == second))
        });
    }
}

/// One of two listeners closed; how many of how many were reset.
fn closing(points: &mut Points<'_>) -> Option<(u64, u64)> {
    let queued = |label: &str| points.given(label).and_then(|given| given.number("queued"));
    let clients = points.given("closing.clients").and_then(|given| given.value());
    let before = queued("closing.before").and_then(|queued| match clients.clone()? {
        // A last ACK may have been under way.
        clients if queued < clients => {
            Err(format!("only {} of {} were queued yet", thousands(queued), thousands(clients)))
        }
        _ => Ok(queued),
    });
    let after = queued("closing.after");
    let lost = before.clone().and_then(|before| {
        let after = after.clone()?;
        before.checked_sub(after).ok_or_else(|| format!("{after} are queued after {before}"))
    });
    let (expected, rest) = (lost.clone(), after);
    let all = before.clone();
    points.point(Weight::Law, "closing.before", "two listeners queue all connections", |given| {
        let (queued, listeners) = (all?, given.number("listeners")?);
        let measured = format!("{} queued at {listeners} listeners", thousands(queued));
        Ok((measured, queued == clients? && listeners == 2))
    });
    let total = before.clone();
    let what = "closing one of them loses what is queued on it, and no more";
    points.point(Weight::Law, "closing.after", what, |given| {
        let (queued, listeners) = (given.number("queued")?, given.number("listeners")?);
        let measured = format!("{} queued at {listeners} listener(s)", thousands(queued));
        // By a fair hash, that one of two has none or all is out of question.
        Ok((measured, listeners == 1 && queued > 0 && queued < total?))
    });
    let lost_there = expected.clone();
    points.point(Weight::Law, "closing.wire", "an RST for each of them", |given| {
        let (resets, lost) = (given.number("rst_out")?, lost_there?);
        if given.number("dropped")? > 0 || given.answer.details.contains_key("behind") {
            return Err(format!("'{}': the capture did not see everything", given.label));
        }
        let measured = format!("{} RST, {} FIN for {lost}", thousands(resets), given.number("fin_out")?);
        Ok((measured, resets == lost && lost > 0))
    });
    points.point(Weight::Law, "closing.heard", "their clients are told: ECONNRESET", |given| {
        // An outcome that no client had is no detail.
        let (heard, lost) = (given.answer.number("ECONNRESET").unwrap_or(0), expected?);
        Ok((format!("{} of {lost}", thousands(heard)), heard == lost && lost > 0))
    });
    points.point(Weight::Law, "closing.taken", "the other listener's connections are accepted", |given| {
        let (taken, rest) = (given.value()?, rest?);
        Ok((format!("{} of {rest}", thousands(taken)), taken == rest && rest > 0))
    });
    Some((lost.ok()?, before.ok()?))
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let active = one_and_many(points);
    reuseaddr(points);
    let (listeners, wildcard, addresses) = several(points);
    // Where only one socket can listen there is nothing to share.
    let alone = points.given("reuseport.all").and_then(|given| given.number("listeners")) == Ok(1);
    let (mut splits, mut closed) = (Vec::new(), None);
    if !alone {
        splits = spread(points);
        again(points);
        closed = closing(points);
    }

    let mut but: Vec<String> = Vec::new();
    if addresses {
        but.push("\"port\" reads \"ip:port\"".into());
    }
    if listeners > 0 {
        but.push(format!("with SO_REUSEPORT {listeners} listened on one ip:port"));
    }
    if wildcard {
        but.push("a wildcard listened beside a specific address".into());
    }
    if !splits.is_empty() {
        but.push(format!("a hash spread connections over them ({})", splits.join("; ")));
    }
    if let Some((lost, all)) = closed {
        but.push(format!("closing one of two reset {lost} of {all} queued"));
    }
    let but = if but.is_empty() { String::new() } else { format!("; but {}", but.join(", ")) };
    format!("one passive socket had {} active ones on its port, a second was refused{but}", thousands(active))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{changed, left_open_by, refuted_by};
    use crate::verdict::{ClaimId, Finding};

    #[test]
    fn a_second_passive_socket_refutes_it() {
        refuted_by(
            ClaimId::C8,
            &[
                ("plain.bind", "outcome", "ok", "(plain.bind)"),
                ("active.sockets", "listeners", "2", "2 listening, 20 connected"),
                ("active.sockets", "established_local", "19", "19 connected"),
                ("reuseaddr.bind", "outcome", "ok", "(reuseaddr.bind)"),
                ("reuseaddr.listen", "outcome", "ok", "(reuseaddr.listen)"),
                ("wildcard.specific", "value", "20", "20 of 40"),
                ("closing.wire", "rst_out", "0", "0 RST"),
                ("closing.heard", "ECONNRESET", "3", "3 of"),
                ("closing.after", "queued", "200", "200 queued"),
                ("again.twice.3", "value", "1", "and again 1"),
            ],
        );
    }

    /// The verdict on these splits over two and over four listeners.
    fn split(two: [u64; 2], four: [u64; 4]) -> crate::verdict::Verdict {
        let of = |group: &'static str, counts: Vec<u64>| {
            let labels = counts.into_iter().enumerate();
            labels.map(move |(n, count)| (format!("spread.{group}.{}", n + 1), count.to_string()))
        };
        let all: Vec<(String, String)> = of("two", two.into()).chain(of("four", four.into())).collect();
        let all: Vec<(&str, &str, &str)> =
            all.iter().map(|(label, count)| (label.as_str(), "value", count.as_str())).collect();
        changed(ClaimId::C8, &all)
    }

    #[test]
    fn listeners_that_take_turns_refute_the_hash_and_so_does_one_that_gets_more() {
        let turns = split([1_000, 1_000], [500; 4]);
        assert_eq!(turns.verdict, Finding::Refuted, "{}", turns.because);
        assert!(turns.because.contains("chi-square of all splits 0.00"), "{}", turns.because);
        let leans = split([1_200, 800], [500, 480, 510, 510]);
        assert_eq!(leans.verdict, Finding::Refuted);
        assert!(leans.because.contains("1,200 / 800: chi-square 80.00"), "{}", leans.because);
        let hash = split([982, 1_018], [460, 528, 500, 512]);
        assert_eq!(hash.verdict, Finding::Qualified, "{}", hash.because);
        assert!(hash.because.contains("982 / 1,018; 460 / 528 / 500 / 512"), "{}", hash.because);
    }

    #[test]
    fn where_nothing_gives_a_second_listener_it_holds_without_a_condition() {
        let verdict = changed(
            ClaimId::C8,
            &[
                ("reuseport.all", "listeners", "1"),
                ("wildcard.reuseport", "outcome", "EADDRINUSE"),
                ("addresses.two", "outcome", "EADDRINUSE"),
                ("addresses.both", "listeners", "1"),
            ],
        );
        assert_eq!(verdict.verdict, Finding::Confirmed, "{}", verdict.because);
        assert!(!verdict.because.contains("but"), "{}", verdict.because);
    }

    #[test]
    fn what_was_not_seen_whole_is_left_open() {
        left_open_by(
            ClaimId::C8,
            &[
                ("spread.two.2", "value", "900", "of 2,000 were accepted"),
                ("closing.wire", "dropped", "3", "did not see everything"),
                ("closing.before", "queued", "199", "only 199 of 200"),
                ("again.clients.2", "value", "999", "1000 connections, and then 999"),
            ],
        );
    }
}
