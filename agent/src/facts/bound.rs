//! The TCP sockets that hold a port in this namespace.

use crate::diag::{DiagError, Family, Record, States, dump, whole};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use tuplelab_domain::capacity::facts::BoundSocket;
use tuplelab_domain::sample::TcpState;

/// How many are listed: a little more than one address has ports. A host with more is no place for
/// a measurement, and leaving some out would make every prediction wrong in silence.
const MOST: usize = 70_000;

/// Why it is not known which sockets hold ports.
#[derive(Debug, thiserror::Error)]
pub enum BoundError {
    /// The kernel did not say.
    #[error(transparent)]
    Diag(#[from] DiagError),
    /// They are too many.
    #[error(
        "more than {MOST} TCP sockets hold ports that this host is to offer: end what opened them (`ss -tan`), wait \
         until their TIME_WAIT is over, or give the agent a network namespace of its own"
    )]
    TooMany,
}

/// Listeners and bound sockets of any address, and connected ones (in whatever state, TIME_WAIT
/// included) of the offered addresses; those that share address, port and state are listed once, so
/// that a server's million connections are one. Sorted.
pub fn sockets(offered: &[IpAddr]) -> Result<Vec<BoundSocket>, BoundError> {
    let offered: BTreeSet<IpAddr> = offered.iter().copied().collect();
    let held = whole(|| {
        let mut held = BTreeSet::new();
        for family in Family::ALL {
            match dump(family, States::all(), None, |record| note(&mut held, &offered, record)) {
                // A kernel without IPv6 has no handler for it (`net/core/sock_diag.c`), and no socket.
                Err(DiagError::Netlink(_)) if family == Family::V6 && no_ipv6() => {}
                done => done?,
            }
        }
        Ok(held)
    })?;
    if held.len() > MOST {
        return Err(BoundError::TooMany);
    }
    Ok(held.into_iter().map(|(address, port, state)| BoundSocket { address, port, state }).collect())
}

/// How many connections this namespace has: ESTABLISHED sockets, where those to a loopback address
/// are two for one.
pub fn connections() -> Result<u64, BoundError> {
    let (near, far) = whole(|| {
        let (mut near, mut far) = (0u64, 0u64);
        for family in Family::ALL {
            let each = |record: &Record| match record.remote.ip().to_canonical().is_loopback() {
                true => near += 1,
                false => far += 1,
            };
            match dump(family, States::of(&[TcpState::Established]), None, each) {
                Err(DiagError::Netlink(_)) if family == Family::V6 && no_ipv6() => {}
                done => done?,
            }
        }
        Ok((near, far))
    })?;
    Ok(near.div_ceil(2) + far)
}

fn note(held: &mut BTreeSet<(IpAddr, u16, TcpState)>, offered: &BTreeSet<IpAddr>, record: &Record) {
    let (Some(state), port) = (record.state, record.local.port()) else { return };
    // A mapped address (::ffff:10.66.1.1) holds the port of the IPv4 address.
    let address = record.local.ip().to_canonical();
    let unconnected = matches!(state, TcpState::Listen | TcpState::Bound);
    if port == 0 || held.len() > MOST || !(unconnected || offered.contains(&address)) {
        return;
    }
    held.insert((address, port, state));
    if unconnected && record.local.ip().is_unspecified() && record.only_v6 == Some(false) {
        held.insert((Ipv4Addr::UNSPECIFIED.into(), port, state));
    }
}

fn no_ipv6() -> bool {
    !std::path::Path::new("/proc/thread-self/net/if_inet6").exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bound, connect, listen};
    use std::net::{SocketAddr, TcpListener};
    use std::os::fd::AsRawFd as _;

    fn holds(offered: &[&str], at: SocketAddr, state: TcpState) -> bool {
        let offered: Vec<_> = offered.iter().map(|text| text.parse().expect("an address")).collect();
        let sought = BoundSocket { address: at.ip(), port: at.port(), state };
        sockets(&offered).expect("the kernel answers").contains(&sought)
    }

    #[test]
    fn a_listener_is_listed_at_any_address() {
        let listener = listen("127.66.42.1:0");
        assert!(holds(&[], listener.local_addr().expect("bound"), TcpState::Listen));
    }

    #[test]
    fn a_socket_that_is_only_bound_is_listed_since_linux_6_8() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("readable");
        let mut numbers = release.split(['.', '-']).map_while(|word| word.trim().parse::<u32>().ok());
        if (numbers.next(), numbers.next()) < (Some(6), Some(8)) {
            return eprintln!("left out: this kernel is older than 6.8");
        }
        let fd = bound("127.66.42.2:0");
        let at =
            nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(fd.as_raw_fd()).expect("bound");
        assert!(holds(&[], SocketAddr::new(at.ip().into(), at.port()), TcpState::Bound));
    }

    #[test]
    fn connections_are_listed_at_offered_addresses_only_and_once_per_port() {
        let listener = listen("127.66.42.3:0");
        let server = listener.local_addr().expect("bound");
        let clients = [connect("127.66.42.4:0", server), connect("127.66.42.4:0", server)];
        let client = clients[0].local_addr().expect("bound");
        assert!(!holds(&["127.66.42.5"], client, TcpState::Established));
        assert!(holds(&["127.66.42.4"], client, TcpState::Established));
        let listed = sockets(&[server.ip()]).expect("the kernel answers");
        let here = listed.iter().filter(|socket| socket.address == server.ip());
        assert_eq!(
            here.map(|socket| socket.state).collect::<Vec<_>>(),
            [TcpState::Established, TcpState::Listen]
        );
    }

    #[test]
    fn a_dual_stack_wildcard_holds_the_port_of_both_families() {
        let Ok(listener) = TcpListener::bind("[::]:0") else {
            return eprintln!("left out: this host has no IPv6");
        };
        let port = listener.local_addr().expect("bound").port();
        assert!(holds(&[], SocketAddr::from(([0u16; 8], port)), TcpState::Listen));
        assert!(holds(&[], SocketAddr::from(([0u8; 4], port)), TcpState::Listen));
    }
}
