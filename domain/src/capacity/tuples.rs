//! Which source ports one address can use towards one destination.

use super::facts::HostFacts;
use crate::plan::SourcePorts;
use crate::ports::PortSet;
use crate::sample::TcpState;
use std::net::IpAddr;

/// The source ports that a host can use from `source` towards every destination.
///
/// Explicit ports: all that are asked, without those that another socket holds on the same address
/// or on the wildcard address. Reserved ports and listeners on other addresses do not matter
/// (`inet_csk_get_port`, net/ipv4/inet_connection_sock.c: a conflict needs the same or no address).
/// TIME_WAIT does not matter, since our sockets carry SO_REUSEADDR.
///
/// The kernel's choice: the whole of ip_local_port_range without ip_local_reserved_ports and
/// without every port that a socket of this namespace holds by `bind`, on whatever address: a
/// listener, a bound-only socket, or one that is bound to a port and listens no more
/// (`__inet_hash_connect` passes over a bucket with `fastreuse >= 0`). Ports that `connect` chose
/// for other sockets are shared between destinations and do not count.
pub fn usable_ports(facts: &HostFacts, source: IpAddr, asked: &SourcePorts) -> PortSet {
    match asked {
        SourcePorts::Explicit(ports) => {
            let held = facts.bound.iter().filter(|socket| {
                socket.state != TcpState::TimeWait
                    && (socket.address == source || wildcard_over(socket.address, source))
            });
            ports.minus(&PortSet::of(held.map(|socket| socket.port)))
        }
        SourcePorts::Kernel => {
            let held = facts.bound.iter().filter(|s| matches!(s.state, TcpState::Listen | TcpState::Bound));
            facts
                .port_range()
                .minus(&facts.reserved_ports())
                .minus(&PortSet::of(held.map(|socket| socket.port)))
        }
    }
}

/// Whether a wildcard address covers `source`: `::` stands for IPv4 too unless its socket is
/// IPV6_V6ONLY, which no reading of the kernel's says, so it is taken to; `0.0.0.0` never for IPv6.
fn wildcard_over(address: IpAddr, source: IpAddr) -> bool {
    address.is_unspecified() && (address.is_ipv6() || source.is_ipv4())
}
