//! Segments counted by flag and direction.

use super::packet::Sight;
use super::segment::{ACK, FIN, RST, SYN, Segment};
use std::net::SocketAddr;
use std::time::Duration;
use tuplelab_domain::script::Answer;

/// So many SYNs of one connection are listed: `tcp_syn_retries` is 6 by default.
const LISTED: usize = 64;

/// One direction's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flags {
    syn: u64,
    synack: u64,
    fin: u64,
    rst: u64,
    data: u64,
}

/// The segments to and from a port. A FIN with data counts as both; a segment before the kernel cuts it
/// (TSO), or after it joined some (GRO), is one: so `data` counts what the interface's sockets see.
///
/// The direction is the interface's: `in` came from outside. On loopback nothing is outside: there a
/// segment counts once, as the port's owner sees it: `in` if it goes to the port, else `out`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    inward: Flags,
    outward: Flags,
    total: u64,
    loopback: u64,
    retries: Option<Retries>,
}

/// When the SYNs of one connection came: the first one that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Retries {
    from: SocketAddr,
    to: SocketAddr,
    times: Vec<Duration>,
}

impl Retries {
    fn of(segment: &Segment) -> Self {
        Self { from: segment.source, to: segment.destination, times: Vec::new() }
    }

    fn add(&mut self, segment: &Segment, at: Duration) {
        if (self.from, self.to) == (segment.source, segment.destination) && self.times.len() < LISTED {
            self.times.push(at);
        }
    }

    /// Milliseconds since the first.
    fn list(&self) -> String {
        let first = self.times.first().copied().unwrap_or_default();
        let words = self.times.iter().map(|at| at.saturating_sub(first).as_millis().to_string());
        words.collect::<Vec<_>>().join(",")
    }
}

impl Tally {
    /// Counts the segment if it is to or from that port; `at` is when, on a clock that only moves on.
    pub fn add(&mut self, port: u16, sight: Sight, segment: &Segment, at: Duration) {
        let to_port = segment.destination.port() == port;
        if !to_port && segment.source.port() != port {
            return;
        }
        self.total += 1;
        self.loopback += u64::from(sight == Sight::Loopback);
        let flags = match sight {
            Sight::In => &mut self.inward,
            Sight::Loopback if to_port => &mut self.inward,
            Sight::Out | Sight::Loopback => &mut self.outward,
        };
        flags.synack += u64::from(segment.has(SYN | ACK));
        let syn = segment.has(SYN) && !segment.has(ACK);
        if syn && to_port {
            self.retries.get_or_insert_with(|| Retries::of(segment)).add(segment, at);
        }
        flags.syn += u64::from(syn);
        flags.fin += u64::from(segment.has(FIN));
        flags.rst += u64::from(segment.has(RST));
        flags.data += u64::from(segment.payload > 0);
    }

    /// All that was counted, each by its name; and, if there was a SYN to the port, `syn_from` and
    /// `syn_times`: whose was the first, and when it and its repetitions came.
    pub fn describe(&self, mut answer: Answer) -> Answer {
        for (way, flags) in [("in", self.inward), ("out", self.outward)] {
            let all = [
                ("syn", flags.syn),
                ("synack", flags.synack),
                ("fin", flags.fin),
                ("rst", flags.rst),
                ("data", flags.data),
            ];
            for (name, count) in all {
                answer = answer.detail(&format!("{name}_{way}"), count);
            }
        }
        if let Some(retries) = &self.retries {
            answer = answer.detail("syn_from", retries.from).detail("syn_times", retries.list());
        }
        answer.detail("total", self.total).detail("loopback", self.loopback).value(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::address;

    fn counted(seen: &[(Sight, &str, &str, u8, usize)]) -> Answer {
        let mut tally = Tally::default();
        for (number, (sight, source, destination, flags, payload)) in seen.iter().enumerate() {
            let segment = Segment {
                source: address(source),
                destination: address(destination),
                sequence: 1,
                acknowledged: 1,
                flags: *flags,
                payload: *payload,
            };
            tally.add(7000, *sight, &segment, Duration::from_micros(5_000_000 + 1_500 * number as u64));
        }
        tally.describe(Answer::of("ok"))
    }

    const CLIENT: &str = "10.66.2.1:40000";
    const SERVER: &str = "10.66.1.1:7000";

    #[test]
    fn each_flag_counts_in_its_direction() {
        let answer = counted(&[
            (Sight::In, CLIENT, SERVER, SYN, 0),
            (Sight::Out, SERVER, CLIENT, SYN | ACK, 0),
            (Sight::In, CLIENT, SERVER, ACK, 0),
            (Sight::In, CLIENT, SERVER, ACK | FIN, 9),
            (Sight::Out, SERVER, CLIENT, RST | ACK, 0),
            (Sight::In, CLIENT, "10.66.1.1:7001", SYN, 0),
        ]);
        let counts: Vec<_> =
            answer.details.iter().filter(|(_, n)| *n != "0").map(|(k, n)| format!("{k}={n}")).collect();
        let counts: Vec<_> = counts.iter().filter(|count| !count.starts_with("syn_from")).collect();
        assert_eq!(counts, ["data_in=1", "fin_in=1", "rst_out=1", "syn_in=1", "synack_out=1", "total=5"]);
        assert_eq!(answer.number("rst_in"), Some(0), "what did not come is 0, not unknown");
    }

    #[test]
    fn the_syns_of_the_connection_that_was_seen_first_are_listed_with_their_times() {
        let syn = (Sight::Out, CLIENT, SERVER, SYN, 0);
        let other = (Sight::Out, "10.66.2.1:40001", SERVER, SYN, 0);
        let back = (Sight::In, "10.66.1.1:7000", CLIENT, SYN | ACK, 0);
        let away = (Sight::Out, SERVER, "10.66.2.1:50000", SYN, 0);
        let answer = counted(&[away, syn, other, back, syn, (Sight::Out, CLIENT, SERVER, ACK, 0), syn]);
        assert_eq!(answer.details["syn_from"], CLIENT);
        assert_eq!(answer.details["syn_times"], "0,4,7");
        assert_eq!(answer.number("syn_out"), Some(5));
        assert_eq!(counted(&[syn; 70]).details["syn_times"].split(',').count(), 64);
        assert!(!counted(&[away, back]).details.contains_key("syn_times"));
    }

    #[test]
    fn on_loopback_a_segment_counts_once_as_the_ports_owner_sees_it() {
        let answer = counted(&[
            (Sight::Loopback, CLIENT, SERVER, SYN, 0),
            (Sight::Loopback, SERVER, CLIENT, SYN | ACK, 0),
            (Sight::Loopback, SERVER, SERVER, SYN, 0),
        ]);
        let of = |name| answer.number(name);
        assert_eq!((of("syn_in"), of("syn_out"), of("synack_out")), (Some(2), Some(0), Some(1)));
        assert_eq!((of("total"), of("loopback")), (Some(3), Some(3)));
    }
}
