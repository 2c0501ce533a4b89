//! A plain tokio program under the bench's orders: the multi-thread runtime, a task and a buffer of
//! 1 KiB for each connection. A process has one descriptor table, so there are as many pairs of processes
//! as the load needs; each pair has a listener of its own, and all connect at the same time.

use crate::common::TOKEN;
use crate::common::bare::{figures, now, pss, say};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;
use tuplelab_domain::sample::Counters;
use tuplelab_domain::schedule::{BlockPorts, Connect, Serve, Work, WorkerOrder, WorkerReport};

const BUFFER: usize = 1_024;

pub fn main() {
    use nix::sys::resource::{Resource::RLIMIT_NOFILE, getrlimit, setrlimit};
    let (_, hard) = getrlimit(RLIMIT_NOFILE).unwrap();
    setrlimit(RLIMIT_NOFILE, hard, hard).unwrap();
    // As the engine and the bare loop.
    // SAFETY: takes an integer.
    unsafe { nix::libc::nice(5) };
    let mut orders =
        io::stdin().lines().map(|line| serde_json::from_str::<WorkerOrder>(&line.unwrap()).unwrap());
    let Some(WorkerOrder::Prepare { work, .. }) = orders.next() else { panic!("prepare first") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let established = Arc::new(AtomicU64::new(0));
    let flows = match &work {
        Work::Serve(serve) => {
            runtime.block_on(serve_all(serve, Arc::clone(&established)));
            serve.quota()
        }
        Work::Connect(connect) => connect.flows(),
        Work::Script(_) => panic!("the peer bears load"),
    };
    let all = |established: &AtomicU64| {
        while established.load(Relaxed) < flows {
            std::thread::sleep(Duration::from_millis(1));
        }
        Counters { established: established.load(Relaxed), ..Counters::default() }
    };
    let ready = pss();
    say(&WorkerReport::Ready);
    for order in orders {
        match (order, &work) {
            (WorkerOrder::Go { .. }, Work::Connect(connect)) => {
                let first = now() / 1_000;
                runtime.block_on(connect_all(connect, Arc::clone(&established)));
                let counters = all(&established);
                say(&WorkerReport::Plateau(figures(counters, first, now() / 1_000, ready)));
            }
            (WorkerOrder::Tell, _) => say(&WorkerReport::Told(figures(all(&established), 0, 0, ready))),
            (WorkerOrder::Release, _) => break,
            _ => {}
        }
    }
    say(&WorkerReport::Released(figures(Counters::default(), 0, 0, 0)));
    // The end of the process closes its connections; a client's with RST.
    std::process::exit(0);
}

async fn serve_all(serve: &Serve, established: Arc<AtomicU64>) {
    let at = serve.listeners[0].endpoint;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(at).unwrap();
    let listener: TcpListener = socket.listen(4_096).unwrap();
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let established = Arc::clone(&established);
            tokio::spawn(async move {
                // A reset is how a connection ends here.
                let _ = echo(stream, &established).await;
            });
        }
    });
}

async fn echo(mut stream: TcpStream, established: &AtomicU64) -> io::Result<()> {
    let mut buffer = [0u8; BUFFER];
    let mut is_new = true;
    loop {
        let length = stream.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length]).await?;
        if std::mem::take(&mut is_new) {
            established.fetch_add(1, Relaxed);
        }
    }
}

async fn connect_all(connect: &Connect, established: Arc<AtomicU64>) {
    let window = Arc::new(Semaphore::new(connect.window as usize));
    for block in connect.lanes.iter().flat_map(|lane| &lane.blocks) {
        let BlockPorts::Explicit(ports) = &block.ports else { panic!("explicit ports") };
        for (flow, port) in (block.first_flow..).zip(ports.iter()) {
            let permit = Arc::clone(&window).acquire_owned().await.unwrap();
            let (from, to) = (SocketAddr::new(block.source, port), block.destination);
            let established = Arc::clone(&established);
            tokio::spawn(async move {
                let mut stream = open(from, to, flow).await.expect("an answer");
                established.fetch_add(1, Relaxed);
                drop(permit);
                // Held: what comes is read, until the end.
                let mut buffer = [0u8; BUFFER];
                while stream.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            });
        }
    }
}

async fn open(from: SocketAddr, to: SocketAddr, flow: u64) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_zero_linger()?;
    socket.bind(from)?;
    let mut stream = socket.connect(to).await?;
    let mut token = [0u8; 16];
    token[..8].copy_from_slice(&TOKEN.to_be_bytes());
    token[8..].copy_from_slice(&flow.to_be_bytes());
    stream.write_all(&token).await?;
    stream.read_exact(&mut token).await?;
    Ok(stream)
}
