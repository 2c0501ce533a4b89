//! The only door to the kernel for flows: what a lane may ask of it, as a trait, so that the parts
//! that decide (connector, acceptor) can be tried against a scripted twin.

#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod linux;

use nix::errno::Errno;
use std::net::{IpAddr, SocketAddr};
use tuplelab_domain::plan::Close;
use tuplelab_domain::sample::Call;

/// A moment on CLOCK_BOOTTIME, in nanoseconds: the clock of `Go`, which runs on while a host sleeps.
pub(crate) type Nanos = u64;

/// Where a flow leaves from. Without a port the kernel chooses one at `connect`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Local {
    pub address: IpAddr,
    pub port: Option<u16>,
}

/// What is waited for on a socket.
pub(crate) enum Watch<'a, N: Net + ?Sized> {
    /// Its handshake is over and bytes may be sent.
    Writable(&'a N::Socket),
    /// Bytes, or the end, have come.
    Readable(&'a N::Socket),
    /// A connection can be accepted.
    Incoming(&'a N::Listener),
    /// Something happened on any of the sockets that are kept under watch.
    Kept,
}

/// One lane's view of the kernel. Sockets close when they are dropped, always with RST. None of
/// these calls blocks, but `wait`.
pub(crate) trait Net {
    type Socket;
    type Listener;

    fn now(&self) -> Nanos;

    /// A socket bound to `local`; the error names the call that gave it.
    fn open(&self, local: Local) -> Result<Self::Socket, (Call, Errno)>;

    /// Begins the handshake; that it goes on in the background is no error.
    fn connect(&self, socket: &Self::Socket, to: SocketAddr) -> Result<(), Errno>;

    fn accept(&self, listener: &Self::Listener) -> Result<Self::Socket, Errno>;

    fn send(&self, socket: &Self::Socket, bytes: &[u8]) -> Result<usize, Errno>;

    /// `Ok(0)` is the end of the stream.
    fn receive(&self, socket: &Self::Socket, into: &mut [u8]) -> Result<usize, Errno>;

    /// Closes it in this way. (A drop closes with RST.)
    fn close(&self, socket: Self::Socket, how: Close);

    /// Where it leaves from, and where it goes to.
    fn ends(&self, socket: &Self::Socket) -> Result<(SocketAddr, SocketAddr), Errno>;

    /// A small number that no other open socket of the lane has.
    fn key(&self, socket: &Self::Socket) -> usize;

    /// Keeps it under watch until it is closed: what comes, or its end, shows in `moved`.
    fn keep(&self, socket: &Self::Socket) -> Result<(), Errno>;

    /// Adds the keys of some kept sockets on which something has come, or that have ended.
    fn moved(&self, keys: &mut Vec<usize>);

    /// Sleeps until one of these is ready, the engine calls, or it is `until` (`None`: no timer).
    /// Says for each whether it is ready; may return early with none.
    fn wait<'a>(&'a self, watched: impl Iterator<Item = Watch<'a, Self>>, until: Option<Nanos>) -> Vec<bool>;

    /// Sleeps until the engine calls, or it is `until`.
    fn sleep(&self, until: Option<Nanos>) {
        self.wait(std::iter::empty(), until);
    }
}
