//! One netlink exchange: a request out, the kernel's answers streamed to a closure.
//!
//! Written by hand over `netlink-sys` because a census reads up to a million answers: they are
//! looked at in the receive buffer, and nothing is allocated for one. The layout is that of
//! `include/uapi/linux/netlink.h`.

use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::libc;
use std::io;

/// The kernel hands out at most 32 KiB of a dump per call (`netlink_recvmsg` in
/// `net/netlink/af_netlink.c` caps `max_recvmsg_len`); the rest is room for kernels that hand out more.
const BUFFER: usize = 128 * 1024;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// Our only request on its socket, so the number need only differ from 0.
const SEQUENCE: u32 = 1;

const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why a dump did not come through whole.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened, written or read.
    #[error("failed to {doing} a netlink socket: {source}")]
    Socket {
        /// What was done with it.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the request.
    #[error("the kernel refused the netlink request: {0}")]
    Refused(Errno),
    /// What was listed changed under the dump, or answers were lost: it must be asked again.
    #[error("the kernel's list changed while it was read, or a part of it was lost")]
    Torn,
    /// The kernel's answer has no shape that we know.
    #[error("the kernel's netlink answer is malformed: {0}")]
    Malformed(&'static str),
}

/// What one datagram of answers led to.
enum Progress {
    More,
    Done,
}

/// Asks once and gives the payload of each answer to `each`. When this fails, `each` has seen a
/// part: the caller throws away what it made of it.
pub fn dump(protocol: isize, kind: u16, body: &[u8], each: impl FnMut(&[u8])) -> Result<(), NetlinkError> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    exchange(protocol, &request(kind, flags, body)?, each).map(drop)
}

/// Sends requests in one datagram, of which the last asks for an acknowledgement, and waits for that
/// or for the first refusal. What the kernel ties to the socket lives as long as the socket that is
/// returned.
pub fn change(protocol: isize, requests: &[Vec<u8>]) -> Result<Socket, NetlinkError> {
    exchange(protocol, &requests.concat(), |_| ())
}

fn exchange(protocol: isize, requests: &[u8], mut each: impl FnMut(&[u8])) -> Result<Socket, NetlinkError> {
    let failed = |doing| move |source| NetlinkError::Socket { doing, source };
    let socket = Socket::new(protocol).map_err(failed("open"))?;
    // Connected, it takes messages from the kernel only, and not from another process.
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
    socket.send(requests, 0).map_err(failed("write to"))?;

    let mut buffer = vec![0u8; BUFFER];
    let mut torn = false;
    loop {
        let mut room: &mut [u8] = &mut buffer;
        let length = match socket.recv(&mut room, libc::MSG_TRUNC) {
            Ok(length) => length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Err(NetlinkError::Torn),
            Err(e) => return Err(failed("read")(e)),
        };
        let datagram = buffer.get(..length).ok_or(NetlinkError::Malformed("longer than any buffer"))?;
        match answers(datagram, &mut torn, &mut each)? {
            Progress::More => {}
            Progress::Done if torn => return Err(NetlinkError::Torn),
            Progress::Done => return Ok(socket),
        }
    }
}

/// A request, with its header; a body's length is a multiple of four, so that another may follow.
pub fn request(kind: u16, flags: u16, body: &[u8]) -> Result<Vec<u8>, NetlinkError> {
    let length = HEADER + body.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(
        u32::try_from(length).map_err(|_| NetlinkError::Malformed("request too long"))?.to_ne_bytes(),
    );
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(SEQUENCE.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(body);
    Ok(bytes)
}

fn answers(mut rest: &[u8], torn: &mut bool, each: &mut impl FnMut(&[u8])) -> Result<Progress, NetlinkError> {
    if rest.is_empty() {
        return Err(NetlinkError::Malformed("an empty datagram"));
    }
    while !rest.is_empty() {
        let short = NetlinkError::Malformed("a message shorter than its header says");
        let (Some(length), Some(kind), Some(flags), Some(sequence)) =
            (u32_at(rest, 0), u16_at(rest, 4), u16_at(rest, 6), u32_at(rest, 8))
        else {
            return Err(short);
        };
        let length = length as usize;
        let Some(payload) = rest.get(HEADER..length) else { return Err(short) };
        if sequence == SEQUENCE {
            *torn |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_NOOP => {}
                // Both carry an errno: 0 or, negated, why it failed (of DONE since Linux 4.15).
                NLMSG_ERROR | NLMSG_DONE => match u32_at(payload, 0).map(|word| word as i32) {
                    Some(code) if code < 0 => {
                        return Err(NetlinkError::Refused(Errno::from_raw(code.saturating_neg())));
                    }
                    _ => return Ok(Progress::Done),
                },
                _ => each(payload),
            }
        }
        // Messages begin at multiples of four; the last may lack its padding.
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Progress::More)
}

/// The two bytes at `offset` as a number in this machine's order.
pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// The four bytes at `offset` as a number in this machine's order.
pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// Adds a netlink attribute (`struct nlattr`) whose payload is a multiple of four long.
pub fn push_attribute(bytes: &mut Vec<u8>, kind: u16, payload: &[u8]) {
    bytes.extend(((4 + payload.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(payload);
}

/// The attributes in `rest`, as (type without its flag bits, payload); ends at the first odd one.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let payload = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        request(kind, flags, payload).expect("short enough")
    }

    fn read(datagram: &[u8]) -> (Result<bool, String>, Vec<Vec<u8>>, bool) {
        let (mut seen, mut torn) = (Vec::new(), false);
        let end = answers(datagram, &mut torn, &mut |payload: &[u8]| seen.push(payload.to_vec()));
        (end.map(|p| matches!(p, Progress::Done)).map_err(|e| e.to_string()), seen, torn)
    }

    #[test]
    fn answers_are_given_one_by_one_until_the_kernel_is_done() {
        let mut datagram = message(20, 2, b"one.");
        datagram.extend(message(20, 2, b"two."));
        assert_eq!(read(&datagram), (Ok(false), vec![b"one.".to_vec(), b"two.".to_vec()], false));
        datagram.extend(message(NLMSG_DONE, 2, &0i32.to_ne_bytes()));
        assert_eq!(read(&datagram).0, Ok(true));
    }

    #[test]
    fn an_interrupted_dump_is_seen_as_torn() {
        assert!(read(&message(20, NLM_F_DUMP_INTR, b"one.")).2);
        assert!(read(&message(NLMSG_DONE, NLM_F_DUMP_INTR, &0i32.to_ne_bytes())).2);
    }

    #[test]
    fn a_refusal_names_the_error() {
        let refused = read(&message(NLMSG_ERROR, 0, &(-libc::ENOENT).to_ne_bytes()));
        assert_eq!(refused.0.expect_err("refused"), NetlinkError::Refused(Errno::ENOENT).to_string());
        let refused = read(&message(NLMSG_DONE, 0, &(-libc::EINVAL).to_ne_bytes()));
        assert!(refused.0.is_err());
        assert!(read(&message(NLMSG_ERROR, 0, &i32::MIN.to_ne_bytes())).0.is_err());
    }

    #[test]
    fn odd_answers_are_errors_and_never_a_panic() {
        let whole = message(20, 2, b"one.");
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).0.is_err(), "cut at {cut}");
        }
        for length in [0u32, 15, 17, u32::MAX] {
            let mut odd = message(20, 2, b"");
            odd[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(read(&odd).0.is_err(), "length {length}");
        }
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 7]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 7]).collect::<Vec<_>>(), [(1, &[7u8][..])]);
    }
}
