use super::facts::{Conntrack, HostFacts, OpenFiles};
use super::{Limit, Part, Prediction, predict, usable_ports};
use crate::plan::{Connections, SourcePorts};
use crate::sample::TcpState;
use crate::sample_lab::{address, bound, facts};
use crate::sysctl::Sysctl;

/// A host whose kernel chooses from this range.
fn choosing_from(range: &str) -> HostFacts {
    facts("a").with(&[(Sysctl::IpLocalPortRange, range.to_owned())].into())
}

fn usable(facts: &HostFacts, asked: &str) -> u32 {
    usable_ports(facts, address("10.66.2.1"), &asked.parse().expect("source ports")).len()
}

#[test]
fn the_kernel_chooses_from_the_range_without_what_is_reserved_or_bound_anywhere() {
    let mut host = choosing_from("32768 60999");
    assert_eq!(usable(&host, "kernel"), 28_232);

    host = choosing_from("4000 5999");
    host.bound = vec![bound("127.0.0.1", 5000, TcpState::Listen)];
    assert_eq!(usable(&host, "kernel"), 1_999, "C3: a listener on 5000 inside 4000-5999");

    host =
        choosing_from("30000 30999").with(&[(Sysctl::IpLocalReservedPorts, "30100-30149".to_owned())].into());
    host.bound =
        vec![bound("::1", 30_500, TcpState::Listen), bound("10.66.2.1", 30_501, TcpState::Established)];
    assert_eq!(usable(&host, "kernel"), 949, "what connect chose is shared between destinations");
    host.bound.push(bound("10.66.9.9", 30_502, TcpState::Bound));
    assert_eq!(usable(&host, "kernel"), 948);
}

#[test]
fn explicit_ports_are_lost_only_to_sockets_on_the_same_or_a_wildcard_address() {
    let reserved = [(Sysctl::IpLocalReservedPorts, "30100-30149".to_owned())].into();
    for (at, state, left) in [
        ("10.66.2.2", TcpState::Listen, 1_000),
        ("127.0.0.1", TcpState::Established, 1_000),
        ("10.66.2.1", TcpState::Listen, 999),
        ("10.66.2.1", TcpState::Bound, 999),
        ("10.66.2.1", TcpState::Established, 999),
        ("0.0.0.0", TcpState::Listen, 999),
        ("::", TcpState::Listen, 999),
        ("10.66.2.1", TcpState::TimeWait, 1_000),
        ("0.0.0.0", TcpState::TimeWait, 1_000),
    ] {
        let mut host = choosing_from("30000 30999").with(&reserved);
        host.bound = vec![bound(at, 30_500, state)];
        assert_eq!(usable(&host, "30000-30999"), left, "{at} {state:?}");
    }
}

#[test]
fn an_ipv4_wildcard_takes_no_port_of_ipv6() {
    let mut host = facts("a");
    host.bound = vec![bound("0.0.0.0", 30_500, TcpState::Listen)];
    let asked: SourcePorts = "30000-30999".parse().expect("source ports");
    assert_eq!(usable_ports(&host, address("fd66::1"), &asked).len(), 1_000);
}

/// What the model says of one server and one client, with 64,512 four-tuples.
fn one_pair(server: &HostFacts, client: &HostFacts, asked: Connections) -> Prediction {
    let parts = [
        Part { name: "server", facts: server, share: 1.0, keeps: true },
        Part { name: "client", facts: client, share: 1.0, keeps: true },
    ];
    predict(asked, 64_512, &parts, 4_097, None)
}

fn told(prediction: &Prediction) -> (u64, Limit, Option<Limit>) {
    (prediction.connections, prediction.bound_by, prediction.next_bound)
}

#[test]
fn the_tightest_limit_binds_and_the_next_one_is_named() {
    let big = facts("a");
    let small = |change: &dyn Fn(&mut HostFacts)| {
        let mut host = facts("b");
        change(&mut host);
        host
    };
    let told_with = |change: &dyn Fn(&mut HostFacts), asked| told(&one_pair(&big, &small(change), asked));
    let max = Connections::Max;

    assert_eq!(told_with(&|_| (), max), (64_512, Limit::FourTuples, Some(Limit::SystemFiles)));
    // (300 MiB less a twentieth, less 256 MiB) / 4 KiB
    let little = |host: &mut HostFacts| host.memory_available = 300 << 20;
    assert_eq!(told_with(&little, max), (7_424, Limit::Memory, Some(Limit::FourTuples)));
    let tracked = |host: &mut HostFacts| host.conntrack = Some(Conntrack { count: 24, max: 1_024 });
    assert_eq!(told_with(&tracked, max), (1_000, Limit::Conntrack, Some(Limit::FourTuples)));
    let few_files = |host: &mut HostFacts| {
        host.open_files = OpenFiles { system: 20_192, allocated: 2_000, ..host.open_files };
    };
    assert_eq!(told_with(&few_files, max), (10_000, Limit::SystemFiles, Some(Limit::FourTuples)));
    let exempt = |host: &mut HostFacts| {
        few_files(host);
        host.open_files.exempt = true;
    };
    assert_eq!(told_with(&exempt, max).1, Limit::FourTuples);
    let few_lanes = |host: &mut HostFacts| {
        host.open_files = OpenFiles { per_table: 1_064, threads: 3, ..host.open_files };
    };
    assert_eq!(told_with(&few_lanes, max), (3_000, Limit::OpenFiles, Some(Limit::FourTuples)));
    assert_eq!(told_with(&|_| (), Connections::Exactly(7)), (7, Limit::Plan, Some(Limit::FourTuples)));
    assert_eq!(told_with(&|_| (), Connections::Exactly(64_512)).1, Limit::FourTuples, "just what there is");
    assert_eq!(told_with(&few_lanes, Connections::Exactly(5_000)).0, 3_000);
}

#[test]
fn hosts_on_one_kernel_share_its_memory_and_files_others_do_not() {
    let mut server = facts("a");
    server.memory_available = 1 << 30;
    server.open_files.system = 110_192;
    let mut client = HostFacts { network_namespace: 2, ..server.clone() };
    let offered = |prediction: &Prediction, limit: Limit| {
        let margins = prediction.margins.iter().filter(|margin| margin.limit == limit);
        margins.map(|margin| (margin.place.clone(), margin.offered)).collect::<Vec<_>>()
    };
    let together = one_pair(&server, &client, Connections::Max);
    let memory = ((1u64 << 30) - (1 << 30) / 20 - (256 << 20)) / 4_096;
    assert_eq!(offered(&together, Limit::Memory), [("server to client (one kernel)".to_owned(), memory / 2)]);
    assert_eq!(offered(&together, Limit::SystemFiles)[0].1, 50_000);

    client.boot_id = "b".into();
    let apart = one_pair(&server, &client, Connections::Max);
    assert_eq!(
        offered(&apart, Limit::Memory),
        [("server".to_owned(), memory), ("client".to_owned(), memory)]
    );
    assert_eq!(offered(&apart, Limit::SystemFiles)[1].1, 100_000);
}

#[test]
fn both_ends_in_one_namespace_are_one_tracked_connection() {
    let host = HostFacts { conntrack: Some(Conntrack { count: 0, max: 1_000 }), ..facts("a") };
    assert_eq!(one_pair(&host, &host, Connections::Max).connections, 1_000);
}

#[test]
fn a_shared_load_binds_each_host_by_its_share() {
    let server = facts("a");
    let client = |name: &str| {
        let mut host = facts(name);
        host.open_files = OpenFiles { per_table: 1_064, threads: 1, ..host.open_files };
        host
    };
    let (b, c, d) = (client("b"), client("c"), client("d"));
    let part = |facts, share| Part { name: "host", facts, share, keeps: true };
    let parts = [part(&server, 1.0), part(&b, 1.0 / 3.0), part(&c, 1.0 / 3.0), part(&d, 1.0 / 3.0)];
    let prediction = predict(Connections::Max, 193_536, &parts, 4_097, None);
    assert_eq!((prediction.connections, prediction.bound_by), (3_000, Limit::OpenFiles));
}

#[test]
fn queues_that_are_not_emptied_are_a_limit_and_their_connections_cost_no_descriptor() {
    let mut server = facts("a");
    server.open_files.threads = 0;
    let client = facts("b");
    let with = |keeps, room| {
        let parts = [
            Part { name: "server", facts: &server, share: 1.0, keeps },
            Part { name: "client", facts: &client, share: 1.0, keeps: true },
        ];
        predict(Connections::Max, 64_512, &parts, 21, room)
    };
    assert_eq!(told(&with(true, None)), (0, Limit::OpenFiles, Some(Limit::FourTuples)));
    assert_eq!(told(&with(false, Some(21))), (21, Limit::AcceptQueue, Some(Limit::FourTuples)));
    assert_eq!(told(&with(false, Some(1 << 40))).1, Limit::FourTuples);
    let files = |prediction: Prediction| {
        let limits = [Limit::OpenFiles, Limit::SystemFiles];
        prediction.margins.iter().filter(|margin| limits.contains(&margin.limit)).count()
    };
    assert_eq!([files(with(true, None)), files(with(false, None))], [4, 2], "the client's are left");
}

#[test]
fn without_margins_nothing_is_possible() {
    let mut poor = facts("a");
    poor.memory_available = 100 << 20;
    poor.open_files = OpenFiles { per_table: 10, system: 100, allocated: 1_000, exempt: false, threads: 0 };
    let prediction = one_pair(&facts("b"), &poor, Connections::Max);
    assert_eq!(prediction.connections, 0);
}
