//! The address plan: who has which address. Pure, so that the same spec gives the same addresses every time.
//!
//! Host `i` (from 0) owns block `i + 1`: `10.66.(i+1).1` to `.250`. A host that needs more takes further
//! blocks, in the order of the hosts, from those that are nobody's own. IPv6 needs no further blocks: host
//! `i` has `fd66::(i+1):1` and so on.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use crate::spec::LabKind;

/// Addresses of one host in one /24 block. Below 254, so that an address at the edge stays free for faults.
pub const PER_BLOCK: u32 = 250;
/// Addresses that one host may have. Adding them takes time that grows with the square of their number.
pub const PER_HOST: u32 = 4_000;
/// Hosts of one lab: far below a bridge's 1,023 ports, because every pair of hosts costs a route.
pub const MOST_HOSTS: usize = 100;
/// Block 0 is the hub's, 255 stays free.
const LAST_BLOCK: u8 = 254;

/// The data network of labs with namespaces.
pub const DATA: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 66, 0, 0), 16);
/// The same for IPv6: a unique local prefix (RFC 4193), chosen by hand to be read easily.
pub const DATA6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 0, 0), 64);
/// The control network of labs with namespaces.
pub const CONTROL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 67, 0, 0), 16);
/// Loopback labs: any address in 127/8 can be bound without configuration.
const LOOPBACK_DATA: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 66, 0, 0), 16);
const LOOPBACK_CONTROL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(127, 67, 0, 0), 16);

/// Why the addresses that were asked for do not exist.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// A lab without hosts measures nothing, and one with very many cannot be built.
    #[error("{0} hosts asked, a lab has 1 to {MOST_HOSTS}; give each host more addresses instead")]
    Hosts(usize),
    /// A host with none or with too many.
    #[error("host number {host} asks for {asked} addresses, one host has 1 to {PER_HOST}; use more hosts")]
    PerHost {
        /// The host's place in the spec, from 1.
        host: usize,
        /// What it asked for.
        asked: u32,
    },
    /// All hosts together want more than the network has.
    #[error(
        "the hosts ask for {asked} blocks of {PER_BLOCK} addresses, the network has {LAST_BLOCK}; \
         ask for fewer addresses or fewer hosts"
    )]
    Network {
        /// Blocks of all hosts together.
        asked: usize,
    },
}

/// Addresses of a whole lab.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPlan {
    /// Where the controller listens.
    pub control: Ipv4Addr,
    /// The hosts in the order of the spec.
    pub hosts: Vec<HostAddresses>,
}

/// Addresses of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddresses {
    /// IPv4 data addresses; never empty.
    pub v4: Vec<Ipv4Addr>,
    /// IPv6 data addresses; as many, or none where the lab has no IPv6.
    pub v6: Vec<Ipv6Addr>,
    /// The address on the control network.
    pub control: Ipv4Addr,
    /// The /24 blocks of `v4`: what a peer needs a route for.
    pub blocks: Vec<Ipv4Net>,
    /// The prefix of `v6`: the same for IPv6.
    pub block6: Option<Ipv6Net>,
}

impl AddressPlan {
    /// Lays out `counts[i]` addresses of each family for host `i`.
    pub fn new(kind: LabKind, counts: &[u32]) -> Result<Self, AddressError> {
        if !(1..=MOST_HOSTS).contains(&counts.len()) {
            return Err(AddressError::Hosts(counts.len()));
        }
        if let Some((index, asked)) = counts.iter().enumerate().find(|(_, n)| !(1..=PER_HOST).contains(*n)) {
            return Err(AddressError::PerHost { host: index + 1, asked: *asked });
        }
        let asked: usize = counts.iter().map(|count| count.div_ceil(PER_BLOCK) as usize).sum();
        if asked > usize::from(LAST_BLOCK) {
            return Err(AddressError::Network { asked });
        }
        let (data, control) = match kind {
            LabKind::Namespaces => (DATA, CONTROL),
            LabKind::Loopback => (LOOPBACK_DATA, LOOPBACK_CONTROL),
        };
        // The first `counts.len()` blocks are the hosts' own; the rest is given out from there on.
        let mut free = (1..=LAST_BLOCK).skip(counts.len());
        let hosts = (1..=LAST_BLOCK)
            .zip(counts)
            .map(|(own, &count)| {
                let further = count.div_ceil(PER_BLOCK) as usize - 1;
                let numbers: Vec<u8> = std::iter::once(own).chain(free.by_ref().take(further)).collect();
                HostAddresses {
                    v4: v4_addresses(data, &numbers, count),
                    v6: if kind == LabKind::Namespaces { v6_addresses(own, count) } else { Vec::new() },
                    control: in_block(control, own, 1),
                    blocks: numbers.iter().map(|&number| block(data, number)).collect(),
                    block6: (kind == LabKind::Namespaces).then(|| block6(own)),
                }
            })
            .collect();
        let control = match kind {
            LabKind::Namespaces => Self::hub_control(),
            LabKind::Loopback => Ipv4Addr::LOCALHOST,
        };
        Ok(Self { control, hosts })
    }

    /// Where the controller listens in a lab with namespaces.
    pub fn hub_control() -> Ipv4Addr {
        in_block(CONTROL, 0, 1)
    }

    /// The plan of a machine whose kernel has no IPv6.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        for host in &mut self.hosts {
            host.v6.clear();
            host.block6 = None;
        }
        self
    }
}

impl HostAddresses {
    /// All data addresses as one command argument: IPv4, then IPv6.
    pub fn listed(&self) -> String {
        let v4 = self.v4.iter().map(ToString::to_string);
        v4.chain(self.v6.iter().map(ToString::to_string)).collect::<Vec<_>>().join(",")
    }
}

/// The hub's IPv4 address on the data network.
pub fn hub_data() -> Ipv4Addr {
    in_block(DATA, 0, 1)
}

/// The hub's IPv6 address on the data network.
pub fn hub_data6() -> Ipv6Addr {
    in_block6(0, 1)
}

/// A link on one of the two networks, for its hardware address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Where the measured connections are.
    Data,
    /// Where agents and controller talk.
    Control,
}

/// The hardware address of a host's link (`Some(index)`) or of the hub's bridge (`None`): locally
/// administered, and known beforehand so that no address has to be resolved during a measurement.
pub fn hardware(network: Network, host: Option<usize>) -> [u8; 6] {
    let network = match network {
        Network::Data => 0x66,
        Network::Control => 0x67,
    };
    let number = host.map_or(0, |index| u16::try_from(index + 1).unwrap_or(u16::MAX));
    let [high, low] = number.to_be_bytes();
    [0x02, network, 0, 0, high, low]
}

fn v4_addresses(net: Ipv4Net, blocks: &[u8], count: u32) -> Vec<Ipv4Addr> {
    let last = u8::try_from(PER_BLOCK).unwrap_or(u8::MAX);
    let all = blocks.iter().flat_map(|&number| (1..=last).map(move |host| in_block(net, number, host)));
    all.take(count as usize).collect()
}

fn v6_addresses(block: u8, count: u32) -> Vec<Ipv6Addr> {
    (1..=u16::MAX).take(count as usize).map(|host| in_block6(block, host)).collect()
}

fn in_block(net: Ipv4Net, block: u8, host: u8) -> Ipv4Addr {
    let [a, b, ..] = net.addr().octets();
    Ipv4Addr::new(a, b, block, host)
}

fn in_block6(block: u8, host: u16) -> Ipv6Addr {
    let [a, b, c, d, e, f, ..] = DATA6.addr().segments();
    Ipv6Addr::new(a, b, c, d, e, f, u16::from(block), host)
}

fn block(net: Ipv4Net, number: u8) -> Ipv4Net {
    Ipv4Net::new_assert(in_block(net, number, 0), 24)
}

fn block6(number: u8) -> Ipv6Net {
    Ipv6Net::new_assert(in_block6(number, 0), 112)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn plan(counts: &[u32]) -> AddressPlan {
        AddressPlan::new(LabKind::Namespaces, counts).expect("fits")
    }

    #[test]
    fn a_small_lab_has_addresses_that_can_be_read() {
        let plan = plan(&[2, 1]);
        assert_eq!(plan.control.to_string(), "10.67.0.1");
        assert_eq!(plan.hosts[0].listed(), "10.66.1.1,10.66.1.2,fd66::1:1,fd66::1:2");
        assert_eq!(plan.hosts[1].listed(), "10.66.2.1,fd66::2:1");
        assert_eq!(plan.hosts[1].control.to_string(), "10.67.2.1");
        assert_eq!((hub_data().to_string(), hub_data6().to_string()), ("10.66.0.1".into(), "fd66::1".into()));
    }

    #[test]
    fn a_host_with_many_addresses_continues_after_the_hosts_own_blocks() {
        let plan = plan(&[251, 1, 600]);
        assert_eq!(plan.hosts[0].v4[249].to_string(), "10.66.1.250");
        assert_eq!(plan.hosts[0].v4[250].to_string(), "10.66.4.1");
        let blocks: Vec<String> = plan.hosts[2].blocks.iter().map(ToString::to_string).collect();
        assert_eq!(blocks, ["10.66.3.0/24", "10.66.5.0/24", "10.66.6.0/24"]);
        assert_eq!(plan.hosts[0].v6[250].to_string(), "fd66::1:fb");
    }

    #[test]
    fn no_address_is_given_twice_and_each_lies_in_its_block() {
        let plan = plan(&[4000, 250, 251, 1, 1000]);
        let all: Vec<_> = plan.hosts.iter().flat_map(|host| &host.v4).collect();
        assert_eq!(all.len(), 4000 + 250 + 251 + 1 + 1000);
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for host in &plan.hosts {
            assert!(host.v4.iter().all(|address| host.blocks.iter().any(|block| block.contains(address))));
            let block6 = host.block6.expect("namespaces have IPv6");
            assert!(host.v6.iter().all(|address| block6.contains(address)));
        }
    }

    #[test]
    fn loopback_hosts_have_ipv4_only_because_only_one_ipv6_loopback_exists() {
        let plan = AddressPlan::new(LabKind::Loopback, &[2, 1]).expect("fits");
        assert_eq!(plan.control, Ipv4Addr::LOCALHOST);
        assert_eq!(plan.hosts[0].listed(), "127.66.1.1,127.66.1.2");
        assert_eq!(plan.hosts[1].listed(), "127.66.2.1");
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_number() {
        let new = |counts: &[u32]| AddressPlan::new(LabKind::Namespaces, counts);
        assert_eq!(new(&[]), Err(AddressError::Hosts(0)));
        assert_eq!(new(&[1; 101]), Err(AddressError::Hosts(101)));
        assert_eq!(new(&[1, 0]), Err(AddressError::PerHost { host: 2, asked: 0 }));
        assert_eq!(new(&[4001]), Err(AddressError::PerHost { host: 1, asked: 4001 }));
        assert_eq!(new(&[4000; 16]), Err(AddressError::Network { asked: 256 }));
        assert!(new(&[4000; 15]).is_ok());
    }

    #[test]
    fn every_link_has_a_hardware_address_of_its_own() {
        let links = [Network::Data, Network::Control].into_iter().flat_map(|network| {
            std::iter::once(None).chain((0..MOST_HOSTS).map(Some)).map(move |h| (network, h))
        });
        let addresses: Vec<_> = links.map(|(network, host)| hardware(network, host)).collect();
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), addresses.len());
        assert!(addresses.iter().all(|address| address[0] & 0b11 == 0b10), "local, not multicast");
    }
}
