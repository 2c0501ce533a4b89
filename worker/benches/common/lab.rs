//! A namespace of the bench's own, and work for its two hosts.

use nix::libc;
use std::net::IpAddr;
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::schedule::{Assignment, Host, Inventory, Work, place};

/// Source ports of an address: 1024 to 65535.
pub const PORTS: u64 = 64_512;

/// A namespace of our own with its loopback interface up: single-threaded until here.
pub fn own_namespace() {
    use nix::sched::{CloneFlags, unshare};
    let (user, group) = (nix::unistd::getuid(), nix::unistd::getgid());
    if unshare(CloneFlags::CLONE_NEWNET).is_err() {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET).expect("user namespaces are allowed");
        std::fs::write("/proc/self/setgroups", "deny").unwrap();
        std::fs::write("/proc/self/uid_map", format!("0 {user} 1")).unwrap();
        std::fs::write("/proc/self/gid_map", format!("0 {group} 1")).unwrap();
    }
    // SAFETY: plain calls on a socket and a zeroed request of our own.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &request), 0, "lo cannot be set up");
        libc::close(socket);
    }
}

fn host(name: &str, addresses: Vec<IpAddr>) -> Host {
    let (_, per_table) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    Host {
        name: name.parse().unwrap(),
        labels: [("role".to_owned(), name.to_owned())].into(),
        facts: HostFacts {
            kernel: String::new(),
            boot_id: "one".into(),
            network_namespace: 1,
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
            memory_available: 1 << 40,
            open_files: OpenFiles { per_table, system: u64::MAX, allocated: 0, exempt: true, threads: 4_096 },
            addresses,
            networks: Vec::new(),
            sysctls: [].into(),
            bound: Vec::new(),
            conntrack: None,
            conntrack_available: None,
            may_set_sysctls: false,
            place: Default::default(),
        },
    }
}

/// The server's and the client's part of a load of so many connections. `load` is what the plan's
/// `[load]` says beside that; `nth` keeps several such pairs apart in one namespace.
pub fn assignments(count: u64, sources: u64, load: &str, nth: u64) -> (Assignment, Assignment) {
    let port = 7_000 + nth;
    let text = format!(
        "[servers]\nports = \"{port}\"\n[clients]\naddresses = {sources}\n[load]\nconnections = {count}\ntimeout = \"60s\"\n{load}"
    );
    let plan = PlanFile::parse(&text).and_then(check).unwrap();
    let first = nth * sources + 1;
    let clients = (first..first + sources)
        .map(|n| IpAddr::from([127, 70, (n / 250) as u8 + 2, (n % 250) as u8 + 1]))
        .collect();
    let hosts = vec![host("server", vec![[127, 70, 1, 1].into()]), host("client", clients)];
    let mut case = place(&plan, &Inventory { hosts }).unwrap().cases.remove(0);
    let client = case.assignments.remove(1);
    (case.assignments.remove(0), client)
}

/// The same, the work only.
pub fn work(count: u64, load: &str) -> (Work, Work) {
    let (server, client) = assignments(count, count.div_ceil(PORTS), load, 0);
    (server.work, client.work)
}
