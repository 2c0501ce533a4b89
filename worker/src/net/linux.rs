//! Linux's side of [`Net`], and the descriptor table that a lane has to itself. One of the three modules of
//! this crate with `unsafe` in it (the others are `script/raw.rs` and `script/uring.rs`).
#![allow(unsafe_code, reason = "descriptor tables and priorities have no safe interface")]

use super::{Local, Nanos, Net, Watch};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    self, AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt,
};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime};
use std::cell::OnceCell;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use tuplelab_domain::plan::Close;
use tuplelab_domain::sample::Call;
use tuplelab_domain::schedule::Listener;

/// Now, on the clock that all hosts' `Go` is given in.
pub(crate) fn boottime() -> Nanos {
    // The call can only fail for an unknown clock; Linux has had this one since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |t| t.num_nanoseconds().unsigned_abs())
}

/// A descriptor in the table of one lane. The number means nothing (or another file) in any other
/// table, so it must not leave the lane's thread: the marker makes it `!Send`.
#[derive(Debug)]
pub(crate) struct LaneFd(OwnedFd, PhantomData<*const ()>);

// A lane keeps one of these for each connection and nothing else.
const _: () = assert!(size_of::<LaneFd>() == 4);

impl LaneFd {
    fn new(fd: OwnedFd) -> Self {
        Self(fd, PhantomData)
    }
}

/// The kernel, seen from a lane: its own descriptor table, and the engine's call.
pub(crate) struct LinuxNet {
    /// An eventfd: readable when the engine has something to say.
    call: LaneFd,
    /// The sockets under watch, if any ever was: one that closes leaves it by itself (epoll(7)).
    kept: OnceCell<Epoll>,
}

/// So many events are taken in one go.
const EVENTS: usize = 256;

impl LinuxNet {
    /// Gives the calling thread a descriptor table of its own, in which only standard input, output
    /// and error, the engine's `call` and these `listeners` are left.
    pub(crate) fn own_table(call: RawFd, listeners: &[RawFd]) -> Result<(Self, Vec<LaneFd>), Errno> {
        let mut kept: Vec<RawFd> = listeners.iter().copied().chain([call]).collect();
        kept.sort_unstable();
        // By close_range and not by unshare(2), which container engines' default seccomp profiles
        // refuse to whoever lacks CAP_SYS_ADMIN. The rest is closed once the table is our own.
        let highest = kept.last().copied().unwrap_or(2);
        close_range(highest + 1, RawFd::MAX, libc::CLOSE_RANGE_UNSHARE)?;
        let mut low = 3;
        for fd in kept {
            close_range(low, fd - 1, 0)?;
            low = fd + 1;
        }
        // SAFETY: each number was open in the table that this one is a copy of, was spared above,
        // and nothing in this thread's new table owns it yet.
        let claim = |fd| LaneFd::new(unsafe { OwnedFd::from_raw_fd(fd) });
        Ok((
            Self { call: claim(call), kept: OnceCell::new() },
            listeners.iter().copied().map(claim).collect(),
        ))
    }
}

fn close_range(first: RawFd, last: RawFd, flags: libc::c_uint) -> Result<(), Errno> {
    if first > last {
        return Ok(());
    }
    // SAFETY: close_range(2) takes three integers. What it closes is in a table that no other thread
    // sees: the first call (CLOSE_RANGE_UNSHARE) made it; owners of the same numbers live in others.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop)
}

impl Net for LinuxNet {
    type Socket = LaneFd;
    type Listener = LaneFd;

    fn now(&self) -> Nanos {
        boottime()
    }

    fn open(&self, local: Local) -> Result<LaneFd, (Call, Errno)> {
        let family = match local.address {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::socket(family, SockType::Stream, flags, None).map_err(|e| (Call::Socket, e))?;
        // Set now and not at closing time: it is one call either way, and so a worker that is
        // killed leaves no TIME_WAIT behind either.
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        setsockopt(&fd, sockopt::Linger, &linger).map_err(|e| (Call::Setsockopt, e))?;
        match local.port {
            Some(_) => setsockopt(&fd, sockopt::ReuseAddr, &true),
            None => setsockopt(&fd, sockopt::IpBindAddressNoPort, &true),
        }
        .map_err(|e| (Call::Setsockopt, e))?;
        let from = SocketAddr::new(local.address, local.port.unwrap_or(0));
        socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(from)).map_err(|e| (Call::Bind, e))?;
        Ok(LaneFd::new(fd))
    }

    fn connect(&self, socket: &LaneFd, to: SocketAddr) -> Result<(), Errno> {
        match socket::connect(socket.0.as_raw_fd(), &SockaddrStorage::from(to)) {
            Err(Errno::EINPROGRESS) => Ok(()),
            other => other,
        }
    }

    fn accept(&self, listener: &LaneFd) -> Result<LaneFd, Errno> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket::accept4(listener.0.as_raw_fd(), flags)?;
        // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
        Ok(LaneFd::new(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn send(&self, socket: &LaneFd, bytes: &[u8]) -> Result<usize, Errno> {
        socket::send(socket.0.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    fn receive(&self, socket: &LaneFd, into: &mut [u8]) -> Result<usize, Errno> {
        socket::recv(socket.0.as_raw_fd(), into, MsgFlags::empty())
    }

    fn close(&self, socket: LaneFd, how: Close) {
        if how == Close::Fin {
            // It can only fail for a socket that is none; then it closes with RST, as all do.
            let _ = setsockopt(&socket.0, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 });
        }
    }

    fn ends(&self, socket: &LaneFd) -> Result<(SocketAddr, SocketAddr), Errno> {
        let fd = socket.0.as_raw_fd();
        let local = socket::getsockname::<SockaddrStorage>(fd)?;
        let remote = socket::getpeername::<SockaddrStorage>(fd)?;
        std_address(&local).zip(std_address(&remote)).ok_or(Errno::EAFNOSUPPORT)
    }

    fn key(&self, socket: &LaneFd) -> usize {
        usize::try_from(socket.0.as_raw_fd()).unwrap_or(0)
    }

    fn keep(&self, socket: &LaneFd) -> Result<(), Errno> {
        let kept = match self.kept.get() {
            Some(kept) => kept,
            None => {
                let new = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
                self.kept.get_or_init(|| new)
            }
        };
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        kept.add(&socket.0, EpollEvent::new(flags, self.key(socket) as u64))
    }

    fn moved(&self, keys: &mut Vec<usize>) {
        let Some(kept) = self.kept.get() else { return };
        let mut events = [EpollEvent::empty(); EVENTS];
        // Interrupted is nothing, as is an error: the next look tells again what this one did not.
        let count = kept.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        keys.extend(events.iter().take(count).map(|event| event.data() as usize));
    }

    fn wait<'a>(&'a self, watched: impl Iterator<Item = Watch<'a, Self>>, until: Option<Nanos>) -> Vec<bool> {
        let mut fds: Vec<PollFd<'a>> = watched
            .map(|watch| match watch {
                Watch::Writable(socket) => PollFd::new(socket.0.as_fd(), PollFlags::POLLOUT),
                Watch::Readable(socket) | Watch::Incoming(socket) => {
                    PollFd::new(socket.0.as_fd(), PollFlags::POLLIN)
                }
                // Where none was ever kept there is nothing to wait for but the call.
                Watch::Kept => {
                    let fd = self.kept.get().map_or(self.call.0.as_fd(), |kept| kept.0.as_fd());
                    PollFd::new(fd, PollFlags::POLLIN)
                }
            })
            .chain([PollFd::new(self.call.0.as_fd(), PollFlags::POLLIN)])
            .collect();
        let timeout = until.map(|until| {
            let left = until.saturating_sub(self.now());
            TimeSpec::nanoseconds(i64::try_from(left).unwrap_or(i64::MAX))
        });
        let answer = ppoll(&mut fds, timeout, None);
        if !matches!(answer, Ok(_) | Err(Errno::EINTR)) {
            // No memory for the poll: a pause, so that the caller's loop does not spin on it.
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if ready.pop() == Some(true) {
            // Only that there was a call matters; what it is about is in the shared orders.
            let _ = nix::unistd::read(&self.call.0, &mut [0; 8]);
        }
        ready
    }
}

fn std_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    v4.or_else(|| {
        // Anew from address and port, without the scope that no order names.
        address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port()))
    })
}

/// A passive socket, bound and listening. What it accepts inherits its SO_LINGER of 0 and so is
/// closed with RST.
pub(crate) fn listen(listener: &Listener) -> Result<OwnedFd, (Call, Errno)> {
    let at = |call: Call| move |e: std::io::Error| (call, Errno::from_raw(e.raw_os_error().unwrap_or(0)));
    let endpoint = listener.endpoint;
    let kind = socket2::Type::STREAM.nonblocking().cloexec();
    let socket =
        socket2::Socket::new(socket2::Domain::for_address(endpoint), kind, None).map_err(at(Call::Socket))?;
    socket.set_reuse_address(true).map_err(at(Call::Setsockopt))?;
    socket.set_linger(Some(std::time::Duration::ZERO)).map_err(at(Call::Setsockopt))?;
    if endpoint.is_ipv6() {
        socket.set_only_v6(true).map_err(at(Call::Setsockopt))?;
    }
    socket.bind(&endpoint.into()).map_err(at(Call::Bind))?;
    let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
    socket.listen(backlog).map_err(at(Call::Listen))?;
    Ok(socket.into())
}

/// Lowers the priority of the calling thread, and of those that it starts, by five steps: under
/// load the agent must still be heard. Lowering needs no privilege.
pub(crate) fn lower_priority() {
    // SAFETY: takes an integer. A refusal changes nothing that we rely on.
    unsafe { libc::nice(5) };
}
