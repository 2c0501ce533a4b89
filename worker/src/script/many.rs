//! Many connects in one step, and what can be said of a group.

use super::refusal::{Refusal, Tally};
use super::sockets::{Held, wait};
use super::{MOST, options};
use nix::poll::PollFlags;
use std::iter::repeat_n;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tuplelab_domain::ports::PortSet;
use tuplelab_domain::script::{Answer, Options, Protocol};

/// After so many refusals of the same kind one after another no connect will succeed.
const ENOUGH: u32 = 64;

/// So many ports are listed in an answer.
const LISTED: usize = 2_048;

/// Where the connects come from.
pub(super) enum From<'a> {
    /// Not bound.
    Anywhere,
    /// Bound to the address and port 0.
    AnyPort(SocketAddr),
    /// Bound to the address and each of the ports.
    Ports(SocketAddr, &'a PortSet),
}

impl From<'_> {
    /// At most `count` of them.
    fn each(&self, count: usize) -> Box<dyn Iterator<Item = Option<SocketAddr>> + '_> {
        match self {
            Self::Anywhere => Box::new(repeat_n(None, count)),
            Self::AnyPort(at) => Box::new(repeat_n(Some(SocketAddr::new(at.ip(), 0)), count)),
            Self::Ports(at, ports) => {
                Box::new(ports.iter().take(count).map(|port| Some(SocketAddr::new(at.ip(), port))))
            }
        }
    }
}

/// Begins all, then waits until all are decided or the time is up. What is connected or under way
/// joins the group; what was refused is closed. Detail `begin_micros` is the time without the wait: it
/// shows how much longer `bind` or `connect` looks for a port as ports become scarce.
pub(super) fn open(
    group: &mut Vec<Held>,
    count: u32,
    to: SocketAddr,
    from: &From<'_>,
    options: &Options,
    within: Duration,
) -> Answer {
    let mut begun = Vec::new();
    let mut tally = Tally::default();
    let (mut last, mut alike, mut full) = (None, 0, false);
    let beginning = Instant::now();
    for from in from.each(usize::try_from(count).unwrap_or(MOST)) {
        if group.len() + begun.len() >= MOST {
            full = true;
            break;
        }
        match begin(to, from, options) {
            Ok(held) => {
                begun.push(held);
                last = None;
            }
            Err(refusal) => {
                tally.add(refusal);
                alike = if last == Some(refusal) { alike + 1 } else { 1 };
                last = Some(refusal);
                if alike >= ENOUGH {
                    break;
                }
            }
        }
    }
    let (count, took) = (begun.len(), beginning.elapsed());
    // The time begins now: to begin may have taken longer than that, where ports are scarce.
    settle(&mut begun, super::until(within), &mut tally);
    let answer = answer(&begun, &tally, full).detail("begun", count);
    let answer = answer.detail("begin_micros", took.as_micros());
    group.append(&mut begun);
    answer
}

fn begin(to: SocketAddr, from: Option<SocketAddr>, options: &Options) -> Result<Held, Refusal> {
    let mut held = options::socket(Protocol::Tcp, options, Some(to))?;
    if let Some(from) = from {
        held.bind(from)?;
    }
    held.begin(to)?;
    Ok(held)
}

/// Waits for the connects under way. Those that fail are counted and closed.
pub(super) fn settle(sockets: &mut Vec<Held>, until: Instant, tally: &mut Tally) {
    while sockets.iter().any(Held::is_connecting) {
        let under_way = sockets.iter().filter(|held| held.is_connecting());
        let mut ready = wait(under_way, PollFlags::POLLOUT, until).into_iter();
        sockets.retain_mut(|held| {
            if !held.is_connecting() || ready.next() != Some(true) {
                return true;
            }
            match held.decide() {
                Some(Err(refusal)) => {
                    tally.add(refusal);
                    false
                }
                Some(Ok(())) | None => true,
            }
        });
        if Instant::now() >= until {
            return;
        }
        // Answers come one by one and each round looks at all: a pause makes rounds of many.
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What became of a group of connects.
pub(super) fn answer(sockets: &[Held], tally: &Tally, full: bool) -> Answer {
    let pending = sockets.iter().filter(|held| held.is_connecting()).count();
    let without = match (full, pending) {
        (true, _) => "FULL",
        (false, 0) => "ok",
        (false, _) => "pending",
    };
    let established = (sockets.len() - pending) as u64;
    let answer = ports(sockets, tally.answer(without).detail("pending", pending));
    answer.value(established)
}

/// Adds which local ports a group has, in the order in which they were drawn; the value is how many of
/// them were found.
pub(super) fn ports(sockets: &[Held], answer: Answer) -> Answer {
    let ports: Vec<u16> = sockets.iter().filter_map(|held| Some(held.local().ok()?.port())).collect();
    let even = ports.iter().filter(|port| *port % 2 == 0).count();
    let answer = answer
        .value(ports.len() as u64)
        .detail("ports", list(&ports))
        .detail("even", even)
        .detail("odd", ports.len() - even);
    match (ports.iter().min(), ports.iter().max()) {
        (Some(lowest), Some(highest)) => answer.detail("lowest", lowest).detail("highest", highest),
        _ => answer,
    }
}

/// Ports, as many as an answer lists.
pub(super) fn list<'a>(ports: impl IntoIterator<Item = &'a u16>) -> String {
    let words: Vec<String> = ports.into_iter().take(LISTED).map(u16::to_string).collect();
    words.join(",")
}
