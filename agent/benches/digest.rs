//! What a census costs: count and digest of real sockets, beside a bare dump that only counts.
//!
//! `cargo bench -p tuplelab-agent --bench digest` (`-- 64512 250000` for other numbers of connections,
//! `--trials 5`). The engine holds so many connections in a network namespace of its own; a process asks
//! the kernel for the sockets at one end, once as the agent does, once with the same request and a loop
//! that counts messages. Each is a process of its own, so that its peak RSS is its own.
#![allow(unsafe_code, reason = "the bare dump is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

#[path = "../../worker/benches/common/mod.rs"]
mod common;

use common::process::Process;
use common::{Args, lab, median};
use nix::libc;
use std::process::Command;
use std::time::Instant;
use tuplelab_agent::census::census;
use tuplelab_domain::schedule::{CensusFilter, Role};

/// As the agent's.
const BUFFER: usize = 128 * 1024;

#[derive(Clone, Copy)]
struct Figures {
    sockets: u64,
    per_second: f64,
    peak_kib: f64,
}

fn main() {
    if common::is_process() {
        return;
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--census", filter] => return asked(|filter| census(filter).unwrap().established, filter),
        ["--count", filter] => return asked(count, filter),
        _ => {}
    }
    let args = Args::parse(&["--trials"], &[]);
    let trials = args.number("--trials", 5);
    lab::own_namespace();
    println!("in turn, {trials} trials; medians, and medians of each pair's ratio");
    println!(
        "{:>11} {:>8} {:>8} {:>10} {:>16} {:>14}",
        "connections", "end", "", "sockets", "sockets/second", "peak RSS KiB"
    );
    for connections in args.numbers_or(&[64_512, 250_000]) {
        let (serve, connect) = lab::assignments(connections, connections.div_ceil(lab::PORTS), "", 0);
        let ends = [("server", serve.census.clone()), ("client", connect.census.clone())];
        let mut server = Process::start("--engine", serve.work);
        let mut client = Process::start("--engine", connect.work);
        server.go();
        client.go();
        client.plateau();
        server.tell();
        for (end, filter) in &ends {
            let pairs: Vec<[Figures; 2]> =
                (0..trials).map(|_| ["--census", "--count"].map(|kind| ask(kind, filter))).collect();
            for (side, name) in ["census", "bare"].into_iter().enumerate() {
                let own = || pairs.iter().map(|pair| pair[side]);
                println!(
                    "{connections:>11} {end:>8} {name:>8} {:>10} {:>16.0} {:>14.0}",
                    own().next().unwrap().sockets,
                    median(own().map(|f| f.per_second)),
                    median(own().map(|f| f.peak_kib)),
                );
            }
            let ratio = median(pairs.iter().map(|[census, bare]| census.per_second / bare.per_second));
            println!("{connections:>11} {end:>8} {:>8} {:>10} {ratio:>16.2}", "ratio", "");
        }
        client.end();
        server.end();
    }
}

/// Has a process ask, and hears what it says.
fn ask(kind: &str, filter: &CensusFilter) -> Figures {
    let filter = serde_json::to_string(filter).unwrap();
    let output = Command::new(std::env::current_exe().unwrap()).args([kind, &filter]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Vec<u64> = serde_json::from_slice(&output.stdout).unwrap();
    let [sockets, nanos, peak] = said[..] else { panic!("three numbers") };
    Figures { sockets, per_second: sockets as f64 / (nanos as f64 / 1e9), peak_kib: peak as f64 }
}

/// Asks, in such a process, and says sockets, nanoseconds and peak RSS.
fn asked(how: impl Fn(&CensusFilter) -> u64, filter: &str) {
    let filter: CensusFilter = serde_json::from_str(filter).unwrap();
    let begun = Instant::now();
    let sockets = how(&filter);
    let nanos = begun.elapsed().as_nanos();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    println!("[{sockets},{nanos},{}]", line.split_whitespace().nth(1).unwrap());
}

/// Sockets by the same request, counted as messages: nothing of them is read.
fn count(filter: &CensusFilter) -> u64 {
    let port = filter.servers[0].port();
    let (at_least, at_most) = match filter.role {
        Role::Server => (2u8, 3u8),
        Role::Client => (4, 5),
    };
    let mut request = Vec::new();
    request.extend(92u32.to_ne_bytes());
    request.extend(20u16.to_ne_bytes()); // SOCK_DIAG_BY_FAMILY
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    request.extend([0u8; 8]);
    request.extend([libc::AF_INET as u8, libc::IPPROTO_TCP as u8, 0, 0]);
    request.extend((1u32 << 1).to_ne_bytes()); // ESTABLISHED
    request.extend([0u8; 48]);
    request.extend(20u16.to_ne_bytes());
    request.extend(1u16.to_ne_bytes()); // INET_DIAG_REQ_BYTECODE
    for (code, yes, no) in [(at_least, 8u8, 20u16), (0, 0, port), (at_most, 8, 12), (0, 0, port)] {
        request.extend([code, yes]);
        request.extend(no.to_ne_bytes());
    }
    let mut buffer = vec![0u8; BUFFER];
    let mut sockets = 0;
    // SAFETY: plain calls on a socket and buffers of our own, with their true lengths.
    unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 4);
        let sent = libc::send(fd, request.as_ptr().cast(), request.len(), 0);
        assert_eq!(sent, request.len() as isize);
        loop {
            let length = libc::recv(fd, buffer.as_mut_ptr().cast(), BUFFER, 0);
            assert!(length > 0, "the dump ends early");
            let mut rest = &buffer[..length as usize];
            while let Some((head, _)) = rest.split_first_chunk::<8>() {
                let size = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
                match u16::from_ne_bytes([head[4], head[5]]) {
                    2 => panic!("refused"), // NLMSG_ERROR
                    3 => {
                        libc::close(fd);
                        return sockets;
                    }
                    _ => sockets += 1,
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}
