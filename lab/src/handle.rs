//! The caller's hand on a lab: start, hear of deaths, stop.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::holder::HOLDER_COMMAND;
use crate::notice::{ExitNotice, LabUp, Notice};
use crate::process::{PROGRAM_NAME, tail};
use crate::spec::{LabSpec, SpecError};

/// Five hosts take a tenth of a second; what is left is for a machine that is busy with something else.
const COME_UP: Duration = Duration::from_secs(20);
/// 0.3 ms were measured for an address of both families, on a busy machine.
const COME_UP_PER_ADDRESS: Duration = Duration::from_millis(1);
/// The holder gives its processes 5 + 2 + 2 seconds, and then ends.
const COME_DOWN: Duration = Duration::from_secs(10);
/// How often the holder is looked at while it ends.
const LOOK: Duration = Duration::from_millis(5);

/// Why there is no lab, or why it did not end as it should.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The spec cannot become a lab.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// This machine does not allow it; a lab of loopback hosts may come up instead.
    #[error("the lab was refused: {0}")]
    Refused(String),
    /// It cannot come up whatever its kind.
    #[error("the lab failed to start: {0}")]
    Failed(String),
    /// The holder could not be started or spoken to.
    #[error("failed to {what} ({source})")]
    Holder {
        /// What was tried.
        what: String,
        /// What the system answered.
        source: io::Error,
    },
    /// The holder ended, or said something else, before the lab was up.
    #[error("the lab's holder did not say that the lab is up: {0}")]
    Silent(String),
    /// The holder had to be killed. Its processes see the end of their pipes and end by themselves.
    #[error("the lab's holder {pid} did not end within {} s and was killed; look for processes called tuplelab", COME_DOWN.as_secs())]
    Overdue {
        /// Its process.
        pid: u32,
    },
}

/// A lab that is up. Dropping it ends it, and waits for that as [`Lab::stop`] does.
#[derive(Debug)]
pub struct Lab {
    up: LabUp,
    holder: Holder,
    notices: Receiver<Notice>,
    /// Whether the holder's own death has been told.
    told_end: bool,
}

impl Lab {
    /// Starts a lab and waits until its processes are started: at most 20 seconds, and a millisecond more for
    /// each address. Blocks; starts one thread.
    ///
    /// [`LabError::Refused`] means that a lab with [`crate::LabKind::Loopback`] is worth a try.
    pub fn start(spec: &LabSpec) -> Result<Self, LabError> {
        // Whatever can be refused without a process is refused without one.
        spec.plan()?;
        let (holder, notices) = Holder::start(spec)?;
        let addresses = spec.hosts.iter().map(|host| host.addresses).sum();
        let limit = COME_UP + COME_UP_PER_ADDRESS * addresses;
        let first = match notices.recv_timeout(limit) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout) => {
                return Err(LabError::Silent(format!("nothing within {} s", limit.as_secs())));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(LabError::Silent(holder.last_words())),
        };
        match first {
            Notice::Up(up) => Ok(Self { up, holder, notices, told_end: false }),
            Notice::Refused { why } => Err(LabError::Refused(why)),
            Notice::Failed { why } => Err(LabError::Failed(why)),
            Notice::Exited(exited) => Err(LabError::Silent(format!("{} ended first", exited.name))),
        }
    }

    /// The lab as it came up.
    pub fn up(&self) -> &LabUp {
        &self.up
    }

    /// The holder's process.
    pub fn holder_pid(&self) -> u32 {
        self.holder.child.id()
    }

    /// A process that ended by itself since the last call. Never waits. The holder is told of like the others,
    /// once, as `lab-holder`: with it the lab ends.
    pub fn try_exited(&mut self) -> Option<ExitNotice> {
        loop {
            match self.notices.try_recv() {
                Ok(Notice::Exited(exited)) => return Some(exited),
                Ok(_) => {}
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) if self.told_end => return None,
                Err(TryRecvError::Disconnected) => {
                    self.told_end = true;
                    let log_tail = self.holder.last_words();
                    let status = "ended before the lab was stopped".to_owned();
                    return Some(ExitNotice { name: HOLDER_COMMAND.to_owned(), status, log_tail });
                }
            }
        }
    }

    /// Ends the lab and waits until nothing of it is left, at most 10 seconds. Blocks.
    pub fn stop(mut self) -> Result<(), LabError> {
        self.holder.end()
    }
}

/// The holder's process and the pipe that keeps the lab up.
#[derive(Debug)]
struct Holder {
    child: Child,
    stdin: Option<ChildStdin>,
    log: Option<PathBuf>,
    ended: bool,
}

impl Holder {
    fn start(spec: &LabSpec) -> Result<(Self, Receiver<Notice>), LabError> {
        let failed = |what: &str| {
            let what = what.to_owned();
            move |source| LabError::Holder { what, source }
        };
        let log = (!spec.inherit_stderr).then(|| spec.log_dir.join(format!("{HOLDER_COMMAND}.log")));
        let stderr = match &log {
            None => Stdio::inherit(),
            Some(path) => {
                log_file(path).map_err(failed(&format!("make the log file {}", path.display())))?.into()
            }
        };
        let mut child = Command::new(&spec.program)
            .arg0(PROGRAM_NAME)
            .arg(HOLDER_COMMAND)
            // Ctrl-C is for the caller alone, which then stops the lab in order.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(failed(&format!("start {} {HOLDER_COMMAND}", spec.program.display())))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        // From here on every return ends the holder.
        let mut holder = Self { child, stdin, log, ended: false };
        let (Some(stdin), Some(stdout)) = (&mut holder.stdin, stdout) else {
            return Err(LabError::Silent("it was started without pipes".to_owned()));
        };
        let line = serde_json::to_string(spec).map_err(|why| failed("write the spec")(why.into()))?;
        // One line for the lab and one for each process at most, so the channel never fills and the reader
        // never waits for a caller that does not look.
        let (sender, notices) = sync_channel(spec.hosts.len() + 2);
        thread::Builder::new()
            .name("tuplelab-lab".into())
            .spawn(move || read_notices(stdout, &sender))
            .map_err(failed("start a thread for the holder's notices"))?;
        // An error here is a holder that died at once; its silence will tell why.
        let _ = writeln!(stdin, "{line}").and_then(|()| stdin.flush());
        Ok((holder, notices))
    }

    /// What the holder left in its log: a panic's message or the loader's.
    fn last_words(&self) -> String {
        let words = self.log.as_deref().and_then(|path| tail(path).ok()).unwrap_or_default();
        if words.is_empty() { "it ended without a word".to_owned() } else { words }
    }

    fn end(&mut self) -> Result<(), LabError> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.stdin = None;
        let waiting = |source| LabError::Holder { what: "wait for the lab's holder".to_owned(), source };
        let deadline = Instant::now() + COME_DOWN;
        while self.child.try_wait().map_err(waiting)?.is_none() {
            if Instant::now() >= deadline {
                // It is not reaped yet, so its pid is still its own.
                self.child.kill().and_then(|()| self.child.wait()).map_err(waiting)?;
                return Err(LabError::Overdue { pid: self.child.id() });
            }
            thread::sleep(LOOK);
        }
        Ok(())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Who wants to know calls `Lab::stop`.
        let _ = self.end();
    }
}

fn log_file(path: &Path) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    File::create(path)
}

/// Ends with the holder's standard output. A line that is no notice is the end too: nothing after it could
/// be trusted.
fn read_notices(stdout: ChildStdout, sender: &SyncSender<Notice>) {
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        let Ok(notice) = serde_json::from_str(&line) else { return };
        if sender.send(notice).is_err() {
            return;
        }
    }
}
