//! What the interfaces of a namespace see, through an AF_PACKET socket (`packet(7)`); and packets made
//! from the IP header on, through a raw one (`raw(7)`). Both need CAP_NET_RAW in the namespace.

#![allow(unsafe_code, reason = "nix has no safe getter for PACKET_STATISTICS; its macro expands to unsafe")]

use super::segment::Segment;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, getsockopt,
    recvfrom, sendto, setsockopt, socket, sockopt,
};
use nix::{getsockopt_impl, sockopt_impl};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

/// Room for about a hundred thousand small segments: the kernel counts some 700 bytes for each.
const ROOM: usize = 64 << 20;
/// IP and TCP headers with all their options are at most 120 bytes; the rest of a packet is not needed.
const HEADERS: usize = 128;
/// `include/uapi/linux/if_arp.h`.
const ARPHRD_LOOPBACK: u16 = 772;
/// `include/uapi/linux/if_packet.h`: to somebody else, seen only because the link is promiscuous.
const PACKET_OTHERHOST: u8 = 3;
/// Leaving by this interface.
const PACKET_OUTGOING: u8 = 4;

// SAFETY: the one unsafe thing here, a getsockopt(2) that nix's macro writes. The kernel fills exactly a
// `struct tpacket_stats` for a socket that was not set to TPACKET_V3 (`packet_getsockopt` in
// `net/packet/af_packet.c`), every bit pattern of it is valid, and the macro checks the length.
sockopt_impl!(
    /// What an AF_PACKET socket counted since it was last asked: asking sets it back to 0.
    PacketStatistics,
    GetOnly,
    libc::SOL_PACKET,
    libc::PACKET_STATISTICS,
    libc::tpacket_stats
);

/// Where a packet was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// An interface took it from outside.
    In,
    /// An interface sent it.
    Out,
    /// The loopback interface sent it; its arrival is another sight, which is left out.
    Loopback,
}

/// A socket that sees every segment on every interface of the namespace it was opened in.
#[derive(Debug)]
pub struct Tap(OwnedFd);

impl Tap {
    /// Begins to see.
    pub fn open() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        // SOCK_DGRAM: without the link's header, whose length differs by kind of link.
        let fd = socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?;
        // Beyond net.core.rmem_max only with CAP_NET_ADMIN on the host itself; else as much as there is.
        setsockopt(&fd, sockopt::RcvBufForce, &ROOM).or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &ROOM))?;
        Ok(Self(fd))
    }

    /// The next segment, if one is there; `Ok(None)` if nothing is. Packets that are no TCP segments
    /// are passed over.
    pub fn next(&self) -> Result<Option<(Sight, Segment)>, Errno> {
        let mut buffer = [0u8; HEADERS];
        loop {
            let (length, from) = match recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer) {
                // A link that went down says so once; the socket goes on with the others.
                Err(Errno::EINTR | Errno::ENETDOWN) => continue,
                Err(Errno::EAGAIN) => return Ok(None),
                other => other?,
            };
            let sight = match from.map(|link| (link.hatype(), link.pkttype())) {
                // Each packet on lo is seen leaving and arriving, and has been on the wire once.
                Some((ARPHRD_LOOPBACK, PACKET_OUTGOING)) => Sight::Loopback,
                Some((ARPHRD_LOOPBACK, _) | (_, PACKET_OTHERHOST)) | None => continue,
                Some((_, PACKET_OUTGOING)) => Sight::Out,
                Some(_) => Sight::In,
            };
            if let Some(segment) = buffer.get(..length).and_then(Segment::parse) {
                return Ok(Some((sight, segment)));
            }
        }
    }

    /// Sleeps until something is there, or that long.
    pub fn wait(&self, most: Duration) {
        let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], most);
    }

    /// How many packets the kernel dropped for want of room, since this was last asked.
    pub fn dropped(&self) -> Result<u32, Errno> {
        Ok(getsockopt(&self.0, PacketStatistics)?.tp_drops)
    }
}

/// A socket that sends packets whose IP header is made here, from any address.
///
/// IPPROTO_RAW implies IP_HDRINCL (`raw(7)`; `inet_create` and `inet6_create`), and the kernel does not
/// ask whether it owns the source (`raw_send_hdrinc`). Unlike an AF_PACKET socket it needs neither the
/// interface nor the neighbour's hardware address: routes and neighbours are looked up as for any packet.
#[derive(Debug)]
pub struct Sender(OwnedFd);

impl Sender {
    /// For packets to addresses of that family.
    pub fn open(to: IpAddr) -> Result<Self, Errno> {
        let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw).map(Self)
    }

    /// Sends one segment; waits a little where the link's queue is full.
    pub fn send(&self, segment: &Segment) -> Result<(), Errno> {
        let bytes = segment.bytes().ok_or(Errno::EAFNOSUPPORT)?;
        // A port here would be taken for a protocol's number.
        let to = SockaddrStorage::from(SocketAddr::new(segment.destination.ip(), 0));
        for _ in 0..100 {
            match sendto(self.0.as_raw_fd(), &bytes, &to, MsgFlags::empty()) {
                Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                done => return done.map(drop),
            }
        }
        Err(Errno::ENOBUFS)
    }
}
