//! Local routes: whole networks that the kernel answers for (AnyIP), as made by
//! `ip route add local 10.66.128.0/24 dev lo`. They are no interface's addresses, so they are read
//! from the routing table `local`.

use crate::netlink::{self, NetlinkError, attributes, u32_at};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::libc;
use std::net::{Ipv4Addr, Ipv6Addr};

/// `struct rtmsg` (`include/uapi/linux/rtnetlink.h`): family, destination's prefix length, source's,
/// TOS, table, protocol, scope, type, flags.
const ROUTE: usize = 12;

/// The networks with a route of type `local` that hold more than one address.
pub fn local() -> Result<Vec<IpNet>, NetlinkError> {
    let mut networks = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = [0; ROUTE];
        if let Some(first) = request.first_mut() {
            *first = family as u8;
        }
        netlink::dump(NETLINK_ROUTE, libc::RTM_GETROUTE, &request, |payload| {
            // Each address has a route of its own too; and a host may have very many other routes.
            networks.extend(parse(payload).filter(|network| network.prefix_len() < network.max_prefix_len()));
        })?;
    }
    Ok(networks)
}

/// The destination of a local route; `None` for any other route, and for odd answers.
fn parse(payload: &[u8]) -> Option<IpNet> {
    let (fixed, rest) = payload.split_first_chunk::<ROUTE>()?;
    let [family, length, _, _, table, _, _, kind, ..] = *fixed;
    if kind != libc::RTN_LOCAL {
        return None;
    }
    let attribute = |kind| attributes(rest).find(|(k, _)| *k == kind).map(|(_, payload)| payload);
    let table = attribute(libc::RTA_TABLE).and_then(|payload| u32_at(payload, 0)).unwrap_or(table.into());
    if table != u32::from(libc::RT_TABLE_LOCAL) {
        return None;
    }
    let destination = attribute(libc::RTA_DST)?;
    match i32::from(family) {
        libc::AF_INET => {
            Some(Ipv4Net::new(Ipv4Addr::from(*destination.first_chunk::<4>()?), length).ok()?.into())
        }
        libc::AF_INET6 => {
            Some(Ipv6Net::new(Ipv6Addr::from(*destination.first_chunk::<16>()?), length).ok()?.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_network_is_a_local_route_wherever_loopback_is_up() {
        let networks = local().expect("the kernel answers");
        assert!(networks.contains(&"127.0.0.0/8".parse().expect("a network")), "{networks:?}");
    }

    #[test]
    fn odd_routes_are_none() {
        assert_eq!(parse(&[]), None);
        let mut route =
            vec![libc::AF_INET as u8, 8, 0, 0, libc::RT_TABLE_LOCAL, 0, 0, libc::RTN_LOCAL, 0, 0, 0, 0];
        assert_eq!(parse(&route), None, "no destination");
        netlink::push_attribute(&mut route, libc::RTA_DST, &[127, 0, 0, 0]);
        assert_eq!(parse(&route), "127.0.0.0/8".parse().ok());
        route[1] = 33;
        assert_eq!(parse(&route), None);
    }
}
