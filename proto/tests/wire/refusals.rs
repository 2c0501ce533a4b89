//! Each message that has no meaning, and the words in which it is refused. Every row is a message
//! that would be taken, with one thing changed.

use prost::Message;
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::sample::{Census, Counters, Plateau, Sample};
use tuplelab_domain::schedule::Assignment;
use tuplelab_domain::script::Answer;
use tuplelab_domain::sysctl::{Sysctl, Sysctls};
use tuplelab_proto::v1::{self, assignment::Work, flow_block::Ports};
use tuplelab_proto::{MAX_FLOW_BLOCKS, WireError, required};

/// The words in which `D` refuses `message` after `change`; nothing when it takes it.
fn refusal<M, D: TryFrom<M, Error = WireError>>(mut message: M, change: impl FnOnce(&mut M)) -> String {
    change(&mut message);
    D::try_from(message).err().map(|error| error.to_string()).unwrap_or_default()
}

fn facts() -> v1::HostFacts {
    v1::HostFacts {
        open_files: Some(v1::OpenFiles::default()),
        addresses: vec!["10.0.0.1".into(), "fd00::1".into()],
        bound: vec![v1::BoundSocket { address: "::".into(), port: 65535, state: "listen".into() }],
        ..Default::default()
    }
}

fn facts_refused(change: impl FnOnce(&mut v1::HostFacts)) -> String {
    refusal::<_, HostFacts>(facts(), change)
}

fn serving() -> v1::Assignment {
    let turns = vec![v1::Turn { listener: 0, quota: 1 }, v1::Turn { listener: 1, quota: 1 }];
    let listener = |port| v1::Listener { endpoint: format!("10.0.0.1:{port}"), backlog: 1 };
    v1::Assignment {
        agent: "a-1".into(),
        sysctls: [("somaxconn".into(), "4096".into())].into(),
        conntrack: true,
        census: Some(v1::CensusFilter {
            role: "server".into(),
            servers: vec!["10.0.0.1:7000".into()],
            clients: vec!["10.0.0.2".into()],
        }),
        work: Some(Work::Serve(v1::Serve {
            listeners: vec![listener(7000), listener(7001)],
            lanes: vec![v1::ServeLane { turns }],
            ..Default::default()
        })),
        files: None,
    }
}

fn assignment_refused(change: impl FnOnce(&mut v1::Assignment)) -> String {
    refusal::<_, Assignment>(serving(), change)
}

fn serve_refused(change: impl FnOnce(&mut v1::Serve)) -> String {
    assignment_refused(|a| match &mut a.work {
        Some(Work::Serve(serve)) => change(serve),
        _ => unreachable!("it serves"),
    })
}

fn block() -> v1::FlowBlock {
    v1::FlowBlock {
        spare: String::new(),
        first_flow: 0,
        source: "10.0.0.2".into(),
        destination: "[fd00::1]:7000".into(),
        ports: Some(Ports::Explicit("1024-2000,7000".into())),
    }
}

fn connect_refused(change: impl FnOnce(&mut v1::Connect)) -> String {
    let mut connect = v1::Connect {
        lanes: vec![v1::ConnectLane::default(), v1::ConnectLane { blocks: vec![block(), block()] }],
        rate: Some(0.5),
        ..Default::default()
    };
    change(&mut connect);
    assignment_refused(|a| a.work = Some(Work::Connect(connect)))
}

fn block_refused(change: impl FnOnce(&mut v1::FlowBlock)) -> String {
    connect_refused(|c| change(&mut c.lanes[1].blocks[1]))
}

fn failure(call: &str, error: &str, count: u64) -> v1::FailureCount {
    v1::FailureCount { call: call.into(), error: error.into(), count }
}

fn counters_refused(failures: &[v1::FailureCount]) -> String {
    refusal::<_, Counters>(v1::Counters::default(), |c| c.failures = failures.to_vec())
}

fn census_refused(change: impl FnOnce(&mut v1::Census)) -> String {
    let census = v1::Census {
        digest: "0123456789abcdef0123456789abcdef".into(),
        states: [("established".into(), 1)].into(),
        listeners: vec![v1::ListenerQueue { endpoint: "10.0.0.1:7000".into(), queued: 0, backlog: 1 }],
        ..Default::default()
    };
    refusal::<_, Census>(census, change)
}

#[test]
fn the_messages_that_the_tables_change_are_taken_unchanged() {
    assert_eq!(facts_refused(|_| ()), "");
    assert_eq!(serve_refused(|_| ()), "");
    assert_eq!(connect_refused(|_| ()), "");
    assert_eq!(block_refused(|_| ()), "");
    assert_eq!(counters_refused(&[failure("connect", "EADDRNOTAVAIL", 1)]), "");
    assert_eq!(census_refused(|_| ()), "");
}

#[test]
fn a_controller_that_says_nothing_of_accepting_and_answers_means_what_it_always_meant() {
    let assignment = Assignment::try_from(serving()).expect("it has a meaning");
    let tuplelab_domain::schedule::Work::Serve(serve) = assignment.work else { panic!("it serves") };
    assert_eq!((serve.accept.to_string().as_str(), serve.answered, assignment.files), ("all", true, None));
    let connect = tuplelab_domain::schedule::Connect::try_from(v1::Connect::default()).expect("a meaning");
    assert!(connect.answered);
    assert_eq!(
        serve_refused(|s| s.accept = "maybe".into()),
        "the field 'serve.accept' holds 'maybe', which is no way to accept that this version knows"
    );
}

#[test]
fn facts_without_meaning_are_refused_with_field_and_value() {
    let table = [
        (facts_refused(|f| f.open_files = None), "the field 'open_files' is missing"),
        (
            facts_refused(|f| f.addresses[1] = "".into()),
            "the field 'addresses[1]' holds '', which is no address",
        ),
        (
            facts_refused(|f| f.networks = vec!["10.0.0.0/33".into()]),
            "the field 'networks[0]' holds '10.0.0.0/33', which is no network as in 10.1.0.0/24",
        ),
        (
            facts_refused(|f| f.bound[0].address = "10.0.0.256".into()),
            "the field 'bound[0].address' holds '10.0.0.256', which is no address",
        ),
        (
            facts_refused(|f| f.bound[0].port = 65536),
            "the field 'bound[0].port' holds '65536', which is no port: the largest is 65535",
        ),
        (
            facts_refused(|f| f.bound[0].state = "LISTEN".into()),
            "the field 'bound[0].state' holds 'LISTEN', which is no state of a socket",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn an_assignment_without_meaning_is_refused_with_field_and_value() {
    let of_census = |change: fn(&mut v1::CensusFilter)| {
        assignment_refused(|a| change(a.census.as_mut().expect("it has a filter")))
    };
    let table = [
        (
            assignment_refused(|a| a.agent = "../x".into()),
            "the field 'agent' holds '../x', which is no agent's name",
        ),
        (assignment_refused(|a| a.census = None), "the field 'census' is missing"),
        (assignment_refused(|a| a.work = None), "the field 'work' is missing"),
        (
            assignment_refused(|a| a.sysctls = [("tcp_new".into(), "1".into())].into()),
            "the field 'sysctls' holds 'tcp_new', which is no setting that this version can make",
        ),
        (
            of_census(|c| c.role = "both".into()),
            "the field 'census.role' holds 'both', which is neither server nor client",
        ),
        (
            of_census(|c| c.servers[0] = "10.0.0.1".into()),
            "the field 'census.servers[0]' holds '10.0.0.1', which is no address with a port",
        ),
        (
            of_census(|c| c.clients[0] = "10.0.0.2:1".into()),
            "the field 'census.clients[0]' holds '10.0.0.2:1', which is no address",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn a_servers_work_without_meaning_is_refused_with_field_and_value() {
    let table = [
        (
            serve_refused(|s| s.listeners[1].endpoint = "10.0.0.1:65536".into()),
            "the field 'serve.listeners[1].endpoint' holds '10.0.0.1:65536', which is no address with a port",
        ),
        (
            serve_refused(|s| s.lanes[0].turns[1].listener = 2),
            "the field 'serve.lanes[0].turns[1].listener' holds '2', which is no listener's index",
        ),
        (
            serve_refused(|s| s.lanes[0].turns[0].listener = u32::MAX),
            "the field 'serve.lanes[0].turns[0].listener' holds '4294967295', which is no listener's index",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn a_clients_work_without_meaning_is_refused_with_field_and_value() {
    let explicit = |text: &str| block_refused(|b| b.ports = Some(Ports::Explicit(text.into())));
    let table = [
        (
            block_refused(|b| b.source = "x".into()),
            "the field 'connect.lanes[1].blocks[1].source' holds 'x', which is no address",
        ),
        (
            block_refused(|b| b.destination = "fd00::1:7000".into()),
            "the field 'connect.lanes[1].blocks[1].destination' holds 'fd00::1:7000', which is no address with a port",
        ),
        (block_refused(|b| b.ports = None), "the field 'connect.lanes[1].blocks[1].ports' is missing"),
        (
            explicit("9-8"),
            "the field 'connect.lanes[1].blocks[1].explicit' holds '9-8', which is no set of ports",
        ),
        (
            explicit("1024-65536"),
            "the field 'connect.lanes[1].blocks[1].explicit' holds '1024-65536', which is no set of ports",
        ),
        (
            explicit("0"),
            "the field 'connect.lanes[1].blocks[1].explicit' holds '0', which is no set of ports",
        ),
        (
            block_refused(|b| b.first_flow = u64::MAX),
            "the field 'connect.lanes[1].blocks[1].first_flow' holds '18446744073709551615', \
             which is too large: the flows after it have no number",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn a_rate_that_is_not_finite_and_above_zero_is_refused() {
    for (rate, shown) in [(f64::NAN, "NaN"), (f64::INFINITY, "inf"), (-1.5, "-1.5"), (0.0, "0"), (-0.0, "-0")]
    {
        assert_eq!(
            connect_refused(|c| c.rate = Some(rate)),
            format!(
                "the field 'connect.rate' holds '{shown}', which is no rate: it has to be finite and above 0"
            )
        );
    }
}

#[test]
fn more_than_a_million_blocks_of_flows_are_refused() {
    let lane = |count| v1::ConnectLane { blocks: vec![v1::FlowBlock::default(); count] };
    assert_eq!(
        connect_refused(|c| c.lanes = vec![lane(MAX_FLOW_BLOCKS), lane(1)]),
        "the field 'connect.lanes' holds 1000001 flow blocks, and 1000000 are the most"
    );
    assert_eq!(
        connect_refused(|c| c.lanes = vec![lane(MAX_FLOW_BLOCKS - 1), lane(1)]),
        "the field 'connect.lanes[0].blocks[0].ports' is missing",
        "a million are looked at"
    );
}

#[test]
fn counters_without_meaning_are_refused_with_field_and_value() {
    let good = failure("accept", "EMFILE", u64::MAX);
    let table = [
        (
            counters_refused(&[good.clone(), failure("open", "EMFILE", 1)]),
            "the field 'failures[1].call' holds 'open', which is no system call that a flow fails in",
        ),
        (
            counters_refused(&[failure("connect", "", 1)]),
            "the field 'failures[0].error' holds '', which is no error's name",
        ),
        (
            counters_refused(&[failure("connect", "\u{1b}[31m", 1)]),
            "the field 'failures[0].error' holds '\\u{1b}[31m', which is no error's name",
        ),
        (
            counters_refused(&[good.clone(), good]),
            "the field 'failures' holds '36893488147419103230', which is more than can be counted",
        ),
        (refusal::<_, Sample>(v1::Sample::default(), |_| ()), "the field 'counters' is missing"),
        (refusal::<_, Plateau>(v1::Plateau::default(), |_| ()), "the field 'counters' is missing"),
        (
            refusal::<_, Plateau>(v1::Plateau::default(), |p| {
                p.counters = Some(v1::Counters::default());
                p.beyond = Some(v1::Beyond { tried: 1, refused: vec![failure("", "EADDRNOTAVAIL", 1)] });
            }),
            "the field 'beyond.refused[0].call' holds '', which is no system call that a flow fails in",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn a_census_without_meaning_is_refused_with_field_and_value() {
    let short = "the field 'digest' holds '0', which is no digest of 32 hexadecimal digits";
    let signed = "the field 'digest' holds '+0123456789abcdef0123456789abcde', \
                  which is no digest of 32 hexadecimal digits";
    let table = [
        (census_refused(|c| c.digest = "0".into()), short),
        (census_refused(|c| c.digest = "+0123456789abcdef0123456789abcde".into()), signed),
        (
            census_refused(|c| c.states = [("open".into(), 1)].into()),
            "the field 'states' holds 'open', which is no state of a socket",
        ),
        (
            census_refused(|c| c.listeners[0].endpoint = "7000".into()),
            "the field 'listeners[0].endpoint' holds '7000', which is no address with a port",
        ),
    ];
    table.iter().for_each(|(said, words)| assert_eq!(said, words));
}

#[test]
fn a_long_value_is_cut_and_its_control_characters_are_written_out() {
    let said = facts_refused(|f| f.addresses[0] = format!("\n{}", "x".repeat(100_000)));
    assert_eq!(said, format!("the field 'addresses[0]' holds '\\n{}…', which is no address", "x".repeat(79)));
}

#[test]
fn an_error_can_be_seen_from_the_message_around_it() {
    let missing = required::<()>("facts", None).expect_err("it is missing");
    assert_eq!(missing.within("hello").to_string(), "the field 'hello.facts' is missing");
}

#[test]
fn facts_of_a_newer_agent_lose_the_settings_that_are_unknown_here() {
    let mut message = facts();
    message.sysctls = [("somaxconn".into(), "1".into()), ("tcp_new".into(), "2".into())].into();
    let facts = HostFacts::try_from(message).expect("they are taken");
    assert_eq!(facts.sysctls, Sysctls::from([(Sysctl::Somaxconn, "1".into())]));
}

#[test]
fn failures_that_are_there_twice_count_for_both() {
    let twice =
        [failure("connect", "EMFILE", 1), failure("connect", "EMFILE", 2), failure("bind", "EACCES", 0)];
    let message = v1::Counters { failures: twice.to_vec(), ..Default::default() };
    let counters = Counters::try_from(message).expect("they are taken");
    assert_eq!(counters.failures.total(), 3);
    assert_eq!(counters.failures.iter().count(), 1);
}

#[test]
fn fields_that_this_version_does_not_know_are_ignored() {
    let mut bytes = serving().encode_to_vec();
    bytes.extend([0xf8, 0x07, 0x01]); // field 127: 1
    let message = v1::Assignment::decode(bytes.as_slice()).expect("it decodes");
    assert!(Assignment::try_from(message).is_ok());
}

#[test]
fn an_answer_that_could_steer_a_terminal_or_fill_a_store_is_refused() {
    let refused = |change: &dyn Fn(&mut v1::Answer)| {
        refusal::<_, Answer>(v1::Answer { outcome: "ok".into(), ..Default::default() }, |m| change(m))
    };
    assert_eq!(refused(&|_| {}), "");
    let escape = refused(&|m| m.outcome = "\u{1b}[2J".into());
    assert!(escape.contains("no line of at most 64 KiB"), "{escape}");
    assert!(!escape.contains('\u{1b}'), "{escape}");
    let long = refused(&|m| drop(m.details.insert("ports".into(), "1".repeat(65_537))));
    assert!(long.contains("no line of at most 64 KiB"), "{long}");
    let many = refused(&|m| m.details = (0..1_001).map(|n| (n.to_string(), String::new())).collect());
    assert!(many.contains("1001") && many.contains("1000"), "{many}");
}

#[test]
fn a_script_is_for_a_host_of_a_role() {
    let refused = assignment_refused(|a| a.work = Some(Work::Script("router".into())));
    assert!(refused.contains("neither server nor client"), "{refused}");
}

#[test]
fn connect_times_need_a_histogram_for_each_tenth_and_a_count_for_each_time() {
    let refused = |change: &dyn Fn(&mut Vec<v1::Histogram>)| {
        let mut by_occupancy = vec![v1::Histogram { micros: vec![5, 7], counts: vec![1, 2] }; 10];
        change(&mut by_occupancy);
        refusal::<_, Plateau>(
            v1::Plateau { counters: Some(v1::Counters::default()), ..Default::default() },
            |plateau| plateau.connect_times = Some(v1::ConnectTimes { by_occupancy }),
        )
    };
    assert_eq!(refused(&|_| ()), "");
    for (change, words) in [
        (&(|all: &mut Vec<v1::Histogram>| drop(all.pop())) as &dyn Fn(&mut _), "each tenth"),
        (&|all: &mut Vec<v1::Histogram>| all[9].counts.truncate(1), "one for each of micros"),
        (&|all: &mut Vec<v1::Histogram>| all[9].micros = vec![7, 5], "out of order"),
        (&|all: &mut Vec<v1::Histogram>| all[9].counts = vec![0, 1], "out of order"),
        (&|all: &mut Vec<v1::Histogram>| all[9].counts = vec![u64::MAX, 1], "added up"),
    ] {
        let why = refused(change);
        assert!(why.contains("connect_times") && why.contains(words), "{why}");
    }
}
