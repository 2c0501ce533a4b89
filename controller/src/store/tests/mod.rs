//! On real files in temporary directories, with the real migrations.

mod backups;
mod bounds;
mod faults;
mod files;
mod records;

use super::{SampleRow, Store};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_domain::evidence::{End, HostClock, TrialEvidence};
use tuplelab_domain::id::{AgentName, RunId};
use tuplelab_domain::plan::{Plan, PlanFile, check};
use tuplelab_domain::sample::{
    Beyond, Call, Census, ConnectTimes, Counters, Digest, Failure, ListenerQueue, Occupancy, Ramp, Readings,
    Recorder, Sample, TcpState,
};
use tuplelab_domain::schedule::{Host, Inventory, Role, Schedule, place};
use tuplelab_domain::script::{Answer, Observation};

/// A directory that goes with the test, and the database in it.
struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("history.db")
    }

    async fn store(&self) -> Store {
        Store::open(&self.file()).await.expect("opens")
    }

    /// The names of all files beside the database, it included.
    fn names(&self) -> Vec<String> {
        let entries = self.directory.path().read_dir().expect("lists");
        let mut names: Vec<_> = entries
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn agent(name: &str) -> AgentName {
    name.parse().expect("a name")
}

fn run(name: &str) -> RunId {
    RunId(name.into())
}

fn plan() -> Plan {
    let source = r#"
        question = "Does the store give back what it was given?"
        [servers]
        ports = "7000"
        [clients]
        source_ports = "1024-65535"
        [load]
        rate = "20k/s"
        connections = "max"
        [sweep]
        "clients.addresses" = [1, 2]
        [[expect]]
        established = "predicted"
    "#;
    check(PlanFile::parse(source).expect("parses")).expect("makes sense")
}

fn host(name: &str, role: Role, addresses: &[[u8; 4]]) -> Host {
    Host {
        name: agent(name),
        labels: [("role".to_owned(), role.name().to_owned())].into(),
        facts: HostFacts {
            kernel: "6.18.0".into(),
            boot_id: "b-1".into(),
            network_namespace: 4_026_531_840,
            cpus: 4,
            memory_available: 64 << 30,
            open_files: OpenFiles {
                per_table: 20_000,
                system: i64::MAX as u64,
                allocated: 100,
                exempt: false,
                threads: 4_000,
            },
            addresses: addresses.iter().map(|address| IpAddr::from(*address)).collect(),
            networks: Vec::new(),
            sysctls: Default::default(),
            bound: Vec::new(),
            conntrack: None,
            conntrack_available: None,
            may_set_sysctls: false,
            place: Default::default(),
        },
    }
}

fn hosts() -> Vec<Host> {
    // Not in the order of their names: the store must keep the order that it was given.
    vec![
        host("server-1", Role::Server, &[[10, 0, 0, 1]]),
        host("client-1", Role::Client, &[[10, 0, 1, 1], [10, 0, 1, 2]]),
    ]
}

fn schedule(plan: &Plan) -> Schedule {
    place(plan, &Inventory { hosts: hosts() }).expect("fits")
}

/// An end with a value in every field, each different from the others.
fn full_end(name: &str, role: Role, established: u64) -> End {
    let mut counters = Counters {
        attempted: established + 5,
        established,
        held: established - 1,
        late: 3,
        strangers: 4,
        ..Counters::default()
    };
    counters.failures.add(Call::Connect, "EADDRNOTAVAIL", 2);
    counters.failures.add(Call::Receive, "NO_ANSWER", 7);
    let mut digest = Digest::default();
    digest.add(([10, 0, 1, 1], 1024).into(), ([10, 0, 0, 1], 7000).into());
    let readings = |value| Readings([("Tcp.MaxConn".into(), value), ("meminfo.Slab".into(), 17)].into());
    End {
        agent: agent(name),
        role,
        counters,
        census: Some(Census {
            established: established + 1,
            digest,
            strangers: 6,
            states: [(TcpState::Established, established), (TcpState::TimeWait, 8)].into(),
            listeners: vec![ListenerQueue {
                endpoint: ([10, 0, 0, 1], 7000).into(),
                queued: 9,
                backlog: 4_096,
            }],
            micros: 10,
        }),
        first_micros: Some(11),
        last_micros: Some(12),
        cpu_micros: Some(13),
        pss_ready_bytes: Some(14),
        pss_bytes: Some(15),
        round_trips: Some(
            tuplelab_domain::sample::Histogram::from_steps(vec![(90, 7), (120, 2)]).expect("ascends"),
        ),
        beyond: Some(Beyond {
            tried: 2,
            // The same class twice: a list, not a map.
            refused: vec![
                (Failure { call: Call::Connect, error: "EADDRNOTAVAIL".into() }, 1),
                (Failure { call: Call::Bind, error: "EADDRINUSE".into() }, 1),
                (Failure { call: Call::Connect, error: "EADDRNOTAVAIL".into() }, 1),
            ],
        }),
        // A number that SQLite's signed integers cannot hold, and a reading without any table.
        before: Some(readings(u64::MAX)),
        after: Some(Readings::default()),
        samples_missing: 16,
        go_nanos: Some(17),
        clock: Some(HostClock { id: Some("b-1".into()), offset_nanos: -18, bound_nanos: Some(19) }),
        connect_times: Some(connect_times()),
    }
}

fn connect_times() -> ConnectTimes {
    let mut recorder = Recorder::default();
    recorder.record(Occupancy::of(0, 10), 20);
    recorder.record(Occupancy::of(9, 10), 30_000_000);
    recorder.times()
}

/// An end of which next to nothing is known.
fn bare_end(name: &str, role: Role) -> End {
    End {
        agent: agent(name),
        role,
        counters: Counters::default(),
        census: None,
        first_micros: None,
        last_micros: None,
        cpu_micros: None,
        pss_ready_bytes: None,
        pss_bytes: None,
        beyond: None,
        round_trips: None,
        before: None,
        after: None,
        samples_missing: 0,
        go_nanos: None,
        clock: None,
        connect_times: None,
    }
}

fn trial(schedule: &Schedule, case: u32, ends: Vec<End>) -> TrialEvidence {
    let placed = schedule.cases.get(case as usize).expect("a case");
    TrialEvidence {
        case,
        trial: 0,
        prediction: placed.prediction.clone(),
        target: placed.target,
        accept: placed.asked_of_servers().0,
        answered: placed.asked_of_servers().1,
        ramp: (case == 0).then_some(Ramp { asked: 20, seconds: 21, seen: 22, worst: 23, error_ppm: 24 }),
        ends,
        observations: if case == 0 { Vec::new() } else { observations() },
        gaps: if case == 0 { Vec::new() } else { vec!["client-1 was not counted".into()] },
    }
}

/// Steps with and without a label, a number and details.
fn observations() -> Vec<Observation> {
    let bare = Answer::of("EADDRINUSE");
    let full = Answer::of("ok").value(u64::MAX).detail("ports", "1,2").detail("even", 1);
    [("bind a 10.0.1.1:40000", None, bare), ("many c 2 connect 10.0.0.1:7000", Some("held"), full)]
        .into_iter()
        .zip(0..)
        .map(|((text, label, answer), step)| Observation {
            step,
            agent: agent("client-1"),
            text: text.into(),
            label: label.map(str::to_owned),
            answer,
        })
        .collect()
}

fn sample(of: &RunId, sequence: u64) -> SampleRow {
    let mut counters = Counters {
        attempted: 10 * sequence,
        established: 9,
        held: 8,
        late: 7,
        strangers: 6,
        ..Counters::default()
    };
    counters.failures.add(Call::Connect, "ECONNREFUSED", 3);
    SampleRow {
        run: of.clone(),
        epoch: 1,
        agent: agent("client-1"),
        sequence,
        case: 1,
        trial: 2,
        sample: Sample { sequence: sequence + 100, elapsed_micros: 1_000_000, cpu_micros: 500, counters },
    }
}

/// Whether this file's bytes are the same after `work`.
async fn untouched<T>(path: &Path, work: impl Future<Output = T>) -> T {
    let before = std::fs::read(path).expect("reads");
    let result = work.await;
    assert!(before == std::fs::read(path).expect("reads"), "{} was changed", path.display());
    result
}
