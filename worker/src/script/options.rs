//! A socket as a step asks for it.

use super::raw;
use super::refusal::Refusal;
use super::sockets::Held;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};
use std::net::SocketAddr;
use std::time::Duration;
use tuplelab_domain::script::{Options, Protocol};

/// A socket of the family of `at`, or an IPv6 one if the options ask for that, with the options set.
pub(super) fn socket(protocol: Protocol, options: &Options, at: Option<SocketAddr>) -> Result<Held, Refusal> {
    let v6 = options.v6only.is_some() || at.is_some_and(|at| at.is_ipv6());
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let kind = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = Socket::new(domain, kind.nonblocking().cloexec(), None).map_err(Refusal::of("socket"))?;
    let refused = Refusal::of("setsockopt");
    // Only what was asked for is set: what was not is the kernel's default, and so is part of the claim.
    if let Some(only) = options.v6only {
        socket.set_only_v6(only).map_err(&refused)?;
    }
    if options.reuseaddr {
        socket.set_reuse_address(true).map_err(&refused)?;
    }
    if options.reuseport {
        socket.set_reuse_port(true).map_err(&refused)?;
    }
    if let Some(seconds) = options.linger {
        socket.set_linger(Some(Duration::from_secs(seconds.into()))).map_err(&refused)?;
    }
    let refused = |errno| Refusal { call: "setsockopt", errno };
    if options.no_port {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(refused)?;
    }
    if let Some(count) = options.syncnt {
        raw::set_syn_count(&socket, count).map_err(refused)?;
    }
    if let Some((low, high)) = options.port_range {
        raw::set_port_range(&socket, low, high).map_err(refused)?;
    }
    Ok(Held::new(socket, protocol, v6))
}
