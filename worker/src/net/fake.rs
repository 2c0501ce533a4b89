//! A scripted twin of the kernel: each socket does what its script says, and time passes only where
//! somebody waits.

use super::{Local, Nanos, Net, Watch};
use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use tuplelab_domain::sample::Call;

/// What one socket will do, call by call. Sends that are not scripted succeed; when the receives
/// are used up, nothing more comes.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    pub open: Result<(), (Call, Errno)>,
    pub connect: Result<(), Errno>,
    pub sends: VecDeque<Errno>,
    pub receives: VecDeque<Received>,
}

#[derive(Debug, Clone)]
pub(crate) enum Received {
    /// All that was sent so far.
    Echo,
    /// These bytes; none is the end.
    Bytes(Vec<u8>),
    Error(Errno),
}

impl Script {
    /// The peer never says anything.
    pub fn silent() -> Self {
        Self { open: Ok(()), connect: Ok(()), sends: VecDeque::new(), receives: VecDeque::new() }
    }

    /// The peer answers with these, one after the other.
    pub fn receiving(receives: impl IntoIterator<Item = Received>) -> Self {
        Self { receives: receives.into_iter().collect(), ..Self::silent() }
    }
}

pub(crate) struct FakeSocket {
    script: RefCell<Script>,
    sent: RefCell<Vec<u8>>,
    open: Rc<Cell<usize>>,
}

impl Drop for FakeSocket {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// The kernel of one lane in a test. Sockets get the scripts in order; the last one serves for all
/// that follow.
pub(crate) struct FakeNet<'a> {
    pub now: Cell<Nanos>,
    pub opening: RefCell<VecDeque<Script>>,
    pub incoming: RefCell<VecDeque<Result<Script, Errno>>>,
    /// When each connect was called.
    pub connects: RefCell<Vec<Nanos>>,
    /// Sockets open now, and the most there ever were.
    pub open: Rc<Cell<usize>>,
    pub most_open: Cell<usize>,
    /// Called where the lane would sleep without a timer: here a test plays the engine.
    pub when_idle: Box<dyn Fn() + 'a>,
}

impl<'a> FakeNet<'a> {
    pub fn new(when_idle: impl Fn() + 'a) -> Self {
        Self {
            now: Cell::new(1),
            opening: RefCell::default(),
            incoming: RefCell::default(),
            connects: RefCell::default(),
            open: Rc::default(),
            most_open: Cell::default(),
            when_idle: Box::new(when_idle),
        }
    }

    fn socket(&self, script: Script) -> FakeSocket {
        self.open.set(self.open.get() + 1);
        self.most_open.set(self.most_open.get().max(self.open.get()));
        FakeSocket { script: RefCell::new(script), sent: RefCell::default(), open: Rc::clone(&self.open) }
    }
}

impl Net for FakeNet<'_> {
    type Socket = FakeSocket;
    type Listener = ();

    fn now(&self) -> Nanos {
        self.now.get()
    }

    fn open(&self, _: Local) -> Result<FakeSocket, (Call, Errno)> {
        let mut opening = self.opening.borrow_mut();
        let script = if opening.len() > 1 { opening.pop_front() } else { opening.front().cloned() };
        let script = script.expect("a script for the socket");
        script.open.map(|()| self.socket(script))
    }

    fn connect(&self, socket: &FakeSocket, _: SocketAddr) -> Result<(), Errno> {
        self.connects.borrow_mut().push(self.now());
        socket.script.borrow().connect
    }

    fn accept(&self, (): &()) -> Result<FakeSocket, Errno> {
        self.incoming.borrow_mut().pop_front().unwrap_or(Err(Errno::EAGAIN)).map(|script| self.socket(script))
    }

    fn send(&self, socket: &FakeSocket, bytes: &[u8]) -> Result<usize, Errno> {
        if let Some(errno) = socket.script.borrow_mut().sends.pop_front() {
            return Err(errno);
        }
        socket.sent.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn receive(&self, socket: &FakeSocket, into: &mut [u8]) -> Result<usize, Errno> {
        let bytes = match socket.script.borrow_mut().receives.pop_front() {
            Some(Received::Echo) => socket.sent.borrow().clone(),
            Some(Received::Bytes(bytes)) => bytes,
            Some(Received::Error(errno)) => return Err(errno),
            None => return Err(Errno::EAGAIN),
        };
        into[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn wait<'b>(&'b self, watched: impl Iterator<Item = Watch<'b, Self>>, until: Option<Nanos>) -> Vec<bool> {
        match until {
            Some(until) => self.now.set(self.now.get().max(until)),
            None => (self.when_idle)(),
        }
        watched.map(|_| true).collect()
    }
}
