//! Real sockets on loopback. Each test has addresses of its own; most are facts that claims rest on.

use super::Script;
use proptest::prelude::*;
use tuplelab_domain::script::{Action, Answer};

#[derive(Default)]
struct Bench(Script);

impl Bench {
    fn does(&mut self, step: &str) -> Answer {
        self.0.perform(&step.parse::<Action>().expect("is an action"))
    }

    /// All of these, which must be answered `ok`.
    fn do_all(&mut self, steps: &[&str]) {
        for step in steps {
            let answer = self.does(step);
            assert!(answer.is_ok(), "{step}: {answer:?}");
        }
    }

    fn is_refused(&mut self, step: &str, call: &str, errno: &str) {
        let answer = self.does(step);
        let got = (answer.outcome.as_str(), answer.details.get("call").map(String::as_str));
        assert_eq!(got, (errno, Some(call)), "{step}");
    }

    /// A listener `l`.
    fn listening(at: &str, backlog: u32) -> Self {
        let mut script = Self::default();
        script.do_all(&["socket l tcp", &format!("bind l {at}"), &format!("listen l {backlog}")]);
        script
    }
}

#[test]
fn the_same_connection_twice_is_refused_by_bind() {
    let mut script = Bench::listening("127.78.1.1:7801", 16);
    script.do_all(&["socket a tcp", "bind a 127.78.1.2:7802", "connect a 127.78.1.1:7801", "socket b tcp"]);
    script.is_refused("bind b 127.78.1.2:7802", "bind", "EADDRINUSE");
}

#[test]
fn the_same_connection_twice_with_reuseaddr_is_refused_by_connect() {
    let mut script = Bench::listening("127.78.2.1:7801", 16);
    script.do_all(&[
        "socket a tcp reuseaddr",
        "bind a 127.78.2.2:7802",
        "connect a 127.78.2.1:7801",
        "socket b tcp reuseaddr",
        "bind b 127.78.2.2:7802",
    ]);
    script.is_refused("connect b 127.78.2.1:7801", "connect", "EADDRNOTAVAIL");
}

#[test]
fn a_connection_that_differs_in_one_element_is_another_one() {
    let mut script = Bench::listening("127.78.3.1:7801", 16);
    script.do_all(&[
        "socket other_address tcp",
        "bind other_address 127.78.3.9:7801",
        "listen other_address 5",
        "socket other_port tcp",
        "bind other_port 127.78.3.1:7809",
        "listen other_port 5",
        "socket a tcp reuseaddr",
        "bind a 127.78.3.2:7802",
        "connect a 127.78.3.1:7801",
        "socket b tcp reuseaddr",
        "bind b 127.78.3.2:7802",
        "connect b 127.78.3.9:7801",
        "socket c tcp reuseaddr",
        "bind c 127.78.3.2:7802",
        "connect c 127.78.3.1:7809",
        "socket d tcp",
        "bind d 127.78.3.4:7802",
        "connect d 127.78.3.1:7801",
    ]);
}

#[test]
fn udp_works_on_the_addresses_and_ports_of_a_tcp_connection() {
    let mut script = Bench::listening("127.78.4.1:7801", 16);
    script.do_all(&[
        "socket a tcp",
        "bind a 127.78.4.2:7802",
        "connect a 127.78.4.1:7801",
        "socket s udp",
        "bind s 127.78.4.1:7801",
        "socket u udp",
        "bind u 127.78.4.2:7802",
        "connect u 127.78.4.1:7801",
        "send u 16",
    ]);
    assert_eq!(script.does("receive s").value, Some(16));
    for end in ["local", "peer"] {
        assert_eq!(script.does("name u").details[end], script.does("name a").details[end]);
    }
}

#[test]
fn an_ipv6_only_listener_stands_beside_an_ipv4_one_and_a_dual_one_does_not() {
    let mut script = Bench::listening("0.0.0.0:7805", 5);
    script.do_all(&["socket only tcp v6only", "bind only [::]:7805", "listen only 5", "close only"]);
    script.do_all(&["socket dual tcp dual"]);
    script.is_refused("bind dual [::]:7805", "bind", "EADDRINUSE");
}

#[test]
fn an_ipv4_client_reaches_a_dual_listener_which_sees_a_mapped_address() {
    let mut script = Bench::default();
    // An IPv6 socket takes "any" as its own.
    script.do_all(&["socket l tcp dual", "bind l 0.0.0.0:7806", "listen l 5"]);
    script.do_all(&["socket c tcp", "bind c 127.78.6.2:7807", "connect c 127.78.6.1:7806"]);
    let accepted = script.does("accept a l");
    assert_eq!(accepted.details["local"], "[::ffff:127.78.6.1]:7806");
    assert_eq!(accepted.details["peer"], "[::ffff:127.78.6.2]:7807");
    script.do_all(&["socket d tcp dual", "connect d 127.78.6.1:7806"]);
}

#[test]
fn a_second_plain_listener_is_refused_by_bind() {
    let mut script = Bench::listening("127.78.7.1:7801", 5);
    script.do_all(&["socket m tcp"]);
    script.is_refused("bind m 127.78.7.1:7801", "bind", "EADDRINUSE");
}

#[test]
fn a_second_listener_with_reuseaddr_is_refused_by_listen() {
    let mut script = Bench::default();
    script.do_all(&[
        "socket l tcp reuseaddr",
        "bind l 127.78.8.1:7801",
        "socket m tcp reuseaddr",
        "bind m 127.78.8.1:7801",
        "listen l 5",
    ]);
    script.is_refused("listen m 5", "listen", "EADDRINUSE");
}

#[test]
fn two_listeners_with_reuseport_share_an_endpoint() {
    let mut script = Bench::default();
    for name in ["l", "m"] {
        script.do_all(&[
            &format!("socket {name} tcp reuseport"),
            &format!("bind {name} 127.78.9.1:7801"),
            &format!("listen {name} 5"),
        ]);
    }
}

#[test]
fn listeners_on_one_port_of_two_addresses_need_no_option() {
    let mut script = Bench::listening("127.78.10.1:7801", 5);
    script.do_all(&["socket m tcp", "bind m 127.78.10.2:7801", "listen m 5"]);
}

#[test]
fn a_socket_that_connects_to_itself_is_its_own_peer() {
    let mut script = Bench::default();
    script.do_all(&["socket a tcp", "bind a 127.78.11.1:7801", "connect a 127.78.11.1:7801"]);
    let name = script.does("name a");
    assert_eq!(name.value, Some(7801));
    assert_eq!(name.details["local"], name.details["peer"]);
}

#[test]
fn a_connect_to_nobody_is_refused_and_stays_so() {
    let mut script = Bench::default();
    script.do_all(&["socket a tcp"]);
    script.is_refused("connect a 127.78.12.1:7801", "connect", "ECONNREFUSED");
    script.is_refused("finish a", "getpeername", "ENOTCONN");
    assert_eq!(script.does("name a").details["peer_error"], "ENOTCONN");
}

#[test]
fn a_backlog_of_five_holds_six_connections_and_the_others_wait() {
    let mut script = Bench::listening("127.78.13.1:7801", 5);
    let held = script.does("many c 8 connect 127.78.13.1:7801 within 200ms");
    assert_eq!((held.outcome.as_str(), held.value), ("pending", Some(6)));
    assert_eq!((held.number("begun"), held.number("pending")), (Some(8), Some(2)));
    assert_eq!(held.details["ports"].split(',').count(), 8);
    script.do_all(&["socket s tcp"]);
    assert_eq!(script.does("connect s 127.78.13.1:7801 within 50ms").outcome, "pending");
    assert_eq!(script.does("finish s within 50ms").outcome, "pending");
    // Once they are accepted there is room for those whose SYN comes again.
    let taken = script.does("take t l");
    assert_eq!((taken.outcome.as_str(), taken.value), ("ok", Some(6)));
    assert_eq!((taken.details["local_ports"].as_str(), taken.number("peers")), ("7801", Some(6)));
    let rest = script.does("finish c within 10s");
    assert_eq!((rest.outcome.as_str(), rest.value), ("ok", Some(8)));
    script.do_all(&["finish s within 10s"]);
    assert_eq!(script.does("take t l").value, Some(3));
    assert_eq!(script.does("close t").value, Some(9));
}

#[test]
fn nothing_to_accept_or_to_read_is_pending() {
    let mut script = Bench::listening("127.78.14.1:7801", 5);
    assert_eq!(script.does("accept a l within 20ms").outcome, "pending");
    let taken = script.does("take a l within 20ms");
    assert_eq!((taken.outcome.as_str(), taken.value), ("pending", Some(0)));
    script.do_all(&["socket c tcp", "connect c 127.78.14.1:7801"]);
    assert_eq!(script.does("receive c within 20ms").outcome, "pending");
}

#[test]
fn what_is_sent_is_received_and_then_the_end() {
    let mut script = Bench::listening("127.78.15.1:7801", 5);
    script.do_all(&["socket c tcp", "connect c 127.78.15.1:7801", "accept a l"]);
    assert_eq!(script.does("send c 4000").value, Some(4000));
    assert_eq!(script.does("receive a").value, Some(4000));
    script.do_all(&["close c"]);
    assert_eq!(script.does("receive a").outcome, "eof");
}

#[test]
fn a_reset_is_seen_by_the_peer() {
    let mut script = Bench::listening("127.78.16.1:7801", 5);
    script.do_all(&["socket c tcp", "connect c 127.78.16.1:7801", "accept a l", "reset c"]);
    script.is_refused("receive a", "recv", "ECONNRESET");
}

#[test]
fn a_script_that_is_over_leaves_its_ports_to_the_next_one() {
    for _ in 0..3 {
        let mut script = Bench::listening("127.78.33.1:7801", 16);
        script.do_all(&[
            "socket c tcp",
            "bind c 127.78.33.2:7802",
            "connect c 127.78.33.1:7801",
            "accept a l",
        ]);
    }
}

#[test]
fn a_group_answers_for_all_of_their_sockets() {
    let mut script = Bench::listening("127.78.17.1:7801", 16);
    script.do_all(&["many c 4 connect 127.78.17.1:7801", "take a l"]);
    assert_eq!(script.does("send c 10").value, Some(40));
    assert_eq!(script.does("receive a").value, Some(40));
    assert_eq!(script.does("name a").details["ports"], "7801,7801,7801,7801");
    assert_eq!(script.does("listen c 1").outcome, "GROUP");
    assert_eq!(script.does("reset c").value, Some(4));
    let broken = script.does("receive a");
    assert_eq!((broken.outcome.as_str(), broken.number("ECONNRESET")), ("ECONNRESET", Some(4)));
}

#[test]
fn explicit_ports_are_taken_in_ascending_order() {
    let mut script = Bench::listening("127.78.18.1:7801", 64);
    let held = script.does("many c 5 connect 127.78.18.1:7801 bind 127.78.18.2:7913,7900-7902,7910-7912");
    assert_eq!((held.outcome.as_str(), held.value), ("ok", Some(5)));
    assert_eq!(held.details["ports"], "7900,7901,7902,7910,7911");
    assert_eq!((held.number("even"), held.number("odd")), (Some(3), Some(2)));
    assert_eq!((held.number("lowest"), held.number("highest")), (Some(7900), Some(7911)));
    let again = script.does("many d 3 connect 127.78.18.1:7801 bind 127.78.18.2:7902-7904");
    assert_eq!((again.outcome.as_str(), again.value), ("EADDRINUSE", Some(2)));
    assert_eq!((again.details["call"].as_str(), again.number("bind EADDRINUSE")), ("bind", Some(1)));
}

#[test]
fn a_port_of_zero_is_drawn_by_bind_or_with_no_port_by_connect() {
    let mut script = Bench::listening("127.78.19.1:7801", 64);
    for (name, option) in [("c", ""), ("d", "no_port")] {
        let step = format!("many {name} 5 connect 127.78.19.1:7801 bind 127.78.19.2:0 {option}");
        assert_eq!(script.does(&step).value, Some(5));
    }
    script.do_all(&["socket e tcp", "socket f tcp no_port"]);
    assert_ne!(script.does("bind e 127.78.19.2:0").value, Some(0));
    assert_eq!(script.does("bind f 127.78.19.2:0").value, Some(0));
}

#[test]
fn a_range_of_the_socket_is_its_ceiling() {
    let mut script = Bench::listening("127.78.20.1:7801", 64);
    let held = script.does("many c 12 connect 127.78.20.1:7801 port_range=40000-40009");
    if held.outcome == "ENOPROTOOPT" {
        return; // before Linux 6.3
    }
    assert!(held.number("lowest") >= Some(40_000) && held.number("highest") <= Some(40_009), "{held:?}");
    assert_eq!(held.outcome, "EADDRNOTAVAIL");
    // Other sockets of this host may have some of the ten.
    assert!(held.number("connect EADDRNOTAVAIL") >= Some(2));
}

#[test]
fn a_range_that_runs_out_is_refused_by_bind_where_bind_draws_the_port() {
    let mut script = Bench::listening("127.78.25.1:7801", 64);
    let to = "connect 127.78.25.1:7801 bind 127.78.25.2:0";
    let held = script.does(&format!("many c 12 {to} port_range=40020-40029"));
    if held.outcome == "ENOPROTOOPT" {
        return; // before Linux 6.3
    }
    assert_eq!((held.outcome.as_str(), held.details["call"].as_str()), ("EADDRINUSE", "bind"));
    assert!(held.number("bind EADDRINUSE") >= Some(2) && held.value <= Some(10), "{held:?}");
    assert_eq!(held.value, held.number("begun"));
    // With `no_port` it is drawn, and refused, by connect.
    let held = script.does(&format!("many d 12 {to} no_port port_range=40030-40039"));
    assert_eq!((held.outcome.as_str(), held.details["call"].as_str()), ("EADDRNOTAVAIL", "connect"));
    assert!(held.number("connect EADDRNOTAVAIL") >= Some(2) && held.value <= Some(10), "{held:?}");
}

#[test]
fn ports_are_listed_in_the_order_in_which_they_were_drawn() {
    let mut script = Bench::listening("127.78.26.1:7801", 64);
    let one_by_one: Vec<String> =
        (0..40).map(|_| script.does("many c 1 connect 127.78.26.1:7801").details["ports"].clone()).collect();
    assert_eq!(script.does("name c").details["ports"], one_by_one.join(","));
    let held = script.does("many d 9 connect 127.78.26.1:7801");
    assert_eq!(script.does("name d").details["ports"], held.details["ports"]);
    // A group that was added to goes on where it was.
    let more = script.does("many d 9 connect 127.78.26.1:7801");
    let all = format!("{},{}", held.details["ports"], more.details["ports"]);
    assert_eq!(script.does("name d").details["ports"], all);
}

#[test]
fn every_answer_says_how_long_it_took_and_many_how_long_it_began() {
    let mut script = Bench::listening("127.78.27.1:7801", 1);
    let held = script.does("many c 4 connect 127.78.27.1:7801 within 100ms");
    assert_eq!(held.outcome, "pending");
    let (begin, whole) = (held.number("begin_micros"), held.number("micros"));
    assert!(begin > Some(0) && begin < whole && whole >= Some(100_000), "{held:?}");
    for step in ["name c", "name x", "fill f", "end"] {
        assert!(script.does(step).number("micros").is_some(), "{step}");
    }
}

#[test]
fn connections_are_taken_up_to_a_number_and_one_at_a_time() {
    let mut script = Bench::listening("127.78.28.1:7801", 64);
    script.do_all(&["many c 8 connect 127.78.28.1:7801"]);
    assert_eq!(script.does("take a l count 3").value, Some(3));
    let slow = script.does("take b l every 20ms count 4 within 10s");
    assert_eq!((slow.outcome.as_str(), slow.value), ("ok", Some(4)));
    assert!(slow.number("micros") >= Some(60_000), "three pauses between four: {slow:?}");
    // One is left, and a number of them is waited for.
    let few = script.does("take c2 l count 5 within 150ms");
    assert_eq!((few.outcome.as_str(), few.value), ("ok", Some(1)));
    assert!(few.number("micros") >= Some(150_000), "{few:?}");
    let none = script.does("take d l every 1ms within 20ms");
    assert_eq!((none.outcome.as_str(), none.value), ("pending", Some(0)));
    script.do_all(&["many c 9 connect 127.78.28.1:7801"]);
    let timed = script.does("take e l every 50ms within 120ms");
    assert_eq!((timed.outcome.as_str(), timed.value), ("ok", Some(3)));
}

#[test]
fn a_connect_gives_up_as_soon_as_the_socket_says() {
    let mut script = Bench::listening("127.78.29.1:7801", 0);
    script.do_all(&["many c 1 connect 127.78.29.1:7801", "socket s tcp syncnt=1"]);
    // After 2^2 - 1 seconds.
    script.is_refused("connect s 127.78.29.1:7801 within 10s", "connect", "ETIMEDOUT");
    let many = script.does("many d 3 connect 127.78.29.1:7801 syncnt=1 within 10s");
    assert_eq!((many.outcome.as_str(), many.number("connect ETIMEDOUT")), ("ETIMEDOUT", Some(3)));
    assert!((2_500_000..6_000_000).contains(&many.number("micros").expect("is timed")), "{many:?}");
}

#[test]
fn a_close_lingers_while_the_peer_does_not_read() {
    let mut script = Bench::listening("127.78.30.1:7801", 16);
    for (name, option, least, most) in [("c", "linger=1", 1_000_000, 5_000_000), ("d", "", 0, 500_000)] {
        script.do_all(&[&format!("socket {name} tcp {option}"), &format!("connect {name} 127.78.30.1:7801")]);
        assert_eq!(script.does(&format!("send {name} 60000000")).outcome, "pending");
        let micros = script.does(&format!("close {name}")).number("micros").expect("is timed");
        assert!((least..most).contains(&micros), "{name}: {micros}");
    }
}

#[test]
fn many_gives_up_once_all_are_refused_alike() {
    let mut script = Bench::default();
    let held = script.does("many c 900 connect 127.78.21.1:7801 bind 192.0.2.1:1024-1999");
    assert_eq!((held.outcome.as_str(), held.number("bind EADDRNOTAVAIL")), ("EADDRNOTAVAIL", Some(64)));
    assert_eq!((held.value, held.number("begun")), (Some(0), Some(0)));
    let held = script.does("many c 10 connect 127.78.21.1:7801");
    assert_eq!((held.outcome.as_str(), held.number("connect ECONNREFUSED")), ("ECONNREFUSED", Some(10)));
}

#[test]
fn faults_of_the_script_are_no_errnos() {
    let mut script = Bench::listening("127.78.22.1:7801", 5);
    for (step, outcome) in [
        ("bind x 127.78.22.1:0", "UNKNOWN"),
        ("close x", "UNKNOWN"),
        ("take x y", "UNKNOWN"),
        ("socket l tcp", "TAKEN"),
        ("accept l l", "TAKEN"),
        ("take l l", "TAKEN"),
        ("connect l server:1", "UNRESOLVED"),
        ("wait 1ms", "AGENT"),
    ] {
        assert_eq!(script.does(step).outcome, outcome, "{step}");
    }
    script.do_all(&["name l", "end"]);
}

/// Limits are the process's: the test of that name runs once more in a process of its own, and goes on
/// there only.
fn in_own_process(test: &str) -> bool {
    const CHILD: &str = "TUPLELAB_SCRIPT_IN_OWN_PROCESS";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().expect("has a path"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&child.stdout);
    let failed = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{failed}");
    false
}

/// Whether this host lets a process have rings; if not, the answer is the kernel's.
fn rings_are_forbidden(answer: &Answer) -> bool {
    let call = answer.details.get("call").map(String::as_str);
    let forbidden = call == Some("io_uring_setup") && ["EPERM", "ENOSYS"].contains(&answer.outcome.as_str());
    if forbidden {
        eprintln!("left out: this host allows no io_uring: {answer:?}");
    }
    forbidden
}

#[test]
fn at_the_limit_accept_is_refused_and_the_connection_stays_queued() {
    if !in_own_process("script::tests::at_the_limit_accept_is_refused_and_the_connection_stays_queued") {
        return;
    }
    let mut script = Bench::listening("127.78.23.1:7801", 16);
    script.do_all(&["many c 3 connect 127.78.23.1:7801", "send c 5", "files 100"]);
    let full = script.does("fill f");
    assert_eq!((full.outcome.as_str(), full.details["call"].as_str()), ("EMFILE", "socket"));
    assert!((80..=93).contains(&full.value.expect("is counted")), "{full:?}");
    let of = |name| full.number(name).expect("is counted");
    assert_eq!((of("files"), of("open") + full.value.expect("is counted")), (100, 100), "{full:?}");
    let none = script.does("fill f");
    assert_eq!((none.outcome.as_str(), none.value, none.number("open")), ("EMFILE", Some(0), Some(100)));
    script.is_refused("accept a l", "accept", "EMFILE");
    let taken = script.does("take t l");
    assert_eq!((taken.outcome.as_str(), taken.number("accept EMFILE")), ("EMFILE", Some(1)));
    let more = script.does("many d 100 connect 127.78.23.1:7801");
    assert_eq!((more.outcome.as_str(), more.number("socket EMFILE")), ("EMFILE", Some(64)));
    script.do_all(&["files 102", "accept a l"]);
    assert_eq!(script.does("receive a").value, Some(5));
    assert_eq!(script.does("take t l").outcome, "EMFILE");
    // An empty queue is no lack of descriptors, even where the last one has just been used.
    script.do_all(&["files 103"]);
    let last = script.does("take t l");
    assert_eq!((last.outcome.as_str(), last.value), ("ok", Some(1)));
    assert_eq!(script.does("accept b l within 20ms").outcome, "pending");
    // Here poll(2) itself is refused.
    script.do_all(&["files 0", "receive t"]);
    assert_eq!(script.does("receive t within 20ms").outcome, "pending");
    // Beyond fs.nr_open nobody may go.
    let refused = script.does("files 9999999999");
    assert_eq!((refused.outcome.as_str(), refused.details["call"].as_str()), ("EPERM", "setrlimit"));
    let hard = refused.number("hard").expect("is said");
    let more = script.does(&format!("files {}", hard + 1));
    match more.outcome.as_str() {
        "ok" => assert_eq!((more.value, more.number("hard")), (Some(hard + 1), Some(hard + 1))),
        refused => assert_eq!((refused, more.number("hard")), ("EPERM", Some(hard))),
    }
    let lower = script.does("files 200");
    assert_eq!((lower.value, lower.number("hard") >= Some(hard)), (Some(200), true), "{lower:?}");
}

#[test]
fn rings_hold_ten_times_as_many_connections_as_the_process_may_have_descriptors() {
    let name = "script::tests::rings_hold_ten_times_as_many_connections_as_the_process_may_have_descriptors";
    if !in_own_process(name) {
        return;
    }
    let mut script = Bench::listening("127.78.31.1:7801", 4096);
    script.do_all(&["files 300"]);
    let held = script.does("ring r 1000 connect 127.78.31.1:7801 within 5s");
    if rings_are_forbidden(&held) {
        return;
    }
    let of = |name| held.number(name);
    assert_eq!((held.outcome.as_str(), held.value), ("ok", Some(1_000)), "{held:?}");
    assert_eq!(
        (of("rings"), of("table"), of("files"), of("pending")),
        (Some(4), Some(300), Some(300), Some(0))
    );
    assert!(of("open") < Some(40), "{held:?}");
    // One more slot than the process may have descriptors is one too many.
    script.is_refused("ring one 301 connect 127.78.31.1:7801 rings 1", "io_uring_register", "EMFILE");
    assert_eq!(script.does("ring three 301 connect 127.78.31.1:7801 rings 3").number("table"), Some(101));
    // Where no descriptor is left there is no ring.
    script.do_all(&["close three", "files 20"]);
    assert_eq!(script.does("fill f").outcome, "EMFILE");
    script.is_refused("ring more 5 connect 127.78.31.1:7801", "io_uring_setup", "EMFILE");
    // They are held until they are closed, and then they are closed.
    script.do_all(&["files 300", "accept a l"]);
    assert_eq!(script.does("receive a within 20ms").outcome, "pending");
    for (step, fault) in [
        ("send r 1", "GROUP"),
        ("reset r", "GROUP"),
        ("fill r", "TAKEN"),
        ("ring r 1 connect 127.78.31.1:7801", "TAKEN"),
    ] {
        assert_eq!(script.does(step).outcome, fault, "{step}");
    }
    assert_eq!(script.does("close r").value, Some(1_000));
    assert_eq!(script.does("receive a").outcome, "eof");
}

#[test]
fn a_ring_says_what_was_refused_and_what_is_under_way() {
    let mut script = Bench::listening("127.78.32.1:7801", 5);
    let held = script.does("ring r 8 connect 127.78.32.1:7801 rings 3 within 200ms");
    if rings_are_forbidden(&held) {
        return;
    }
    assert_eq!((held.outcome.as_str(), held.value, held.number("pending")), ("pending", Some(6), Some(2)));
    assert_eq!((held.number("rings"), held.number("table")), (Some(3), Some(3)));
    assert!(held.number("begin_micros") < held.number("micros"), "{held:?}");
    let refused = script.does("ring s 600 connect 127.78.32.1:7809");
    assert_eq!((refused.outcome.as_str(), refused.details["call"].as_str()), ("ECONNREFUSED", "connect"));
    assert_eq!(refused.number("connect ECONNREFUSED"), Some(256), "a batch is enough: {refused:?}");
    assert_eq!(script.does("close r").value, Some(6));
    let v6 = script.does("ring t 2 connect [::1]:7809");
    assert!(["ECONNREFUSED", "EADDRNOTAVAIL", "EAFNOSUPPORT"].contains(&v6.outcome.as_str()), "{v6:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn no_script_makes_it_panic(steps in prop::collection::vec((0..17usize, 0..3usize, 0..3usize), 0..24)) {
        let mut script = Bench::default();
        for (verb, one, other) in steps {
            let (a, b) = (["a", "b", "c"][one], ["a", "b", "c"][other]);
            let at = ["127.78.24.1:7801", "[::1]:7801", "127.78.24.2:0"][other];
            let option = ["reuseaddr", "dual reuseport", "v6only linger0 no_port"][other];
            let step = match verb {
                0 => format!("socket {a} tcp {option}"),
                1 => format!("socket {a} udp {option}"),
                2 => format!("bind {a} {at}"),
                3 => format!("listen {a} {other}"),
                4 => format!("connect {a} {at} within 1ms"),
                5 => format!("finish {a} within 1ms"),
                6 => format!("accept {a} {b} within 1ms"),
                7 => format!("send {a} {other}"),
                8 => format!("receive {a} within 1ms"),
                9 => format!("name {a}"),
                10 => format!("close {a}"),
                11 => format!("reset {a}"),
                12 => format!("many {a} 3 connect {at} {option} within 1ms"),
                13 => format!("many {a} 3 connect {at} bind {at} within 1ms"),
                14 => format!("take {a} {b} within 1ms"),
                15 => format!("ring {a} 3 connect {at} rings 2 within 1ms"),
                _ => "end".to_owned(),
            };
            let answer = script.does(&step);
            prop_assert!(!answer.outcome.is_empty() && !answer.outcome.contains("Unknown"), "{step}: {answer:?}");
        }
    }
}
