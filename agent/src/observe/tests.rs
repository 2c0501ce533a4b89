//! Observers on real connections.

use super::*;
use crate::testing::{connect, in_own_namespace, listen};
use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

fn perform(observers: &mut Observers, step: &str) -> Answer {
    observers.perform(&step.parse().expect("a step"), &Readings::default())
}

#[test]
fn a_capture_on_loopback_counts_each_flag_once() {
    if !in_own_namespace("observe::tests::a_capture_on_loopback_counts_each_flag_once", "true") {
        return;
    }
    let mut observers = Observers::default();
    assert_eq!(perform(&mut observers, "capture 7000").outcome, "ok");
    let listener = listen("127.66.70.1:7000");
    let server = listener.local_addr().expect("bound");

    // One connection that carries data and is closed by both ends.
    let mut client = connect("127.66.70.2:0", server);
    let (mut accepted, _) = listener.accept().expect("accepted");
    client.write_all(b"ping").expect("sent");
    accepted.read_exact(&mut [0; 4]).expect("received");
    drop(client);
    assert_eq!(accepted.read(&mut [0; 4]).expect("the end"), 0);
    drop(accepted);
    let answer = perform(&mut observers, "packets");
    let of =
        |answer: &Answer, name: &str| answer.number(name).unwrap_or_else(|| panic!("{name}: {answer:?}"));
    for (name, count) in [
        ("syn_in", 1),
        ("synack_out", 1),
        ("data_in", 1),
        ("data_out", 0),
        ("fin_in", 1),
        ("fin_out", 1),
        ("rst_in", 0),
        ("rst_out", 0),
        ("dropped", 0),
    ] {
        assert_eq!(of(&answer, name), count, "{name}: {answer:?}");
    }
    assert_eq!(of(&answer, "loopback"), of(&answer, "total"));
    assert!(!answer.details.contains_key("behind"));

    // Two that wait in the queue when the listener closes: a RST each.
    let _waiting = [connect("127.66.70.2:0", server), connect("127.66.70.2:0", server)];
    drop(listener);
    let answer = perform(&mut observers, "packets");
    assert_eq!((of(&answer, "rst_out"), of(&answer, "fin_out"), of(&answer, "syn_in")), (2, 1, 3));

    // A new capture begins at 0, and another port is none of its business.
    assert_eq!(perform(&mut observers, "capture 7001").outcome, "ok");
    let other = listen("127.66.70.1:7002");
    let _held = connect("127.66.70.2:0", other.local_addr().expect("bound"));
    assert_eq!(perform(&mut observers, "packets").value, Some(0));
}

/// Namespaces: this one is the server, `far` the raw peer's host, and between them a veth pair.
const PAIR: &str = "ip link add data0 type veth peer name far0 \
    && ip address add 10.66.1.1/16 dev data0 && ip link set data0 up \
    && echo 0 > /proc/sys/net/ipv4/tcp_syncookies";

/// Runs the steps on the far host, in a process of its own, and says what the last one answered.
fn far(test: &str, steps: &str) -> Vec<Answer> {
    let me = std::env::current_exe().expect("this test");
    let script = format!(
        "ip link set lo up; for i in $(seq 100); do ip link set far0 up 2>/dev/null && break; sleep 0.05; done; \
         echo 0 > /proc/sys/net/ipv4/ip_forward; \
         ip address add 10.66.2.1/16 dev far0; ip neighbour replace 10.66.1.1 lladdr $1 dev far0; \
         exec \"$0\" --exact {test} --nocapture"
    );
    let here = std::fs::read_to_string("/sys/class/net/data0/address");
    let here = here.unwrap_or_else(|_| link_address());
    let child = std::process::Command::new("unshare")
        .args(["-n", "sh", "-c", &script])
        .arg(me)
        .arg(here.trim())
        .env("TUPLELAB_FAR_STEPS", steps)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let moved = format!("ip link set far0 netns {}", child.id());
    let deadline = Instant::now() + Duration::from_secs(5);
    let same = || {
        let of = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/net"));
        of("self").ok() == of(&child.id().to_string()).ok()
    };
    while same() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = std::process::Command::new("sh").args(["-c", &moved]).status();
    assert!(status.expect("ip runs").success());
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    text.lines()
        .filter_map(|line| line.split_once("ANSWER "))
        .map(|(_, json)| serde_json::from_str(json).expect("an answer"))
        .collect()
}

/// `/sys` shows the interfaces of the namespace it was mounted in, so `ip` is asked.
fn link_address() -> String {
    let output = std::process::Command::new("ip").args(["-br", "link", "show", "data0"]).output();
    let text = String::from_utf8(output.expect("ip runs").stdout).expect("text");
    text.split_whitespace().nth(2).expect("an address").to_owned()
}

/// Whether this process is the far one: then it did its steps.
#[expect(clippy::print_stdout, reason = "the near process reads the answers there")]
fn was_far() -> bool {
    let Ok(steps) = std::env::var("TUPLELAB_FAR_STEPS") else { return false };
    let mut observers = Observers::default();
    for step in steps.split(';') {
        let answer = perform(&mut observers, step);
        println!("\nANSWER {}", serde_json::to_string(&answer).expect("JSON"));
    }
    true
}

#[test]
fn a_raw_peer_fills_the_syn_queue_and_late_acks_the_accept_queue() {
    let name = "observe::tests::a_raw_peer_fills_the_syn_queue_and_late_acks_the_accept_queue";
    if was_far() {
        return;
    }
    if !in_own_namespace(name, PAIR) {
        return;
    }
    let neighbour = "ip link show far0 | sed -n 's/.*ether \\([^ ]*\\).*/\\1/p'";
    let permanent = format!("ip neighbour add 10.66.2.251 lladdr $({neighbour}) dev data0");
    let made = std::process::Command::new("sh").args(["-c", &permanent]).status();
    assert!(made.expect("ip runs").success());

    let listener = listen("10.66.1.1:7000");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(5).expect("small")).expect("shorter");
    let mut here = Observers::default();
    assert_eq!(perform(&mut here, "capture 7000").outcome, "ok");
    let answers = far(
        name,
        "syn 50 10.66.1.1:7000 from 10.66.2.251:0 late;ack;syn 1 10.66.2.1:7000 from 10.66.2.251:1 never;syn 1 10.66.1.1:7000 from 10.66.2.1:1 never;packets",
    );
    let [syn, ack, own_destination, own_source, no_capture] = answers.as_slice() else {
        panic!("five answers: {answers:?}")
    };
    assert_eq!((syn.outcome.as_str(), syn.value, syn.number("sent")), ("ok", Some(6), Some(50)), "{syn:?}");
    assert_eq!(syn.number("rst"), Some(0));
    assert_eq!((ack.value, ack.number("rst")), (Some(6), Some(0)), "{ack:?}");
    assert_eq!(
        (own_destination.outcome.as_str(), own_source.outcome.as_str()),
        ("EUNSUPPORTED", "EUNSUPPORTED")
    );
    assert_eq!(no_capture.outcome, "EINVAL");
    let queue = perform(&mut here, "sockets 7000");
    assert_eq!((queue.value, queue.number("queued"), queue.number("backlog")), (Some(6), Some(6), Some(5)));
    let seen = perform(&mut here, "packets");
    assert_eq!((seen.number("syn_in"), seen.number("rst_out")), (Some(50), Some(0)), "{seen:?}");
}

#[test]
fn a_clients_retries_can_be_read_off() {
    if !in_own_namespace("observe::tests::a_clients_retries_can_be_read_off", "true") {
        return;
    }
    let listener = listen("127.66.74.1:7000");
    nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).expect("small")).expect("shorter");
    let _queued = connect("127.66.74.2:0", listener.local_addr().expect("bound"));
    let mut observers = Observers::default();
    assert_eq!(perform(&mut observers, "capture 7000").outcome, "ok");
    let waiting = std::thread::spawn(|| {
        std::net::TcpStream::connect_timeout(
            &crate::testing::address("127.66.74.1:7000"),
            Duration::from_secs(4),
        )
    });
    waiting.join().expect("ends").expect_err("nobody accepts");
    let answer = perform(&mut observers, "packets");
    let times: Vec<u64> = answer.details["syn_times"].split(',').map(|ms| ms.parse().expect("ms")).collect();
    // After 1 s; then each second (tcp_syn_linear_timeouts, since Linux 6.5), or after 2 s more.
    assert!(times.len() >= 3 && times[0] == 0 && (950..1_300).contains(&times[1]), "{times:?}");
    assert_eq!(answer.number("syn_in"), Some(times.len() as u64));
    assert!(answer.details["syn_from"].starts_with("127."), "{answer:?}");
}

#[test]
fn a_raw_peer_on_loopback_is_refused_in_words() {
    let answer = perform(&mut Observers::default(), "syn 5 127.66.71.1:7000 from 10.66.2.251:1 never");
    assert_eq!(answer.outcome, "EUNSUPPORTED");
    assert!(answer.details["why"].contains("a host of its own"));
}

#[test]
fn without_permission_the_remedy_is_named() {
    let answer = refused(Errno::EPERM);
    assert_eq!(answer.outcome, "EPERM");
    assert!(answer.details["remedy"].contains("CAP_NET_RAW"));
}

#[test]
fn the_counters_are_given_by_how_much_they_moved() {
    let before = readings();
    let listener = listen("127.66.72.1:0");
    let _client = connect("127.66.72.2:0", listener.local_addr().expect("bound"));
    let answer = Observers::default().perform(&Action::Counters, &before);
    assert!(answer.number("Tcp.ActiveOpens").is_some_and(|more| more >= 1), "{answer:?}");
}

#[test]
fn a_wait_waits_and_a_workers_step_is_not_done() {
    let mut observers = Observers::default();
    let begun = Instant::now();
    assert_eq!(perform(&mut observers, "wait 30ms").outcome, "ok");
    assert!(begun.elapsed() >= Duration::from_millis(30));
    assert_eq!(perform(&mut observers, "files 5").outcome, "EUNSUPPORTED");
    assert_eq!(perform(&mut observers, "ack").outcome, "EINVAL");
}
