//! A limit on descriptors is the whole process's: so this test has one to itself.
#![allow(clippy::unwrap_used, reason = "a test fails where it fails")]

use nix::sys::resource::{Resource, getrlimit};
use std::io::{BufRead, BufReader, Write, pipe};
use std::net::{SocketAddr, TcpListener};
use tuplelab_domain::ports::PortSet;
use tuplelab_domain::schedule::{
    BlockPorts, Connect, ConnectLane, FlowBlock, Work, WorkerOrder, WorkerReport,
};
use tuplelab_worker::main_loop;

#[test]
fn a_lane_opens_as_many_flows_as_its_table_may_hold_and_says_emfile() {
    let deaf = TcpListener::bind("127.77.21.1:7000").unwrap();
    let destination: SocketAddr = deaf.local_addr().unwrap();
    let ports = BlockPorts::Explicit(PortSet::range(20_001, 21_000));
    let source = [127, 77, 21, 2].into();
    let blocks = vec![FlowBlock { first_flow: 0, source, destination, ports, spare: PortSet::empty() }];
    let work = Work::Connect(Connect {
        lanes: vec![ConnectLane { blocks }],
        connectors: 1,
        window: 64,
        rate: None,
        stretches: Vec::new(),
        timeout_micros: 2_000_000,
        beyond: false,
        answered: false,
        churn: None,
        activity: None,
    });
    let (input, mut orders) = pipe().unwrap();
    let (reports, output) = pipe().unwrap();
    let worker = std::thread::spawn(move || main_loop(input, output));
    let mut reports = BufReader::new(reports);
    let mut say = |order: &WorkerOrder| {
        orders.write_all(format!("{}\n", serde_json::to_string(order).unwrap()).as_bytes()).unwrap();
    };
    let mut hear = || loop {
        let mut line = String::new();
        assert_ne!(reports.read_line(&mut line).unwrap(), 0, "the worker has ended");
        match serde_json::from_str(&line).unwrap() {
            WorkerReport::Sample(_) => {}
            other => return other,
        }
    };
    say(&WorkerOrder::Prepare { token: 1, files: Some(128), work });
    assert_eq!(hear(), WorkerReport::Ready);
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, 128);
    say(&WorkerOrder::Go { at_boottime_nanos: 0 });
    let WorkerReport::Plateau(plateau) = hear() else { panic!("a plateau") };
    let failures = serde_json::to_string(&plateau.counters.failures).unwrap();
    assert_eq!(failures, r#"{"socket EMFILE":16}"#);
    // Of 128 numbers three are the standard streams', and one may be the engine's call.
    assert!((124..=125).contains(&plateau.counters.established), "{}", plateau.counters.established);
    say(&WorkerOrder::Release);
    assert!(matches!(hear(), WorkerReport::Released(_)));
    worker.join().unwrap().unwrap();
}
