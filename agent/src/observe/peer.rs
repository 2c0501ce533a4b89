//! A raw peer: handshakes from an address that no kernel owns, and that are never finished, finished at
//! once, or finished late.
//!
//! It reads what comes back from an AF_PACKET socket, before its own kernel drops it: the address is not
//! that kernel's, so no RST goes out. What the other end needs is a route to the address that ends at
//! this host's link. In a lab every host routes each other's /24 (fd66::N:0/112) to that host's link, so
//! any address in there that the host itself does not have will do: those from .251 on are never given
//! out (`PER_BLOCK` in the lab's addressing).

use super::packet::{Sender, Sight, Tap};
use super::segment::{ACK, RST, SYN, Segment};
use super::{refused, unsupported};
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use tuplelab_domain::script::{Answer, Handshake};

/// SYNs, or ACKs, that are sent without a pause; then [`PAUSE`]. 64,000 a second fill no queue of a veth.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// A SYN-ACK is sent again after 1 s (RFC 6298, `TCP_TIMEOUT_INIT`): so long it may take to come at all.
const LISTEN: Duration = Duration::from_millis(1500);
/// What a final ACK leads to, it leads to at once.
const LISTEN_LATE: Duration = Duration::from_millis(500);

/// Two ends between which handshakes go; the source's port is each handshake's own.
#[derive(Debug, Clone, Copy)]
struct Ends {
    from: IpAddr,
    to: SocketAddr,
}

impl Ends {
    fn segment(&self, port: u16, sequence: u32, acknowledged: u32, flags: u8) -> Segment {
        let source = SocketAddr::new(self.from, port);
        Segment { source, destination: self.to, sequence, acknowledged, flags, payload: 0 }
    }

    /// Whether it is an answer to this peer.
    fn is_ours(&self, sight: Sight, segment: &Segment) -> bool {
        sight == Sight::In && segment.source == self.to && segment.destination.ip() == self.from
    }
}

/// What came back.
#[derive(Debug, Default)]
struct Back {
    synack: u64,
    rst: u64,
    other: u64,
    acked: u64,
    /// By port: the numbers of the final ACK. A port's first SYN-ACK counts; later ones repeat it.
    answered: BTreeMap<u16, (u32, u32)>,
}

/// Handshakes whose final ACKs were kept back.
#[derive(Debug)]
pub struct Kept {
    ends: Ends,
    acks: BTreeMap<u16, (u32, u32)>,
}

impl Kept {
    /// Sends the final ACKs, and listens for what they lead to.
    pub fn finish(self) -> Answer {
        self.try_finish().unwrap_or_else(refused)
    }

    fn try_finish(self) -> Result<Answer, Errno> {
        let (tap, sender) = (Tap::open()?, Sender::open(self.ends.from)?);
        let mut back = Back::default();
        let mut sent = 0u64;
        for (port, (sequence, acknowledged)) in &self.acks {
            if sent > 0 && sent.is_multiple_of(BATCH as u64) {
                std::thread::sleep(PAUSE);
                back.take(&tap, self.ends, None)?;
            }
            sender.send(&self.ends.segment(*port, *sequence, *acknowledged, ACK))?;
            sent += 1;
        }
        back.listen(&tap, self.ends, LISTEN_LATE, None)?;
        Ok(back.describe(Answer::of("ok").value(sent), &tap)?.detail("other", back.other))
    }
}

impl Back {
    /// Takes what is there; with a sender each SYN-ACK is answered.
    fn take(&mut self, tap: &Tap, ends: Ends, answer: Option<&Sender>) -> Result<(), Errno> {
        while let Some((sight, segment)) = tap.next()? {
            if !ends.is_ours(sight, &segment) {
                continue;
            }
            if segment.has(RST) {
                self.rst += 1;
            } else if segment.has(SYN | ACK) {
                self.synack += 1;
                let port = segment.destination.port();
                // A SYN counts as one byte (RFC 9293, 3.4).
                let numbers = (segment.acknowledged, segment.sequence.wrapping_add(1));
                self.answered.entry(port).or_insert(numbers);
                if let Some(sender) = answer {
                    sender.send(&ends.segment(port, numbers.0, numbers.1, ACK))?;
                    self.acked += 1;
                }
            } else {
                self.other += 1;
            }
        }
        Ok(())
    }

    fn listen(
        &mut self,
        tap: &Tap,
        ends: Ends,
        time: Duration,
        answer: Option<&Sender>,
    ) -> Result<(), Errno> {
        let begun = Instant::now();
        while let Some(left) = time.checked_sub(begun.elapsed()).filter(|left| !left.is_zero()) {
            // poll(2) counts in whole milliseconds.
            tap.wait(left.max(Duration::from_millis(1)));
            self.take(tap, ends, answer)?;
        }
        Ok(())
    }

    fn describe(&self, answer: Answer, tap: &Tap) -> Result<Answer, Errno> {
        let answer = answer.detail("synack", self.synack).detail("rst", self.rst);
        let answer = answer.detail("dropped", tap.dropped()?);
        // Such a kernel passes the SYN-ACKs on, finds nobody, and after some 3 s says so by ICMP, upon
        // which the other end gives the handshake up (`tcp_req_err`).
        let forwards = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward");
        let forwards = forwards.is_ok_and(|text| text.trim() != "0");
        Ok(if forwards { answer.detail("forwarding", "on") } else { answer })
    }
}

/// Opens `count` handshakes from ascending ports, `from`'s first, and listens; not beyond port 65535.
/// The value is how many ports got a SYN-ACK. Keeps what [`Handshake::Late`] keeps back.
pub fn syn(count: u32, from: SocketAddr, to: SocketAddr, handshake: Handshake) -> (Answer, Option<Kept>) {
    if from.is_ipv4() != to.is_ipv4() {
        return (refused(Errno::EAFNOSUPPORT), None);
    }
    // The local route table answers both: what can be bound is this kernel's own.
    if to.ip().is_loopback() || is_own(to.ip()) {
        return (unsupported("the raw peer needs a host of its own: this kernel owns the destination"), None);
    }
    if is_own(from.ip()) {
        let why = "this kernel owns the source address, and would answer each SYN-ACK with RST: \
                   name an address that no host has (in a lab .251 to .254 of the client's block)";
        return (unsupported(why), None);
    }
    match try_syn(count, from, to, handshake) {
        Ok(done) => done,
        Err(errno) => (refused(errno), None),
    }
}

fn try_syn(
    count: u32,
    from: SocketAddr,
    to: SocketAddr,
    handshake: Handshake,
) -> Result<(Answer, Option<Kept>), Errno> {
    let (tap, sender) = (Tap::open()?, Sender::open(to.ip())?);
    let ends = Ends { from: from.ip(), to: SocketAddr::new(to.ip(), to.port()) };
    let answering = (handshake == Handshake::Full).then_some(&sender);
    let mut back = Back::default();
    let mut sent = 0u64;
    for port in (from.port()..=u16::MAX).take(count as usize) {
        if sent > 0 && sent.is_multiple_of(BATCH as u64) {
            std::thread::sleep(PAUSE);
            back.take(&tap, ends, answering)?;
        }
        sender.send(&ends.segment(port, first_sequence(port), 0, SYN))?;
        sent += 1;
    }
    back.listen(&tap, ends, LISTEN, answering)?;
    let answer = Answer::of("ok").value(back.answered.len() as u64).detail("sent", sent);
    let answer = back.describe(answer, &tap)?;
    Ok(match handshake {
        Handshake::Never => (answer, None),
        Handshake::Full => (answer.detail("acked", back.acked).detail("other", back.other), None),
        Handshake::Late => (answer, Some(Kept { ends, acks: back.answered })),
    })
}

/// An initial sequence number: with the clock as in RFC 9293, 3.4.1, so that a later trial's SYN is new
/// to a TIME_WAIT socket of an earlier one.
fn first_sequence(port: u16) -> u32 {
    let micros = crate::clock::boottime_nanos() / 4_000;
    (micros as u32).wrapping_add(u32::from(port) << 8)
}

/// Whether a socket of this kernel can have the address.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}
