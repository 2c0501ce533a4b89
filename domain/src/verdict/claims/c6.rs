//! C6: requests wait in a backlog of 5 to 10.
//!
//! Labels come in families: `queue.X` and `held.X` (the server's and the clients' count of one backlog),
//! `half.X.syn` and `half.X.queue` (a peer that never completes), so that a plan can try backlogs of its own.

use super::Explanation;
use crate::plan::Case;
use crate::script::{Action, HostRef, Place};
use crate::sysctl::Sysctl;
use crate::units::thousands;
use crate::verdict::point::{Given, Points, Weight};

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "The kernel completes handshakes by itself and puts each connection into the listener's accept \
        queue. The queue is full when it holds more than min(backlog, net.core.somaxconn), so one more than that \
        fits. A SYN that finds it full is dropped without a word and counted (ListenOverflows, ListenDrops): the \
        client cannot tell it from loss and repeats its SYN until it gives up. Handshakes that are half done wait \
        elsewhere: at most backlog + 1 of them, beyond which the kernel drops (tcp_syncookies 0) or answers \
        with a cookie and remembers nothing (1, 2). accept() takes a connection out of the queue: the queue bounds \
        how many wait, not how many are open.",
    experiment: "Listeners with backlogs from 0 to 10,000 that never accept, each with three connects more than \
        fit; sockets counted by the kernel at both ends; SYNs and RSTs counted on the wire and compared with \
        the kernel's counters; one client watched for 11 seconds and another until it gives up; a raw peer, which no \
        kernel owns, that never completes its handshakes, or completes them when the queue is full, under every \
        setting of tcp_syncookies and tcp_abort_on_overflow.",
    changes: "A kernel that gives a server no more than 5 to 10 places where it asks for as many as there are \
        would confirm the statement. A queue of another length than min(backlog, somaxconn) + 1, an RST to a SYN \
        that finds it full, or a client that does not try again would refute its mechanism.",
    reading: &[
        "RFC 9293, 3.10.7.2 (LISTEN state)",
        "RFC 6298, 5 (when a SYN is sent again)",
        "RFC 4987, 3 (SYN flooding, backlogs and cookies)",
        "listen(2), tcp(7): tcp_abort_on_overflow, tcp_max_syn_backlog, tcp_syncookies, TCP_SYNCNT",
        "net/socket.c: __sys_listen (the cut to somaxconn)",
        "include/net/sock.h: sk_acceptq_is_full",
        "include/net/inet_connection_sock.h: inet_csk_reqsk_queue_is_full",
        "net/ipv4/tcp_input.c: tcp_conn_request",
        "net/ipv4/tcp_minisocks.c: tcp_check_req (a final ACK that meets a full queue)",
        "net/ipv4/tcp_timer.c: tcp_retransmit_timer, tcp_write_timeout (tcp_syn_linear_timeouts)",
    ],
};

/// The queue that people have in mind: 5 to 10, and the one more that the kernel adds.
const COMMON: std::ops::RangeInclusive<u64> = 5..=11;

/// A setting of the servers in the answer's case: as the plan sets it, else as `limits` says.
fn setting(points: &Points<'_>, given: Given<'_>, sysctl: Sysctl) -> Result<u64, String> {
    let name = sysctl.name();
    match given.case.setup.servers.sysctls.get(&sysctl) {
        Some(value) => value.trim().parse().map_err(|_| format!("{name} = {value} is no number")),
        None => points.given("limits")?.number(name),
    }
}

/// The port that a labelled step is about.
fn port(given: Given<'_>) -> Option<u16> {
    let steps = &given.case.setup.steps;
    let step = steps.iter().find(|step| step.label.as_deref() == Some(given.label))?;
    Some(match &step.action {
        Action::Sockets(port) => *port,
        Action::Many { to, .. } | Action::Syn { to, .. } => to.port,
        _ => return None,
    })
}

/// The backlog of the listener that a labelled step is about.
fn backlog(given: Given<'_>) -> Result<u64, String> {
    let port = port(given).ok_or_else(|| format!("'{}' is about no port", given.label))?;
    let mut bound: Vec<(HostRef, &str)> = Vec::new();
    let mut found = None;
    for step in &given.case.setup.steps {
        match &step.action {
            Action::Bind(name, at) if at.port == port && !matches!(at.place, Place::Of(..)) => {
                bound.push((step.host, name));
            }
            Action::Listen(name, backlog) if bound.contains(&(step.host, name.as_str())) => {
                found = Some(u64::from(*backlog));
            }
            _ => {}
        }
    }
    found.ok_or_else(|| format!("'{}': nothing listens on port {port}", given.label))
}

/// How long the accept queue of the listener may be: backlog and limit.
fn longest(points: &Points<'_>, given: Given<'_>) -> Result<(u64, u64), String> {
    Ok((backlog(given)?, setting(points, given, Sysctl::Somaxconn)?))
}

/// How many SYNs a raw peer sent.
fn sent(given: Given<'_>) -> Result<u64, String> {
    given.number("sent")
}

/// A detail of counters, where what did not move is left out.
fn moved(given: Given<'_>, name: &str) -> Result<u64, String> {
    if given.answer.details.contains_key(name) { given.number(name) } else { Ok(0) }
}

/// Whether these are the times (in milliseconds) of a SYN that is sent again and again: first after about
/// one second; then so once or several times more (tcp_syn_linear_timeouts, Linux 6.5); then after twice the
/// time before (RFC 6298, 5.5). The timer may be late by an eighth, and the host by a little.
fn backs_off(times: &[u64]) -> bool {
    let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    let near = |gap: u64, due: u64| gap >= due * 9 / 10 && gap <= due * 5 / 4 + 300;
    let mut due = 1_000;
    let mut linear = true;
    gaps.iter().all(|gap| {
        if linear && near(*gap, 1_000) {
            return true;
        }
        linear = false;
        due *= 2;
        near(*gap, due)
    })
}

/// Seconds, to a tenth.
fn seconds(millis: u64) -> String {
    format!("{}.{}", millis / 1_000, millis % 1_000 / 100)
}

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let series = queues(points);
    let default = by_default(points);
    beyond(points);
    open_ones(points);
    half_open(points);
    final_acks(points);
    let common = match default {
        Some(default) if COMMON.contains(&default) => format!("\"5 to 10\" is so here: {default} by default"),
        default => {
            let default = default.map_or_else(|| "?".into(), thousands);
            format!("\"5 to 10\" is refuted: by default {default} wait here")
        }
    };
    format!(
        "the mechanism is confirmed: {series} connections wait, which is min(backlog, somaxconn) + 1 each, and every \
         SYN more is dropped in silence; {common}"
    )
}

/// How many wait, as the server's kernel and the clients count them; says the numbers.
fn queues(points: &mut Points<'_>) -> String {
    let labels = points.labels_of("queue.");
    let mut numbers = Vec::new();
    if labels.is_empty() {
        let why = Err("no step of the plan is labelled 'queue.'".into());
        points.add(Weight::Must, "the plan", "how many connections wait for accept()", why);
    }
    for label in labels {
        let seen = points.given(label).and_then(|given| {
            let (backlog, limit) = longest(points, given)?;
            let expected = backlog.min(limit) + 1;
            let (held, queued) = (given.number("established_local")?, given.number("queued")?);
            numbers.push(held);
            let what = format!("backlog {}, somaxconn {}", thousands(backlog), thousands(limit));
            let measured = format!(
                "{what}: {} ESTABLISHED, {} queued, {} expected",
                thousands(held),
                thousands(queued),
                thousands(expected)
            );
            Ok((measured, held == expected && queued == expected))
        });
        let what = "the server's kernel holds min(backlog, somaxconn) + 1 connections that nobody accepted";
        points.add(Weight::Must, label, what, seen);
    }
    for label in points.labels_of("held.") {
        let seen = points.given(label).and_then(|given| {
            let (backlog, limit) = longest(points, given)?;
            let (held, pending) = (given.value()?, given.number("pending")?);
            let measured = format!("{} connected, {} not", thousands(held), thousands(pending));
            Ok((measured, held == backlog.min(limit) + 1 && given.answer.outcome == "pending"))
        });
        points.add(Weight::Law, label, "so many connects end, and those beyond stay under way", seen);
    }
    for label in points.labels_of("waiting.") {
        let seen = points.given(label).and_then(|given| {
            let beyond = points.given(&label.replacen("waiting.", "held.", 1))?.number("pending")?;
            let left = given.number("syn_sent")?;
            Ok((format!("{left} in SYN_SENT, {beyond} beyond the queue"), left > 0 && left == beyond))
        });
        points.add(Weight::Law, label, "the clients beyond are in SYN_SENT", seen);
    }
    numbers.sort_unstable();
    numbers.dedup();
    let numbers: Vec<String> = numbers.into_iter().map(thousands).collect();
    numbers.join("/")
}

/// What a server gets that asks for as much as there is, where the plan leaves somaxconn alone.
fn by_default(points: &mut Points<'_>) -> Option<u64> {
    let mut most: Option<(u64, &str)> = None;
    for label in points.labels_of("queue.") {
        let Ok(given) = points.given(label) else { continue };
        if given.case.setup.servers.sysctls.contains_key(&Sysctl::Somaxconn) {
            continue;
        }
        let Ok((backlog, limit)) = longest(points, given) else { continue };
        if let Ok(held) = given.number("established_local")
            && backlog >= limit
        {
            most = most.max(Some((held, label)));
        }
    }
    let label = most.map_or("the plan", |(_, label)| label);
    let seen = match most {
        Some((held, _)) => Ok((thousands(held), !COMMON.contains(&held))),
        None => Err("no backlog as large as the host's own somaxconn was filled".into()),
    };
    points.add(
        Weight::Limit,
        label,
        "by default, more than 5 to 10 wait for a server that asks for all there is",
        seen,
    );
    most.map(|(held, _)| held)
}

/// What becomes of the SYN beyond.
fn beyond(points: &mut Points<'_>) {
    points.point(
        Weight::Law,
        "drop.packets",
        "a SYN beyond gets no RST, whatever tcp_abort_on_overflow",
        |given| {
            let (syn, rst) = (given.number("syn_in")?, given.number("rst_out")?);
            Ok((format!("{syn} SYNs came, {rst} RSTs went"), syn > 0 && rst == 0))
        },
    );
    // ListenDrops is of the whole namespace and has more causes (`tcp_listendrop`: a request that lost a race
    // to become a socket in `tcp_v4_syn_recv_sock`, say), so it may have moved further.
    let what =
        "each SYN beyond, the repeated ones too, counts once in ListenOverflows, and is among ListenDrops";
    if points.asks("drop.counters") {
        let seen = points.given("drop.counters").and_then(|counters| {
            let wire = points.given("drop.packets")?;
            let dropped = wire.number("syn_in")?.saturating_sub(wire.number("synack_out")?);
            let overflows = moved(counters, "TcpExt.ListenOverflows")?;
            let drops = moved(counters, "TcpExt.ListenDrops")?;
            let measured =
                format!("{dropped} SYNs unanswered, ListenOverflows {overflows}, ListenDrops {drops}");
            Ok((measured, dropped > 0 && overflows == dropped && drops >= dropped))
        });
        points.add(Weight::Law, "drop.counters", what, seen);
    }
    points.outcome(
        Weight::Law,
        "retry.begin",
        "a connect that meets a full queue is not refused",
        &["pending"],
    );
    let what = "its client sends the SYN again after about 1 s, then in growing intervals, and gets no RST";
    points.point(Weight::Law, "retry.packets", what, |given| {
        let times = given.numbers("syn_times")?;
        let (rst, synack) = (given.number("rst_out")?, given.number("synack_out")?);
        let list: Vec<String> = times.iter().skip(1).map(|time| format!("+{}", seconds(*time))).collect();
        let good = times.len() > 2 && backs_off(&times) && rst == 0 && synack == 0;
        Ok((format!("at {} s; {synack} SYN-ACKs, {rst} RSTs", list.join(", ")), good))
    });
    points.outcome(Weight::Law, "retry.end", "and is in SYN_SENT still when these were sent", &["pending"]);
    points.outcome(
        Weight::Law,
        "gives.up",
        "a client that gives up says so itself: ETIMEDOUT",
        &["ETIMEDOUT"],
    );
}

/// The queue bounds what waits, not what is open.
fn open_ones(points: &mut Points<'_>) {
    let taken = points.labels_of("taken.");
    for label in &taken {
        points.point(Weight::Law, label, "accept() empties a full queue, and as many fit again", |given| {
            let count = given.value()?;
            Ok((format!("{count} accepted"), count > 0 && given.answer.is_ok()))
        });
    }
    if !points.asks("open") {
        return;
    }
    let seen = points.given("open").and_then(|given| {
        let (backlog, limit) = longest(points, given)?;
        let fit = backlog.min(limit) + 1;
        let accepted: u64 =
            taken.iter().map(|label| points.given(label)?.value()).sum::<Result<u64, String>>()?;
        let (open, queued) = (given.number("established_local")?, given.number("queued")?);
        let good = open == accepted + queued && queued <= fit && open > fit;
        Ok((format!("{open} open at one listener, {queued} of them in its queue of {fit}"), good))
    });
    points.add(Weight::Law, "open", "open connections are not bounded by the queue", seen);
}

/// Of a peer that never completes its handshakes, how many the server remembers.
fn half_open(points: &mut Points<'_>) {
    let families: Vec<String> = points
        .labels_of("half.")
        .into_iter()
        .chain(points.labels_of("small."))
        .chain(points.labels_of("cookies"))
        .filter_map(|label| Some(label.strip_suffix(".queue")?.to_owned()))
        .collect();
    for family in families {
        let (syn, queue) = (format!("{family}.syn"), format!("{family}.queue"));
        let law = points.given(&queue).and_then(|given| {
            let backlog = longest(points, given).map(|(backlog, limit)| backlog.min(limit))?;
            let cookies = setting(points, given, Sysctl::TcpSyncookies)?;
            let half = setting(points, given, Sysctl::TcpMaxSynBacklog)?;
            Ok((backlog, cookies, half))
        });
        // `tcp_conn_request`: more than `backlog` are too many; without cookies also when less than a quarter
        // of tcp_max_syn_backlog is left to peers that are not known.
        let held = law.as_ref().map_err(Clone::clone).map(|(backlog, cookies, half)| match cookies {
            0 => (backlog + 1).min(half - (half >> 2) + 1),
            1 => backlog + 1,
            _ => 0,
        });
        let setting = match &law {
            Ok((backlog, cookies, half)) => {
                format!("backlog {backlog}, cookies {cookies}, tcp_max_syn_backlog {half}")
            }
            Err(_) => family.clone(),
        };
        let asked = points.given(&syn).and_then(sent);
        let seen = points.given(&queue).and_then(|given| {
            let (expected, asked, count) = (held.clone()?, asked.clone()?, given.number("syn_received")?);
            if asked <= expected {
                return Err(format!("'{syn}' sends {asked} SYNs, and {expected} fit"));
            }
            // What is not completed is given up after a few SYN-ACKs, the sooner the fuller the queue
            // (`reqsk_timer_handler`): whoever asks late finds fewer, and what was remembered is known
            // from what was answered.
            let expired = count < expected && remembered(points, &family) == Ok(expected);
            let since = if expired { " (all of them remembered, the others given up since)" } else { "" };
            let measured = format!("{count} in SYN_RECV, {expected} expected{since}");
            Ok((measured, count == expected || expired))
        });
        points.add(Weight::Law, &queue, format!("half-open connections remembered with {setting}"), seen);
        let answered = points.given(&syn).and_then(|given| {
            let (count, asked, rst) = (given.value()?, sent(given)?, given.number("rst")?);
            let cookies = law.as_ref().map_err(Clone::clone)?.1;
            let expected = if cookies == 0 { held.clone()? } else { asked };
            Ok((format!("{count} of {asked} answered, {rst} RSTs"), count == expected && rst == 0))
        });
        let what = match &law {
            Ok((_, 0, _)) => {
                "without cookies only what is remembered is answered, the rest dropped in silence"
            }
            Ok(_) => "with cookies every SYN is answered",
            Err(_) => "as many SYNs are answered as tcp_syncookies says",
        };
        points.add(Weight::Law, &syn, what, answered);
        counted(points, &family, asked, held);
    }
}

/// How many half-open connections were remembered at the time: those that were answered, less those that
/// were answered with a cookie.
fn remembered(points: &Points<'_>, family: &str) -> Result<u64, String> {
    let syn = points.given(&format!("{family}.syn"))?;
    let answered = syn.value()?;
    if setting(points, syn, Sysctl::TcpSyncookies)? == 0 {
        return Ok(answered);
    }
    let name = "TcpExt.SyncookiesSent";
    let before = points.given(&format!("{family}.before")).and_then(|given| moved(given, name))?;
    let after = points.given(&format!("{family}.after")).and_then(|given| moved(given, name))?;
    Ok(answered.saturating_sub(after.saturating_sub(before)))
}

/// The kernel's counter of what it did not remember: cookies sent, or SYNs dropped.
fn counted(points: &mut Points<'_>, family: &str, asked: Result<u64, String>, held: Result<u64, String>) {
    let (before, after) = (format!("{family}.before"), format!("{family}.after"));
    let alone = format!("{family}.counters");
    let label = if points.asks(&alone) { alone } else { after };
    if !points.asks(&label) {
        return;
    }
    let seen = points.given(&label).and_then(|given| {
        let cookies = setting(points, given, Sysctl::TcpSyncookies)?;
        let name = if cookies == 0 { "TcpExt.TCPReqQFullDrop" } else { "TcpExt.SyncookiesSent" };
        let earlier = if points.asks(&before) { moved(points.given(&before)?, name)? } else { 0 };
        let count = moved(given, name)?.saturating_sub(earlier);
        let rest = asked?.saturating_sub(held?);
        Ok((format!("{name} {count}, {rest} not remembered"), count == rest))
    });
    points.add(Weight::Law, &label, "the kernel counts each that it did not remember", seen);
    if points.asks(&before) {
        let what = "and had counted none of them before";
        let seen = points.given(&before).and_then(|given| {
            let count = moved(given, "TcpExt.SyncookiesSent")?;
            Ok((format!("TcpExt.SyncookiesSent {count}"), given.answer.is_ok()))
        });
        points.add(Weight::Law, &before, what, seen);
    }
}

/// Final ACKs that meet a full queue.
fn final_acks(points: &mut Points<'_>) {
    for family in ["late", "abort"] {
        let [syn, fill, ack, queue] = ["syn", "fill", "ack", "queue"].map(|part| format!("{family}.{part}"));
        if !points.asks(&ack) {
            continue;
        }
        let begun = points.given(&syn).and_then(|given| given.value());
        let seen = begun.clone().map(|count| (format!("{count} SYN-ACKs came"), count > 0));
        points.add(Weight::Law, &syn, "a peer's handshakes are half done while the queue is empty", seen);
        let full = |given| longest(points, given).map(|(backlog, limit)| backlog.min(limit) + 1);
        let filled = points.given(&fill).and_then(|given| {
            let (held, expected) = (given.value()?, full(given)?);
            Ok((format!("{held} connected"), held == expected))
        });
        let places = points.given(&queue).and_then(full);
        points.add(Weight::Law, &fill, "then others fill the queue", filled);
        let labelled = |case: &&Case| case.setup.steps.iter().any(|step| step.label.as_ref() == Some(&ack));
        // 0 unless the plan says so: `limits` does not show it.
        let set = points.plan.cases.iter().find(labelled).map(|case| &case.setup.servers.sysctls);
        let aborts = set
            .and_then(|sysctls| sysctls.get(&Sysctl::TcpAbortOnOverflow))
            .is_some_and(|value| value.trim() != "0");
        let what = if aborts {
            "tcp_abort_on_overflow 1: a final ACK that meets a full queue gets an RST"
        } else {
            "tcp_abort_on_overflow 0: such a final ACK is dropped, and the peer believes it is connected"
        };
        let seen = points.given(&ack).and_then(|given| {
            let begun = begun.clone()?;
            let (acks, rst) = (given.value()?, given.number("rst")?);
            let expected = if aborts { begun } else { 0 };
            Ok((format!("{acks} ACKs, {rst} RSTs"), acks == begun && rst == expected))
        });
        points.add(Weight::Law, &ack, what, seen);
        let seen = points.given(&queue).and_then(|given| {
            let (half, held) = (given.number("syn_received")?, given.number("established_local")?);
            let expected = if aborts { 0 } else { begun? };
            let full = places?;
            Ok((format!("{half} in SYN_RECV, {held} ESTABLISHED"), half == expected && held == full))
        });
        points.add(Weight::Law, &queue, "and the server holds none of them to be established", seen);
    }
}

#[cfg(test)]
#[path = "c6_tests.rs"]
mod tests;
