//! Sockets for tests, on loopback addresses of their own.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_to, socket,
};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an endpoint")
}

/// A listener of its own for a test.
pub fn listen(at: &str) -> TcpListener {
    TcpListener::bind(address(at)).expect("a free port")
}

/// A socket that is bound and nothing more.
pub fn bound(at: &str) -> OwnedFd {
    let at = address(at);
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrStorage::from(at)).expect("bound");
    fd
}

/// A connection that leaves from `from`.
pub fn connect(from: &str, to: SocketAddr) -> TcpStream {
    let fd = bound(from);
    connect_to(fd.as_raw_fd(), &SockaddrStorage::from(to)).expect("connected");
    fd.into()
}

/// Runs the test of that name again in a network namespace of its own where `prepare` (a shell
/// command) was run, and then says false there and true in the run that should go on with the body.
/// Where the host allows no namespaces, or lacks the commands for it, the test is left out, in words.
pub fn in_own_namespace(test: &str, prepare: &str) -> bool {
    if std::env::var_os("TUPLELAB_OWN_NAMESPACE").is_some() {
        return true;
    }
    let script = format!("ip link set lo up && {prepare} && exec \"$0\" \"$@\"");
    let may = Command::new("unshare")
        .args(["-rn", "sh", "-c", &format!("ip link set lo up && {prepare}")])
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("left out: {test} needs `unshare -rn` and ip(8)");
        return false;
    }
    let status = Command::new("unshare")
        .args(["-rn", "sh", "-c", &script])
        .arg(std::env::current_exe().expect("this test"))
        .args(["--exact", test, "--nocapture"])
        .env("TUPLELAB_OWN_NAMESPACE", "1")
        .output()
        .expect("unshare runs");
    let output = String::from_utf8_lossy(&status.stdout);
    assert!(status.status.success(), "{output}{}", String::from_utf8_lossy(&status.stderr));
    assert!(output.contains("1 passed"), "no test is called {test}: {output}");
    false
}

/// The same in a mount namespace where this directory has 64 KiB and no more.
pub fn small_disk(test: &str) -> Option<std::path::PathBuf> {
    const AT: &str = "/tmp";
    if std::env::var_os("TUPLELAB_SMALL_DISK").is_some() {
        return Some(AT.into());
    }
    let script = format!("mount -t tmpfs -o size=64k tmpfs {AT} && exec \"$0\" \"$@\"");
    let unshare = |rest: &[&str]| {
        Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .args(rest)
            .env("TUPLELAB_SMALL_DISK", "1")
            .output()
    };
    if !unshare(&["true"]).is_ok_and(|output| output.status.success()) {
        eprintln!("left out: {test} needs `unshare -rm` and mount(8)");
        return None;
    }
    let program = std::env::current_exe().expect("this test").display().to_string();
    let run = unshare(&[&program, "--exact", test, "--nocapture"]).expect("unshare runs");
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{output}{}", String::from_utf8_lossy(&run.stderr));
    assert!(output.contains("1 passed"), "no test is called {test}: {output}");
    None
}
