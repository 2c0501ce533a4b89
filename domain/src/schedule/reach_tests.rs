//! Who is paired with whom, and what is said of those that cannot be.

use super::{Assignment, Host, Inventory, Schedule, Work, place};
use crate::plan::PlanProblem;
use crate::sample_lab::{host, plan, read, three_hosts};
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// A host on networks.
fn on(name: &str, role: &str, addresses: &[&str], networks: &[&str]) -> Host {
    let mut host = host(name, Some(role), addresses);
    host.facts.networks = networks.iter().map(|text| text.parse().expect("a network")).collect();
    host
}

/// A server and two clients in three networks; engines hand out interfaces in any order.
fn compose() -> Inventory {
    let networks = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"];
    Inventory {
        hosts: vec![
            on("server-1", "server", &["10.3.0.2", "10.1.0.2", "10.2.0.2"], &networks),
            on("client-1", "client", &["10.1.0.3", "10.2.0.3", "10.3.0.3"], &networks),
            on("client-2", "client", &["10.2.0.4", "10.3.0.4", "10.1.0.4"], &networks),
        ],
    }
}

fn placed(text: &str, inventory: &Inventory) -> Schedule {
    place(&plan(text), inventory).unwrap_or_else(|short| panic!("{short:?}"))
}

fn shortfalls(text: &str, inventory: &Inventory) -> String {
    let short = place(&plan(text), inventory).expect_err("it was placed");
    short.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The pairs of a case, with what is predicted.
fn pairs(schedule: &Schedule) -> String {
    let case = &schedule.cases[0];
    let mut text = format!("{} by {:?}", case.prediction.connections, case.prediction.bound_by);
    for Assignment { agent, work, .. } in &case.assignments {
        let Work::Connect(connect) = work else { continue };
        let blocks: BTreeSet<_> = connect
            .lanes
            .iter()
            .flat_map(|lane| &lane.blocks)
            .map(|block| format!("{} -> {}", block.source, block.destination))
            .collect();
        let _ = write!(text, "\n{agent}: {}", blocks.into_iter().collect::<Vec<_>>().join(", "));
    }
    text
}

#[test]
fn each_source_is_paired_with_the_destination_in_its_network() {
    let text = "[servers]\naddresses = 3\n[clients]\nhosts = 2\naddresses = 3\nsource_ports = \"1024-2047\"";
    insta::assert_snapshot!(pairs(&placed(text, &compose())), @"
6144 by FourTuples
client-1: 10.1.0.3 -> 10.1.0.2:7000, 10.2.0.3 -> 10.2.0.2:7000, 10.3.0.3 -> 10.3.0.2:7000
client-2: 10.1.0.4 -> 10.1.0.2:7000, 10.2.0.4 -> 10.2.0.2:7000, 10.3.0.4 -> 10.3.0.2:7000
");
}

#[test]
fn one_address_of_three_is_the_one_that_reaches_the_servers() {
    let text = "[clients]\nhosts = 2\nsource_ports = \"1024-2047\"";
    insta::assert_snapshot!(pairs(&placed(text, &compose())), @"
2048 by FourTuples
client-1: 10.3.0.3 -> 10.3.0.2:7000
client-2: 10.3.0.4 -> 10.3.0.2:7000
");
}

#[test]
fn a_server_is_used_where_most_clients_reach_it() {
    let mut inventory = compose();
    inventory.hosts[2] = on("client-2", "client", &["10.2.0.4"], &["10.2.0.0/24"]);
    let text = "[clients]\nhosts = 2\nsource_ports = \"1024-2047\"";
    insta::assert_snapshot!(pairs(&placed(text, &inventory)), @"
2048 by FourTuples
client-1: 10.2.0.3 -> 10.2.0.2:7000
client-2: 10.2.0.4 -> 10.2.0.2:7000
");
}

#[test]
fn several_servers_are_used_in_the_same_networks() {
    let mut inventory = compose();
    let networks = ["10.1.0.0/24", "10.2.0.0/24", "10.3.0.0/24"];
    inventory.hosts.push(on("server-2", "server", &["10.1.0.5", "10.2.0.5", "10.3.0.5"], &networks));
    let text = "[servers]\nhosts = 2\n[clients]\nhosts = 2\nsource_ports = \"1024-2047\"";
    insta::assert_snapshot!(pairs(&placed(text, &inventory)), @"
4096 by FourTuples
client-1: 10.3.0.3 -> 10.3.0.2:7000, 10.3.0.3 -> 10.3.0.5:7000
client-2: 10.3.0.4 -> 10.3.0.2:7000, 10.3.0.4 -> 10.3.0.5:7000
");
}

#[test]
fn sources_are_spread_over_networks_where_servers_are_in_all() {
    let mut inventory = compose();
    let networks = ["10.1.0.0/24", "10.2.0.0/24"];
    inventory.hosts[1] = on("client-1", "client", &["10.1.0.3", "10.1.0.4", "10.2.0.3"], &networks);
    let text = "[servers]\naddresses = 3\n[clients]\naddresses = 2\nsource_ports = \"1024-2047\"";
    insta::assert_snapshot!(pairs(&placed(text, &inventory)), @"
2048 by FourTuples
client-1: 10.1.0.3 -> 10.1.0.2:7000, 10.2.0.3 -> 10.2.0.2:7000
");
}

fn apart() -> Inventory {
    Inventory {
        hosts: vec![
            on("server-1", "server", &["10.1.0.2"], &["10.1.0.0/24"]),
            on("client-1", "client", &["10.2.0.3", "10.2.0.4"], &["10.2.0.0/24"]),
        ],
    }
}

#[test]
fn addresses_that_stand_apart_are_told_with_the_remedy_and_the_remedy_helps() {
    let text = "[clients]\naddresses = 2";
    insta::assert_snapshot!(shortfalls(text, &apart()), @r#"case 'case 1': 10.2.0.3 of client-1, 10.2.0.4 of client-1 in 10.2.0.0/24 cannot reach 10.1.0.2 of server-1 in 10.1.0.0/24: join the hosts to one network, or, where a router joins these two, declare it in the plan: [[route]] with from = "10.2.0.0/24" and to = "10.1.0.0/24""#);
    let declared = "[clients]\naddresses = 2\n[[route]]\nfrom = \"10.2.0.0/24\"\nto = \"10.1.0.0/24\"";
    insta::assert_snapshot!(pairs(&placed(declared, &apart())), @"
129024 by FourTuples
client-1: 10.2.0.3 -> 10.1.0.2:7000, 10.2.0.4 -> 10.1.0.2:7000
");
    let other_way = "[clients]\naddresses = 2\n[[route]]\nfrom = \"10.1.0.0/24\"\nto = \"10.2.0.0/24\"";
    assert!(shortfalls(other_way, &apart()).contains("cannot reach"), "a route is from clients to servers");
    let a_part = "[clients]\n[[route]]\nfrom = \"10.2.0.4/32\"\nto = \"10.1.0.0/24\"";
    assert!(pairs(&placed(a_part, &apart())).contains("10.2.0.4 -> 10.1.0.2"), "the address that it is for");
}

#[test]
fn pairs_that_are_missing_to_a_number_are_told_beside_the_four_tuples() {
    let text = "[servers]\naddresses = 3\n[clients]\naddresses = 3\nsource_ports = \"1024-2047\"\n[load]\nconnections = 4000";
    let told = shortfalls(text, &compose());
    assert!(told.contains("3,072 connections are possible by four"), "{told}");
    assert!(told.contains("10.1.0.3 of client-1 in 10.1.0.0/24 cannot reach 10.2.0.2 of server-1"), "{told}");
}

#[test]
fn hosts_that_advertise_no_networks_and_addresses_by_routes_alone_reach_everybody() {
    let text = "[servers]\naddresses = 2\n[clients]\nhosts = 2\naddresses = 2";
    let before = placed(text, &three_hosts());
    // AnyIP, or a /32, at the clients: the hosts' own networks do not hold them.
    let mut inventory = three_hosts();
    for host in &mut inventory.hosts[1..] {
        host.facts.networks = vec!["10.67.0.0/16".parse().expect("a network")];
    }
    inventory.hosts[0].facts.networks = vec!["10.66.1.0/24".parse().expect("a network")];
    assert_eq!(placed(text, &inventory), before);
    // One wide network at each.
    for host in &mut inventory.hosts {
        host.facts.networks = vec!["10.66.0.0/16".parse().expect("a network")];
    }
    assert_eq!(placed(text, &inventory), before);
}

#[test]
fn hosts_of_one_namespace_reach_each_other_on_all_their_addresses() {
    let mut inventory = apart();
    for host in &mut inventory.hosts {
        host.facts.boot_id = "one".into();
    }
    assert!(pairs(&placed("", &inventory)).contains("10.2.0.3 -> 10.1.0.2"));
    inventory.hosts[1].facts.network_namespace = 2;
    assert!(shortfalls("", &inventory).contains("cannot reach"), "one kernel, two namespaces");
}

#[test]
fn families_have_networks_of_their_own() {
    let networks = ["10.1.0.0/24", "fd01::/64"];
    let mut inventory = Inventory {
        hosts: vec![
            on("server-1", "server", &["10.1.0.2", "fd01::2"], &networks),
            on("client-1", "client", &["10.1.0.3", "fd02::3"], &["10.1.0.0/24", "fd02::/64"]),
        ],
    };
    assert!(pairs(&placed("", &inventory)).contains("10.1.0.3 -> 10.1.0.2"));
    assert!(shortfalls("load.family = \"ipv6\"", &inventory).contains("fd02::3 of client-1 in fd02::/64"));
    inventory.hosts[1].facts.networks.pop();
    assert!(pairs(&placed("load.family = \"ipv6\"", &inventory)).contains("fd02::3 -> [fd01::2]"));
}

#[test]
fn a_bad_route_is_refused_where_it_stands() {
    let refused = |text: &str| {
        let problems = read(text).expect_err("refused");
        PlanProblem::render(&problems, "plan.toml", text, false)
    };
    for (text, what) in [
        ("[[route]]\nfrom = \"10.0.0.0/33\"\nto = \"10.1.0.0/16\"", "from is no network"),
        ("[[route]]\nfrom = \"10.0.0.0/8\"", "has no 'to'"),
        ("[[route]]\nfrom = \"10.0.0.0/8\"\nto = \"fd66::/64\"", "not of one family"),
        ("[[route]]\nfrom = \"10.0.0.0/8\"\ntoo = \"10.0.0.0/8\"", "did you mean 'to'"),
        ("[[route]]", "says nothing"),
        ("route = 7", "write [[route]]"),
        ("route = [7]", "write [[route]]"),
    ] {
        let refusal = refused(text);
        assert!(refusal.contains(what), "{text}: {refusal}");
    }
    let many = "[[route]]\nfrom = \"10.0.0.0/8\"\nto = \"10.0.0.0/8\"\n".repeat(101);
    assert!(refused(&many).contains("at most 100"));
}
