//! The few words of rtnetlink that a lab needs, each with an error that says which thing was refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::RawFd;

use futures::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth};
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

/// What the kernel did not do.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket or no runtime for it.
    #[error("could not open a netlink socket ({0})")]
    Open(#[from] std::io::Error),
    /// A request with its answer.
    #[error("could not {what} ({source})")]
    Request {
        /// The request in words.
        what: String,
        /// The kernel's answer.
        source: rtnetlink::Error,
    },
    /// A link that should be there.
    #[error("there is no link called {0}")]
    NoLink(String),
}

/// A netlink connection of the namespace in which it was opened.
pub struct Netlink(Handle);

/// A link by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link(u32);

impl Netlink {
    /// Runs `work` with a connection of this thread's namespace, on a runtime that ends with it.
    pub fn with<T, E: From<NetlinkError>>(work: impl AsyncFnOnce(&Self) -> Result<T, E>) -> Result<T, E> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(NetlinkError::Open)?;
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(NetlinkError::Open)?;
            let connection = tokio::spawn(connection);
            let done = work(&Self(handle)).await;
            connection.abort();
            done
        })
    }

    /// The link of that name.
    pub async fn link(&self, name: &str) -> Result<Link, NetlinkError> {
        let mut found = self.0.link().get().match_name(name).execute();
        let message = found.try_next().await.map_err(refused(|| format!("find the link {name}")))?;
        message.map(|link| Link(link.header.index)).ok_or_else(|| NetlinkError::NoLink(name.to_owned()))
    }

    /// `ip link set LINK up`
    pub async fn set_up(&self, link: Link) -> Result<(), NetlinkError> {
        let message = LinkUnspec::new_with_index(link.0).up().build();
        self.0.link().set(message).execute().await.map_err(refused(|| format!("set link {} up", link.0)))
    }

    /// A bridge that forwards at once: no spanning tree, and no snooping that would have to learn first.
    pub async fn add_bridge(&self, name: &str, hardware: [u8; 6]) -> Result<Link, NetlinkError> {
        let message = LinkBridge::new(name).address(hardware.to_vec()).forward_delay(0).mcast_snooping(false);
        self.0
            .link()
            .add(message.build())
            .execute()
            .await
            .map_err(refused(|| format!("add the bridge {name}")))?;
        self.link(name).await
    }

    /// A veth pair: `port` here, up and in `bridge`; `peer` straight in the other namespace, which saves the
    /// kernel a slow move.
    pub async fn add_veth(&self, port: &str, bridge: Link, peer: Peer<'_>) -> Result<(), NetlinkError> {
        let other = LinkUnspec::new_with_name(peer.name)
            .address(peer.hardware.to_vec())
            .setns_by_fd(peer.namespace)
            .build();
        let message = LinkVeth::new(port, peer.name)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(other)))
            .controller(bridge.0)
            .up()
            .build();
        self.0.link().add(message).execute().await.map_err(refused(|| format!("add the veth pair {port}")))
    }

    /// An address on a link. IPv6 addresses are usable at once: nobody else can have them.
    pub async fn add_address(&self, link: Link, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        let mut request = self.0.address().add(link.0, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        request.execute().await.map_err(refused(|| format!("add the address {address}/{prefix}")))
    }

    /// Who has an address, said once and for all. Permanent entries are not counted against the kernel's
    /// 1,024 neighbours (gc_thresh3), which all namespaces share and none of them may raise.
    pub async fn add_neighbour(
        &self,
        link: Link,
        who: IpAddr,
        hardware: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let request = self.0.neighbours().add(link.0, who).link_layer_address(&hardware);
        request.execute().await.map_err(refused(|| format!("add the neighbour {who}")))
    }

    /// All of a peer's addresses by way of one of them, so that the peer is one neighbour however many it has.
    pub async fn add_route(&self, link: Link, to: IpNet, via: IpAddr) -> Result<(), NetlinkError> {
        let message = match (to, via) {
            (IpNet::V4(to), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .gateway(via)
                .output_interface(link.0)
                .onlink()
                .build(),
            (IpNet::V6(to), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.addr(), to.prefix_len())
                .gateway(via)
                .output_interface(link.0)
                .onlink()
                .build(),
            _ => {
                let source = rtnetlink::Error::RequestFailed;
                return Err(NetlinkError::Request { what: format!("mix families: {to} via {via}"), source });
            }
        };
        self.0
            .route()
            .add(message)
            .execute()
            .await
            .map_err(refused(|| format!("add the route {to} via {via}")))
    }
}

/// The far end of a veth pair.
pub struct Peer<'a> {
    /// Its name over there.
    pub name: &'a str,
    /// Its hardware address.
    pub hardware: [u8; 6],
    /// A descriptor of the namespace in which it is born.
    pub namespace: RawFd,
}

fn refused(what: impl FnOnce() -> String) -> impl FnOnce(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError::Request { what: what(), source }
}
