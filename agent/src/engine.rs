//! The worker process: started for one trial, spoken to in JSON lines, ended with its pipe.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use tuplelab_domain::schedule::{WorkerOrder, WorkerReport};

/// How long a worker may take to read an order; one that is stopped reads none, and its pipe holds many.
const READS: Duration = Duration::from_secs(10);
/// A renewal waits no longer for room: the next one comes in a second.
const FINDS_ROOM: Duration = Duration::from_millis(100);
/// How long a worker may take to close everything once it was let go: then it is killed, and the kernel
/// closes the rest.
const CLOSES: Duration = Duration::from_secs(20);

/// What a worker says, or that it is gone.
#[derive(Debug)]
pub enum EngineEvent {
    /// One line of it.
    Report(Box<WorkerReport>),
    /// It ended; how.
    Ended(String),
}

/// A running worker. Dropping it closes its input, upon which it closes everything and exits.
#[derive(Debug)]
pub struct Engine {
    orders: ChildStdin,
    generation: u64,
    process: Option<Pid>,
    stopped: bool,
    /// Its end tells the listener that nobody wants this worker any more.
    _wanted: oneshot::Sender<()>,
}

impl Engine {
    /// Starts `program worker`. Its events carry `generation`, so that the last words of one worker
    /// are not taken for the next one's.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(
        program: &Path,
        generation: u64,
        events: mpsc::Sender<(u64, EngineEvent)>,
    ) -> std::io::Result<Self> {
        let mut child = Command::new(program)
            .arg0("tuplelab")
            .arg("worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            // Ctrl-C reaches the whole foreground group; the worker is ended by its agent.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let missing = || std::io::Error::other("the worker has no pipes");
        let orders = child.stdin.take().ok_or_else(missing)?;
        let reports = child.stdout.take().ok_or_else(missing)?;
        let process = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let (wanted, let_go) = oneshot::channel();
        tokio::spawn(listen(child, reports, generation, events, let_go));
        Ok(Self { orders, generation, process, stopped: false, _wanted: wanted })
    }

    /// Whether the process is stopped: it would hear no order.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Stops the process where it is, or lets it go on.
    ///
    /// # Errors
    /// It is gone; its end is an event of its own.
    pub fn set_stopped(&mut self, stopped: bool) -> Result<(), Errno> {
        let signal = if stopped { Signal::SIGSTOP } else { Signal::SIGCONT };
        kill(self.process.ok_or(Errno::ESRCH)?, signal)?;
        self.stopped = stopped;
        Ok(())
    }

    /// Which worker this is.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Gives an order.
    ///
    /// # Errors
    /// The worker is gone (its end is an event of its own), or reads nothing.
    pub async fn order(&mut self, order: &WorkerOrder) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        let written = timeout(READS, async {
            self.orders.write_all(&line).await?;
            self.orders.flush().await
        });
        let late = format!("the worker has read no order for {} s", READS.as_secs());
        written.await.unwrap_or_else(|_| Err(std::io::Error::new(std::io::ErrorKind::TimedOut, late)))
    }

    /// Lets it put load on the network until this moment. A worker that is stopped has room in its pipe for
    /// twenty minutes of this; after that it hears the next one that finds room.
    pub async fn lease(&mut self, until_boottime_nanos: u64) {
        let Ok(mut line) = serde_json::to_vec(&WorkerOrder::Lease { until_boottime_nanos }) else { return };
        line.push(b'\n');
        // Shorter than PIPE_BUF: all of it is written, or nothing (pipe(7)).
        let _ = timeout(FINDS_ROOM, self.orders.write(&line)).await;
    }
}

/// A stopped process could not see that its input closed.
impl Drop for Engine {
    fn drop(&mut self) {
        if self.stopped {
            let _ = self.set_stopped(false);
        }
    }
}

async fn listen(
    mut child: Child,
    reports: ChildStdout,
    generation: u64,
    events: mpsc::Sender<(u64, EngineEvent)>,
    let_go: oneshot::Receiver<()>,
) {
    let heard = async {
        let mut wrong = None;
        let mut lines = BufReader::new(reports).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            match serde_json::from_str(&line) {
                Ok(report) => {
                    if events.send((generation, EngineEvent::Report(Box::new(report)))).await.is_err() {
                        return None;
                    }
                }
                Err(error) => wrong = Some(format!("it said what is no report ({error})")),
            }
        }
        Some((wrong, child.wait().await))
    };
    // Whatever hangs in there, the process is gone a while after it was let go: it is killed on drop.
    let unwanted = async {
        let _ = let_go.await;
        sleep(CLOSES).await;
    };
    let heard = tokio::select! {
        heard = heard => heard,
        () = unwanted => None,
    };
    let ended = match heard {
        None => return,
        Some((Some(wrong), _)) => wrong,
        Some((None, Ok(status))) => cause(status),
        Some((None, Err(error))) => format!("its end could not be read: {error}"),
    };
    let _ = events.send((generation, EngineEvent::Ended(ended))).await;
}

fn cause(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("the worker exited with code {code}"),
        (None, Some(signal)) => {
            let name = Signal::try_from(signal).map_or_else(|_| signal.to_string(), |s| s.to_string());
            format!("the worker was ended by {name}")
        }
        (None, None) => "the worker ended".into(),
    }
}
