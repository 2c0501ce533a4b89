//! One socket, and the calls on it. None blocks: what has to wait waits in [`wait`], for a time.

use super::refusal::{Refusal, errno};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use socket2::{SockAddr, Socket};
use std::io::{self, Read};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use tuplelab_domain::script::{Answer, Protocol};

/// As much as one step reads.
const MOST_BYTES: usize = 65_536;

/// How long one step sends while the peer takes nothing more.
const SENDING: Duration = Duration::from_secs(2);

/// A socket of the script.
#[derive(Debug)]
pub(super) struct Held {
    socket: Socket,
    protocol: Protocol,
    v6: bool,
    /// A connect is under way: how it ends has not been reported yet.
    connecting: bool,
}

impl Held {
    pub(super) fn new(socket: Socket, protocol: Protocol, v6: bool) -> Self {
        Self { socket, protocol, v6, connecting: false }
    }

    /// The address as the socket's family writes it: an IPv6 socket knows an IPv4 address as a mapped
    /// one, and any address as `::`.
    fn written(&self, address: SocketAddr) -> SockAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.v6 => {
                let ip = if ip.is_unspecified() { Ipv6Addr::UNSPECIFIED } else { ip.to_ipv6_mapped() };
                SocketAddr::from((ip, address.port())).into()
            }
            _ => address.into(),
        }
    }

    pub(super) fn is_v6(&self) -> bool {
        self.v6
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.connecting
    }

    pub(super) fn local(&self) -> Result<SocketAddr, Refusal> {
        internet(self.socket.local_addr()).map_err(Refusal::of("getsockname"))
    }

    pub(super) fn peer(&self) -> Result<SocketAddr, Refusal> {
        internet(self.socket.peer_addr()).map_err(Refusal::of("getpeername"))
    }

    /// The answer with `local` and `peer`, as far as there are any.
    pub(super) fn endpoints(&self, answer: Answer) -> Answer {
        let named = |answer: Answer, name, address: Result<SocketAddr, Refusal>| match address {
            Ok(address) => answer.detail(name, address),
            Err(_) => answer,
        };
        named(named(answer, "local", self.local()), "peer", self.peer())
    }

    /// Detail `itself` says whether both ends are this socket: two hosts, or a client and a server, are
    /// never joined by such a connection.
    pub(super) fn name(&self) -> Result<Answer, Refusal> {
        let local = self.local()?;
        let answer = self.endpoints(Answer::of("ok").value(local.port().into()));
        Ok(match self.peer() {
            Ok(peer) => answer.detail("itself", if peer == local { "yes" } else { "no" }),
            Err(refusal) => answer.detail("peer_error", format!("{:?}", refusal.errno)),
        })
    }

    pub(super) fn bind(&self, at: SocketAddr) -> Result<Answer, Refusal> {
        self.socket.bind(&self.written(at)).map_err(Refusal::of("bind"))?;
        let local = self.local()?;
        Ok(Answer::of("ok").value(local.port().into()).detail("local", local))
    }

    pub(super) fn listen(&self, backlog: u32) -> Result<Answer, Refusal> {
        let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
        self.socket.listen(backlog).map_err(Refusal::of("listen"))?;
        let local = self.local()?;
        Ok(Answer::of("ok").value(local.port().into()).detail("local", local))
    }

    /// Begins to connect; that it goes on in the background is no error.
    pub(super) fn begin(&mut self, to: SocketAddr) -> Result<(), Refusal> {
        let refused = |error| Refusal::of("connect")(error);
        match self.socket.connect(&self.written(to)) {
            Ok(()) => {
                self.connecting = false;
                Ok(())
            }
            Err(error) if errno(&error) == Errno::EINPROGRESS => {
                self.connecting = true;
                Ok(())
            }
            // An earlier connect is still under way.
            Err(error) if errno(&error) == Errno::EALREADY => Err(refused(error)),
            Err(error) => {
                self.connecting = false;
                Err(refused(error))
            }
        }
    }

    pub(super) fn connect(&mut self, to: SocketAddr, until: Instant) -> Result<Answer, Refusal> {
        self.begin(to)?;
        self.finish(until)
    }

    /// How the connect under way ended; or, if there is none, whether there is a connection.
    pub(super) fn finish(&mut self, until: Instant) -> Result<Answer, Refusal> {
        while self.connecting {
            let ready = self.wait(PollFlags::POLLOUT, until);
            if ready && let Some(decided) = self.decided() {
                self.connecting = false;
                decided?;
            } else if Instant::now() >= until {
                return Ok(self.endpoints(Answer::of("pending")));
            }
        }
        self.peer()?;
        Ok(self.endpoints(Answer::of("ok")))
    }

    /// Looks how a connect that may be over ended. Readiness alone is not asked, because [`wait`] says
    /// "ready" where it does not know.
    fn decided(&self) -> Option<Result<(), Refusal>> {
        let refused = Refusal::of("connect");
        match self.socket.take_error() {
            Ok(Some(error)) | Err(error) => Some(Err(refused(error))),
            Ok(None) => match self.peer() {
                Ok(_) => Some(Ok(())),
                Err(Refusal { errno: Errno::ENOTCONN, .. }) => None,
                Err(refusal) => Some(Err(refusal)),
            },
        }
    }

    /// The same for one of many: notes that it is decided.
    pub(super) fn decide(&mut self) -> Option<Result<(), Refusal>> {
        let decided = self.decided();
        self.connecting &= decided.is_none();
        decided
    }

    /// A connection of this listener. Without one that is EAGAIN.
    pub(super) fn accept(&self) -> Result<Self, Refusal> {
        let (socket, _) =
            self.socket.accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).map_err(Refusal::of("accept"))?;
        Ok(Self::new(socket, self.protocol, self.v6))
    }

    /// Sends a pattern; the value is as much of it as the kernel has taken.
    pub(super) fn send(&mut self, bytes: u32) -> Answer {
        let until = Instant::now() + SENDING;
        // A datagram is sent at once or not at all, so there is one buffer of whatever UDP can send.
        let pattern: Vec<u8> = (0..=250u8).cycle().take((bytes as usize).min(MOST_BYTES)).collect();
        let mut sent = 0u32;
        loop {
            let left = ((bytes - sent) as usize).min(pattern.len());
            match self.socket.send_with_flags(&pattern[..left], libc::MSG_NOSIGNAL) {
                Ok(count) => {
                    sent = sent.saturating_add(u32::try_from(count).unwrap_or(u32::MAX)).min(bytes);
                    if sent == bytes {
                        return Answer::of("ok").value(sent.into());
                    }
                    if Instant::now() >= until {
                        return Answer::of("pending").value(sent.into());
                    }
                }
                Err(error) if errno(&error) == Errno::EAGAIN => {
                    if Instant::now() >= until {
                        return Answer::of("pending").value(sent.into());
                    }
                    self.wait(PollFlags::POLLOUT, until);
                }
                Err(error) => return self.broken("send", &error).value(sent.into()),
            }
        }
    }

    /// Reads what is there, if need be waits for it; the value is the number of bytes.
    pub(super) fn receive(&mut self, until: Instant) -> Answer {
        let mut buffer = vec![0; MOST_BYTES];
        let mut received = 0;
        while received < MOST_BYTES {
            match (&self.socket).read(&mut buffer[received..]) {
                // A datagram may be empty; a stream has ended.
                Ok(0) if received == 0 && self.protocol == Protocol::Tcp => {
                    return Answer::of("eof").value(0);
                }
                Ok(count) => {
                    received += count;
                    if count == 0 || self.protocol == Protocol::Udp {
                        break;
                    }
                }
                Err(error) if errno(&error) == Errno::EAGAIN => {
                    if received > 0 {
                        break;
                    }
                    if Instant::now() >= until {
                        return Answer::of("pending").value(0);
                    }
                    self.wait(PollFlags::POLLIN, until);
                }
                // The kernel tells it once: it must not be lost behind the bytes that came before it.
                Err(error) => return self.broken("recv", &error).value(received as u64),
            }
        }
        Answer::of("ok").value(received as u64)
    }

    /// The answer for an error that was the connect's own, if there was one under way.
    fn broken(&mut self, call: &'static str, error: &io::Error) -> Answer {
        self.connecting = false;
        Refusal { call, errno: errno(error) }.into()
    }

    /// Closes with RST.
    pub(super) fn reset(self) -> Result<(), Refusal> {
        self.socket.set_linger(Some(Duration::ZERO)).map_err(Refusal::of("setsockopt"))
    }

    /// Waits until this socket is, or may be, ready.
    pub(super) fn wait(&self, flags: PollFlags, until: Instant) -> bool {
        wait(std::iter::once(self), flags, until).first().copied().unwrap_or(false)
    }
}

/// Waits until one of these is ready, or it is `until`, and says of each whether it is.
///
/// poll(2) refuses more descriptors than RLIMIT_NOFILE allows, which a script may have lowered: then
/// each may be ready, and the caller sees by trying.
pub(super) fn wait<'a>(
    sockets: impl Iterator<Item = &'a Held>,
    flags: PollFlags,
    until: Instant,
) -> Vec<bool> {
    let mut fds: Vec<PollFd<'a>> = sockets.map(|held| PollFd::new(held.socket.as_fd(), flags)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match ppoll(&mut fds, Some(TimeSpec::from(left)), None) {
            Err(Errno::EINTR) => {}
            Ok(_) => return fds.iter().map(|fd| fd.any().unwrap_or(false)).collect(),
            Err(_) => {
                std::thread::sleep(left.min(Duration::from_millis(5)));
                return vec![true; fds.len()];
            }
        }
    }
}

/// The address of an internet socket: the only ones that there are here.
fn internet(address: io::Result<SockAddr>) -> io::Result<SocketAddr> {
    address?.as_socket().ok_or_else(|| Errno::EAFNOSUPPORT.into())
}
