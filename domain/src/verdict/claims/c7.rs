//! C7: a connection can fail after a successful handshake: accept fails, and a FIN is sent.
//!
//! Two halves that are judged apart. That a connection can fail between its handshake and the application:
//! `close`, `end`, `unread`, `empty`. That a failing `accept` makes it fail, with a FIN: `emfile`, and the
//! corner where it does, `nameless`.

use super::Explanation;
use crate::units::thousands;
use crate::verdict::point::{Given, Points, Weight, said};
use std::collections::BTreeSet;

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "The kernel alone completes handshakes: a connection is ESTABLISHED, and its client told so, before \
        accept() is called. Until then it waits in the listener's queue, and whatever ends the listener (close, \
        exit, a crash) resets all that wait there: inet_csk_listen_stop disconnects each, which sends one RST. \
        accept() itself takes a descriptor before it looks at the queue: at EMFILE or ENFILE it returns without \
        having touched a connection, so nothing is sent and nothing is counted; the client is served by a later \
        accept(). The FIN that people see then is their program's own: event loops keep a spare descriptor, close \
        it, accept, and close what they got. Unread data turns that FIN into an RST. accept() drops a connection \
        by itself only after it has taken it, where it cannot name the peer (ECONNABORTED) or write the name \
        (EFAULT).",
    experiment: "One server fills its descriptors (RLIMIT_NOFILE 64) while a client connects. Captures on both \
        hosts and two readings of the counters enclose accept(): what did EMFILE send, what did it count, is the \
        client still ESTABLISHED, and does accept() return that same connection, with the client's data, once \
        the limit is raised? Then connections are left in the queue while the listener is closed, and while the \
        process ends: how many RSTs, and what does recv() say at the client? Then the trick of the spare \
        descriptor, with data from the client and without. Last, a raw peer with source port 0, which accept() \
        takes and cannot name.",
    changes: "A FIN on the wire when accept() answers EMFILE would confirm the claim as it is told. No RST for a \
        queued connection when its listener is closed, or a connection that is gone after EMFILE without a \
        segment, would refute it.",
    reading: &[
        "RFC 9293, 3.5 and 3.10.7.4: the passive end is ESTABLISHED with the final ACK, whoever has called what",
        "RFC 9293, 3.10.4: CLOSE",
        "RFC 1122, 4.2.2.13, and RFC 2525, 2.17: RST where data that was received is lost",
        "accept(2): EMFILE, ENFILE, ECONNABORTED",
        "listen(2), socket(7)",
        "net/socket.c: __sys_accept4_file, do_accept",
        "net/ipv4/inet_connection_sock.c: inet_csk_listen_stop, inet_child_forget",
        "net/ipv4/tcp.c: __tcp_close, tcp_disconnect",
        "net/ipv4/af_inet.c: inet_getname",
    ],
};

/// What accept answers where there is no descriptor for it: for the process, or for the whole system.
const NO_DESCRIPTOR: &[&str] = &["EMFILE", "ENFILE"];

/// Counters whose names have one of these tell of a connection that was lost, refused or reset. Others
/// count segments, and so those of the controller's own connection to the host too.
const LOSSES: [&str; 9] =
    ["Abort", "Drop", "Overflow", "Rst", "Reset", "Fail", "Listen", "Reject", "CurrEstab"];

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let accept = at_the_limit(points);
    let closed = queued(points, Weight::Must, "close", ["the listener is closed", "closing the listener"]);
    let ended = queued(points, Weight::Law, "end", ["the process ends", "the end of the process"]);
    let reserve = [reserve(points, "unread", true), reserve(points, "empty", false)];
    let nameless = nameless(points);
    let fails: Vec<String> = [closed, ended].into_iter().chain(reserve).flatten().collect();
    let mut sentence = format!("it can fail after the handshake: {}; {accept}", fails.join(", "));
    if let Some(nameless) = nameless {
        sentence = format!("{sentence}; {nameless}");
    }
    sentence
}

/// The connection that waits while accept has no descriptor for it.
fn at_the_limit(points: &mut Points<'_>) -> String {
    points.outcome(Weight::Law, "emfile.full", "the server has no descriptor left", NO_DESCRIPTOR);
    let what = "the handshake completes while the server has no descriptor";
    points.outcome(Weight::Must, "emfile.connect", what, &["ok"]);
    let what = "accept() fails for want of a descriptor";
    points.outcome(Weight::Must, "emfile.accept", what, NO_DESCRIPTOR);
    let wire = points.given("emfile.wire");
    let mut sent = None;
    let seen = wire.clone().and_then(|given| {
        let [fin, rst] = [captured(given, "fin_out")?, captured(given, "rst_out")?];
        sent = Some((fin, rst));
        Ok((format!("{fin} FIN, {rst} RST"), fin == 0))
    });
    points.add(Weight::Limit, "emfile.wire", "the failing accept() sends no FIN", seen);
    // Where it did, all that follows is what the claim says, and no law of this kernel.
    let closed = sent.is_some_and(|(fin, _)| fin > 0);
    let weight = if closed { Weight::Limit } else { Weight::Law };
    let what = "nothing reaches the client: no FIN, no RST";
    points.point(weight, "emfile.client.wire", what, |given| {
        let [fin, rst] = [from_server(given, "fin")?, from_server(given, "rst")?];
        Ok((format!("{fin} FIN, {rst} RST"), fin + rst == 0))
    });
    let before = points.given("emfile.before");
    let what = "no counter of losses moves while accept() fails";
    points.point(weight, "emfile.after", what, |after| {
        if captured(wire?, "loopback")? > 0 {
            return Err("the hosts share one network namespace: its counters are not theirs alone".into());
        }
        let moved = moved(before?, after)?;
        let none = moved.is_empty();
        Ok((if none { "none moved".into() } else { moved.join(", ") }, none))
    });
    let mut stayed = false;
    points.point(weight, "emfile.client", "the client stays ESTABLISHED", |given| {
        let count = given.number("established_remote")?;
        stayed = count > 0;
        Ok((format!("{} ESTABLISHED", thousands(count)), stayed))
    });
    let bytes = points.given("emfile.sent").and_then(|given| given.value());
    points.outcome(weight, "emfile.sent", "the client may send", &["ok"]);
    points.point(weight, "emfile.queue", "the connection stays in the queue", |given| {
        let count = given.number("queued")?;
        Ok((format!("{} queued", thousands(count)), count > 0))
    });
    let client = points.given("emfile.connect");
    let mut same = false;
    points.point(weight, "emfile.later", "a later accept() returns that same connection", |given| {
        if !given.answer.is_ok() {
            return Ok((said(given.answer), false));
        }
        let client = client?;
        let [ours, theirs] = [client.text("local")?, given.text("peer")?];
        same = ours == theirs;
        Ok((format!("accepted {theirs}, the client is {ours}"), same))
    });
    let mut read = None;
    points.point(weight, "emfile.data", "with all that the client has sent", |given| {
        let (count, bytes) = (given.value()?, bytes?);
        read = Some(count);
        Ok((format!("{} of {} bytes", thousands(count), thousands(bytes)), count == bytes))
    });
    let reply = points.given("emfile.reply").and_then(|given| given.value());
    points.point(weight, "emfile.answer", "and the client gets its answer", |given| {
        let (count, bytes) = (given.value()?, reply?);
        Ok((format!("{} of {} bytes", thousands(count), thousands(bytes)), count == bytes))
    });
    let errno = points.given("emfile.accept").map_or("?", |given| given.answer.outcome.as_str());
    match sent {
        Some((fin, rst)) if closed => {
            format!("a failing accept does that, too: at {errno} {fin} FIN and {rst} RST were sent")
        }
        Some((fin, rst)) => {
            let stayed = if stayed { ", the client stayed ESTABLISHED" } else { "" };
            let read = read.map_or_else(String::new, |bytes| format!(" with its {} bytes", thousands(bytes)));
            let same = if same { format!(", a later accept returned it{read}") } else { String::new() };
            format!(
                "but no failing accept sends that FIN: at {errno} {fin} FIN and {rst} RST were sent{stayed}{same}"
            )
        }
        None => format!("what {errno} sent is not known"),
    }
}

/// Connections that wait when their listener goes. The part of the sentence that says so, if they failed.
fn queued(points: &mut Points<'_>, weight: Weight, prefix: &str, [when, by]: [&str; 2]) -> Option<String> {
    let label = |name: &str| format!("{prefix}.{name}");
    let queue = points.given(&label("queue"));
    let what = format!("connections wait to be accepted when {when}");
    points.point(weight, &label("queue"), what, |given| {
        let (queued, all) = (given.number("queued")?, given.number("established_local")?);
        let measured = format!("{} queued, {} ESTABLISHED", thousands(queued), thousands(all));
        Ok((measured, queued > 0 && queued == all))
    });
    let queued = queue.and_then(|given| given.number("queued"));
    for (name, at_client) in [("wire", false), ("client.wire", true)] {
        let what = format!("{when}: one RST for each connection, and no FIN");
        let queued = queued.clone();
        points.point(weight, &label(name), what, |given| {
            let count = |flag| {
                if at_client { from_server(given, flag) } else { captured(given, &format!("{flag}_out")) }
            };
            let (rst, fin, queued) = (count("rst")?, count("fin")?, queued?);
            let measured =
                format!("{} RST, {} FIN for {} queued", thousands(rst), thousands(fin), thousands(queued));
            Ok((measured, rst == queued && fin == 0))
        });
    }
    let wire = label("client.wire");
    let mut clients = points.labels_of(&label("client"));
    clients.retain(|client| *client != wire);
    if clients.is_empty() && weight == Weight::Must {
        let why = Err("no step asks the clients".into());
        points.add(weight, &label("client"), format!("{when}: the clients are told"), why);
    }
    let mut failed = 0;
    for client in clients {
        let what = format!("{when}: the client of each connection is told ECONNRESET");
        points.point(weight, client, what, |given| {
            let (reset, all) = answered(given, "ECONNRESET");
            failed += reset;
            Ok((format!("{} of {}", thousands(reset), thousands(all)), reset == all))
        });
    }
    let queued = queued.ok()?;
    (failed > 0)
        .then(|| format!("{by} reset {} of {} queued connections", thousands(failed), thousands(queued)))
}

/// The descriptor that is kept in reserve to accept and close with.
fn reserve(points: &mut Points<'_>, prefix: &str, unread: bool) -> Option<String> {
    let label = |name: &str| format!("{prefix}.{name}");
    let (sent, word, told) =
        if unread { ("data unread", "RST", "ECONNRESET") } else { ("no data", "FIN", "eof") };
    let what = format!("reserve descriptor, {sent}: accept() fails for want of one");
    points.outcome(Weight::Law, &label("accept"), &what, NO_DESCRIPTOR);
    let what = format!("reserve descriptor, {sent}: once it is closed accept() returns the connection");
    points.outcome(Weight::Law, &label("taken"), &what, &["ok"]);
    let mut done = false;
    for (name, at_client) in [("wire", false), ("client.wire", true)] {
        let what = format!("reserve descriptor, {sent}: closing what was accepted sends one {word}");
        let sent = points.point(Weight::Law, &label(name), what, |given| {
            let count = |flag| {
                if at_client { from_server(given, flag) } else { captured(given, &format!("{flag}_out")) }
            };
            let (fin, rst) = (count("fin")?, count("rst")?);
            Ok((format!("{fin} FIN, {rst} RST"), (fin, rst) == if unread { (0, 1) } else { (1, 0) }))
        });
        done |= sent;
    }
    let what = format!("reserve descriptor, {sent}: the client's recv() tells of it");
    points.outcome(Weight::Law, &label("client"), &what, &[told]);
    done.then(|| format!("closing what a reserve descriptor accepted sent {word} ({sent})"))
}

/// The accept that fails after it has taken the connection: its peer has port 0.
fn nameless(points: &mut Points<'_>) -> Option<String> {
    // On another network nothing routes the raw peer's address back to its host: that says nothing of accept().
    let arrived = points.given("nameless.handshake").and_then(|given| match given.number("acked")? {
        0 => {
            Err("no peer without a name was connected: its address is not routed to the client's host".into())
        }
        acked => Ok(acked),
    });
    let what = "a peer with source port 0 completes its handshake";
    let acked = arrived.clone();
    points.point(Weight::Law, "nameless.handshake", what, |given| {
        let (acked, sent) = (acked?, given.number("sent")?);
        Ok((format!("{acked} of {sent}"), acked == sent))
    });
    // Without such a peer accept() has nothing to fail with.
    let what = "accept() takes a connection whose peer it cannot name, and fails";
    points.point(Weight::Law, "nameless.accept", what, |given| {
        arrived.clone()?;
        Ok((said(given.answer), given.answer.outcome == "ECONNABORTED"))
    });
    let what = "only where accept() has taken the connection its failure sends a FIN";
    let sends = points.point(Weight::Law, "nameless.wire", what, |given| {
        arrived.clone()?;
        let (fin, rst) = (captured(given, "fin_out")?, captured(given, "rst_out")?);
        // Nobody acknowledges it, so it may come again.
        Ok((format!("{fin} FIN, {rst} RST"), fin > 0 && rst == 0))
    });
    sends.then(|| {
        "accept sent one where it had taken what it could not name (a peer with port 0): ECONNABORTED".into()
    })
}

/// A number of a capture that has seen everything.
fn captured(given: Given<'_>, name: &str) -> Result<u64, String> {
    match given.number("dropped")? {
        0 if !given.answer.details.contains_key("behind") => given.number(name),
        0 => Err(format!("the capture of '{}' had not seen everything", given.label)),
        lost => Err(format!("the capture of '{}' lost {} packets", given.label, thousands(lost))),
    }
}

/// How many segments with the flag came from the server, by a capture at the client: on loopback a segment
/// has the direction that it has for the port's owner.
fn from_server(given: Given<'_>, flag: &str) -> Result<u64, String> {
    let way = if captured(given, "loopback")? > 0 { "out" } else { "in" };
    captured(given, &format!("{flag}_{way}"))
}

/// How many of a group's sockets answered with this word, and of how many. A single socket has only its
/// outcome.
fn answered(given: Given<'_>, word: &str) -> (u64, u64) {
    match given.answer.number("sockets") {
        Some(all) => (given.answer.number(word).unwrap_or(0), all),
        None => (u64::from(given.answer.outcome == word), 1),
    }
}

/// The counters of losses that differ between two readings; one that has not moved at all is absent from a
/// reading.
fn moved(before: Given<'_>, after: Given<'_>) -> Result<Vec<String>, String> {
    let is_loss = |name: &&String| {
        (name.starts_with("Tcp.") || name.starts_with("TcpExt."))
            && LOSSES.iter().any(|word| name.contains(word))
    };
    let names: BTreeSet<&String> =
        [before, after].into_iter().flat_map(|given| given.answer.details.keys()).filter(is_loss).collect();
    let count = |given: Given<'_>, name: &str| -> Result<i64, String> {
        let text = given.answer.details.get(name).map_or("0", String::as_str);
        text.parse().map_err(|_| format!("'{text}' of {name} is no number"))
    };
    let mut moved = Vec::new();
    for name in names {
        let by = count(after, name)? - count(before, name)?;
        if by != 0 {
            moved.push(format!("{name} {by:+}"));
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::super::ClaimId;
    use super::super::tests::{changed, left_open_by, refuted_by};
    use crate::verdict::Finding;

    #[test]
    fn it_is_confirmed_by_a_kernel_that_sends_a_fin_when_accept_has_no_descriptor() {
        let verdict = changed(
            ClaimId::C7,
            &[
                ("emfile.wire", "fin_out", "1"),
                ("emfile.client.wire", "fin_in", "1"),
                ("emfile.after", "Tcp.CurrEstab", "0"),
                ("emfile.client", "established_remote", "0"),
                ("emfile.sent", "outcome", "EPIPE"),
                ("emfile.queue", "queued", "0"),
                ("emfile.later", "outcome", "pending"),
                ("emfile.data", "value", "0"),
                ("emfile.answer", "value", "0"),
            ],
        );
        assert_eq!(verdict.verdict, Finding::Confirmed, "{}", verdict.because);
        assert!(verdict.because.contains("at EMFILE 1 FIN and 0 RST were sent"), "{}", verdict.because);
    }

    #[test]
    fn it_is_refuted_by_a_kernel_that_loses_a_connection_or_keeps_it_without_its_listener() {
        let changes = [
            ("emfile.client", "established_remote", "0", "0 ESTABLISHED"),
            ("emfile.after", "TcpExt.ListenDrops", "1", "TcpExt.ListenDrops +1"),
            ("emfile.after", "Tcp.CurrEstab", "0", "Tcp.CurrEstab -1"),
            ("emfile.later", "peer", "10.66.2.1:9", "accepted 10.66.2.1:9"),
            ("emfile.data", "value", "9", "9 of 10 bytes"),
            ("emfile.accept", "outcome", "ok", "accept() fails for want of a descriptor"),
            ("close.wire", "rst_out", "4", "4 RST, 0 FIN for 5 queued"),
            ("end.client.mute", "ECONNRESET", "2", "2 of 3"),
            ("unread.wire", "fin_out", "1", "1 FIN, 1 RST"),
            ("empty.client", "outcome", "ECONNRESET", "ECONNRESET"),
            ("nameless.wire", "fin_out", "0", "0 FIN"),
        ];
        refuted_by(ClaimId::C7, &changes);
    }

    #[test]
    fn what_a_capture_or_a_shared_namespace_cannot_say_is_missing() {
        let changes = [
            ("emfile.wire", "dropped", "3", "lost 3 packets"),
            ("close.wire", "behind", "yes", "had not seen everything"),
            ("nameless.handshake", "acked", "0", "no peer without a name was connected"),
            // Two hosts in one namespace: the counters are everybody's.
            ("emfile.wire", "loopback", "3", "share one network namespace"),
        ];
        left_open_by(ClaimId::C7, &changes);
        // The controller's own connection to the host moves these.
        let verdict = changed(ClaimId::C7, &[("emfile.after", "Tcp.OutSegs", "999")]);
        assert_eq!(verdict.verdict, Finding::Qualified, "{}", verdict.because);
    }
}
