//! Any value of each domain type that crosses the wire.

use ipnet::IpNet;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::net::{IpAddr, SocketAddr};
use tuplelab_domain::capacity::facts::{BoundSocket, Conntrack, HostFacts, OpenFiles};
use tuplelab_domain::environment::{Kind, Place};
use tuplelab_domain::id::AgentName;
use tuplelab_domain::plan::{Accept, Close};
use tuplelab_domain::ports::PortSet;
use tuplelab_domain::sample::*;
use tuplelab_domain::schedule::*;
use tuplelab_domain::script::Answer;
use tuplelab_domain::sysctl::{Sysctl, Sysctls};

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn endpoint() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

fn sysctls() -> impl Strategy<Value = Sysctls> {
    btree_map(select(Sysctl::ALL.to_vec()), text(), 0..4)
}

pub fn conntrack() -> impl Strategy<Value = Conntrack> {
    any::<(u64, u64)>().prop_map(|(count, max)| Conntrack { count, max })
}

pub fn open_files() -> impl Strategy<Value = OpenFiles> {
    any::<(u64, u64, u64, bool, u64)>().prop_map(|(per_table, system, allocated, exempt, threads)| {
        OpenFiles { per_table, system, allocated, exempt, threads }
    })
}

pub fn bound_socket() -> impl Strategy<Value = BoundSocket> {
    (any::<IpAddr>(), any::<u16>(), select(TcpState::ALL.to_vec()))
        .prop_map(|(address, port, state)| BoundSocket { address, port, state })
}

fn network() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), 0u8..=128).prop_map(|(address, length)| {
        let most = if address.is_ipv4() { 32 } else { 128 };
        IpNet::new(address, length.min(most)).expect("a length of its family")
    })
}

fn place() -> impl Strategy<Value = Place> {
    (select(Kind::ALL.to_vec()), any::<(Option<bool>, Option<u64>, Option<u64>)>()).prop_map(
        |(kind, (virtual_machine, memory_max, pids_max))| Place {
            kind,
            virtual_machine,
            memory_max,
            pids_max,
        },
    )
}

pub fn facts() -> impl Strategy<Value = HostFacts> {
    let host = (text(), text(), any::<(u64, u32, u64, bool)>(), open_files());
    let tracked = (option::of(conntrack()), option::of(conntrack()));
    let net =
        (vec(any::<IpAddr>(), 0..4), vec(network(), 0..4), sysctls(), vec(bound_socket(), 0..4), tracked);
    (host, net, place()).prop_map(
        |((kernel, boot_id, numbers, open_files), (addresses, networks, sysctls, bound, tracked), place)| {
            let (network_namespace, cpus, memory_available, may_set_sysctls) = numbers;
            let (conntrack, conntrack_available) = tracked;
            HostFacts {
                kernel,
                boot_id,
                network_namespace,
                cpus,
                memory_available,
                open_files,
                addresses,
                networks,
                sysctls,
                bound,
                conntrack,
                conntrack_available,
                may_set_sysctls,
                place,
            }
        },
    )
}

pub fn answer() -> impl Strategy<Value = Answer> {
    (text(), option::of(any::<u64>()), btree_map(text(), text(), 0..4))
        .prop_map(|(outcome, value, details)| Answer { outcome, value, details })
}

pub fn assignment() -> impl Strategy<Value = Assignment> {
    let agent = "[A-Za-z0-9._-]{1,64}".prop_map(|name| AgentName::try_from(name).expect("a name"));
    let work = prop_oneof![
        serve().prop_map(Work::Serve),
        connect().prop_map(Work::Connect),
        select(vec![Role::Server, Role::Client]).prop_map(Work::Script)
    ];
    (agent, sysctls(), any::<bool>(), option::of(any::<u64>()), census_filter(), work).prop_map(
        |(agent, sysctls, conntrack, files, census, work)| Assignment {
            agent,
            sysctls,
            conntrack,
            files,
            census,
            work,
        },
    )
}

pub fn census_filter() -> impl Strategy<Value = CensusFilter> {
    (select(vec![Role::Server, Role::Client]), vec(endpoint(), 0..4), vec(any::<IpAddr>(), 0..4))
        .prop_map(|(role, servers, clients)| CensusFilter { role, servers, clients })
}

fn accept() -> impl Strategy<Value = Accept> {
    let count = 1u64..=10_000_000_000;
    prop_oneof![
        select(vec![Accept::All, Accept::Never, Accept::Close]),
        count.clone().prop_map(Accept::PerSecond),
        count.prop_map(Accept::Until),
    ]
}

pub fn serve() -> impl Strategy<Value = Serve> {
    let listener = (endpoint(), any::<u32>()).prop_map(|(endpoint, backlog)| Listener { endpoint, backlog });
    vec(listener, 1..4).prop_flat_map(|listeners| {
        let turn =
            (0..listeners.len() as u32, any::<u32>()).prop_map(|(listener, quota)| Turn { listener, quota });
        let lane = vec(turn, 0..4).prop_map(|turns| ServeLane { turns });
        let watch = option::of(any::<u32>());
        (vec(lane, 0..4), accept(), any::<bool>(), watch).prop_map(move |(lanes, accept, answered, watch)| {
            Serve { listeners: listeners.clone(), lanes, accept, answered, watch }
        })
    })
}

pub fn connect() -> impl Strategy<Value = Connect> {
    let lane = vec(flow_block(), 0..4).prop_map(|blocks| ConnectLane { blocks });
    let stretch = any::<(u64, u64)>().prop_map(|(connects, micros)| Stretch { connects, micros });
    let rate = option::of(1e-9f64..1e9);
    let close = select(vec![Close::Rst, Close::Fin]);
    let churn = (1e-9f64..1e9, close, any::<u32>());
    let churn = option::of(churn.prop_map(|(rate, close, window)| Churn { rate, close, window }));
    (vec(lane, 0..4), any::<(u32, u32, u64, bool, bool, bool)>(), rate, vec(stretch, 0..4), churn).prop_map(
        |(lanes, numbers, rate, stretches, churn)| {
            let (connectors, window, timeout_micros, beyond, answered, busy) = numbers;
            let activity = busy.then(|| "64B every 10s".parse().expect("an activity"));
            Connect {
                lanes,
                connectors,
                window,
                rate,
                stretches,
                timeout_micros,
                beyond,
                answered,
                churn,
                activity,
            }
        },
    )
}

pub fn flow_block() -> impl Strategy<Value = FlowBlock> {
    let ranges = || {
        vec((1u16.., 0u16..600), 0..4).prop_map(|ranges| {
            ranges.iter().fold(PortSet::empty(), |set, (low, more)| {
                set.union(&PortSet::range(*low, low.saturating_add(*more)))
            })
        })
    };
    let ports =
        prop_oneof![ranges().prop_map(BlockPorts::Explicit), any::<u32>().prop_map(BlockPorts::Kernel),];
    (0..=u64::MAX - u64::from(u32::MAX), any::<IpAddr>(), endpoint(), ports, ranges()).prop_map(
        |(first_flow, source, destination, ports, spare)| FlowBlock {
            first_flow,
            source,
            destination,
            ports,
            spare,
        },
    )
}

fn failures() -> impl Strategy<Value = Vec<(Failure, u64)>> {
    use Call::*;
    let call = select(vec![Socket, Setsockopt, Bind, Listen, Connect, Send, Receive, Accept]);
    let failure = (call, "[A-Z][A-Z0-9_]{0,20}").prop_map(|(call, error)| Failure { call, error });
    vec((failure, 1..u64::MAX / 8), 0..5)
}

pub fn counters() -> impl Strategy<Value = Counters> {
    (any::<(u64, u64, u64, u64, u64, u64, u64, u64, u64, u64)>(), failures()).prop_map(|(numbers, list)| {
        let (
            attempted,
            established,
            held,
            late,
            strangers,
            closed,
            churned,
            rounds,
            answered_rounds,
            late_rounds,
        ) = numbers;
        let mut failures = Failures::default();
        list.into_iter().for_each(|(failure, count)| failures.add(failure.call, failure.error, count));
        Counters {
            attempted,
            established,
            held,
            late,
            strangers,
            closed,
            churned,
            rounds,
            answered_rounds,
            late_rounds,
            failures,
        }
    })
}

pub fn sample() -> impl Strategy<Value = Sample> {
    (any::<(u64, u64, u64)>(), counters()).prop_map(|((sequence, elapsed_micros, cpu_micros), counters)| {
        Sample { sequence, elapsed_micros, cpu_micros, counters }
    })
}

pub fn beyond() -> impl Strategy<Value = Beyond> {
    (any::<u64>(), failures()).prop_map(|(tried, refused)| Beyond { tried, refused })
}

pub fn histogram() -> impl Strategy<Value = Histogram> {
    btree_map(1..=u64::MAX, 1..u64::MAX / 8, 0..5)
        .prop_map(|steps| Histogram::from_steps(steps.into_iter().collect()).expect("a histogram"))
}

pub fn connect_times() -> impl Strategy<Value = ConnectTimes> {
    proptest::array::uniform10(histogram()).prop_map(|by_occupancy| ConnectTimes { by_occupancy })
}

pub fn plateau() -> impl Strategy<Value = Plateau> {
    let numbers = any::<(Option<u64>, Option<u64>, u64, Option<u64>, Option<u64>, Option<u64>)>();
    let times = btree_map(1u64..=u64::MAX, 1u64..1_000_000, 0..5);
    let times =
        times.prop_map(|steps| Histogram::from_steps(steps.into_iter().collect()).expect("it ascends"));
    (numbers, counters(), option::of(beyond()), option::of(connect_times()), option::of(times)).prop_map(
        |(numbers, counters, beyond, connect_times, round_trips)| {
            let (first_micros, last_micros, cpu_micros, pss_ready_bytes, pss_bytes, go_nanos) = numbers;
            Plateau {
                first_micros,
                last_micros,
                cpu_micros,
                pss_ready_bytes,
                pss_bytes,
                counters,
                beyond,
                go_nanos,
                connect_times,
                round_trips,
            }
        },
    )
}

pub fn listener_queue() -> impl Strategy<Value = ListenerQueue> {
    (endpoint(), any::<u32>(), any::<u32>()).prop_map(|(endpoint, queued, backlog)| ListenerQueue {
        endpoint,
        queued,
        backlog,
    })
}

pub fn census() -> impl Strategy<Value = Census> {
    let states = btree_map(select(TcpState::ALL.to_vec()), any::<u64>(), 0..5);
    let digest = "[0-9a-f]{32}".prop_map(|text| Digest::try_from(text).expect("a digest"));
    (any::<(u64, u64, u64)>(), digest, states, vec(listener_queue(), 0..4)).prop_map(
        |((established, strangers, micros), digest, states, listeners)| Census {
            established,
            digest,
            strangers,
            states,
            listeners,
            micros,
        },
    )
}

pub fn readings() -> impl Strategy<Value = Readings> {
    btree_map(text(), any::<u64>(), 0..5).prop_map(Readings)
}
