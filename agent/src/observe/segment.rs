//! TCP segments as bytes: read from what an interface saw, and made for the raw peer.
//!
//! Layouts: RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP). By hand, because a fixed header without
//! options is sixty lines, and because what goes on the wire here must be exactly what was asked:
//! port 0 too, which builders of packets tend to refuse.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The next header of TCP (IANA, assigned internet protocol numbers).
const TCP: u8 = 6;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// The control bits that are looked at (RFC 9293, 3.1).
pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// What a segment's headers say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub sequence: u32,
    pub acknowledged: u32,
    pub flags: u8,
    /// Bytes behind the headers, by the IP header's length.
    pub payload: usize,
}

impl Segment {
    /// The segment in a packet that begins with its IP header; `None` for anything else, for later
    /// fragments, for IPv6 with extension headers, and for what was cut off before the TCP header's end.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => Self::parse_v4(packet),
            6 => Self::parse_v6(packet),
            _ => None,
        }
    }

    fn parse_v4(packet: &[u8]) -> Option<Self> {
        let header = usize::from(packet.first()? & 0x0f) * 4;
        let fragment = number16(packet, 6)? & 0x1fff;
        if header < 20 || *packet.get(9)? != TCP || fragment != 0 {
            return None;
        }
        let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into());
        // 0 is a segment that the kernel has not cut yet and that is too long for the field.
        let length = match usize::from(number16(packet, 2)?) {
            0 => packet.len(),
            total => total,
        };
        Self::parse_tcp(packet.get(header..)?, length.checked_sub(header)?, address(12)?, address(16)?)
    }

    fn parse_v6(packet: &[u8]) -> Option<Self> {
        if *packet.get(6)? != TCP {
            return None;
        }
        let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into());
        let length = match usize::from(number16(packet, 4)?) {
            0 => packet.len().checked_sub(V6_HEADER)?,
            length => length,
        };
        Self::parse_tcp(packet.get(V6_HEADER..)?, length, address(8)?, address(24)?)
    }

    fn parse_tcp(tcp: &[u8], length: usize, source: IpAddr, destination: IpAddr) -> Option<Self> {
        let fixed = tcp.first_chunk::<TCP_HEADER>()?;
        let header = usize::from(fixed[12] >> 4) * 4;
        if header < TCP_HEADER {
            return None;
        }
        Some(Self {
            source: SocketAddr::new(source, number16(fixed, 0)?),
            destination: SocketAddr::new(destination, number16(fixed, 2)?),
            sequence: number32(fixed, 4)?,
            acknowledged: number32(fixed, 8)?,
            flags: fixed[13],
            payload: length.checked_sub(header)?,
        })
    }

    /// Whether all of these flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The packet, IP header included, both checksums right; without options and payload. `None` where
    /// the two ends are of different families.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        let mut tcp = [0u8; TCP_HEADER];
        put(&mut tcp, 0, &self.source.port().to_be_bytes());
        put(&mut tcp, 2, &self.destination.port().to_be_bytes());
        put(&mut tcp, 4, &self.sequence.to_be_bytes());
        put(&mut tcp, 8, &self.acknowledged.to_be_bytes());
        // Five words of header; a window as large as can be said without scaling.
        put(&mut tcp, 12, &[5 << 4, self.flags, 0xff, 0xff]);
        let length = TCP_HEADER as u8;
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let sum = checksum(&[&source, &destination, &[0, TCP, 0, length], &tcp]);
                put(&mut tcp, 16, &sum.to_be_bytes());
                // Version 4, five words; total length; no identification, "don't fragment"; 64 hops.
                let mut ip = [0x45, 0, 0, 20 + length, 0, 0, 0x40, 0, 64, TCP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                put(&mut ip, 12, &source);
                put(&mut ip, 16, &destination);
                let sum = checksum(&[&ip]);
                put(&mut ip, 10, &sum.to_be_bytes());
                Some([ip.as_slice(), &tcp].concat())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (source, destination) = (source.octets(), destination.octets());
                let sum = checksum(&[&source, &destination, &[0, 0, 0, length, 0, 0, 0, TCP], &tcp]);
                put(&mut tcp, 16, &sum.to_be_bytes());
                // Version 6; payload length; next header; 64 hops.
                let ip = [0x60, 0, 0, 0, 0, length, TCP, 64];
                Some([ip.as_slice(), &source, &destination, &tcp].concat())
            }
            _ => None,
        }
    }
}

/// The internet checksum (RFC 1071) over parts that are each of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}

fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::address;

    fn syn(source: &str, destination: &str) -> Segment {
        Segment {
            source: address(source),
            destination: address(destination),
            sequence: 0x0102_0304,
            acknowledged: 0,
            flags: SYN,
            payload: 0,
        }
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // The example of RFC 1071, 3: the sum of these words is ddf2.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03], &[0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        // A header that is widely printed as an example; its checksum is b861.
        let header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        assert_eq!(checksum(&[&header]), 0xb861);
    }

    #[test]
    fn a_syn_is_these_bytes() {
        // Checksums computed apart from this code, by a few lines of Python.
        let bytes = syn("10.66.2.251:0", "10.66.1.1:7000").bytes().expect("one family");
        #[rustfmt::skip]
        assert_eq!(bytes, [
            0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0x22, 0x51, 10, 66, 2, 251, 10, 66, 1, 1,
            0, 0, 0x1b, 0x58, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0x78, 0x05, 0, 0,
        ]);
        let bytes = syn("[fd66::2:ffff]:65535", "[fd66::1:1]:7000").bytes().expect("one family");
        #[rustfmt::skip]
        assert_eq!(bytes[..], [
            0x60, 0, 0, 0, 0, 20, 6, 64,
            0xfd, 0x66, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0xff, 0xff,
            0xfd, 0x66, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1,
            0xff, 0xff, 0x1b, 0x58, 1, 2, 3, 4, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0x95, 0xb3, 0, 0,
        ]);
        assert_eq!(syn("10.66.2.251:1", "[fd66::1:1]:7000").bytes(), None);
    }

    #[test]
    fn what_is_made_is_read_again() {
        for (source, destination) in
            [("10.66.2.251:0", "10.66.1.1:7000"), ("[fd66::2:ffff]:65535", "[fd66::1:1]:7000")]
        {
            let made = Segment { flags: SYN | ACK, acknowledged: u32::MAX, ..syn(source, destination) };
            assert_eq!(Segment::parse(&made.bytes().expect("one family")), Some(made));
        }
    }

    #[test]
    fn options_and_payload_are_told_apart() {
        // A data segment with twelve bytes of TCP options, four of IP options, and three of data.
        let mut packet = vec![0x46, 0, 0, 24 + 32 + 3, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([1, 1, 1, 1]);
        packet.extend([0x1b, 0x58, 0x9c, 0x40, 0, 0, 0, 5, 0, 0, 0, 9, 0x80, 0x18, 1, 0, 0, 0, 0, 0]);
        packet.extend([1; 12]);
        packet.extend(b"abc");
        // An Ethernet frame is padded to its shortest length: padding is no payload.
        packet.extend([0; 6]);
        let segment = Segment::parse(&packet).expect("a segment");
        assert_eq!((segment.payload, segment.source), (3, address("10.0.0.1:7000")));
        assert_eq!((segment.sequence, segment.acknowledged, segment.flags), (5, 9, 0x18));
    }

    #[test]
    fn short_and_odd_packets_are_none_and_never_a_panic() {
        for whole in [
            syn("10.66.2.251:1", "10.66.1.1:7000").bytes().expect("one family"),
            syn("[fd66::2:ffff]:1", "[fd66::1:1]:7000").bytes().expect("one family"),
        ] {
            for cut in 0..whole.len() {
                assert_eq!(Segment::parse(&whole[..cut]), None, "cut at {cut}");
            }
            for at in 0..whole.len() {
                for value in [0, 1, 0x0f, 0x40, 0x60, 0x7f, 0xff] {
                    let mut odd = whole.clone();
                    odd[at] = value;
                    let _ = Segment::parse(&odd);
                }
            }
        }
        let mut fragment = syn("10.66.2.251:1", "10.66.1.1:7000").bytes().expect("one family");
        fragment[7] = 8;
        assert_eq!(Segment::parse(&fragment), None, "a later fragment has no TCP header");
        fragment[7] = 0;
        fragment[9] = 17;
        assert_eq!(Segment::parse(&fragment), None, "UDP");
    }
}
