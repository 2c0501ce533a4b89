use super::{
    Accept, Clients, Connections, Family, Load, PlanProblem, Servers, Setup, SourcePorts, plan_schema,
};
use crate::ports::PortSet;
use crate::sample_lab::{EXAMPLE, plan, read};
use crate::sysctl::{Sysctl, Sysctls};
use crate::units::{Rate, Span};
use crate::verdict::ClaimId;
use proptest::prelude::*;
use serde_json::Value;
use std::time::Duration;

fn problems(text: &str) -> String {
    PlanProblem::render(&read(text).expect_err("a bad plan was taken"), "plan.toml", text, false)
}

/// What is wrong with a plan, without the drawing.
fn whats(text: &str) -> Vec<String> {
    read(text).err().unwrap_or_default().into_iter().map(|problem| problem.what).collect()
}

#[test]
fn the_example_plan_has_a_case_for_each_number_of_addresses() {
    let plan = plan(EXAMPLE);
    let cases: Vec<_> =
        plan.cases.iter().map(|case| (case.name.as_str(), case.setup.clients.addresses)).collect();
    assert_eq!(cases, [("clients.addresses=1", 1), ("clients.addresses=2", 2), ("clients.addresses=4", 4)]);
    assert_eq!(plan.base.load.hold, Span(Duration::from_secs(5)));
    assert_eq!(
        plan.expectations.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["established = \"predicted\"", "failed = \"0ppm\""]
    );
}

#[test]
fn an_empty_file_is_one_case_of_defaults() {
    let plan = plan("");
    insta::assert_snapshot!(toml::to_string(&plan.base).expect("prints"), @r#"
[servers]
hosts = 1
addresses = 1
ports = "7000"
backlog = 4096
conntrack = false
accept = "all"

[servers.labels]

[servers.sysctls]

[clients]
hosts = 1
addresses = 1
source_ports = "1024-65535"
conntrack = false

[clients.labels]

[clients.sysctls]

[load]
family = "ipv4"
connections = "max"
excess = 0
answered = true
rate = "unlimited"
hold = "1s"
timeout = "10s"
"#);
    assert_eq!((plan.trials, plan.cases.len()), (1, 1));
    assert_eq!(plan.cases[0].name, "case 1");
    assert_eq!(plan.cases[0].setup, plan.base);
}

#[test]
fn listed_cases_take_quoted_and_bare_keys_and_names() {
    let plan = plan(
        r#"
claims = ["c3", "C4"]
[clients]
labels = { rack = "a", row = "1" }
[[case]]
"clients.hosts" = 4
[[case]]
name = "two ports"
servers.ports = "7000-7001"
clients.labels.rack = "b"
[[case]]
[case.servers.sysctls]
somaxconn = 10
"#,
    );
    assert_eq!(plan.claims, [ClaimId::C3, ClaimId::C4]);
    let names: Vec<_> = plan.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names, ["clients.hosts=4", "two ports", "servers.sysctls.somaxconn=10"]);
    let [four, two, queue] = plan.cases.as_slice() else { panic!("three cases") };
    assert_eq!((four.setup.clients.hosts, four.setup.servers.ports.len()), (4, 1));
    assert_eq!(two.setup.servers.ports.to_string(), "7000-7001");
    assert_eq!(two.setup.clients.labels, [("rack".into(), "b".into()), ("row".into(), "1".into())].into());
    assert_eq!(queue.setup.servers.sysctls, [(Sysctl::Somaxconn, "10".into())].into());
}

#[test]
fn a_label_may_have_dots_of_its_own() {
    let plan = plan("[sweep]\n\"clients.labels.example.com/zone\" = [\"a\", \"b\"]");
    assert_eq!(plan.cases[1].setup.clients.labels, [("example.com/zone".into(), "b".into())].into());
}

#[test]
fn a_sweep_varies_its_last_key_fastest() {
    let plan = plan("[sweep]\nservers.ports = [7000, \"7000-7001\"]\n\"clients.hosts\" = [1, 2]");
    let names: Vec<_> = plan.cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "clients.hosts=1 servers.ports=7000",
            "clients.hosts=2 servers.ports=7000",
            "clients.hosts=1 servers.ports=7000-7001",
            "clients.hosts=2 servers.ports=7000-7001",
        ]
    );
}

#[test]
fn all_problems_are_drawn_at_once() {
    insta::assert_snapshot!(problems(r#"question = "What is wrong?"
claims = ["c9"]

[servers]
hosts = 0
adresses = 2
ports = 70000
sysctls = { somaxcon = 1 }

[clients]
source_ports = "9000-8000"

[load]
connections = 1000000000000
rate = "20k"
hold = 5
timeout = "0s"

[sweep]
"clients.addresses" = [1, 2, 1000000]
"clients.hosts" = 3
"load.famly" = ["ipv4"]

[[expect]]
established = "predicted"
failed = "0ppm"
[[expect]]
"#), @r#"
error: unknown variant `c9`, expected one of `C1`, `c1`, `C2`, `c2`, `C3`, `c3`, `C4`, `c4`, `C5`, `c5`, `C6`, `c6`, `C7`, `c7`, `C8`, `c8`
 --> plan.toml:2:10
  |
2 | claims = ["c9"]
  |          ^^^^^^

error: servers.hosts = 0 is out of range: write 1 to 10000
 --> plan.toml:5:9
  |
5 | hosts = 0
  |         ^

error: unknown key 'adresses'
 --> plan.toml:6:1
  |
6 | adresses = 2
  | ^^^^^^^^
  |
  = help: did you mean 'addresses'?

error: '70000' is no port: write ports from 1 to 65535 as in "7000", "7000-7003" or "7000,7010"
 --> plan.toml:7:9
  |
7 | ports = 70000
  |         ^^^^^

error: unknown kernel setting 'somaxcon'
 --> plan.toml:8:11
  |
8 | sysctls = { somaxcon = 1 }
  |           ^^^^^^^^^^^^^^^^
  |
  = help: known here: somaxconn, ip_local_port_range, ip_local_reserved_ports, ip_unprivileged_port_start, tcp_abort_on_overflow, tcp_fin_timeout, tcp_max_syn_backlog, tcp_max_tw_buckets, tcp_syncookies, tcp_tw_reuse

error: the range 9000-8000 runs backwards: write the smaller port first, or "kernel" to leave the choice to connect()
  --> plan.toml:11:16
   |
11 | source_ports = "9000-8000"
   |                ^^^^^^^^^^^

error: '1000000000000' is no count: write a whole number up to 10000m, as in 64512, "250k" or "1m", or "max" for what the hosts can hold
  --> plan.toml:14:15
   |
14 | connections = 1000000000000
   |               ^^^^^^^^^^^^^

error: '20k' is no rate: write "unlimited" or connects per second, as in "20k/s"
  --> plan.toml:15:8
   |
15 | rate = "20k"
   |        ^^^^^

error: '5' is no duration of whole microseconds up to a day: write a number and a unit, as in "5s", "250ms" or "1m 30s"
  --> plan.toml:16:8
   |
16 | hold = 5
   |        ^

error: load.timeout = 0s gives no connection a chance: write at least "100ms"
  --> plan.toml:17:11
   |
17 | timeout = "0s"
   |           ^^^^

error: clients.addresses = 1000000 is out of range: write 1 to 65536
  --> plan.toml:20:30
   |
20 | "clients.addresses" = [1, 2, 1000000]
   |                              ^^^^^^^

error: 'clients.hosts' is swept over a list of values
  --> plan.toml:21:19
   |
21 | "clients.hosts" = 3
   |                   ^
   |
   = help: write the values in brackets, as in [1, 2, 4]

error: unknown key 'load.famly'
  --> plan.toml:22:1
   |
22 | "load.famly" = ["ipv4"]
   | ^^^^^^^^^^^^
   |
   = help: did you mean 'load.family'?

error: an [[expect]] says one thing
  --> plan.toml:26:10
   |
26 | failed = "0ppm"
   |          ^^^^^^
   |
   = help: write a further [[expect]] for this key

error: this [[expect]] says nothing
  --> plan.toml:27:1
   |
27 | [[expect]]
   | ^^^^^^^^^^
   |
   = help: write one sentence that can be false, as in established = "predicted"
"#);
}

#[test]
fn every_syntax_error_is_drawn() {
    insta::assert_snapshot!(problems("[servers\nhosts = \n\n[clients]\nhosts = 1 2\n"), @r"
error: the file is no TOML: unclosed table, expected `]`
 --> plan.toml:1:9
  |
1 | [servers
  |         ^

error: the file is no TOML: string values must be quoted, expected literal string
 --> plan.toml:5:9
  |
5 | hosts = 1 2
  |         ^^^
");
}

#[test]
fn a_section_of_the_wrong_form_hides_no_other_problem() {
    assert_eq!(
        whats("servers = 5\nexpect = \"x\"\nsweep = 3\n[clients]\nhosts = \"x\"\n[load]\nrate = 7"),
        [
            "'servers' is a table: write [servers]",
            "'expect' is a list: write [[expect]]",
            "'sweep' is a table: write [sweep]",
            "'x' is no count: write a whole number up to 10000m, as in 64512, \"250k\" or \"1m\"",
            "'7' is no rate: write \"unlimited\" or connects per second, as in \"20k/s\"",
        ]
    );
    assert_eq!(whats("case = 1"), ["'case' is a list: write [[case]]"]);
    assert_eq!(whats("case = [1]"), ["a case is a table: write [[case]]"]);
    assert_eq!(
        whats("expect = [1, {}]"),
        ["an entry of 'expect' is a table: write [[expect]]", "this [[expect]] says nothing"]
    );
}

#[test]
fn one_sentence_says_what_is_wrong() {
    for (text, what) in [
        ("[sweep]\nclients.hosts = [1]\n[[case]]", "a plan has either [sweep] or [[case]], not both"),
        ("case = []", "the plan has no case"),
        ("[sweep]\nclients.hosts = []", "'clients.hosts' is swept over no value"),
        ("[sweep]\nclients.hosts = [1, 1]", "two cases are called 'clients.hosts=1'"),
        ("[sweep]\n\"clients.hosts\" = [1]\nclients.hosts = [2]", "'clients.hosts' is given twice"),
        ("[[case]]\ntrials = 2", "unknown key 'trials'"),
        ("[[case]]\nclients = 2", "unknown key 'clients'"),
        ("[[case]]\n\"clients.hosts.more\" = 2", "unknown key 'clients.hosts.more'"),
        ("[[case]]\nname = \"\"", "a case's name is a line of 1 to 100 characters"),
        ("[[case]]\nname = \"\\u001b[2J\"", "a case's name is a line of 1 to 100 characters"),
        ("question = \"\\u001b[2J\"", "a text has no control characters: leave out '\\u{1b}'"),
        ("[[expect]]\nrate = \"unlimited\"", "a rate of \"unlimited\" cannot be missed"),
        ("[load]\nconnections = 0", "load.connections = 0 asks for nothing: write \"max\" or at least 1"),
        (
            "[load]\nconnections = 7\nexcess = 1",
            "load.excess goes beyond what the hosts hold, load.connections asks for a number",
        ),
        ("[load]\nexcess = 10001", "load.excess = 10001 is out of range: write 0 to 10000"),
        ("[servers]\nports = \"\"", "servers.ports names no port: write one, as in \"7000\""),
        (
            "[servers.sysctls]\ntcp_tw_reuse = 3",
            "tcp_tw_reuse: '3' is no value: write a whole number from 0 to 2",
        ),
        (
            "[servers.sysctls]\nip_local_port_range = \"9 8\"",
            "ip_local_port_range: '9 8' is no range of ports: write it as in \"20000-21999\"",
        ),
        (
            "[clients]\naddresses = 65536\n[servers]\nports = \"1-2\"",
            "the plan's cases have 131072 pairs of a source address and an address and port to connect to; at most 100000 are scheduled",
        ),
    ] {
        assert_eq!(whats(text), [what], "{text}");
    }
}

#[test]
fn numbers_that_are_none_are_refused_where_they_stand() {
    for number in [
        "nan",
        "inf",
        "-inf",
        "-1",
        "1.5",
        "0x1_0000_0000_00",
        "99999999999999999999",
        "1e999",
        "1979-05-27",
        "07:32:00",
        "true",
        "[1]",
        "{ a = 1 }",
    ] {
        for key in
            ["clients.hosts", "load.connections", "servers.ports", "clients.source_ports", "servers.backlog"]
        {
            let text = format!("{key} = {number}");
            let found = read(&text).expect_err(&text);
            assert!(found.iter().all(|problem| problem.place.is_some()), "{text}: {found:?}");
            let swept = format!("[sweep]\n{key} = [1, {number}]");
            let at = swept.rfind(number).expect("it is there");
            let found = read(&swept).expect_err(&swept);
            assert!(
                found.iter().any(|problem| problem.place.as_ref().is_some_and(|place| place.start == at)),
                "{swept}: {found:?}"
            );
        }
    }
}

#[test]
fn a_plan_of_a_million_cases_is_refused_before_one_is_made() {
    let list = (1..=1_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let text = format!("[sweep]\nclients.hosts = [{list}]\nclients.addresses = [{list}]");
    assert_eq!(whats(&text), ["the plan has 1000000 cases; at most 1000 are run as one plan"]);
    let text = "[[case]]\nclients.hosts = 2\n".repeat(1_001);
    assert_eq!(whats(&text)[0], "the plan has 1001 cases; at most 1000 are run as one plan");
}

#[test]
fn no_file_takes_the_reader_down() {
    let dots = |parts: usize| vec!["a"; parts].join(".");
    let dotted = dots(79);
    let entries = |count: u32| (0..count).map(|n| format!("k{n} = \"\"\n")).collect::<String>();
    let list = (1..=1_000).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let inline = format!("{}1{}", format!("{{{dotted} = ").repeat(70), "}".repeat(70));
    for bomb in [
        format!("x = {}", "[".repeat(5_000)),
        format!("x = {}", "{a = ".repeat(5_000)),
        format!("{} = 1", dots(5_000)),
        format!("[{}]", dots(5_000)),
        format!("{dotted} = {inline}"),
        format!("[{dotted}]\n{dotted} = {inline}"),
        format!("sweep.clients.labels = [{inline}]"),
        format!("case = [{inline}]"),
        format!("[[case]]\n\"clients.sysctls.{}\" = 1", dots(50_000)),
        format!("[[case]]\n\"clients.labels.{}\" = 1", dots(50_000)),
        format!("[[case]]\n\"{}\" = 1", dots(50_000)),
        format!("{} = 1", "a".repeat(200_000)),
        "x".repeat(1 << 20),
        entries(10_000),
        entries(10_000).replace('=', "= ="),
        format!("[clients.labels]\n{}[sweep]\nclients.hosts = [{list}]", entries(10_000)),
        format!("[sweep]\nclients.hosts = [{list}]\nclients.labels = [[{list}]]"),
    ] {
        let start: String = bomb.chars().take(80).collect();
        let found = read(&bomb).expect_err(&start);
        assert!(PlanProblem::render(&found, "plan.toml", &bomb, false).len() < 60_000_000, "{start}");
    }
}

/// Every leaf of the schema, with its path.
fn leaves(schema: &Value, path: &str, found: &mut Vec<String>) {
    let Some(Value::Object(properties)) = schema.get("properties") else {
        found.push(path.to_owned());
        return;
    };
    for (key, below) in properties {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        leaves(
            below.get("items").filter(|_| key == "expect" || key == "route").unwrap_or(below),
            &path,
            found,
        );
    }
}

#[test]
fn every_key_of_the_schema_is_read() {
    let mut keys = Vec::new();
    leaves(&plan_schema(), "", &mut keys);
    assert_eq!(keys.len(), 43, "{keys:?}");
    for key in keys {
        let text = match key.split_once('.') {
            Some((list @ ("expect" | "route"), key)) => format!("[[{list}]]\n{key} = 1979-05-27"),
            _ => format!("{key} = 1979-05-27"),
        };
        let found = read(&text).expect_err(&text);
        assert!(found.iter().all(|problem| !problem.what.contains("unknown")), "{text}: {found:?}");
    }
}

#[test]
fn the_schema_takes_what_the_reader_takes_and_refuses_unknown_keys() {
    let validator = jsonschema::validator_for(&plan_schema()).expect("a schema");
    let json =
        |text: &str| serde_json::to_value(toml::from_str::<toml::Table>(text).expect("TOML")).expect("JSON");
    let listed = "claims = [\"c3\", \"C4\"]\ntrials = 3\n[servers]\nports = 7000\n[servers.sysctls]\nsomaxconn = 10\n\
                  ip_local_port_range = \"1 2\"\n[[case]]\nname = \"a\"\n\"clients.hosts\" = 2\n[[expect]]\nestablished = 5\n\
                  [[expect]]\nbound_by = \"plan\"";
    let printed = toml::to_string(&plan(EXAMPLE).base).expect("prints");
    for good in [EXAMPLE, listed, "", printed.as_str()] {
        assert!(read(good).is_ok());
        let errors: Vec<_> = validator.iter_errors(&json(good)).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{good}: {errors:?}");
    }
    for bad in [
        "x = 1",
        "[servers]\nadresses = 1",
        "[[expect]]\nx = 1",
        "[load]\nfamily = \"ipx\"",
        "[servers]\nhosts = -1",
    ] {
        assert!(read(bad).is_err());
        assert!(!validator.is_valid(&json(bad)), "{bad}");
    }
}

fn ports() -> impl Strategy<Value = PortSet> {
    proptest::collection::vec((1u16.., 0u16..50), 1..4).prop_map(|parts| {
        parts
            .iter()
            .fold(PortSet::empty(), |set, (low, n)| set.union(&PortSet::range(*low, low.saturating_add(*n))))
    })
}

fn labels() -> impl Strategy<Value = super::Labels> {
    proptest::collection::btree_map("[a-z.\"é =]{1,6}", "[a-z.\"'é =]{0,6}", 0..3)
}

fn sysctls() -> impl Strategy<Value = Sysctls> {
    let range = (1u16..30_000, 30_000u16..)
        .prop_map(|(low, high)| (Sysctl::IpLocalPortRange, format!("{low} {high}")));
    let reserved = ports().prop_map(|ports| (Sysctl::IpLocalReservedPorts, ports.to_string()));
    let number = (0u32..70_000).prop_map(|n| (Sysctl::Somaxconn, n.to_string()));
    proptest::collection::vec(prop_oneof![range, reserved, number], 0..4)
        .prop_map(|settings| settings.into_iter().collect())
}

fn accept() -> impl Strategy<Value = Accept> {
    let count = 1u64..=10_000_000_000;
    prop_oneof![
        prop::sample::select(vec![Accept::All, Accept::Never, Accept::Close]),
        count.clone().prop_map(Accept::PerSecond),
        count.prop_map(Accept::Until),
    ]
}

fn files() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(128u64..=1 << 30)
}

prop_compose! {
    fn servers()(hosts in 1u32..6, addresses in 1u32..6, ports in ports(), backlog in 0u32..=i32::MAX as u32, conntrack in any::<bool>(), accept in accept(), files in files(), labels in labels(), sysctls in sysctls()) -> Servers {
        Servers { hosts, addresses, ports, backlog, conntrack, accept, files, labels, sysctls }
    }
}

prop_compose! {
    fn clients()(hosts in 1u32..10, addresses in 1u32..3, explicit in proptest::option::of(ports()), conntrack in any::<bool>(), files in files(), labels in labels(), sysctls in sysctls()) -> Clients {
        let source_ports = explicit.map_or(SourcePorts::Kernel, SourcePorts::Explicit);
        Clients { hosts, addresses, source_ports, conntrack, files, labels, sysctls }
    }
}

prop_compose! {
    fn load()(v6 in any::<bool>(), answered in any::<bool>(), count in proptest::option::of(1u64..=10_000_000_000), excess in 0u32..=10_000, rate in proptest::option::of(1u64..=10_000_000_000), hold in 0u64..=86_400_000_000, timeout in 1u64..=86_400_000_000) -> Load {
        Load {
            family: if v6 { Family::Ipv6 } else { Family::Ipv4 },
            connections: count.map_or(Connections::Max, Connections::Exactly),
            excess: if count.is_some() { 0 } else { excess },
            answered,
            rate: rate.map_or(Rate::Unlimited, Rate::PerSecond),
            stages: if rate.is_none() && v6 { vec![crate::plan::Stage::Rest(Rate::Unlimited)] } else { Vec::new() },
            churn: count.filter(|count| *count < 100 && v6 && hold > 0).map(Rate::PerSecond),
            close: crate::plan::Close::Rst,
            activity: (!v6 && hold > 0).then(|| "64B every 10s".parse().expect("an activity")),
            hold: Span(Duration::from_micros(hold)),
            timeout: Span(Duration::from_micros(timeout)),
        }
    }
}

#[test]
fn what_a_server_does_has_to_go_with_what_is_waited_for() {
    insta::assert_snapshot!(problems("[servers]\naccept = \"never\"\n[load]\nanswered = true\n"), @r#"
error: with servers.accept = "never" not every client is answered, but load.answered = true waits for it
 --> plan.toml:4:12
  |
4 | answered = true
  |            ^^^^
  |
  = help: write load.answered = false: a connection then counts once its handshake is over
"#);
    insta::assert_snapshot!(problems("[servers]\naccept = \"close\"\nfiles = 127\n[sweep]\nclients.files = [128, \"few\"]\n"), @r#"
error: with servers.accept = "close" not every client is answered, but load.answered = true waits for it
 --> plan.toml:2:10
  |
2 | accept = "close"
  |          ^^^^^^^
  |
  = help: write load.answered = false: a connection then counts once its handshake is over

error: with servers.accept = "close" nothing is held, so load.connections = "max" says no number
 --> plan.toml:2:10
  |
2 | accept = "close"
  |          ^^^^^^^
  |
  = help: write how many are to be opened, as in load.connections = 1000

error: servers.files = 127 is out of range: write 128 to 1073741824
 --> plan.toml:3:9
  |
3 | files = 127
  |         ^^^

error: 'few' is no count: write a whole number up to 10000m, as in 64512, "250k" or "1m"
 --> plan.toml:5:23
  |
5 | clients.files = [128, "few"]
  |                       ^^^^^
"#);
    assert!(whats("[sweep]\nservers.accept = [\"all\", \"200/s\"]").is_empty());
    let unanswered = whats("[sweep]\nservers.accept = [\"until 5\", \"never\", \"all\"]");
    assert_eq!(unanswered.len(), 2, "{unanswered:?}");
    // The base alone need not go together.
    let text =
        "servers.accept = \"never\"\n[[case]]\nload.answered = false\n[[case]]\nservers.accept = \"all\"";
    assert!(whats(text).is_empty());
    assert!(whats("servers.accept = \"close\"\n[load]\nanswered = false\nconnections = 5").is_empty());
}

proptest! {
    #[test]
    fn a_setup_that_is_printed_reads_back(servers in servers(), clients in clients(), load in load(), script in any::<bool>()) {
        let lines = "server fill l -> x\nclient many c 20 connect server:7000 bind self:0 no_port -> held";
        let steps = if script { crate::script::Step::parse_all(lines).expect("steps") } else { Vec::new() };
        let mut setup = Setup { servers, clients, load, steps };
        setup.load.answered &= setup.servers.accept.takes_all();
        if setup.servers.accept != Accept::All {
            (setup.load.churn, setup.load.activity) = (None, None);
        }
        if setup.servers.accept == Accept::Close && setup.load.connections == Connections::Max {
            (setup.load.connections, setup.load.excess) = (Connections::Exactly(1), 0);
        }
        let text = toml::to_string(&setup).expect("prints");
        prop_assert_eq!(&plan(&text).base, &setup, "{}", text);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,60}") {
        if let Err(problems) = read(&text) {
            PlanProblem::render(&problems, "plan.toml", &text, false);
        }
    }

    #[test]
    fn no_soup_of_brackets_and_quotes_makes_the_reader_run_out_of_stack(
        soup in proptest::collection::vec((prop::sample::select(vec![
            "{a.a.a.a=", "{a.a=[", "[", "]", "}", "{", "\"", "'", "'''", "\"\"\"", "\\", "#", "\r", "\n", ",", "=", "1", "x='", "a.", "é", " ",
        ]), 1usize..200), 0..12),
    ) {
        let text: String = soup.iter().map(|(token, times)| token.repeat(*times)).collect();
        drop(read(&text));
    }

    #[test]
    fn no_change_of_a_good_plan_makes_the_reader_panic(at in 0..EXAMPLE.len(), cut in 0usize..30, insert in "[\\[\\]{}=.,\"'#\\\\\n a0-9é]{0,8}") {
        let end = (at + cut).min(EXAMPLE.len());
        let text = format!("{}{insert}{}", &EXAMPLE[..at], &EXAMPLE[end..]);
        if let Err(problems) = read(&text) {
            prop_assert!(!problems.is_empty());
            PlanProblem::render(&problems, "plan.toml", &text, false);
        }
    }
}

#[test]
fn a_case_may_be_a_script_and_says_what_its_steps_answer() {
    let text = "[[case]]\nname = \"a load\"\n[[case]]\nname = \"a script\"\nsteps = \"\"\"\n# why\nserver socket l tcp\n\
        client many c 20 connect server:7000 -> held\n\"\"\"\n[[expect]]\nanswer = \"held = 6\"\n\
        [[expect]]\nanswer = \"held:begun = 20\"\n[[expect]]\nanswer = \"held=ok\"";
    let plan = plan(text);
    let steps: Vec<usize> = plan.cases.iter().map(|case| case.setup.steps.len()).collect();
    assert_eq!(steps, [0, 2]);
    assert!(plan.cases[1].parameters.is_empty(), "a script is no parameter");
    let said: Vec<String> = plan.expectations.iter().map(ToString::to_string).collect();
    assert_eq!(said, ["answer = \"held = 6\"", "answer = \"held:begun = 20\"", "answer = \"held = ok\""]);
}

#[test]
fn a_script_that_cannot_be_done_is_refused_with_its_step() {
    let problem = |steps: &str| {
        let found = read(&format!("steps = '''\n{steps}\n'''")).expect_err(steps);
        found.iter().map(|problem| problem.what.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(problem("client dance a").contains("step 1: 'dance' is nothing that a step does"));
    assert_eq!(problem("client.2 fill a"), "'client.2 fill a': the case has no host 'client.2'");
    assert!(problem("client fill a\nclient bind a self@2:0").contains("names no address of this case"));
    assert!(problem("# nothing").contains("the script has no step"));
    let long = "client fill a\n".repeat(1_001);
    assert!(problem(&long).contains("has 1001 steps; at most 1000 are done"));
}

#[test]
fn a_time_and_an_error_of_the_ramp_are_expected_as_they_are_written() {
    let text = "[[expect]]\nconnect_p99 = \"10ms\"\n[[expect]]\nramp_error = \"10000ppm\"";
    let written: Vec<_> = plan(text).expectations.iter().map(ToString::to_string).collect();
    assert_eq!(written, ["connect_p99 = \"10ms\"", "ramp_error = \"10000ppm\""]);
    for bad in ["connect_p99 = 10", "connect_p99 = \"fast\"", "ramp_error = \"1%\"", "ramp_eror = \"1ppm\""] {
        assert!(read(&format!("[[expect]]\n{bad}")).is_err(), "{bad}");
    }
}

#[test]
fn an_expected_answer_needs_a_step_and_a_form() {
    let problem = |answer: &str| {
        let text = format!("steps = 'client fill a -> x'\n[[expect]]\nanswer = '{answer}'");
        read(&text)
            .expect_err(answer)
            .iter()
            .map(|problem| problem.what.clone())
            .collect::<Vec<_>>()
            .join("; ")
    };
    assert!(problem("y = ok").contains("is about a step labelled 'y', and no step is"));
    for bad in ["x", "= ok", "x =", "x y = 1", "x = 1 2"] {
        assert!(problem(bad).contains("is no answer: write a step's label"), "{bad}");
    }
}

#[test]
fn stages_say_alone_and_to_the_last_connect_how_fast_they_begin() {
    let load = |text: &str| problems(&format!("[load]\n{text}\n"));
    for (text, says) in [
        ("rate = \"5k/s\"\nstages = [\"rest at 1k/s\"]", "both say how fast connects begin"),
        ("stages = []", "names no stage"),
        ("stages = [\"10k\"]", "'10k' is no stage"),
        ("stages = [\"rest at 1k/s\", \"pause 1s\"]", "leaves nothing for the stages after it"),
        ("stages = [\"1k at 1k/s\"]", "the stages may not begin them all"),
        ("stages = [\"1k at 1k/s\", \"pause 1s\"]", "nothing begins after it"),
        ("connections = 5\nstages = [\"4 at 1k/s\"]", "begin 4 connects, load.connections asks for 5"),
        ("connections = 5\nstages = [\"6 at 1k/s\", \"rest at 1k/s\"]", "begin 6 connects"),
        ("connections = 5\nstages = [\"5 at 1k/s\", \"rest at 1k/s\"]", "has nothing left to begin"),
    ] {
        let told = load(text);
        assert!(told.contains(says) && told.contains("plan.toml:"), "{text}: {told}");
    }
    let good = |text: &str| plan(&format!("[load]\n{text}\n"));
    good("connections = 5\nstages = [\"4 at 1k/s\", \"pause 1s\", \"rest at unlimited\"]");
    good("rate = \"unlimited\"\nstages = [\"4 at 1k/s\", \"rest at 1k/s\"]");
}

#[test]
fn churn_needs_room_and_the_time_of_a_hold() {
    let load = |text: &str| problems(&format!("[load]\n{text}\n"));
    for (text, says) in [
        ("churn = \"unlimited\"\nconnections = 9", "is no rate"),
        ("churn = \"1k/s\"", "\"max\" leaves none"),
        ("close = \"fin\"", "says how churn closes, and there is none"),
        ("churn = \"1k/s\"\nconnections = 9\nhold = \"0s\"", "no time for load.churn"),
        (
            "churn = \"1k/s\"\nconnections = 9\nanswered = false\n[servers]\naccept = \"until 5\"",
            "servers that accept all",
        ),
        (
            "churn = \"1k/s\"\nclose = \"fin\"\nconnections = \"60k\"\nhold = \"5s\"",
            "60,000 connections and 5,000 closed ones need 65,000 four-tuples, the plan's ports give 64,512",
        ),
    ] {
        let told = load(text);
        assert!(told.contains(says) && told.contains("plan.toml:"), "{text}: {told}");
    }
    plan("[load]\nchurn = \"1k/s\"\nclose = \"fin\"\nconnections = \"60k\"\nhold = \"4500ms\"\n");
    plan("[load]\nchurn = \"1k/s\"\nconnections = \"60k\"\n");
}

#[test]
fn activity_needs_servers_that_take_all_and_the_time_of_a_hold() {
    let load = |text: &str| problems(&format!("[load]\n{text}\n"));
    for (text, says) in [
        ("activity = \"64B\"", "is no activity"),
        ("activity = \"64B every 1s\"\nchurn = \"1k/s\"\nconnections = 9", "do not go together yet"),
        ("activity = \"64B every 1s\"\nhold = \"0s\"", "no time for load.activity"),
        ("activity = \"64B every 1s\"\nanswered = false\n[servers]\naccept = \"never\"", "accept all"),
    ] {
        let told = load(text);
        assert!(told.contains(says) && told.contains("plan.toml:"), "{text}: {told}");
    }
}
