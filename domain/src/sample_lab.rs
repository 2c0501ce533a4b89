//! An invented lab for the tests of all modules: hosts, plans, and what they would have said.

use crate::capacity::facts::{BoundSocket, HostFacts, OpenFiles};
use crate::evidence::{End, TrialEvidence};
use crate::plan::{Accept, Plan, PlanFile, PlanProblem, check};
use crate::sample::{Beyond, Call, Census, Counters, Digest, Failure, TcpState};
use crate::schedule::{Assignment, BlockPorts, CaseSchedule, Host, Inventory, Role, Work, place};
use crate::sysctl::Sysctl;
use std::net::{IpAddr, SocketAddr};

/// The plan that docs show (HOUSE, section 9).
pub(crate) const EXAMPLE: &str = r#"question = "Does every further client address bring another 64,512 connections to one listening port?"

[servers]                      # passive openers
hosts = 1
addresses = 1                  # per host; more than one = multi-homed
ports = "7000"                 # or "7000-7003"
backlog = 4096

[clients]                      # active openers
hosts = 1
addresses = 1
source_ports = "1024-65535"    # explicit bind; "kernel" leaves the choice to connect()

[load]
family = "ipv4"                # or "ipv6"
connections = "max"            # or a number: "250k", "1m"
rate = "unlimited"             # or "20k/s"
hold = "5s"

[sweep]                        # every combination is a case
"clients.addresses" = [1, 2, 4]

[[expect]]
established = "predicted"      # the capacity model's own number, exactly
[[expect]]
failed = "0ppm"
"#;

/// Reads a plan that is good.
pub(crate) fn plan(text: &str) -> Plan {
    read(text)
        .unwrap_or_else(|problems| panic!("{}", PlanProblem::render(&problems, "plan.toml", text, false)))
}

/// Reads a plan, good or bad.
pub(crate) fn read(text: &str) -> Result<Plan, Vec<PlanProblem>> {
    PlanFile::parse(text).and_then(check)
}

/// The facts of a big host with a kernel of its own, without addresses.
pub(crate) fn facts(kernel: &str) -> HostFacts {
    HostFacts {
        kernel: "6.18.0".into(),
        boot_id: kernel.into(),
        network_namespace: 1,
        cpus: 4,
        memory_available: 64 << 30,
        open_files: OpenFiles {
            per_table: 20_000,
            system: 10_000_000,
            allocated: 2_000,
            exempt: false,
            threads: 30_000,
        },
        addresses: Vec::new(),
        networks: Vec::new(),
        sysctls: [(Sysctl::IpLocalPortRange, "32768\t60999".to_owned())].into(),
        bound: Vec::new(),
        conntrack: None,
        conntrack_available: None,
        may_set_sysctls: true,
        place: Default::default(),
    }
}

/// A host with a kernel of its own.
pub(crate) fn host(name: &str, role: Option<&str>, addresses: &[&str]) -> Host {
    Host {
        name: name.parse().expect("a name"),
        labels: role.map(|role| ("role".to_owned(), role.to_owned())).into_iter().collect(),
        facts: HostFacts { addresses: addresses.iter().map(|a| address(a)).collect(), ..facts(name) },
    }
}

/// A server with two addresses and two clients with two each.
pub(crate) fn three_hosts() -> Inventory {
    Inventory {
        hosts: vec![
            host("host-1", Some("server"), &["10.66.1.1", "10.66.1.2"]),
            host("host-2", Some("client"), &["10.66.2.1", "10.66.2.2"]),
            host("host-3", Some("client"), &["10.66.3.1", "10.66.3.2"]),
        ],
    }
}

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A socket that holds a port.
pub(crate) fn bound(at: &str, port: u16, state: TcpState) -> BoundSocket {
    BoundSocket { address: address(at), port, state }
}

/// The evidence that all ends would give if a schedule went exactly as it says.
pub(crate) fn agreeing(case: u32, schedule: &CaseSchedule) -> TrialEvidence {
    TrialEvidence {
        case,
        trial: 0,
        prediction: schedule.prediction.clone(),
        target: schedule.target,
        accept: Accept::All,
        answered: true,
        ramp: None,
        ends: schedule.assignments.iter().map(|assignment| end(assignment, schedule)).collect(),
        observations: Vec::new(),
        gaps: Vec::new(),
    }
}

/// Places a plan on the three hosts, and lets everything go as it says.
pub(crate) fn agreeing_run(plan: &Plan) -> Vec<TrialEvidence> {
    let schedule = place(plan, &three_hosts()).expect("it fits");
    schedule.cases.iter().enumerate().map(|(case, placed)| agreeing(case as u32, placed)).collect()
}

fn end(assignment: &Assignment, schedule: &CaseSchedule) -> End {
    let flows = |wanted: &dyn Fn(IpAddr, SocketAddr) -> bool| {
        let mut digest = Digest::default();
        let mut count = 0;
        let clients = schedule.assignments.iter().filter_map(|a| match &a.work {
            Work::Connect(connect) => Some(connect),
            Work::Serve(_) | Work::Script(_) => None,
        });
        for block in clients.flat_map(|connect| &connect.lanes).flat_map(|lane| &lane.blocks) {
            if !wanted(block.source, block.destination) {
                continue;
            }
            let ports: Vec<u16> = match &block.ports {
                BlockPorts::Explicit(ports) => ports.iter().collect(),
                BlockPorts::Kernel(count) => (0..*count).map(|port| 32_768 + port as u16).collect(),
            };
            ports.iter().for_each(|port| digest.add(SocketAddr::new(block.source, *port), block.destination));
            count += ports.len() as u64;
        }
        (count, digest)
    };
    let (role, filter) = (assignment.role(), &assignment.census);
    let (established, digest) =
        flows(&|source, to| filter.clients.contains(&source) && filter.servers.contains(&to));
    let beyond = match &assignment.work {
        Work::Connect(connect) if connect.beyond => {
            let tried = connect.lanes.iter().map(|lane| lane.blocks.len() as u64).sum();
            let refusal = Failure { call: Call::Connect, error: "EADDRNOTAVAIL".into() };
            Some(Beyond { tried, refused: vec![(refusal, tried)] })
        }
        _ => None,
    };
    End {
        agent: assignment.agent.clone(),
        role,
        counters: Counters { attempted: established, established, held: established, ..Counters::default() },
        census: Some(Census { established, digest, ..Census::default() }),
        first_micros: (role == Role::Client).then_some(1_000),
        last_micros: (role == Role::Client).then_some(1_001_000),
        cpu_micros: Some(500_000),
        pss_ready_bytes: Some(1 << 20),
        pss_bytes: Some(9 << 20),
        beyond,
        round_trips: None,
        before: None,
        after: None,
        samples_missing: 0,
        go_nanos: None,
        clock: None,
        connect_times: None,
    }
}
