//! C5: the real limit is file descriptors.
//!
//! Labels come in families: `fill.X` (sockets up to a limit), `at.X.take`, `.full`, `.queue`, `.later` (accepted
//! up to a limit), so that a plan can try limits of its own.

use super::Explanation;
use crate::capacity::{Limit, Prediction};
use crate::units::thousands;
use crate::verdict::bound_by;
use crate::verdict::point::{Points, Weight, said};

pub(super) const EXPLANATION: Explanation = Explanation {
    mechanism: "A descriptor is a place in a process's table, and RLIMIT_NOFILE bounds the numbers that are given \
        out: at the limit socket() and accept() say EMFILE. A connection is the kernel's and needs no descriptor: it \
        is there before accept() and may stay so, and io_uring holds sockets in tables of its own. Each table has \
        its own limit, so more processes (or threads with a table of their own) hold more; then fs.file-max, \
        kernel memory, connection tracking or the four-tuples bind.",
    experiment: "Sockets are opened, and connections accepted, until the kernel refuses, at several limits, and \
        compared with the limit less what was open; the hard limit is raised; two workers fill a table each; \
        an accept queue takes two addresses' worth of connections with one descriptor; io_uring connects ten times \
        as many sockets as the limit allows; a load in many small tables names what bound it, and what comes next. \
        ENFILE is not produced, because fs.file-max is the whole machine's: it is read.",
    changes: "The statement would be confirmed where nothing can be held beyond a process's descriptors: no \
        second table, no queue, no rings. A number of sockets other than the limit less the descriptors open \
        below it, or a connection lost because accept() said EMFILE, would refute it.",
    reading: &[
        "RFC 9293, 3.10.1 (OPEN call: the connection is a TCB, not a descriptor)",
        "getrlimit(2): RLIMIT_NOFILE; accept(2): EMFILE, ENFILE; proc_sys_fs(5): file-max, nr_open",
        "io_uring_register_files(3), io_uring_prep_socket_direct(3)",
        "fs/file.c: alloc_fd",
        "fs/file_table.c: alloc_empty_file, files_maxfiles_init (file-max is a tenth of memory in KiB)",
        "kernel/sys.c: do_prlimit",
        "net/socket.c: __sys_accept4",
        "net/ipv4/inet_connection_sock.c: inet_csk_reqsk_queue_add",
        "io_uring/rsrc.c: io_sqe_files_register",
        "net/netfilter/nf_conntrack_core.c: __nf_conntrack_alloc (nf_conntrack_max)",
        "net/ipv4/tcp.c: tcp_init_mem (tcp_mem: bounds queued data, in pages)",
    ],
};

/// What people say that a system's descriptors end at.
const COMMON_MAXIMUM: u64 = 300_000;

/// Kernel memory that one TCP socket takes, at least and at most: struct tcp_sock alone is more than 2 KiB, and
/// queues, buckets and a busy host do not make it sixteen.
const BYTES: std::ops::RangeInclusive<u64> = 1_024..=16_384;

pub(super) fn judge(points: &mut Points<'_>) -> String {
    let limits = filled(points);
    let what = "a socket with a descriptor needs kernel memory: memory is a limit too";
    memory(points, what, "memory.before", "memory.after", "fill.19000", "");
    accepted(points);
    raised(points);
    let second = two_tables(points);
    let queue = one_descriptor(points);
    let ring = rings(points);
    let bound = loads(points);
    machine(points);
    let known = |number: Option<u64>| number.map_or_else(|| "?".into(), thousands);
    format!(
        "a process is refused with EMFILE at its RLIMIT_NOFILE ({limits} tried), and only what needs \
         descriptors ends there: {} connections \
         waited at one descriptor, io_uring connected {} sockets without any, two processes held {}; {bound}",
        known(queue),
        known(ring),
        known(second),
    )
}

/// Sockets opened up to a limit; says the limits.
fn filled(points: &mut Points<'_>) -> String {
    let labels = points.labels_of("fill.");
    let mut limits = Vec::new();
    if labels.is_empty() {
        let why = Err("no step of the plan is labelled 'fill.'".into());
        points.add(Weight::Must, "the plan", "sockets up to the limit on descriptors", why);
    }
    for label in labels {
        let what = "socket() says EMFILE when the sockets and what was open make up RLIMIT_NOFILE";
        points.point(Weight::Must, label, what, |given| {
            let (count, open, files) = (given.value()?, given.number("open")?, given.number("files")?);
            limits.push(files);
            let measured = format!(
                "{} sockets, {open} open before, limit {}, then {}",
                thousands(count),
                thousands(files),
                said(given.answer)
            );
            Ok((measured, given.answer.outcome == "EMFILE" && count + open == files))
        });
    }
    limits.sort_unstable();
    limits.dedup();
    limits.into_iter().map(thousands).collect::<Vec<_>>().join(", ")
}

/// Connections accepted up to a limit.
fn accepted(points: &mut Points<'_>) {
    let families: Vec<String> = points
        .labels_of("at.")
        .into_iter()
        .filter_map(|label| Some(label.strip_suffix(".take")?.to_owned()))
        .collect();
    for family in families {
        let [take, full, queue, later] =
            ["take", "full", "queue", "later"].map(|part| format!("{family}.{part}"));
        points.point(Weight::Must, &take, "accept() says EMFILE at the limit", |given| {
            let count = given.value()?;
            Ok((format!("{} accepted, then {}", thousands(count), said(given.answer)), {
                given.answer.outcome == "EMFILE" && count > 0
            }))
        });
        let what = "then no descriptor is free: as many are open as RLIMIT_NOFILE says";
        points.point(Weight::Must, &full, what, |given| {
            let (count, open, files) = (given.value()?, given.number("open")?, given.number("files")?);
            let measured = format!("{} of {} open, {count} more", thousands(open), thousands(files));
            Ok((measured, given.answer.outcome == "EMFILE" && count == 0 && open == files))
        });
        points.point(
            Weight::Law,
            &queue,
            "the connections that found no descriptor stay established and queued",
            |given| {
                let (queued, held) = (given.number("queued")?, given.number("established_local")?);
                Ok((format!("{} queued of {} ESTABLISHED", thousands(queued), thousands(held)), queued > 0))
            },
        );
        if points.asks(&later) {
            let seen = points.given(&later).and_then(|given| {
                let (count, queued) = (given.value()?, points.given(&queue)?.number("queued")?);
                let measured = format!("{} of {} accepted", thousands(count), thousands(queued));
                Ok((measured, given.answer.is_ok() && count == queued))
            });
            points.add(Weight::Law, &later, "and are accepted once the limit is higher", seen);
        }
    }
}

/// The hard limit.
fn raised(points: &mut Points<'_>) {
    for label in points.labels_of("raise.") {
        let what = "beyond the hard limit only with CAP_SYS_RESOURCE, beyond fs.nr_open nobody";
        let seen = points.given(label).and_then(|given| {
            let step = given.case.setup.steps.iter().find(|step| step.label.as_deref() == Some(label));
            let asked = match step.map(|step| &step.action) {
                Some(crate::script::Action::Files(count)) => *count,
                _ => return Err(format!("'{label}' is no step that sets a limit")),
            };
            let limits = points.given("limits")?;
            let nr_open = limits.number("nr_open")?;
            let hard = given.number("hard")?;
            let refused = given.answer.outcome == "EPERM";
            let measured =
                |what: &str| format!("{} asked, hard limit {}: {what}", thousands(asked), thousands(hard));
            Ok(match (refused, asked > nr_open) {
                (true, true) => (measured(&format!("EPERM, fs.nr_open is {}", thousands(nr_open))), true),
                (true, false) => (measured("EPERM: the worker lacks CAP_SYS_RESOURCE"), asked > hard),
                (false, beyond) => {
                    let was = limits.number("nofile_hard").unwrap_or(u64::MAX);
                    let what = match given.answer.outcome.as_str() {
                        "ok" if asked <= was => "it is not beyond it",
                        "ok" => "raised, so the worker has CAP_SYS_RESOURCE",
                        other => other,
                    };
                    (measured(what), given.answer.is_ok() && !beyond)
                }
            })
        });
        points.add(Weight::Law, label, what, seen);
    }
}

/// Two processes of one kernel.
fn two_tables(points: &mut Points<'_>) -> Option<u64> {
    let mut sum = None;
    let what = "two processes hold more than the limit of one";
    if points.asks("fill.second") {
        let seen = points.given("fill.second").and_then(|given| {
            let files = given.number("files")?;
            let first = points.labels_of("fill.").into_iter().filter(|label| *label != "fill.second");
            // The other worker's, of the same limit: both are open at the same time.
            let mut other = None;
            for label in first {
                let first = points.given(label)?;
                if first.number("files")? == files {
                    other = Some(first.value()?);
                }
            }
            let other = other.ok_or("no other worker was filled up to the same limit")?;
            let both = other.saturating_add(given.value()?);
            sum = Some(both);
            Ok((format!("{} sockets, limit {}", thousands(both), thousands(files)), both > files))
        });
        points.add(Weight::Limit, "fill.second", what, seen);
    }
    sum
}

/// Connections that wait to be accepted.
fn one_descriptor(points: &mut Points<'_>) -> Option<u64> {
    let mut held = None;
    for label in
        points.labels_of("one.").into_iter().filter(|label| ["one.first", "one.second"].contains(label))
    {
        points.point(
            Weight::Law,
            label,
            "a raw peer's handshakes are completed while nobody accepts",
            |given| {
                let (count, sent) = (given.value()?, given.number("sent")?);
                Ok((
                    format!("{} of {}", thousands(count), thousands(sent)),
                    count == sent && given.number("rst")? == 0,
                ))
            },
        );
    }
    points.point(
        Weight::Law,
        "one.open",
        "the server's process has few descriptors open, and may have few",
        |given| {
            let (open, files) = (given.number("open")?, given.number("files")?);
            Ok((format!("{open} of {}", thousands(files)), open < files))
        },
    );
    if points.asks("one.queue") {
        let seen = points.given("one.queue").and_then(|given| {
            let (queued, count) = (given.number("queued")?, given.number("established_local")?);
            let files = points.given("one.open")?.number("files")?;
            held = Some(count);
            let measured = format!(
                "{} ESTABLISHED, {} queued, limit {}",
                thousands(count),
                thousands(queued),
                thousands(files)
            );
            Ok((measured, count > files && queued == count))
        });
        let what = "one listener's queue holds more connections than its process may have descriptors";
        points.add(Weight::Limit, "one.queue", what, seen);
    }
    let what = "a connection that needs no descriptor needs kernel memory: memory is a limit too";
    memory(points, what, "one.before", "one.after", "one.queue", "established_local");
    held
}

/// What a connection or a socket costs: slab that was added between two steps, divided by the count of a third.
fn memory(points: &mut Points<'_>, what: &str, before: &str, after: &str, count: &str, of: &str) {
    if !points.asks(after) {
        return;
    }
    let slab = |label: &str| {
        let given = points.given(label)?;
        let text = given.answer.details.get("meminfo.Slab").map_or("0", String::as_str);
        text.parse::<i64>().map_err(|_| format!("'{label}': '{text}' bytes of slab are no number"))
    };
    let earlier = slab(before);
    let seen = earlier.clone().and_then(|earlier| {
        let added = slab(after)?.saturating_sub(earlier);
        let given = points.given(count)?;
        let number = if of.is_empty() { given.value()? } else { given.number(of)? };
        let each = u64::try_from(added).unwrap_or(0) / number.max(1);
        if !BYTES.contains(&each) {
            return Err(format!("{each} bytes of slab each: something else moved this host's memory"));
        }
        Ok((format!("{} bytes of slab each, {} of them", thousands(each), thousands(number)), true))
    });
    points.add(Weight::Limit, after, what, seen);
    let seen = earlier.and_then(|earlier| {
        Ok((format!("slab moved by {earlier} bytes"), points.given(before)?.answer.is_ok()))
    });
    points.add(Weight::Law, before, "the kernel's memory before that", seen);
}

/// Sockets that are no descriptors.
fn rings(points: &mut Points<'_>) -> Option<u64> {
    let mut held = None;
    let what = "io_uring's direct descriptors: one process connects more sockets than RLIMIT_NOFILE";
    points.point(Weight::Limit, "ring", what, |given| {
        let answer = given.answer;
        let is_absent = ["ENOSYS", "EPERM"].contains(&answer.outcome.as_str());
        if is_absent && answer.details.get("call").is_some_and(|call| call.starts_with("io_uring")) {
            return Err(format!("this host has no io_uring for this worker: {}", said(answer)));
        }
        let (count, files) = (given.value()?, given.number("files")?);
        let (open, rings) = (given.number("open")?, given.number("rings")?);
        held = Some(count);
        let measured = format!(
            "{} connected in {rings} rings with {open} descriptors, limit {}",
            thousands(count),
            thousands(files)
        );
        Ok((measured, count > files))
    });
    if points.asks("ring.queue") {
        let seen = points.given("ring.queue").and_then(|given| {
            let (count, connected) = (given.number("established_local")?, points.given("ring")?.value()?);
            Ok((format!("{} ESTABLISHED", thousands(count)), count == connected))
        });
        points.add(Weight::Law, "ring.queue", "the server's kernel has each of them", seen);
    }
    held
}

/// Where a limit of a prediction applies.
fn place(prediction: &Prediction, limit: Limit) -> Option<&str> {
    let margin = prediction.margins.iter().find(|margin| margin.limit == limit)?;
    Some(&margin.place)
}

/// Each load names what bound it, where, and what would next.
fn loads(points: &mut Points<'_>) -> String {
    let mut last = "no load was run".to_owned();
    let mut tried = false;
    for (trial, case) in points.loads().collect::<Vec<_>>() {
        tried = true;
        let (bound, prediction) = (bound_by(trial), &trial.prediction);
        let counted = points.counted(trial, case);
        let seen = counted.clone().and_then(|count| {
            let next = prediction.next_bound.ok_or_else(|| format!("'{}' names no next limit", case.name))?;
            let (Some(here), Some(there)) = (place(prediction, bound), place(prediction, next)) else {
                return Err(format!("'{}' held {} and was bound by {bound}", case.name, thousands(count)));
            };
            last =
                format!("{} were bound by {bound} ({here}), the next is {next} ({there})", thousands(count));
            Ok((last.clone(), bound != Limit::OpenFiles))
        });
        // Where descriptors bound, it is as the statement says.
        points.add(
            Weight::Limit,
            &case.name,
            "a load names the limit that bound it, where, and the next",
            seen,
        );
        let files = [case.setup.servers.files, case.setup.clients.files].into_iter().flatten().min();
        if let Some(files) = files {
            let what = "one worker holds more than one table's limit, in several tables";
            let seen = counted.map(|count| {
                let measured = format!("{} with tables of {}", thousands(count), thousands(files));
                (measured, count > files)
            });
            points.add(Weight::Limit, &case.name, what, seen);
        }
    }
    if !tried {
        let why = Err("no load says which limit bound".into());
        points.add(
            Weight::Must,
            "the plan",
            "a load names the limit that bound it, where, and the next",
            why,
        );
    }
    last
}

/// What the whole machine has.
fn machine(points: &mut Points<'_>) {
    let what = "fs.file-max, a tenth of memory in KiB unless it is set, is beyond the \"300K\" of one system";
    points.point(Weight::Limit, "limits", what, |given| {
        let (most, used) = (given.number("file_max")?, given.number("file_nr")?);
        let tenth = given.number("memory_available")? / 1_024 / 10;
        let measured = format!(
            "file-max {}, {} in use; a tenth of the available memory is {}",
            thousands(most),
            thousands(used),
            thousands(tenth)
        );
        Ok((measured, most > COMMON_MAXIMUM))
    });
    let what =
        "connection tracking is a limit of its own where its module is loaded and rules make it active";
    points.point(Weight::Limit, "limits", what, |given| match given.answer.details.get("nf_conntrack_max") {
        Some(_) => Ok((format!("nf_conntrack_max {}", thousands(given.number("nf_conntrack_max")?)), true)),
        None => Ok(("not loaded here".into(), false)),
    });
}

#[cfg(test)]
mod tests {
    use crate::script::Answer;
    use crate::verdict::claims::tests::had_been;
    use crate::verdict::{Bearing, ClaimId, Finding, Verdict};

    fn found(labels: &[&str], change: impl Fn(&mut Answer)) -> Verdict {
        had_been(ClaimId::C5, labels, change)
    }

    fn set(answer: &mut Answer, name: &str, value: &str) {
        answer.details.insert(name.into(), value.into());
    }

    fn bearing(verdict: &Verdict, label: &str) -> Bearing {
        let mut points = verdict.points.iter().filter(|point| point.evidence == label);
        points.next_back().expect("a point").bearing
    }

    #[test]
    fn sockets_beyond_the_limit_refute_it_and_are_named() {
        let verdict = found(&["fill.100"], |answer| answer.value = Some(97));
        assert_eq!(verdict.verdict, Finding::Refuted);
        assert!(verdict.because.contains("97 sockets, 4 open before, limit 100"), "{}", verdict.because);
        let other = found(&["at.100.take"], |answer| answer.outcome = "ENFILE".into());
        assert_eq!(other.verdict, Finding::Refuted);
    }

    #[test]
    fn a_connection_that_is_lost_at_the_limit_refutes_it() {
        let verdict = found(&["at.100.later"], |answer| answer.value = Some(0));
        assert_eq!(verdict.verdict, Finding::Refuted);
        assert!(verdict.because.contains("0 of 205 accepted"), "{}", verdict.because);
    }

    #[test]
    fn the_hard_limit_is_raised_with_the_right_to_it_but_not_beyond_nr_open() {
        let raised = |answer: &mut Answer| {
            answer.outcome = "ok".into();
            set(answer, "hard", "1048576");
        };
        assert_eq!(bearing(&found(&["raise.hard"], raised), "raise.hard"), Bearing::Supports);
        assert_eq!(found(&["raise.nr_open"], raised).verdict, Finding::Refuted);
        let higher = found(&["raise.hard"], |answer| set(answer, "hard", "2000000"));
        assert_eq!(higher.verdict, Finding::Refuted, "EPERM below the hard limit");
    }

    #[test]
    fn what_ends_at_the_limit_too_supports_it() {
        let queue = found(&["one.queue"], |answer| {
            set(answer, "established_local", "294");
            set(answer, "queued", "294");
        });
        // The memory that was added is then no connection's.
        assert_eq!(bearing(&queue, "one.queue"), Bearing::Supports);
        let rings = found(&["ring", "ring.queue"], |answer| {
            answer.value = Some(290);
            set(answer, "established_local", "290");
        });
        assert_eq!(bearing(&rings, "ring"), Bearing::Supports);
    }

    #[test]
    fn a_host_without_rings_leaves_it_open() {
        let verdict = found(&["ring"], |answer| {
            *answer = Answer::of("EPERM").detail("call", "io_uring_setup");
        });
        assert_eq!(verdict.verdict, Finding::Inconclusive);
        assert!(verdict.because.contains("no io_uring"), "{}", verdict.because);
    }

    #[test]
    fn memory_that_something_else_moved_is_no_measure() {
        let verdict = found(&["one.after"], |answer| set(answer, "meminfo.Slab", "-5"));
        assert_eq!(verdict.verdict, Finding::Inconclusive);
    }
}
