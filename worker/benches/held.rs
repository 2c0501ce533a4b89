//! Connections held, the engine beside a bare loop of the same system calls, in turn, in one run.
//!
//! `cargo bench -p tuplelab-worker` (`-- 64512 250000 1000000` for other numbers, `--trials 5` for more
//! pairs). Both have the same schedule: one client, one server, lanes of one descriptor table each, one
//! acceptor and one connector at a time, a token of 16 bytes echoed on every connection, explicit source
//! ports. All happens in a network namespace of its own. What is printed are medians, and the ratio of
//! medians; a single figure of a shared machine says little.
#![allow(unsafe_code, reason = "the bare loop is made of system calls")]
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a benchmark")]

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Condvar, Mutex};
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::schedule::{
    BlockPorts, Connect, Host, Inventory, Serve, Work, WorkerOrder, WorkerReport, place,
};

const TOKEN: u64 = 0x7475_706c_656c_6162;

/// What one side said of one trial.
#[derive(Clone, Copy, Default)]
struct Side {
    seconds: f64,
    cpu_micros: f64,
    added_bytes: f64,
}

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    per_cpu_second: f64,
    user_bytes: f64,
    slab_bytes: f64,
}

fn main() {
    let mut args = std::env::args().skip(1);
    match args.next().as_deref() {
        Some("--engine") => return tuplelab_worker::main_loop(std::io::stdin(), std::io::stdout()).unwrap(),
        Some("--bare") => return bare(),
        _ => {}
    }
    let mut trials = 3;
    let mut counts: Vec<u64> = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--bench" => {}
            "--trials" => trials = args.next().and_then(|n| n.parse().ok()).expect("--trials N"),
            number => counts.push(number.parse().expect("numbers of connections")),
        }
    }
    if counts.is_empty() {
        counts = vec![64_512, 250_000];
    }
    own_namespace();
    println!("engine and bare loop in turn, {trials} pairs; medians");
    println!(
        "{:>10} {:>8} {:>12} {:>14} {:>12} {:>12}",
        "held", "", "per second", "per CPU second", "user B", "slab B"
    );
    for count in counts {
        let pairs: Vec<(Figures, Figures)> =
            (0..trials).map(|_| (trial("--engine", count), trial("--bare", count))).collect();
        let engine: Vec<Figures> = pairs.iter().map(|pair| pair.0).collect();
        let bare: Vec<Figures> = pairs.iter().map(|pair| pair.1).collect();
        for (name, figures) in [("engine", &engine), ("bare", &bare)] {
            println!(
                "{count:>10} {name:>8} {:>12.0} {:>14.0} {:>12.1} {:>12.0}",
                median(figures.iter().map(|f| f.rate)),
                median(figures.iter().map(|f| f.per_cpu_second)),
                median(figures.iter().map(|f| f.user_bytes)),
                median(figures.iter().map(|f| f.slab_bytes)),
            );
        }
        println!(
            "{count:>10} {:>8} {:>12.2} {:>14.2}",
            "ratio",
            median(pairs.iter().map(|(e, b)| e.rate / b.rate)),
            median(pairs.iter().map(|(e, b)| e.per_cpu_second / b.per_cpu_second)),
        );
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A namespace of our own with its loopback interface up: single-threaded until here.
fn own_namespace() {
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
            sysctls: [].into(),
            bound: Vec::new(),
            conntrack: None,
            conntrack_available: None,
            may_set_sysctls: false,
        },
    }
}

/// The server's and the client's work for this many connections.
fn work(count: u64) -> (Work, Work) {
    let sources = count.div_ceil(64_512);
    let text =
        format!("[clients]\naddresses = {sources}\n[load]\nconnections = {count}\ntimeout = \"60s\"\n");
    let plan = PlanFile::parse(&text).and_then(check).unwrap();
    let clients =
        (1..=sources).map(|n| IpAddr::from([127, 70, (n / 250) as u8 + 2, (n % 250) as u8 + 1])).collect();
    let hosts = vec![host("server", vec![[127, 70, 1, 1].into()]), host("client", clients)];
    let mut case = place(&plan, &Inventory { hosts }).unwrap().cases.remove(0);
    let client = case.assignments.remove(1).work;
    (case.assignments.remove(0).work, client)
}

struct Process {
    child: Child,
    orders: ChildStdin,
    reports: BufReader<ChildStdout>,
}

impl Process {
    fn start(kind: &str, work: Work) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .arg(kind)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (orders, reports) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut process = Self { child, orders, reports };
        process.order(&WorkerOrder::Prepare { token: TOKEN, files: None, work });
        process.until(|report| matches!(report, WorkerReport::Ready).then_some(()));
        process
    }

    fn order(&mut self, order: &WorkerOrder) {
        writeln!(self.orders, "{}", serde_json::to_string(order).unwrap()).unwrap();
    }

    fn until<T>(&mut self, want: impl Fn(WorkerReport) -> Option<T>) -> T {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.reports.read_line(&mut line).unwrap() > 0, "the process ended early");
            let report = serde_json::from_str(&line).unwrap();
            if let WorkerReport::Failed { why } = &report {
                panic!("{why}");
            }
            if let Some(found) = want(report) {
                return found;
            }
        }
    }

    fn side(&mut self, count: u64, plateau: bool) -> Side {
        if !plateau {
            self.order(&WorkerOrder::Tell);
        }
        let figures = self.until(|report| match report {
            WorkerReport::Plateau(figures) if plateau => Some(figures),
            WorkerReport::Told(figures) if !plateau => Some(figures),
            _ => None,
        });
        assert_eq!(figures.counters.established, count, "{:?}", figures.counters);
        Side {
            seconds: (figures.last_micros.unwrap_or(0) - figures.first_micros.unwrap_or(0)) as f64 / 1e6,
            cpu_micros: figures.cpu_micros as f64,
            added_bytes: figures.pss_bytes.unwrap() as f64 - figures.pss_ready_bytes.unwrap() as f64,
        }
    }

    fn end(mut self) {
        self.order(&WorkerOrder::Release);
        self.until(|report| matches!(report, WorkerReport::Released(_)).then_some(()));
        drop(self.orders);
        self.child.wait().unwrap();
    }
}

fn slab() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("Slab:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}

fn trial(kind: &str, count: u64) -> Figures {
    let (serve, connect) = work(count);
    let mut server = Process::start(kind, serve);
    let mut client = Process::start(kind, connect);
    let before = slab();
    for process in [&mut server, &mut client] {
        process.order(&WorkerOrder::Go { at_boottime_nanos: 0 });
    }
    let opened = client.side(count, true);
    let accepted = server.side(count, false);
    let after = slab();
    client.end();
    server.end();
    let pairs = count as f64;
    Figures {
        rate: pairs / opened.seconds,
        per_cpu_second: pairs / ((opened.cpu_micros + accepted.cpu_micros) / 1e6),
        user_bytes: (opened.added_bytes + accepted.added_bytes) / pairs,
        slab_bytes: (after - before) / pairs,
    }
}

// ---- the bare loop: the same orders and reports, nothing but system calls between them ----

fn bare() {
    // SAFETY: plain call.
    unsafe {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
    let mut lines =
        std::io::stdin().lines().map(|line| serde_json::from_str::<WorkerOrder>(&line.unwrap()).unwrap());
    let Some(WorkerOrder::Prepare { work, .. }) = lines.next() else { panic!("prepare first") };
    match work {
        Work::Serve(serve) => bare_server(serve, lines),
        Work::Connect(connect) => bare_client(connect, lines),
        Work::Script(_) => panic!("the bare loop bears load"),
    }
}

fn say(report: &WorkerReport) {
    println!("{}", serde_json::to_string(report).unwrap());
}

fn figures(established: u64, first: u64, last: u64, ready: u64) -> tuplelab_domain::sample::Plateau {
    // SAFETY: getrusage fills a struct of our own.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    let micros = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    let counters = tuplelab_domain::sample::Counters { established, ..Default::default() };
    tuplelab_domain::sample::Plateau {
        first_micros: Some(first),
        last_micros: Some(last),
        cpu_micros: micros(usage.ru_utime) + micros(usage.ru_stime),
        pss_ready_bytes: Some(ready),
        pss_bytes: Some(pss()),
        counters,
        beyond: None,
        go_nanos: None,
        connect_times: None,
        round_trips: None,
    }
}

fn pss() -> u64 {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

fn sockaddr(address: SocketAddr) -> libc::sockaddr_in {
    let SocketAddr::V4(address) = address else { panic!("IPv4 only") };
    let address: SocketAddrV4 = address;
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    }
}

const LEN: u32 = size_of::<libc::sockaddr_in>() as u32;

/// Whose turn it is; all wait for the end on the same condition.
struct Turns {
    turn: Mutex<(usize, bool)>,
    changed: Condvar,
}

impl Turns {
    const fn new() -> Self {
        Self { turn: Mutex::new((0, false)), changed: Condvar::new() }
    }
    fn wait(&self, mine: usize) {
        drop(self.changed.wait_while(self.turn.lock().unwrap(), |(turn, _)| *turn != mine).unwrap());
    }
    fn pass(&self) {
        self.turn.lock().unwrap().0 += 1;
        self.changed.notify_all();
    }
    fn end(&self) {
        self.turn.lock().unwrap().1 = true;
        self.changed.notify_all();
    }
    fn until_end(&self) {
        drop(self.changed.wait_while(self.turn.lock().unwrap(), |(_, end)| !*end).unwrap());
    }
}

fn linger(fd: i32) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: an option of our own socket.
    unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as u32,
        )
    };
}

fn bare_server(serve: Serve, mut orders: impl Iterator<Item = WorkerOrder>) {
    let turns = Turns::new();
    // SAFETY: plain calls on sockets of our own; each lane closes what it opened.
    let listener = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
        linger(fd);
        let at = sockaddr(serve.listeners[0].endpoint);
        assert_eq!(libc::bind(fd, (&raw const at).cast(), LEN), 0);
        assert_eq!(libc::listen(fd, 4096), 0);
        fd
    };
    let quotas: Vec<u32> = serve.lanes.iter().map(|lane| lane.turns[0].quota).collect();
    let total: u64 = quotas.iter().map(|quota| u64::from(*quota)).sum();
    let done = Mutex::new(0u64);
    std::thread::scope(|scope| {
        for (index, quota) in quotas.iter().enumerate() {
            let (turns, done) = (&turns, &done);
            scope.spawn(move || {
                // SAFETY: as above.
                unsafe {
                    libc::unshare(libc::CLONE_FILES);
                    let mut held: Vec<i32> = Vec::with_capacity(*quota as usize);
                    let mut pending: Vec<i32> = Vec::new();
                    turns.wait(index);
                    let mut token = [0u8; 16];
                    while held.len() < *quota as usize {
                        let mut quiet = true;
                        while held.len() + pending.len() < *quota as usize {
                            let fd = libc::accept4(
                                listener,
                                std::ptr::null_mut(),
                                std::ptr::null_mut(),
                                libc::SOCK_NONBLOCK,
                            );
                            if fd < 0 {
                                break;
                            }
                            pending.push(fd);
                            quiet = false;
                        }
                        pending.retain(|fd| {
                            if libc::recv(*fd, token.as_mut_ptr().cast(), 16, 0) != 16 {
                                return true;
                            }
                            libc::send(*fd, token.as_ptr().cast(), 16, 0);
                            held.push(*fd);
                            quiet = false;
                            false
                        });
                        if quiet {
                            libc::usleep(500);
                        }
                    }
                    turns.pass();
                    *done.lock().unwrap() += held.len() as u64;
                    turns.until_end();
                    for fd in held {
                        libc::close(fd);
                    }
                }
            });
        }
        let ready = pss();
        say(&WorkerReport::Ready);
        for order in orders.by_ref() {
            match order {
                WorkerOrder::Tell => {
                    while *done.lock().unwrap() < total {
                        std::thread::sleep(std::time::Duration::from_millis(1));
                    }
                    say(&WorkerReport::Told(figures(total, 0, 0, ready)));
                }
                WorkerOrder::Release => break,
                _ => {}
            }
        }
        turns.end();
    });
    say(&WorkerReport::Released(figures(total, 0, 0, 0)));
}

fn bare_client(connect: Connect, mut orders: impl Iterator<Item = WorkerOrder>) {
    let turns = Turns::new();
    let start = std::time::Instant::now();
    let total = connect.flows();
    let window = connect.window as usize;
    let done = Mutex::new(0u64);
    std::thread::scope(|scope| {
        let lanes = connect.lanes.len();
        for (index, lane) in connect.lanes.iter().enumerate() {
            let (turns, done) = (&turns, &done);
            scope.spawn(move || {
                // SAFETY: as in the server.
                unsafe {
                    libc::unshare(libc::CLONE_FILES);
                    let flows: usize = lane.blocks.iter().map(|block| block.ports.count() as usize).sum();
                    let mut held: Vec<i32> = Vec::with_capacity(flows);
                    let mut open: VecDeque<i32> = VecDeque::with_capacity(window);
                    // The first turn is the word to go.
                    turns.wait(index + 1);
                    let mut flow = 0u64;
                    let mut echo = [0u8; 16];
                    let mut answer = |fd: i32| {
                        while libc::recv(fd, echo.as_mut_ptr().cast(), 16, 0) != 16 {
                            let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
                            libc::poll(&raw mut poll, 1, 1000);
                        }
                    };
                    for block in &lane.blocks {
                        let BlockPorts::Explicit(ports) = &block.ports else { panic!("explicit ports") };
                        let to = sockaddr(block.destination);
                        for port in ports.iter() {
                            if open.len() == window {
                                let fd = open.pop_front().unwrap();
                                answer(fd);
                                held.push(fd);
                            }
                            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0);
                            let one = 1i32;
                            libc::setsockopt(
                                fd,
                                libc::SOL_SOCKET,
                                libc::SO_REUSEADDR,
                                (&raw const one).cast(),
                                4,
                            );
                            let from = sockaddr(SocketAddr::new(block.source, port));
                            assert_eq!(libc::bind(fd, (&raw const from).cast(), LEN), 0);
                            libc::connect(fd, (&raw const to).cast(), LEN);
                            let mut token = [0u8; 16];
                            token[..8].copy_from_slice(&TOKEN.to_be_bytes());
                            token[8..].copy_from_slice(&(block.first_flow + flow).to_be_bytes());
                            flow += 1;
                            while libc::send(fd, token.as_ptr().cast(), 16, libc::MSG_NOSIGNAL) != 16 {
                                let mut poll = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
                                libc::poll(&raw mut poll, 1, 1000);
                            }
                            open.push_back(fd);
                        }
                    }
                    for fd in open.drain(..) {
                        answer(fd);
                        held.push(fd);
                    }
                    *done.lock().unwrap() += held.len() as u64;
                    turns.pass();
                    turns.until_end();
                    for fd in held {
                        linger(fd);
                        libc::close(fd);
                    }
                }
            });
        }
        let ready = pss();
        say(&WorkerReport::Ready);
        for order in orders.by_ref() {
            match order {
                WorkerOrder::Go { .. } => {
                    let first = start.elapsed().as_micros() as u64;
                    turns.pass();
                    turns.wait(lanes + 1);
                    let last = start.elapsed().as_micros() as u64;
                    say(&WorkerReport::Plateau(figures(*done.lock().unwrap(), first, last, ready)));
                }
                WorkerOrder::Release => break,
                _ => {}
            }
        }
        turns.end();
    });
    say(&WorkerReport::Released(figures(total, 0, 0, 0)));
}
