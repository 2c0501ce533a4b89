use super::{
    Assignment, BlockPorts, CaseSchedule, Connect, Host, Inventory, Role, Schedule, Serve, Work, place,
};
use crate::capacity::facts::{Conntrack, OpenFiles};
use crate::capacity::{DESCRIPTORS_KEPT, Limit};
use crate::sample::TcpState;
use crate::sample_lab::{address, bound, host, plan, three_hosts};
use crate::sysctl::Sysctl;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

fn placed(text: &str, inventory: &Inventory) -> Schedule {
    place(&plan(text), inventory).unwrap_or_else(|short| panic!("{short:?}"))
}

fn shortfalls(text: &str, inventory: &Inventory) -> String {
    let short = place(&plan(text), inventory).expect_err("it was placed");
    short.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A schedule as one reads it.
fn drawn(case: &CaseSchedule) -> String {
    let prediction = &case.prediction;
    let mut text = format!("{} of {}, {:?}", case.target, prediction.connections, prediction.bound_by);
    for assignment in &case.assignments {
        let census = &assignment.census;
        let _ = write!(text, "\n{} {:?} {:?}", assignment.agent, assignment.role(), assignment.sysctls);
        let _ = write!(text, "\n  census {:?} {:?} -> {:?}", census.role, census.clients, census.servers);
        match &assignment.work {
            Work::Serve(serve) => drawn_serve(serve, &mut text),
            Work::Connect(connect) => drawn_connect(connect, &mut text),
            Work::Script(_) => text.push_str("\n  script"),
        }
    }
    text
}

fn drawn_serve(serve: &Serve, text: &mut String) {
    for (index, listener) in serve.listeners.iter().enumerate() {
        let _ = write!(text, "\n  listener {index}: {} backlog {}", listener.endpoint, listener.backlog);
    }
    for lane in &serve.lanes {
        let turns: Vec<_> =
            lane.turns.iter().map(|turn| format!("{}:{}", turn.listener, turn.quota)).collect();
        let _ = write!(text, "\n  lane {}", turns.join(" "));
    }
}

fn drawn_connect(connect: &Connect, text: &mut String) {
    let Connect { connectors, window, rate, timeout_micros, beyond, .. } = connect;
    let _ = write!(
        text,
        "\n  connectors {connectors} window {window} rate {rate:?} timeout {timeout_micros} beyond {beyond}"
    );
    for lane in &connect.lanes {
        for (index, block) in lane.blocks.iter().enumerate() {
            let start = if index == 0 { "lane" } else { "    " };
            let ports = match &block.ports {
                BlockPorts::Explicit(ports) => ports.to_string(),
                BlockPorts::Kernel(count) => format!("{count} of the kernel's choice"),
            };
            let _ = write!(
                text,
                "\n  {start} #{} {} -> {}: {ports}",
                block.first_flow, block.source, block.destination
            );
        }
    }
}

#[test]
fn three_hosts_with_explicit_ports() {
    let schedule = placed(
        "[servers]\naddresses = 2\nsysctls.somaxconn = 128\n[clients]\nhosts = 2\nsource_ports = \"20000-20009\"\n\
         [load]\nrate = \"1k/s\"",
        &three_hosts(),
    );
    insta::assert_snapshot!(drawn(&schedule.cases[0]), @r#"
40 of 40, FourTuples
host-1 Server {Somaxconn: "128"}
  census Server [10.66.2.1, 10.66.3.1] -> [10.66.1.1:7000, 10.66.1.2:7000]
  listener 0: 10.66.1.1:7000 backlog 4096
  listener 1: 10.66.1.2:7000 backlog 4096
  lane 0:20 1:20
host-2 Client {}
  census Client [10.66.2.1] -> [10.66.1.1:7000, 10.66.1.2:7000]
  connectors 8 window 8 rate Some(500.0) timeout 10000000 beyond true
  lane #0 10.66.2.1 -> 10.66.1.1:7000: 20000-20001
  lane #2 10.66.2.1 -> 10.66.1.1:7000: 20002-20004
  lane #5 10.66.2.1 -> 10.66.1.1:7000: 20005-20006
  lane #7 10.66.2.1 -> 10.66.1.1:7000: 20007-20009
  lane #10 10.66.2.1 -> 10.66.1.2:7000: 20000-20001
  lane #12 10.66.2.1 -> 10.66.1.2:7000: 20002-20004
  lane #15 10.66.2.1 -> 10.66.1.2:7000: 20005-20006
  lane #17 10.66.2.1 -> 10.66.1.2:7000: 20007-20009
host-3 Client {}
  census Client [10.66.3.1] -> [10.66.1.1:7000, 10.66.1.2:7000]
  connectors 8 window 8 rate Some(500.0) timeout 10000000 beyond true
  lane #20 10.66.3.1 -> 10.66.1.1:7000: 20000-20001
  lane #22 10.66.3.1 -> 10.66.1.1:7000: 20002-20004
  lane #25 10.66.3.1 -> 10.66.1.1:7000: 20005-20006
  lane #27 10.66.3.1 -> 10.66.1.1:7000: 20007-20009
  lane #30 10.66.3.1 -> 10.66.1.2:7000: 20000-20001
  lane #32 10.66.3.1 -> 10.66.1.2:7000: 20002-20004
  lane #35 10.66.3.1 -> 10.66.1.2:7000: 20005-20006
  lane #37 10.66.3.1 -> 10.66.1.2:7000: 20007-20009
"#);
}

#[test]
fn a_number_of_connections_is_cut_evenly_and_more_than_one_table_needs_lanes() {
    let schedule = placed(
        "[clients]\nhosts = 2\naddresses = 2\nsource_ports = \"kernel\"\n[load]\nconnections = 50_001",
        &three_hosts(),
    );
    insta::assert_snapshot!(drawn(&schedule.cases[0]), @r"
50001 of 50001, Plan
host-1 Server {}
  census Server [10.66.2.1, 10.66.2.2, 10.66.3.1, 10.66.3.2] -> [10.66.1.1:7000]
  listener 0: 10.66.1.1:7000 backlog 4096
  lane 0:16667
  lane 0:16667
  lane 0:16667
host-2 Client {}
  census Client [10.66.2.1, 10.66.2.2] -> [10.66.1.1:7000]
  connectors 8 window 64 rate None timeout 10000000 beyond false
  lane #0 10.66.2.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #3125 10.66.2.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #6250 10.66.2.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #9375 10.66.2.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #12500 10.66.2.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #15625 10.66.2.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #18750 10.66.2.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #21875 10.66.2.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
host-3 Client {}
  census Client [10.66.3.1, 10.66.3.2] -> [10.66.1.1:7000]
  connectors 8 window 64 rate None timeout 10000000 beyond false
  lane #25000 10.66.3.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #28125 10.66.3.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #31250 10.66.3.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #34375 10.66.3.1 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #37500 10.66.3.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #40625 10.66.3.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #43750 10.66.3.2 -> 10.66.1.1:7000: 3125 of the kernel's choice
  lane #46875 10.66.3.2 -> 10.66.1.1:7000: 3126 of the kernel's choice
");
}

#[test]
fn three_client_hosts_multiply_two_addresses_two_addresses_and_three_ports() {
    let text = "[servers]\naddresses = 2\nports = \"7000-7002\"\n[clients]\nhosts = 3\naddresses = 2\nsource_ports = \"20000-21999\"";
    let mut inventory = three_hosts();
    inventory.hosts.push(host("host-4", None, &["10.66.4.1", "10.66.4.2"]));
    assert_eq!(placed(text, &inventory).cases[0].target, 72_000);
    // One wildcard listener costs its host one port at each of 2 x 6 ways.
    inventory.hosts[1].facts.bound.push(bound("0.0.0.0", 20_500, TcpState::Listen));
    let case = &placed(text, &inventory).cases[0];
    assert_eq!((case.target, case.prediction.bound_by), (72_000 - 12, Limit::FourTuples));
}

#[test]
fn listeners_of_the_case_hold_their_ports_in_a_shared_namespace() {
    let mut hosts =
        [host("s", Some("server"), &["127.1.0.1"]), host("c", Some("client"), &["127.2.0.1", "127.2.0.2"])];
    hosts.iter_mut().for_each(|host| host.facts.boot_id = "one".into());
    let inventory = Inventory { hosts: hosts.to_vec() };
    let text = |ports: &str| {
        format!("[servers]\nports = \"40000-40009\"\n[clients]\naddresses = 2\nsource_ports = \"{ports}\"")
    };
    let target = |ports: &str| placed(&text(ports), &inventory).cases[0].target;
    assert_eq!(
        target("kernel"),
        2 * 10 * (28_232 - 10),
        "the kernel passes over a bound port on any address"
    );
    assert_eq!(target("40000-40099"), 2 * 10 * 100, "an explicit bind does not");
}

#[test]
fn servers_then_clients_are_taken_by_role_and_then_by_number() {
    let names = |text: &str, hosts: &[(&str, Option<&str>)]| {
        let hosts = hosts
            .iter()
            .enumerate()
            .map(|(i, (name, role))| host(name, *role, &[&format!("10.0.0.{}", i + 1)]));
        let schedule = placed(text, &Inventory { hosts: hosts.collect() });
        let agents = schedule.cases[0].assignments.iter().map(|a| format!("{:?} {}", a.role(), a.agent));
        agents.collect::<Vec<_>>()
    };
    assert_eq!(
        names("[clients]\nhosts = 2", &[("host-10", None), ("host-9", None), ("host-8", None)]),
        ["Server host-8", "Client host-9", "Client host-10"]
    );
    assert_eq!(
        names("", &[("a", Some("client")), ("b", None), ("c", Some("server"))]),
        ["Server c", "Client a"]
    );
    assert_eq!(names("", &[("a", Some("client")), ("b", Some("client"))]), ["Server a", "Client b"]);
}

#[test]
fn only_hosts_with_the_labels_are_taken() {
    let mut inventory = three_hosts();
    inventory.hosts[2].labels.insert("rack".into(), "b".into());
    let schedule = placed("clients.labels.rack = \"b\"", &inventory);
    assert_eq!(schedule.cases[0].assignments[1].agent.as_str(), "host-3");
}

#[test]
fn too_few_hosts_are_told_with_the_nearest() {
    insta::assert_snapshot!(shortfalls("[servers]\naddresses = 4\n[clients]\nhosts = 5\nlabels.rack = \"b\"", &three_hosts()), @r"
case 'case 1' asks for 1 server host(s), 0 fit: start agents with the labels and addresses it needs (host-1 offers 2 of 4 ipv4 addresses)
case 'case 1' asks for 5 client host(s) with rack=b, 0 fit: start agents with the labels and addresses it needs
");
}

#[test]
fn every_limit_that_is_too_tight_is_told() {
    let mut inventory = three_hosts();
    inventory.hosts[0].facts.memory_available = 300 << 20;
    inventory.hosts[1].facts.open_files.threads = 1;
    insta::assert_snapshot!(shortfalls("load.connections = \"100k\"", &inventory), @r"
case 'case 1': 7,424 connections are possible by memory on host-1 (/proc/meminfo MemAvailable, the cgroup's memory.max), 100,000 asked: free memory, raise the cgroup's limit, or add hosts with kernels of their own
case 'case 1': 19,936 connections are possible by open_files on host-2 (ulimit -Hn (RLIMIT_NOFILE), kernel.threads-max), 100,000 asked: raise the hard limit on open files, or add hosts
case 'case 1': 64,512 connections are possible by four_tuples on all clients (addresses, listening ports, net.ipv4.ip_local_port_range), 100,000 asked: add a destination (server port or address) or a source address
");
}

#[test]
fn a_queue_that_nobody_empties_is_filled_to_its_last_place() {
    let mut inventory = three_hosts();
    inventory.hosts[2].labels.insert("role".into(), "server".into());
    // Two servers whose queues differ; the smaller of backlog and somaxconn counts.
    inventory.hosts[2].facts.sysctls.insert(Sysctl::Somaxconn, "9".into());
    let text = |accept: &str, connections: &str| {
        format!(
            "[servers]\nhosts = 2\nbacklog = 20\naccept = \"{accept}\"\nports = \"7000-7001\"\n\
             [load]\nanswered = false\nconnections = \"{connections}\""
        )
    };
    let told = |accept: &str, connections: &str| {
        let schedule = placed(&text(accept, connections), &inventory);
        let case = &schedule.cases[0];
        let mut towards: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        for block in clients(case).flat_map(|(_, connect)| &connect.lanes).flat_map(|lane| &lane.blocks) {
            *towards.entry(block.destination).or_default() += block.ports.count();
        }
        let accepted: Vec<u64> = case
            .assignments
            .iter()
            .filter_map(|assignment| match &assignment.work {
                Work::Serve(serve) => Some(serve.quota()),
                _ => None,
            })
            .collect();
        let prediction = &case.prediction;
        let bound = (prediction.connections, prediction.bound_by, case.target);
        (bound, towards.into_values().collect::<Vec<_>>(), accepted)
    };
    assert_eq!(told("never", "max"), ((62, Limit::AcceptQueue, 62), vec![21, 21, 10, 10], vec![0, 0]));
    assert_eq!(told("until 5", "max"), ((72, Limit::AcceptQueue, 72), vec![23, 24, 12, 13], vec![5, 5]));
    assert_eq!(told("never", "30"), ((30, Limit::Plan, 30), vec![10, 10, 5, 5], vec![0, 0]));
    // Beyond the queues: as many to each, and the model says what will be held.
    assert_eq!(told("never", "100"), ((62, Limit::AcceptQueue, 100), vec![25; 4], vec![0, 0]));
    assert_eq!(told("200/s", "100").0, (100, Limit::Plan, 100), "what is accepted in the end is no queue's");
}

#[test]
fn connections_that_are_not_kept_cost_a_server_no_descriptors() {
    let mut inventory = three_hosts();
    inventory.hosts[0].facts.open_files.threads = 1;
    let bound = |accept: &str| {
        let text = format!(
            "[servers]\nbacklog = \"1m\"\nsysctls.somaxconn = 1_000_000\naccept = \"{accept}\"\n[load]\nanswered = false\nconnections = 30_000"
        );
        place(&plan(&text), &inventory).map(|schedule| schedule.cases[0].target).ok()
    };
    assert_eq!(["all", "until 30k", "never", "close"].map(bound), [None, None, Some(30_000), Some(30_000)]);
}

#[test]
fn a_slow_server_is_asked_for_no_more_than_it_answers_in_time() {
    let window = |rest: &str| {
        let schedule = placed(&format!("servers.accept = \"20/s\"\n{rest}"), &three_hosts());
        clients(&schedule.cases[0]).map(|(_, connect)| connect.window).collect::<Vec<_>>()
    };
    // 20/s x 10 s / 2, for eight connectors.
    assert_eq!(window(""), [12]);
    assert_eq!(window("load.timeout = \"1ms\""), [1]);
}

#[test]
fn a_limit_on_files_makes_lanes_smaller_and_is_kept_by_the_worker() {
    let schedule =
        placed("servers.files = 164\nclients.files = 1064\nload.connections = 1_000", &three_hosts());
    let case = &schedule.cases[0];
    let lanes = case.assignments.iter().map(|assignment| match &assignment.work {
        Work::Serve(serve) => (assignment.files, serve.lanes.len()),
        Work::Connect(connect) => (assignment.files, connect.lanes.len()),
        Work::Script(_) => (assignment.files, 0),
    });
    // At least eight lanes connect: two for each processor of the client's share.
    assert_eq!(lanes.collect::<Vec<_>>(), [(Some(164), 10), (Some(1_064), 8)]);
    let files = case.prediction.margins.iter().filter(|margin| margin.limit == Limit::OpenFiles);
    assert_eq!(files.map(|margin| margin.offered).collect::<Vec<_>>(), [100 * 1_024, 1_000 * 1_024]);
}

#[test]
fn more_files_than_a_host_has_are_told() {
    insta::assert_snapshot!(shortfalls("servers.files = 20_000\nclients.files = 20_001", &three_hosts()), @"case 'case 1' gives the tables of host host-2 20,001 descriptors, its own limit is 20,000 (ulimit -Hn): ask for fewer files, or raise the hard limit on open files");
}

#[test]
fn a_setting_that_an_agent_may_not_make_is_told() {
    let mut inventory = three_hosts();
    inventory.hosts[1].facts.may_set_sysctls = false;
    insta::assert_snapshot!(shortfalls("clients.sysctls.ip_local_port_range = \"20000-20999\"", &inventory), @"case 'case 1' sets ip_local_port_range on host host-2, whose agent may not set kernel settings: start it with --allow-sysctls (on this machine: --lab namespaces), or set it there by hand and leave it out of the plan");
}

#[test]
fn tracking_that_a_plan_asks_for_binds_at_what_the_table_has_left_where_it_is_asked_for() {
    let mut inventory = three_hosts();
    for host in &mut inventory.hosts {
        host.facts.conntrack_available = Some(Conntrack { count: 1, max: 50_001 });
    }
    for (text, tracking, connections, limit) in [
        ("", [false, false, false], 129_024, Limit::FourTuples),
        ("servers.conntrack = true\n", [true, false, false], 50_000, Limit::Conntrack),
        // Each client's table has its own half of the connections.
        ("clients.conntrack = true\n", [false, true, true], 100_000, Limit::Conntrack),
        ("servers.conntrack = true\nclients.conntrack = true\n", [true; 3], 50_000, Limit::Conntrack),
    ] {
        let case = &placed(&format!("{text}clients.hosts = 2"), &inventory).cases[0];
        let asked: Vec<_> = case.assignments.iter().map(|assignment| assignment.conntrack).collect();
        assert_eq!(asked, tracking, "{text}");
        let told = (case.target, case.prediction.connections, case.prediction.bound_by);
        assert_eq!(told, (connections, connections, limit), "{text}");
    }
    // Where it is active already, the table as it stands counts.
    inventory.hosts[0].facts.conntrack = Some(Conntrack { count: 2, max: 50_001 });
    for text in ["", "servers.conntrack = true"] {
        assert_eq!(placed(text, &inventory).cases[0].target, 49_999, "{text}");
    }
}

#[test]
fn an_excess_is_tried_beyond_the_prediction_and_needs_four_tuples_of_its_own() {
    let mut inventory = three_hosts();
    inventory.hosts[0].facts.conntrack_available = Some(Conntrack { count: 1, max: 50_001 });
    let text = |excess: u32| format!("servers.conntrack = true\nload.excess = {excess}");
    let schedule = placed(&text(100), &inventory);
    let case = &schedule.cases[0];
    assert_eq!((case.target, case.prediction.connections), (50_100, 50_000));
    let opened: u64 = clients(case).map(|(_, connect)| connect.flows()).sum();
    assert_eq!(opened, 50_100);
    inventory.hosts[0].facts.conntrack_available = Some(Conntrack { count: 0, max: 64_502 });
    assert_eq!(placed(&text(10), &inventory).cases[0].target, 64_512);
    insta::assert_snapshot!(shortfalls(&text(11), &inventory), @"case 'case 1': 64,512 connections are possible by four_tuples on all clients (addresses, listening ports, net.ipv4.ip_local_port_range), 64,513 asked: add a destination (server port or address) or a source address");
}

#[test]
fn tracking_that_a_host_may_not_or_cannot_do_is_told() {
    let mut inventory = three_hosts();
    insta::assert_snapshot!(shortfalls("servers.conntrack = true", &inventory), @"case 'case 1' makes connection tracking active on host host-1, which shows no net.netfilter.nf_conntrack_max: load the module there (`modprobe nf_conntrack`), or leave conntrack out of the plan");
    inventory.hosts[0].facts.conntrack_available = Some(Conntrack { count: 0, max: 100 });
    inventory.hosts[0].facts.may_set_sysctls = false;
    insta::assert_snapshot!(shortfalls("servers.conntrack = true", &inventory), @"case 'case 1' makes connection tracking active on host host-1, whose agent may not change its kernel: start it with --allow-sysctls (on this machine: --lab namespaces), or leave conntrack out of the plan");
}

#[test]
fn nothing_possible_is_told_for_each_case() {
    let mut inventory = three_hosts();
    inventory.hosts[1].facts.bound.push(bound("0.0.0.0", 5_000, TcpState::Listen));
    insta::assert_snapshot!(shortfalls("clients.source_ports = 5000\n[sweep]\nload.hold = [\"1s\", \"2s\"]", &inventory), @r"
case 'load.hold=1s': no connection is possible by four_tuples on all clients (addresses, listening ports, net.ipv4.ip_local_port_range): add a destination (server port or address) or a source address
case 'load.hold=2s': no connection is possible by four_tuples on all clients (addresses, listening ports, net.ipv4.ip_local_port_range): add a destination (server port or address) or a source address
");
}

#[test]
fn an_idle_client_has_no_rate() {
    let schedule = placed("[clients]\nhosts = 2\n[load]\nconnections = 1\nrate = \"10/s\"", &three_hosts());
    let rates: Vec<_> =
        clients(&schedule.cases[0]).map(|(_, connect)| (connect.flows(), connect.rate)).collect();
    assert_eq!(rates, [(0, None), (1, Some(10.0))]);
}

fn clients(case: &CaseSchedule) -> impl Iterator<Item = (&Assignment, &Connect)> {
    case.assignments.iter().filter_map(|assignment| match &assignment.work {
        Work::Connect(connect) => Some((assignment, connect)),
        Work::Serve(_) | Work::Script(_) => None,
    })
}

/// Everything that must be true of a schedule, whatever was asked.
fn sound(case: &CaseSchedule, inventory: &Inventory) -> Result<(), TestCaseError> {
    let capacity = |agent: &str| {
        let host = inventory.hosts.iter().find(|host| host.name.as_str() == agent).expect("a known host");
        host.facts.open_files.per_table - DESCRIPTORS_KEPT
    };
    let mut tuples: BTreeSet<(IpAddr, u16, SocketAddr)> = BTreeSet::new();
    let mut flows = Vec::new();
    let mut towards: BTreeMap<SocketAddr, u64> = BTreeMap::new();
    for (assignment, connect) in clients(case) {
        prop_assert!(connect.lanes.len() as u64 >= u64::from(connect.connectors).min(connect.flows()));
        for lane in &connect.lanes {
            let held: u64 = lane.blocks.iter().map(|block| u64::from(block.ports.count())).sum();
            prop_assert!(held <= capacity(assignment.agent.as_str()));
            for block in &lane.blocks {
                prop_assert!(block.ports.count() > 0);
                prop_assert!(assignment.census.clients.contains(&block.source));
                flows.push((block.first_flow, u64::from(block.ports.count())));
                *towards.entry(block.destination).or_default() += u64::from(block.ports.count());
                if let BlockPorts::Explicit(ports) = &block.ports {
                    for port in ports.iter() {
                        prop_assert!(
                            tuples.insert((block.source, port, block.destination)),
                            "a four-tuple twice"
                        );
                    }
                }
            }
        }
    }
    flows.sort_unstable();
    let mut next = 0;
    for (first, count) in flows {
        prop_assert_eq!(first, next, "flow numbers follow one another");
        next += count;
    }
    prop_assert_eq!(next, case.target);
    for assignment in case.assignments.iter().filter(|assignment| assignment.role() == Role::Server) {
        let Work::Serve(serve) = &assignment.work else { continue };
        let mut quotas = vec![0u64; serve.listeners.len()];
        for lane in &serve.lanes {
            prop_assert!(
                lane.turns.iter().map(|turn| u64::from(turn.quota)).sum::<u64>()
                    <= capacity(assignment.agent.as_str())
            );
            lane.turns.iter().for_each(|turn| quotas[turn.listener as usize] += u64::from(turn.quota));
        }
        let mut all = 0;
        for (listener, quota) in serve.listeners.iter().zip(&quotas) {
            let expected = towards.remove(&listener.endpoint).unwrap_or(0);
            all += expected;
            prop_assert!(*quota <= expected);
            let queue = u64::from(listener.backlog) + 1;
            prop_assert!(
                case.target > case.prediction.connections
                    || serve.accept.takes_all()
                    || expected - quota <= queue
            );
        }
        prop_assert_eq!(quotas.iter().sum::<u64>(), all.min(serve.accept.most().unwrap_or(u64::MAX)));
    }
    prop_assert!(towards.is_empty(), "flows to nobody: {:?}", towards);
    Ok(())
}

prop_compose! {
    fn small_host()(
        addresses in 1usize..4, per_table in 100u64..3_000, threads in 1u64..6,
        role in prop::sample::select(vec![None, Some("server"), Some("client")]),
        held in proptest::option::of(20_000u16..20_100), shared in any::<bool>(),
    ) -> Host {
        let mut host = host("h", role, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
        host.facts.addresses.truncate(addresses);
        host.facts.open_files = OpenFiles { per_table, threads, ..host.facts.open_files };
        host.facts.bound.extend(held.map(|port| bound("0.0.0.0", port, TcpState::Listen)));
        host.facts.boot_id = if shared { "shared" } else { "" }.into();
        host
    }
}

/// Hosts of which some share a kernel and its namespace, with names and addresses of their own.
fn small_lab() -> impl Strategy<Value = Inventory> {
    proptest::collection::vec(small_host(), 2..6).prop_map(|mut hosts| {
        for (index, host) in hosts.iter_mut().enumerate() {
            host.name = format!("h{index}").parse().expect("a name");
            for (n, at) in host.facts.addresses.iter_mut().enumerate() {
                *at = address(&format!("10.0.{index}.{}", n + 1));
            }
            if host.facts.boot_id.is_empty() {
                host.facts.boot_id = host.name.to_string();
            }
        }
        Inventory { hosts }
    })
}

prop_compose! {
    fn small_plan()(
        servers in 1u32..3, at in 1u32..3, ports in 1u16..4, clients in 1u32..4, from in 1u32..3,
        accept in prop::sample::select(vec!["all", "all", "never", "until 7", "until 100", "30/s"]), backlog in 0u32..60, range in proptest::option::of(1u16..300), asked in proptest::option::of(1u32..3_000), rate in proptest::option::of(1u32..1_000),
    ) -> String {
        let source_ports = range.map_or("kernel".to_owned(), |n| format!("20000-{}", 19_999 + n));
        let asked = asked.map_or("max".to_owned(), |n| n.to_string());
        let rate = rate.map_or("unlimited".to_owned(), |n| format!("{n}/s"));
        format!(
            "[servers]\nhosts = {servers}\naddresses = {at}\nports = \"20050-{}\"\naccept = \"{accept}\"\nbacklog = {backlog}\n[clients]\nhosts = {clients}\n\
             addresses = {from}\nsource_ports = \"{source_ports}\"\n[load]\nconnections = \"{asked}\"\nrate = \"{rate}\"\nanswered = false",
            20_049 + ports
        )
    }
}

proptest! {
    #[test]
    fn every_flow_is_scheduled_once_and_has_room_at_both_ends(text in small_plan(), inventory in small_lab()) {
        if let Ok(schedule) = place(&plan(&text), &inventory) {
            sound(&schedule.cases[0], &inventory)?;
        }
    }

    #[test]
    fn the_order_in_which_agents_came_changes_nothing(
        text in small_plan(), (inventory, shuffled) in small_lab().prop_flat_map(|lab| (Just(lab.clone()), Just(lab.hosts).prop_shuffle())),
    ) {
        let plan = plan(&text);
        prop_assert_eq!(place(&plan, &inventory), place(&plan, &Inventory { hosts: shuffled }));
    }
}

#[test]
fn a_client_connects_from_the_addresses_of_the_family_only() {
    let mut inventory = three_hosts();
    for (index, host) in inventory.hosts.iter_mut().enumerate() {
        host.facts.addresses.push(address(&format!("fd66::{}", index + 1)));
    }
    let schedule = placed("load.family = \"ipv6\"", &inventory);
    assert!(schedule.cases[0].assignments.iter().all(|a| a.census.clients.iter().all(IpAddr::is_ipv6)));
}

#[test]
fn a_script_is_placed_with_addresses_in_place_of_names() {
    let text = "[clients]\nhosts = 2\naddresses = 2\n[[case]]\nname = \"s\"\nsteps = '''\nserver fill l\nserver listen l 5\n\
        client.2 fill a\nclient.2 connect a server:7000 -> x\nclient fill b\nclient bind b self@2:0\n\
        client.2 bind a any:1\n'''";
    let schedule = placed(text, &three_hosts());
    let case = &schedule.cases[0];
    let steps = case.steps.iter().filter(|step| !step.action.to_string().starts_with("fill"));
    let steps: Vec<_> = steps.map(|s| format!("{} {} {:?}", s.agent, s.action, s.label)).collect();
    assert_eq!(
        steps,
        [
            "host-1 listen l 5 None",
            "host-3 connect a 10.66.1.1:7000 within 1000ms Some(\"x\")",
            "host-2 bind b 10.66.2.2:0 None",
            "host-3 bind a 0.0.0.0:1 None",
        ]
    );
    assert_eq!(case.assignments.iter().filter(|a| matches!(a.work, Work::Script(_))).count(), 3);
}

#[test]
fn a_partial_plan_leaves_out_what_does_not_fit_and_says_why() {
    let text = "partial = true\n[[case]]\n[[case]]\nclients.hosts = 9";
    let schedule = placed(text, &three_hosts());
    assert!(schedule.cases[0].left_out.is_empty());
    let why = &schedule.cases[1].left_out;
    assert!(why.len() == 1 && why[0].contains("asks for 9 client host(s)"), "{why:?}");
    let none = plan("partial = true\n[clients]\nhosts = 9");
    assert!(place(&none, &three_hosts()).is_err(), "where nothing fits, nothing is run");
}

#[test]
fn clients_share_each_stage_of_a_ramp_and_have_all_of_it_in_time() {
    let text = "[clients]\nhosts = 2\n[load]\nconnections = 301\nstages = [\"100 at 100/s\", \"pause 2s\", \"rest at unlimited\"]";
    let schedule = placed(text, &three_hosts());
    let stretches: Vec<Vec<(u64, u64)>> = clients(&schedule.cases[0])
        .map(|(_, connect)| connect.stretches.iter().map(|s| (s.connects, s.micros)).collect())
        .collect();
    assert_eq!(
        stretches,
        [[(49, 1_000_000), (0, 2_000_000), (101, 0)], [(50, 1_000_000), (0, 2_000_000), (101, 0)]]
    );
}
