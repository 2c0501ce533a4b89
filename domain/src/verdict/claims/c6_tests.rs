use super::*;
use crate::script::Answer;
use crate::verdict::claims::tests::had_been;
use crate::verdict::{ClaimId, Finding};

fn found(labels: &[&str], change: impl Fn(&mut Answer)) -> (Finding, String) {
    let verdict = had_been(ClaimId::C6, labels, change);
    (verdict.verdict, verdict.because)
}

fn set(answer: &mut Answer, name: &str, value: &str) {
    answer.details.insert(name.into(), value.into());
}

#[test]
fn a_queue_without_the_one_more_refutes_it_and_is_named() {
    let (finding, because) = found(&["queue.128"], |answer| {
        set(answer, "established_local", "128");
        set(answer, "queued", "128");
    });
    assert_eq!(finding, Finding::Refuted);
    assert!(because.contains("128 ESTABLISHED, 128 queued, 129 expected"), "{because}");
}

#[test]
fn a_host_whose_default_is_5_to_10_confirms_it() {
    let cut = ["limits", "queue.10", "queue.128", "queue.4096", "queue.10000"];
    let held = ["held.10", "held.128", "held.4096", "held.10000"];
    let half = ["half.64.syn", "half.64.queue", "half.256.syn", "half.256.queue"];
    let cookies = ["cookies1.queue", "cookies1.after"];
    let (finding, because) = found(&[&cut[..], &held, &half, &cookies].concat(), |answer| {
        for (name, value) in [
            ("somaxconn", "7"),
            ("established_local", "8"),
            ("queued", "8"),
            ("syn_received", "8"),
            ("TcpExt.SyncookiesSent", "192"),
        ] {
            set(answer, name, value);
        }
        answer.value = Some(8);
    });
    assert_eq!(finding, Finding::Confirmed, "{because}");
    assert!(because.ends_with("\"5 to 10\" is so here: 8 by default"), "{because}");
}

#[test]
fn a_reset_to_a_syn_or_to_no_ack_refutes_it() {
    for label in ["drop.packets", "retry.packets"] {
        let (finding, because) = found(&[label], |answer| set(answer, "rst_out", "9"));
        assert_eq!(finding, Finding::Refuted);
        assert!(because.contains("9 RSTs"), "{because}");
    }
    for (label, rst) in [("late.ack", "4"), ("abort.ack", "0")] {
        assert_eq!(found(&[label], |answer| set(answer, "rst", rst)).0, Finding::Refuted, "{label}");
    }
}

#[test]
fn a_client_that_does_not_back_off_refutes_it() {
    let (finding, because) = found(&["retry.packets"], |answer| set(answer, "syn_times", "0,200,400,600"));
    assert_eq!(finding, Finding::Refuted);
    assert!(because.contains("at +0.2, +0.4, +0.6 s"), "{because}");
}

#[test]
fn a_raw_peer_that_could_not_be_leaves_it_open() {
    let (finding, because) = found(&["small.syn"], |answer| {
        *answer = Answer::of("EUNSUPPORTED").detail("why", "no host of its own");
    });
    assert_eq!(finding, Finding::Inconclusive);
    assert!(because.contains("no host of its own"), "{because}");
}

#[test]
fn retries_back_off_with_and_without_linear_ones_and_nothing_else_does() {
    assert!(backs_off(&[0, 1_011, 2_039, 3_050, 4_060, 5_070, 7_180, 11_390]));
    assert!(backs_off(&[0, 1_000, 3_040, 7_200, 15_400]), "Linux before 6.5");
    for times in [&[0, 200, 400][..], &[0, 1_000, 3_000, 4_000], &[0, 3_000, 6_000], &[0, 1_000, 9_000]] {
        assert!(!backs_off(times), "{times:?}");
    }
}

#[test]
fn a_time_is_said_in_seconds() {
    assert_eq!([seconds(1_011), seconds(11_390)], ["1.0", "11.3"]);
}

#[test]
fn listen_drops_may_have_more_causes_but_never_fewer_than_the_overflows() {
    let drops = |number: &str| {
        had_been(ClaimId::C6, &["drop.counters"], |answer| {
            answer.details.insert("TcpExt.ListenDrops".into(), number.into());
        })
    };
    assert_eq!(drops("1000").verdict, Finding::Qualified);
    let fewer = drops("1");
    assert_eq!(fewer.verdict, Finding::Refuted);
    assert!(fewer.because.contains("ListenDrops 1 "), "{}", fewer.because);
}

#[test]
fn half_open_connections_that_were_given_up_by_the_time_were_remembered_and_others_were_not() {
    let still = |label: &str, number: &str| {
        had_been(ClaimId::C6, &[label], |answer| {
            answer.details.insert("syn_received".into(), number.into());
        })
    };
    for (label, fewer, more) in [("cookies1.queue", "12", "18"), ("half.64.queue", "40", "50")] {
        let verdict = still(label, fewer);
        let point = verdict.points.iter().find(|point| point.evidence == label).expect("a point");
        assert_eq!(verdict.verdict, Finding::Qualified, "{}", verdict.because);
        assert!(point.measured.contains("given up since"), "{}", point.measured);
        assert_eq!(still(label, more).verdict, Finding::Refuted, "{label}: more than fit");
    }
    // Fewer that were never remembered are another law.
    let cookies = had_been(ClaimId::C6, &["cookies1.queue", "cookies1.after"], |answer| {
        answer.details.insert("syn_received".into(), "12".into());
        answer.details.insert("TcpExt.SyncookiesSent".into(), "188".into());
    });
    assert_eq!(cookies.verdict, Finding::Refuted);
}
