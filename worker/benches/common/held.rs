//! Connections held: the engine and its variants, the bare loop, and where asked for peers of another
//! kind, in turn, in one run.

use super::lab::{PORTS, assignments, own_namespace, work};
use super::process::Process;
use super::{Args, median};
use tuplelab_domain::sample::Plateau;
use tuplelab_domain::schedule::Work;

/// A process of a peer that has one descriptor table takes so many connections.
const ONE_TABLE: u64 = 19_000;

#[derive(Clone, Copy)]
struct Figures {
    rate: f64,
    cpu_micros: f64,
    user_bytes: f64,
    slab_bytes: f64,
}

/// Another kind of program, which a bench knows how to start.
pub struct Peer {
    /// The argument of the bench that asks for it.
    pub flag: &'static str,
    pub name: &'static str,
    /// The first argument of its processes: the server's, the client's.
    pub kinds: [&'static str; 2],
    /// Each process has one descriptor table only.
    pub one_table: bool,
}

/// A row of the table: which program, and what of its work is other than the schedule says.
struct Row {
    name: String,
    kinds: [&'static str; 2],
    connectors: Option<u32>,
    window: Option<u32>,
    /// Each process has one descriptor table only.
    one_table: bool,
}

impl Row {
    fn of(name: &str, kinds: [&'static str; 2]) -> Self {
        Self { name: name.to_owned(), kinds, connectors: None, window: None, one_table: false }
    }

    /// The pairs of server and client that share the load.
    fn works(&self, count: u64) -> Vec<(Work, Work)> {
        let mut works = if self.one_table {
            let parts = count.div_ceil(ONE_TABLE);
            (0..parts)
                .map(|nth| {
                    let own = count / parts + u64::from(nth < count % parts);
                    let (server, client) = assignments(own, own.div_ceil(PORTS), "", nth);
                    (server.work, client.work)
                })
                .collect()
        } else {
            vec![work(count, "")]
        };
        for (_, client) in &mut works {
            if let Work::Connect(connect) = client {
                connect.connectors = self.connectors.unwrap_or(connect.connectors);
                connect.window = self.window.unwrap_or(connect.window);
            }
        }
        works
    }

    fn trial(&self, count: u64) -> Figures {
        let (mut servers, mut clients) = (Vec::new(), Vec::new());
        for (serve, connect) in self.works(count) {
            servers.push(Process::start(self.kinds[0], serve));
            clients.push(Process::start(self.kinds[1], connect));
        }
        let before = slab();
        servers.iter_mut().chain(&mut clients).for_each(Process::go);
        let opened: Vec<Plateau> = clients.iter_mut().map(Process::plateau).collect();
        let accepted: Vec<Plateau> = servers.iter_mut().map(Process::tell).collect();
        let after = slab();
        clients.into_iter().chain(servers).for_each(Process::end);

        let established = |side: &[Plateau]| side.iter().map(|f| f.counters.established).sum::<u64>();
        let (at_clients, at_servers) = (established(&opened), established(&accepted));
        assert_eq!((at_clients, at_servers), (count, count), "{}", self.name);
        let first = opened.iter().filter_map(|f| f.first_micros).min().unwrap();
        let last = opened.iter().filter_map(|f| f.last_micros).max().unwrap();
        let both = || opened.iter().chain(&accepted);
        let cpu: u64 = both().map(|f| f.cpu_micros).sum();
        let added: f64 =
            both().map(|f| f.pss_bytes.unwrap() as f64 - f.pss_ready_bytes.unwrap() as f64).sum();
        let pairs = count as f64;
        Figures {
            rate: pairs / ((last - first) as f64 / 1e6),
            cpu_micros: cpu as f64 / pairs,
            user_bytes: added / pairs,
            slab_bytes: (after - before) / pairs,
        }
    }
}

/// The bench, with those peers that its arguments ask for.
pub fn main(peers: &[Peer]) {
    let bare_flags: Vec<&str> = peers.iter().map(|peer| peer.flag).collect();
    let args = Args::parse(&["--trials", "--connectors", "--window"], &bare_flags);
    let trials = args.number("--trials", 3) as usize;
    let or_default = |list: Vec<u64>| -> Vec<Option<u32>> {
        if list.is_empty() { vec![None] } else { list.into_iter().map(|n| Some(n as u32)).collect() }
    };
    let mut rows = Vec::new();
    for connectors in or_default(args.list("--connectors")) {
        for window in or_default(args.list("--window")) {
            let words = connectors.map(|n| format!(" c={n}")).into_iter();
            let words: String = words.chain(window.map(|n| format!(" w={n}"))).collect();
            rows.push(Row { connectors, window, ..Row::of(&format!("engine{words}"), ["--engine"; 2]) });
        }
    }
    let bare = rows.len();
    let (connectors, window) = (rows[0].connectors, rows[0].window);
    rows.push(Row { connectors, window, ..Row::of("bare", ["--bare"; 2]) });
    for peer in peers.iter().filter(|peer| args.has(peer.flag)) {
        let one_table = peer.one_table;
        rows.push(Row { connectors, window, one_table, ..Row::of(peer.name, peer.kinds) });
    }

    own_namespace();
    println!("in turn, {trials} trials; medians, and medians of each trial's ratio (rate, CPU)");
    println!(
        "{:>8} {:<16} {:>10} {:>12} {:>8} {:>8} {:>12} {:>14} {:>8}",
        "held", "", "per second", "CPU us/pair", "user B", "slab B", "beside bare", "beside first", "faster"
    );
    for count in args.numbers_or(&[64_512, 250_000]) {
        let mut all: Vec<Vec<Figures>> = vec![Vec::new(); rows.len()];
        for trial in 0..trials {
            // Each trial begins with another one, so that none always follows the same.
            for at in 0..rows.len() {
                let index = (at + trial) % rows.len();
                all[index].push(rows[index].trial(count));
            }
        }
        for (row, own) in rows.iter().zip(&all) {
            let beside = |other: &[Figures], of: fn(&Figures) -> f64| {
                median(own.iter().zip(other).map(|(own, other)| of(own) / of(other)))
            };
            let both = |other: &[Figures]| {
                format!("{:.2} {:.2}", beside(other, |f| f.rate), beside(other, |f| f.cpu_micros))
            };
            let faster = own.iter().zip(&all[0]).filter(|(own, first)| own.rate > first.rate).count();
            println!(
                "{count:>8} {:<16} {:>10.0} {:>12.1} {:>8.1} {:>8.0} {:>12} {:>14} {:>8}",
                row.name,
                median(own.iter().map(|f| f.rate)),
                median(own.iter().map(|f| f.cpu_micros)),
                median(own.iter().map(|f| f.user_bytes)),
                median(own.iter().map(|f| f.slab_bytes)),
                both(&all[bare]),
                both(&all[0]),
                format!("{faster}/{trials}"),
            );
        }
    }
}

fn slab() -> f64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text.lines().find(|line| line.starts_with("Slab:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0
}
