//! The kernel's TCP sockets, asked over NETLINK_SOCK_DIAG: filtered by the kernel, streamed, never
//! held. Layouts: `include/uapi/linux/inet_diag.h`; behaviour: `net/ipv4/inet_diag.c`.

use crate::netlink::{self, NetlinkError, attributes, push_attribute, u32_at};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tuplelab_domain::sample::TcpState;

/// `include/uapi/linux/sock_diag.h`.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// The attribute of a request that carries a filter program.
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// The attribute of an answer that says whether an IPv6 listener leaves IPv4 alone.
const INET_DIAG_SKV6ONLY: u16 = 11;
/// `struct inet_diag_msg`, before the attributes.
const RECORD: usize = 72;
/// How often a torn dump is asked again: a still host is never torn, and a busy one should be told.
const TRIES: u32 = 5;

/// Why the kernel's sockets are not known.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// The request failed.
    #[error(
        "failed to ask the kernel for its TCP sockets: {0}; it needs CONFIG_INET_TCP_DIAG (`modprobe tcp_diag`)"
    )]
    Netlink(#[from] NetlinkError),
    /// Every try was torn.
    #[error(
        "failed to read the kernel's TCP sockets: the list changed in each of {0} tries; ask again when the host is still"
    )]
    Torn(u32),
}

/// The address family that a dump is about; one dump asks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// AF_INET.
    V4,
    /// AF_INET6; IPv4 peers of a dual-stack listener appear here, with mapped addresses.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of sockets at that address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn number(self) -> u8 {
        match self {
            Self::V4 => libc::AF_INET as u8,
            Self::V6 => libc::AF_INET6 as u8,
        }
    }
}

/// A set of states, as the kernel's mask (`TCPF_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// Every state but `Bound`, which costs the kernel another walk over all bound sockets.
    pub fn hashed() -> Self {
        Self(Self::all().0 & !Self::of(&[TcpState::Bound]).0)
    }

    /// Every state. Kernels before 6.8 do not know `Bound` and ignore that bit.
    pub fn all() -> Self {
        Self::of(&TcpState::ALL)
    }

    /// These states.
    pub fn of(states: &[TcpState]) -> Self {
        Self(states.iter().fold(0, |mask, state| mask | 1 << *state as u32))
    }
}

/// Which end of a socket is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its own.
    Local,
    /// Its peer's.
    Remote,
}

/// Only sockets whose port at that end lies in a range; the kernel sorts the others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFilter {
    /// Whose port.
    pub end: End,
    /// The smallest.
    pub low: u16,
    /// The largest.
    pub high: u16,
}

impl PortFilter {
    /// The filter as a program for `inet_diag_bc_run`. An operation is (code: u8, yes: u8, no: u16);
    /// `yes` and `no` are jumps in bytes. A comparison takes its port from the `no` of the operation
    /// that follows it. A socket passes where the jumps end exactly at the program's end, so a `no`
    /// that goes four bytes beyond it refuses, and `inet_diag_bc_audit` allows no further jump.
    fn program(self) -> [u8; 16] {
        const S_GE: u8 = 2;
        const S_LE: u8 = 3;
        const D_GE: u8 = 4;
        const D_LE: u8 = 5;
        let (at_least, at_most) = match self.end {
            End::Local => (S_GE, S_LE),
            End::Remote => (D_GE, D_LE),
        };
        let mut program = [0; 16];
        let operations = [(at_least, 8, 20), (0, 0, self.low), (at_most, 8, 12), (0, 0, self.high)];
        for (bytes, (code, yes, no)) in program.chunks_exact_mut(4).zip(operations) {
            let [low, high] = u16::to_ne_bytes(no);
            bytes.copy_from_slice(&[code, yes, low, high]);
        }
        program
    }
}

/// One socket, as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Its state; `None` for one that this program does not know.
    pub state: Option<TcpState>,
    /// Its own end.
    pub local: SocketAddr,
    /// Its peer's end; unspecified where it has none.
    pub remote: SocketAddr,
    /// Unread bytes; of a listener: connections that wait to be accepted.
    pub receive_queue: u32,
    /// Unacknowledged bytes; of a listener: its backlog.
    pub send_queue: u32,
    /// Its owner.
    pub uid: u32,
    /// Its inode; 0 where no descriptor refers to it (still in an accept queue, TIME_WAIT).
    pub inode: u32,
    /// Of a listening or bound IPv6 socket: whether it leaves the IPv4 port free.
    pub only_v6: Option<bool>,
}

impl Record {
    /// The socket in this answer; `None` where it is too short or of another family.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk::<RECORD>()?;
        let [family, state, ..] = *fixed;
        let end = |port: usize, address: usize| -> Option<SocketAddr> {
            let port = u16::from_be_bytes(*fixed.get(port..)?.first_chunk()?);
            let address = fixed.get(address..)?;
            let ip = match i32::from(family) {
                libc::AF_INET => Ipv4Addr::from(*address.first_chunk::<4>()?).into(),
                libc::AF_INET6 => Ipv6Addr::from(*address.first_chunk::<16>()?).into(),
                _ => return None,
            };
            Some(SocketAddr::new(ip, port))
        };
        let state = match TcpState::of(state) {
            // A bound socket is asked for as TCP_BOUND_INACTIVE, and answered as TCP_CLOSE: the
            // former is a name in the request only. A closed socket without a port is in no table.
            Some(TcpState::Closed) => Some(TcpState::Bound),
            state => state,
        };
        Some(Self {
            state,
            local: end(4, 8)?,
            remote: end(6, 24)?,
            receive_queue: u32_at(fixed, 56)?,
            send_queue: u32_at(fixed, 60)?,
            uid: u32_at(fixed, 64)?,
            inode: u32_at(fixed, 68)?,
            only_v6: if matches!(state, Some(TcpState::Listen | TcpState::Bound)) {
                attributes(rest)
                    .find(|(kind, _)| *kind == INET_DIAG_SKV6ONLY)
                    .and_then(|(_, payload)| payload.first())
                    .map(|flag| *flag != 0)
            } else {
                None
            },
        })
    }
}

/// Gives every socket of that family in one of those states, and with such a port, to `each`: those
/// of the calling thread's network namespace. Where this fails `each` has seen a part of them.
pub fn dump(
    family: Family,
    states: States,
    filter: Option<PortFilter>,
    mut each: impl FnMut(&Record),
) -> Result<(), DiagError> {
    let mut body = Vec::with_capacity(80);
    body.extend([family.number(), libc::IPPROTO_TCP as u8, 0, 0]);
    body.extend(states.0.to_ne_bytes());
    body.extend([0u8; 48]); // inet_diag_sockid: any
    if let Some(filter) = filter {
        push_attribute(&mut body, INET_DIAG_REQ_BYTECODE, &filter.program());
    }
    let mut odd = false;
    netlink::dump(NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, &body, |payload| match Record::parse(payload) {
        Some(record) => each(&record),
        None => odd = true,
    })?;
    // A socket that we cannot read must not be missing from a count in silence.
    if odd { Err(NetlinkError::Malformed("a socket of unknown shape").into()) } else { Ok(()) }
}

/// Makes an attempt that dumps, and makes it afresh where a dump was torn, a few times.
pub fn whole<T>(mut attempt: impl FnMut() -> Result<T, DiagError>) -> Result<T, DiagError> {
    for _ in 0..TRIES {
        match attempt() {
            Err(DiagError::Netlink(NetlinkError::Torn)) => {}
            done => return done,
        }
    }
    Err(DiagError::Torn(TRIES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{connect, listen};

    fn seen(filter: Option<PortFilter>) -> Vec<Record> {
        let mut records = Vec::new();
        dump(Family::V4, States::all(), filter, |record| records.push(*record)).expect("dumps");
        records
    }

    #[test]
    fn a_record_too_short_or_of_another_family_is_none() {
        let mut bytes = [0u8; RECORD];
        assert_eq!(Record::parse(&bytes), None);
        bytes[0] = libc::AF_INET as u8;
        assert!(Record::parse(&bytes).is_some_and(|record| record.state.is_none()));
        assert_eq!(Record::parse(&bytes[..RECORD - 1]), None);
        assert_eq!(Record::parse(&[]), None);
    }

    #[test]
    fn the_kernel_sorts_out_what_a_port_filter_excludes() {
        let listener = listen("127.66.10.1:0");
        let server = listener.local_addr().expect("bound");
        let client = connect("127.66.10.2:0", server);
        let port = client.local_addr().expect("bound").port();
        let mine = |end, low, high| {
            let filter = PortFilter { end, low, high };
            let records = seen(Some(filter));
            for record in &records {
                let port = if end == End::Local { record.local } else { record.remote }.port();
                assert!((low..=high).contains(&port), "{record:?} passed {filter:?}");
            }
            let of_client = |record: &&Record| record.local.ip().to_string() == "127.66.10.2";
            records.iter().filter(of_client).count()
        };
        assert_eq!(mine(End::Remote, server.port(), server.port()), 1);
        assert_eq!(mine(End::Local, port, port), 1);
        assert_eq!(mine(End::Local, 0, u16::MAX), 1);
        assert_eq!(mine(End::Local, port + 1, u16::MAX), 0);
        assert_eq!(mine(End::Local, 0, port - 1), 0);
        assert_eq!(mine(End::Remote, 2, 1), 0, "an empty range");
        assert!(seen(None).iter().any(|r| r.local == server && r.state == Some(TcpState::Listen)));
    }

    #[test]
    fn a_torn_dump_is_asked_again_and_given_up_after_a_while() {
        let mut tries = 0;
        let second = whole(|| {
            tries += 1;
            if tries < 2 { Err(NetlinkError::Torn.into()) } else { Ok(tries) }
        });
        assert_eq!(second.expect("whole"), 2);
        let never = whole(|| -> Result<(), _> { Err(NetlinkError::Torn.into()) });
        assert!(matches!(never, Err(DiagError::Torn(TRIES))));
        let mut tries = 0;
        let refused = whole(|| -> Result<(), _> {
            tries += 1;
            Err(NetlinkError::Malformed("x").into())
        });
        assert!(refused.is_err() && tries == 1, "only tearing is tried again");
    }
}
