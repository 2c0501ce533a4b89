//! The addresses that this host offers for data.

use super::routes;
use super::selector::AddressSelector;
use crate::netlink::NetlinkError;
use ipnet::IpNet;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike as _, SockaddrStorage, bind, setsockopt, socket, sockopt,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

/// How many addresses one host offers at most: 4,096 make 264 million four-tuples per server port,
/// and the facts are sent as a whole.
const MOST: usize = 4096;

/// Why the addresses are not known, or are not this host's.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// An address was named that cannot be bound.
    #[error(
        "failed to bind {address}, which this host is to offer: {source}; add it with \
         `ip address add {address} dev ..`, or name an address that `ip address` lists"
    )]
    NotOurs {
        /// The address.
        address: IpAddr,
        /// What the kernel said.
        source: Errno,
    },
    /// The selectors select nothing.
    #[error(
        "this host has no address that {selected}; add one with `ip address add`, or offer another \
         (loopback addresses must be named)"
    )]
    None {
        /// What was looked for.
        selected: String,
    },
    /// The selectors select too much.
    #[error(
        "this host would offer more than {MOST} addresses: name smaller networks, or the addresses one by one"
    )]
    TooMany,
    /// The interfaces could not be read.
    #[error(
        "failed to list this host's interface addresses: {0}; without getifaddrs(3) nothing can be offered"
    )]
    Interfaces(Errno),
    /// The routes could not be read.
    #[error("failed to list this host's local routes: {0}; name each address instead of a network")]
    Routes(#[from] NetlinkError),
}

/// The bridge by which Docker gives a swarm's containers the way out; it joins no two of them. Its
/// name is seen on the machine only: in a container its network is left out by a selector.
const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// What a host offers.
#[derive(Debug)]
pub struct Offer {
    /// The addresses, in order.
    pub addresses: Vec<IpAddr>,
    /// The networks of its interfaces that hold any of them. A single address is no network: whoever
    /// has such a one, or one of a local route, is reached by routes.
    pub networks: Vec<IpNet>,
}

/// The selected addresses: in the order of the selectors, those of a network in the order of the
/// interfaces, then those of local routes by value. Without selectors, or with such only that leave
/// something out: every address of an interface that is up, except loopback and link-local ones, and,
/// if the family has others, `control` and that of docker_gwbridge.
pub fn offered(selectors: &[AddressSelector], control: Option<IpAddr>) -> Result<Offer, AddressError> {
    let interfaces = interfaces()?;
    let left_out: Vec<IpNet> = selectors
        .iter()
        .filter_map(|selector| match selector {
            AddressSelector::Except(network) => Some(*network),
            AddressSelector::Address(_) | AddressSelector::Network(_) => None,
        })
        .collect();
    let mut chosen = Chosen { left_out, ..Chosen::default() };
    if selectors.len() == chosen.left_out.len() {
        let global = || {
            let kept = |a: &&Interface| {
                is_global(a.address) && !chosen.left_out.iter().any(|net| net.contains(&a.address))
            };
            interfaces.iter().filter(kept)
        };
        let for_data = |i: &&Interface| i.name != GATEWAY_BRIDGE && Some(i.address) != control;
        let others = |v4: bool| global().filter(for_data).any(|other| other.address.is_ipv4() == v4);
        let offered: Vec<IpAddr> =
            global().filter(|i| for_data(i) || !others(i.address.is_ipv4())).map(|i| i.address).collect();
        offered.into_iter().for_each(|address| chosen.bindable(address));
    }
    for selector in selectors {
        match selector {
            AddressSelector::Address(address) => {
                check(*address).map_err(|source| AddressError::NotOurs { address: *address, source })?;
                chosen.add(*address);
            }
            AddressSelector::Network(network) => {
                interfaces
                    .iter()
                    .filter(|interface| network.contains(&interface.address))
                    .for_each(|interface| chosen.bindable(interface.address));
                any_ip(*network)?.into_iter().for_each(|address| chosen.add(address));
                if !chosen.order.iter().any(|address| network.contains(address)) {
                    return Err(AddressError::None { selected: format!("lies in {network}") });
                }
            }
            AddressSelector::Except(_) => {}
        }
    }
    match chosen.order.len() {
        0 if chosen.left_out.is_empty() => {
            Err(AddressError::None { selected: "is neither loopback nor link-local".into() })
        }
        0 => Err(AddressError::None { selected: "is offered and not left out".into() }),
        1..=MOST => {
            let networks = networks(&interfaces, &chosen.order);
            Ok(Offer { addresses: chosen.order, networks })
        }
        _ => Err(AddressError::TooMany),
    }
}

/// The interfaces' networks that hold one of these addresses, once each.
fn networks(interfaces: &[Interface], addresses: &[IpAddr]) -> Vec<IpNet> {
    let several = |network: &IpNet| network.prefix_len() < network.max_prefix_len();
    let holds = |network: &IpNet| addresses.iter().any(|address| network.contains(address));
    let all: BTreeSet<IpNet> = interfaces.iter().filter_map(|i| i.network).filter(several).collect();
    all.into_iter().filter(holds).collect()
}

/// Addresses once each, in the order in which they were first chosen.
#[derive(Default)]
struct Chosen {
    order: Vec<IpAddr>,
    seen: BTreeSet<IpAddr>,
    left_out: Vec<IpNet>,
}

impl Chosen {
    fn add(&mut self, address: IpAddr) {
        let left_out = self.left_out.iter().any(|network| network.contains(&address));
        if !left_out && self.seen.insert(address) {
            self.order.push(address);
        }
    }

    /// Adds it if it can be bound now: an IPv6 address cannot before duplicate detection has ended.
    fn bindable(&mut self, address: IpAddr) {
        match check(address) {
            Ok(()) => self.add(address),
            Err(error) => tracing::warn!("{address} is not offered: it cannot be bound: {error}"),
        }
    }
}

/// The host addresses of the network, where one local route covers all of it: then the kernel takes
/// each for its own. No more than are enough to be too many.
fn any_ip(network: IpNet) -> Result<Vec<IpAddr>, AddressError> {
    if !routes::local()?.iter().any(|route| route.contains(&network)) {
        return Ok(Vec::new());
    }
    // The first address of an IPv6 network is its routers' (RFC 4291, 2.6.1); that of an IPv4
    // network is the network's own, which `hosts` leaves out.
    let routers = (network.addr().is_ipv6() && network.prefix_len() < 127).then(|| network.network());
    Ok(network.hosts().filter(|address| Some(*address) != routers).take(MOST + 1).collect())
}

/// An address of an interface that is up.
struct Interface {
    name: String,
    address: IpAddr,
    network: Option<IpNet>,
}

fn interfaces() -> Result<Vec<Interface>, AddressError> {
    let all = getifaddrs().map_err(AddressError::Interfaces)?;
    let up = all.filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP));
    Ok(up
        .filter_map(|interface| {
            let address = address_of(&interface.address?)?;
            let mask = interface.netmask.as_ref().and_then(address_of);
            let network = mask.and_then(|mask| IpNet::with_netmask(address, mask).ok());
            let network = network.map(|network| network.trunc());
            Some(Interface { name: interface.interface_name, address, network })
        })
        .collect())
}

fn address_of(address: &SockaddrStorage) -> Option<IpAddr> {
    match address.family()? {
        AddressFamily::Inet => address.as_sockaddr_in().map(|v4| v4.ip().into()),
        AddressFamily::Inet6 => address.as_sockaddr_in6().map(|v6| v6.ip().into()),
        _ => None,
    }
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Whether a flow can leave from it, as the kernel says. IP_BIND_ADDRESS_NO_PORT keeps this from
/// taking a port, which would fail on a host whose ports are all taken.
fn check(address: IpAddr) -> Result<(), Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(address, 0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_own_namespace;

    fn select(selectors: &[&str]) -> Result<Vec<String>, String> {
        let selectors: Vec<_> = selectors.iter().map(|text| text.parse().expect("good")).collect();
        let found = offered(&selectors, None).map_err(|error| error.to_string())?;
        Ok(found.addresses.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn an_address_that_this_host_does_not_have_is_refused_with_a_remedy() {
        // In a namespace of its own, because some hosts do have addresses of documentation (RFC 5737).
        let name =
            "facts::addresses::tests::an_address_that_this_host_does_not_have_is_refused_with_a_remedy";
        if !in_own_namespace(name, "true") {
            return;
        }
        for address in ["192.0.2.1", "2001:db8::1"] {
            let refusal = select(&["127.66.41.1", address]).expect_err("refused");
            assert!(refusal.contains(address) && refusal.contains("ip address add"), "{refusal}");
        }
        let refusal = select(&["192.0.2.0/24"]).expect_err("refused");
        assert!(refusal.contains("192.0.2.0/24") && refusal.contains("ip address add"), "{refusal}");
    }

    #[test]
    fn a_network_inside_a_local_route_offers_all_its_host_addresses() {
        assert_eq!(select(&["127.66.41.4/30"]), Ok(vec!["127.66.41.5".into(), "127.66.41.6".into()]));
        let twice = select(&["127.66.41.6", "127.66.41.4/30", "127.66.41.5"]);
        assert_eq!(twice, Ok(vec!["127.66.41.6".into(), "127.66.41.5".into()]), "once each");
        let refusal = select(&["127.66.0.0/16"]).expect_err("too many");
        assert!(refusal.contains("name smaller networks"), "{refusal}");
    }

    #[test]
    fn addresses_of_interfaces_and_of_any_ip_routes_are_offered_in_order() {
        let name =
            "facts::addresses::tests::addresses_of_interfaces_and_of_any_ip_routes_are_offered_in_order";
        let prepare = "ip link add br1 type bridge && ip address add 10.66.1.2/24 dev br1 \
            && ip address add 10.66.1.1/24 dev br1 && ip link set br1 up \
            && ip link add br2 type bridge && ip address add 10.66.2.1/24 dev br2 \
            && ip link set br2 up && ip -6 address add fd66::1/64 dev br2 nodad \
            && ip route add local 10.66.128.0/29 dev lo && ip -6 route add local fd67::/125 dev lo";
        if !in_own_namespace(name, prepare) {
            return;
        }
        let strings = |list: &[&str]| Ok(list.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(select(&[]), strings(&["10.66.1.2", "10.66.1.1", "10.66.2.1", "fd66::1"]));
        assert_eq!(select(&["10.66.1.0/24"]), strings(&["10.66.1.2", "10.66.1.1"]));
        assert_eq!(select(&["fd66::/64", "10.66.2.0/24"]), strings(&["fd66::1", "10.66.2.1"]));
        assert_eq!(select(&["10.66.128.0/30"]), strings(&["10.66.128.1", "10.66.128.2"]));
        assert_eq!(select(&["fd67::/126"]), strings(&["fd67::1", "fd67::2", "fd67::3"]));
        assert!(select(&["10.66.128.0/24"]).is_err(), "only a part of it is routed here");
        assert_eq!(select(&["!10.66.1.0/24"]), strings(&["10.66.2.1", "fd66::1"]));
        assert_eq!(select(&["10.66.0.0/16", "!10.66.1.2"]), strings(&["10.66.1.1", "10.66.2.1"]));
        let refusal = select(&["!0.0.0.0/0", "!::/0"]).expect_err("nothing is left");
        assert!(refusal.contains("not left out"), "{refusal}");
        let networks = |selectors: &[&str], control: Option<&str>| {
            let selectors: Vec<_> = selectors.iter().map(|text| text.parse().expect("good")).collect();
            let offer = offered(&selectors, control.map(|ip| ip.parse().expect("an address"))).expect("some");
            offer.networks.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(networks(&[], None), ["10.66.1.0/24", "10.66.2.0/24", "fd66::/64"]);
        assert_eq!(networks(&["10.66.1.1"], None), ["10.66.1.0/24"]);
        assert_eq!(networks(&["10.66.128.0/30"], None), Vec::<String>::new(), "by routes alone");
        assert_eq!(networks(&["127.66.41.1"], None), ["127.0.0.0/8"]);
        assert_eq!(networks(&[], Some("10.66.2.1")), ["10.66.1.0/24", "fd66::/64"]);
        assert_eq!(networks(&[], Some("fd66::1")), ["10.66.1.0/24", "10.66.2.0/24", "fd66::/64"], "the only");
    }

    #[test]
    fn the_gateway_of_a_swarm_and_link_local_addresses_are_not_offered() {
        let name = "facts::addresses::tests::the_gateway_of_a_swarm_and_link_local_addresses_are_not_offered";
        let prepare = "ip link add docker_gwbridge type bridge && ip address add 172.18.0.1/16 dev docker_gwbridge \
            && ip link set docker_gwbridge up && ip link add br1 type bridge && ip link set br1 up \
            && ip address add 169.254.7.1/16 dev br1 && ip address add 10.66.1.1/24 dev br1";
        if in_own_namespace(name, prepare) {
            assert_eq!(select(&[]), Ok(vec!["10.66.1.1".into()]));
            assert_eq!(select(&["!10.66.1.0/24"]), Ok(vec!["172.18.0.1".into()]), "if there is no other");
            assert_eq!(select(&["172.18.0.0/16"]), Ok(vec!["172.18.0.1".into()]), "named");
        }
    }

    #[test]
    fn a_host_with_loopback_only_is_told_to_name_its_addresses() {
        let name = "facts::addresses::tests::a_host_with_loopback_only_is_told_to_name_its_addresses";
        if in_own_namespace(name, "true") {
            let refusal = select(&[]).expect_err("nothing to offer");
            assert!(refusal.contains("loopback addresses must be named"), "{refusal}");
        }
    }
}
