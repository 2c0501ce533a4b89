//! The network of a lab with namespaces: two bridges in the hub, two links in each host.
//!
//! Every step runs on a thread of its own inside the namespace that it changes (see [`Namespace::run`]).

use std::path::Path;

use crate::addressing::{
    AddressPlan, CONTROL, DATA, DATA6, HostAddresses, Network, hardware, hub_data, hub_data6,
};
use crate::namespace::{Namespace, NamespaceError};
use crate::netlink::{Link, Netlink, NetlinkError, Peer};

/// The links' names, the same in the hub (bridges) and in every host (veth).
const DATA_LINK: &str = "data0";
const CONTROL_LINK: &str = "control0";

/// Why the network did not come up.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A step in the hub.
    #[error("the hub's network: {0}")]
    Hub(#[source] NetlinkError),
    /// A step for one host.
    #[error("the network of host number {host}: {source}")]
    Host {
        /// The host's place in the spec, from 1.
        host: usize,
        /// The step.
        source: NetlinkError,
    },
    /// No namespace for a host.
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
}

/// The network as it came up.
pub struct Built {
    /// A namespace per host.
    pub namespaces: Vec<Namespace>,
    /// The plan as it was carried out: without IPv6 where the kernel has none.
    pub plan: AddressPlan,
    /// What is missing.
    pub notes: Vec<String>,
}

/// Builds everything. The calling process must have entered the hub.
pub fn build(mut plan: AddressPlan) -> Result<Built, NetworkError> {
    let mut notes = Vec::new();
    quiet_ipv6();
    quiet_bridges();
    // This thread has only waited so far; its own runtime and socket end before the next step.
    let (bridges, ipv6) = Netlink::with(build_hub).map_err(NetworkError::Hub)?;
    if let Err(why) = ipv6 {
        notes.push(format!("no IPv6 in this lab: {why}"));
        plan = plan.without_ipv6();
    }
    let namespaces = plan.hosts.iter().map(|_| Namespace::new()).collect::<Result<Vec<_>, _>>()?;
    for (index, namespace) in namespaces.iter().enumerate() {
        // IPv6's switches must stand before the first link is born.
        namespace.run(quiet_ipv6)?;
        Netlink::with(async |netlink: &Netlink| join(netlink, &bridges, &plan, index, namespace).await)
            .map_err(|source| NetworkError::Host { host: index + 1, source })?;
        namespace
            .run(|| Netlink::with(async |netlink: &Netlink| build_host(netlink, &plan, index).await))?
            .map_err(|source| NetworkError::Host { host: index + 1, source })?;
    }
    Ok(Built { namespaces, plan, notes })
}

struct Bridges {
    data: Link,
    control: Link,
}

/// Both bridges with the hub's addresses; and whether IPv6 is to be had.
async fn build_hub(netlink: &Netlink) -> Result<(Bridges, Result<(), String>), NetlinkError> {
    netlink.set_up(netlink.link("lo").await?).await?;
    let data = netlink.add_bridge(DATA_LINK, hardware(Network::Data, None)).await?;
    let control = netlink.add_bridge(CONTROL_LINK, hardware(Network::Control, None)).await?;
    netlink.add_address(data, hub_data().into(), DATA.prefix_len()).await?;
    netlink.add_address(control, AddressPlan::hub_control().into(), CONTROL.prefix_len()).await?;
    let ipv6 = if Path::new("/proc/sys/net/ipv6").exists() {
        netlink.add_address(data, hub_data6().into(), DATA6.prefix_len()).await.map_err(|why| why.to_string())
    } else {
        Err("the kernel has none".to_owned())
    };
    Ok((Bridges { data, control }, ipv6))
}

/// Both veth pairs of one host, and whom the hub will find at their ends.
async fn join(
    netlink: &Netlink,
    bridges: &Bridges,
    plan: &AddressPlan,
    index: usize,
    namespace: &Namespace,
) -> Result<(), NetlinkError> {
    let peer = |name, network| Peer {
        name,
        hardware: hardware(network, Some(index)),
        namespace: namespace.descriptor(),
    };
    netlink.add_veth(&format!("d{index}"), bridges.data, peer(DATA_LINK, Network::Data)).await?;
    netlink.add_veth(&format!("c{index}"), bridges.control, peer(CONTROL_LINK, Network::Control)).await?;
    let host = &plan.hosts[index];
    netlink
        .add_neighbour(bridges.control, host.control.into(), hardware(Network::Control, Some(index)))
        .await?;
    meet(netlink, bridges.data, host, hardware(Network::Data, Some(index))).await
}

/// One host from the inside: its addresses, and the way to everybody else's.
async fn build_host(netlink: &Netlink, plan: &AddressPlan, index: usize) -> Result<(), NetlinkError> {
    let own = &plan.hosts[index];
    let data = netlink.link(DATA_LINK).await?;
    let control = netlink.link(CONTROL_LINK).await?;
    netlink.set_up(netlink.link("lo").await?).await?;
    netlink.add_address(control, own.control.into(), CONTROL.prefix_len()).await?;
    for &address in &own.v4 {
        netlink.add_address(data, address.into(), DATA.prefix_len()).await?;
    }
    for &address in &own.v6 {
        netlink.add_address(data, address.into(), DATA6.prefix_len()).await?;
    }
    // After its addresses: a link that is up walks through all its multicast groups for each further IPv6
    // address (4,000 took 6.4 s; on a link that is down 0.3 s). Before routes, which need a link that is up.
    netlink.set_up(data).await?;
    netlink.set_up(control).await?;
    netlink.add_neighbour(control, plan.control.into(), hardware(Network::Control, None)).await?;
    netlink.add_neighbour(data, hub_data().into(), hardware(Network::Data, None)).await?;
    if own.block6.is_some() {
        netlink.add_neighbour(data, hub_data6().into(), hardware(Network::Data, None)).await?;
    }
    for (other, host) in plan.hosts.iter().enumerate().filter(|(other, _)| *other != index) {
        meet(netlink, data, host, hardware(Network::Data, Some(other))).await?;
    }
    Ok(())
}

/// Makes a host known on the data network: its first address as a neighbour, all others by way of it.
async fn meet(
    netlink: &Netlink,
    data: Link,
    host: &HostAddresses,
    hardware: [u8; 6],
) -> Result<(), NetlinkError> {
    if let Some(&first) = host.v4.first() {
        netlink.add_neighbour(data, first.into(), hardware).await?;
        for &block in &host.blocks {
            netlink.add_route(data, block.into(), first.into()).await?;
        }
    }
    if let (Some(&first), Some(block)) = (host.v6.first(), host.block6) {
        netlink.add_neighbour(data, first.into(), hardware).await?;
        netlink.add_route(data, block.into(), first.into()).await?;
    }
    Ok(())
}

/// Sets IPv6 on in this thread's namespace (a machine may have it off by default) and keeps its links from
/// asking for routers and probing for duplicates. Where /proc/sys is read-only all this is only lost quiet:
/// whether IPv6 works is seen when the hub's address is added.
fn quiet_ipv6() {
    let switches =
        [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0"), ("router_solicitations", "0")];
    for (switch, value) in switches {
        for scope in ["all", "default"] {
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/{switch}"), value);
        }
    }
}

/// Keeps frames on the bridges out of iptables, through which they go on a machine that has br_netfilter
/// loaded (every one with Docker): a lab measures TCP, not a firewall without rules.
fn quiet_bridges() {
    for tables in ["arptables", "iptables", "ip6tables"] {
        let _ = std::fs::write(format!("/proc/sys/net/bridge/bridge-nf-call-{tables}"), "0");
    }
}
