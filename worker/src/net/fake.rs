//! A scripted twin of the kernel: each socket does what its script says, and time passes only where
//! somebody waits.

use super::{Local, Nanos, Net, Watch};
use nix::errno::Errno;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use tuplelab_domain::plan::Close;
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
    key: usize,
    ends: Cell<(SocketAddr, SocketAddr)>,
    open: Rc<Cell<usize>>,
}

impl Drop for FakeSocket {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

/// Who is told a number.
pub(crate) type Told<'a> = Box<dyn Fn(usize) + 'a>;

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
    /// Told the number of connects after each: here a test plays the engine, too.
    pub when_connected: RefCell<Option<Told<'a>>>,
    /// Where each connect left from.
    pub locals: RefCell<Vec<SocketAddr>>,
    /// How each was closed that was not just dropped.
    pub closes: RefCell<Vec<Close>>,
    /// Keys of sockets under watch; those that are to be told of as moved.
    pub kept: Rc<RefCell<Vec<usize>>>,
    pub moving: Rc<RefCell<Vec<usize>>>,
    keys: Cell<usize>,
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
            when_connected: RefCell::default(),
            locals: RefCell::default(),
            closes: RefCell::default(),
            kept: Rc::default(),
            moving: Rc::default(),
            keys: Cell::default(),
            when_idle: Box::new(when_idle),
        }
    }

    fn socket(&self, script: Script) -> FakeSocket {
        self.open.set(self.open.get() + 1);
        self.most_open.set(self.most_open.get().max(self.open.get()));
        self.keys.set(self.keys.get() + 1);
        FakeSocket {
            script: RefCell::new(script),
            sent: RefCell::default(),
            key: self.keys.get(),
            ends: Cell::new((([0; 4], 0).into(), ([0; 4], 0).into())),
            open: Rc::clone(&self.open),
        }
    }
}

impl Net for FakeNet<'_> {
    type Socket = FakeSocket;
    type Listener = ();

    fn now(&self) -> Nanos {
        self.now.get()
    }

    fn open(&self, local: Local) -> Result<FakeSocket, (Call, Errno)> {
        let mut opening = self.opening.borrow_mut();
        let script = if opening.len() > 1 { opening.pop_front() } else { opening.front().cloned() };
        let script = script.expect("a script for the socket");
        script.open.map(|()| {
            let socket = self.socket(script);
            let from = SocketAddr::new(local.address, local.port.unwrap_or(0));
            socket.ends.set((from, from));
            socket
        })
    }

    fn connect(&self, socket: &FakeSocket, to: SocketAddr) -> Result<(), Errno> {
        let (from, _) = socket.ends.get();
        socket.ends.set((from, to));
        self.locals.borrow_mut().push(from);
        self.connects.borrow_mut().push(self.now());
        let connects = self.connects.borrow().len();
        self.when_connected.borrow().iter().for_each(|told| told(connects));
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

    fn close(&self, _: FakeSocket, how: Close) {
        self.closes.borrow_mut().push(how);
    }

    fn ends(&self, socket: &FakeSocket) -> Result<(SocketAddr, SocketAddr), Errno> {
        Ok(socket.ends.get())
    }

    fn key(&self, socket: &FakeSocket) -> usize {
        socket.key
    }

    fn keep(&self, socket: &FakeSocket) -> Result<(), Errno> {
        self.kept.borrow_mut().push(socket.key);
        Ok(())
    }

    fn moved(&self, keys: &mut Vec<usize>) {
        keys.append(&mut self.moving.borrow_mut());
    }

    fn wait<'b>(&'b self, watched: impl Iterator<Item = Watch<'b, Self>>, until: Option<Nanos>) -> Vec<bool> {
        match until {
            Some(until) => self.now.set(self.now.get().max(until)),
            None => (self.when_idle)(),
        }
        watched.map(|_| true).collect()
    }
}
