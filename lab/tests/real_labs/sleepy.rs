//! The processes of a test's lab: they do little, log it to standard error, and mostly obey.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

/// Nobody else's on loopback, where a lab shares its ports with the machine.
pub const PORT: u16 = 17_661;

pub fn play(part: &str, rest: &[&str]) -> ExitCode {
    match (part, rest) {
        ("wait", _) => {}
        ("serve", [addresses]) => serve(addresses),
        ("dial", [addresses, targets]) => dial(addresses, targets),
        ("die", [code]) => {
            log(&format!("dying with {code}"));
            return ExitCode::from(code.parse::<u8>().unwrap_or(1));
        }
        ("deaf", _) => {
            log("deaf to everything but SIGKILL");
            let mut term = SigSet::empty();
            term.add(Signal::SIGTERM);
            let blocked = term.thread_block();
            log(&format!("SIGTERM blocked: {blocked:?}"));
            loop {
                thread::park();
            }
        }
        ("parent", _) => spawn_deaf_child(),
        ("show", _) => log(&rest.join(" ")),
        _ => {
            log(&format!("no such part: {part} {rest:?}"));
            return ExitCode::from(99);
        }
    }
    until_stdin_ends();
    log("drained");
    ExitCode::SUCCESS
}

fn log(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

fn until_stdin_ends() {
    let mut rest = [0; 64];
    while io::stdin().read(&mut rest).is_ok_and(|read| read > 0) {}
}

fn addresses(list: &str) -> Vec<IpAddr> {
    list.split(',').filter_map(|address| address.parse().ok()).collect()
}

/// Listens on every address and accepts for ever.
fn serve(list: &str) {
    let mut bound = 0;
    for address in addresses(list) {
        match TcpListener::bind((address, PORT)) {
            Ok(listener) => {
                bound += 1;
                thread::spawn(move || {
                    let mut kept = Vec::new();
                    while let Ok((mut stream, peer)) = listener.accept() {
                        // Closed for writing, so that the other end knows that this is the whole answer.
                        let _ = stream.write_all(peer.ip().to_string().as_bytes());
                        let _ = stream.shutdown(Shutdown::Write);
                        kept.push(stream);
                    }
                });
            }
            Err(why) => log(&format!("cannot bind {address}: {why}")),
        }
    }
    log(&format!("bound {bound}"));
}

/// Connects from each own address to each target of its family; the server says whom it saw.
fn dial(list: &str, targets: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut connected = 0;
    for from in addresses(list) {
        for to in addresses(targets).into_iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            loop {
                match seen_as(from, to) {
                    Ok(seen) if seen == from.to_string() => {
                        connected += 1;
                        break;
                    }
                    Ok(seen) => {
                        log(&format!("{from} -> {to} was seen as {seen:?}"));
                        break;
                    }
                    Err(why) if Instant::now() > deadline => {
                        log(&format!("{from} -> {to}: {why}"));
                        break;
                    }
                    Err(_) => thread::sleep(Duration::from_millis(20)),
                }
            }
        }
    }
    log(&format!("connected {connected}"));
}

fn seen_as(from: IpAddr, to: IpAddr) -> io::Result<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let socket =
            if from.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
        socket.bind(SocketAddr::new(from, 0))?;
        let connect = socket.connect(SocketAddr::new(to, PORT));
        let stream = tokio::time::timeout(Duration::from_secs(1), connect).await??;
        let stream: TcpStream = stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        io::read_to_string(stream)
    })
}

/// A worker that outlives its agent and does not listen: the worst that an agent can leave behind.
fn spawn_deaf_child() {
    let child = Command::new("/proc/self/exe")
        .arg0("tuplelab")
        .args(["sleepy", "deaf"])
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
    match child {
        Ok(child) => log(&format!("child {}", child.id())),
        Err(why) => log(&format!("no child: {why}")),
    }
}
