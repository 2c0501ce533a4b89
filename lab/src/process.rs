//! Starting one process of the lab, and what is known of it while it lives.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};

use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

/// What every process of the program is called in process lists, whatever its executable's path.
pub const PROGRAM_NAME: &str = "tuplelab";

/// How much of a log is told when its process dies: enough for a message with its causes.
const TAIL_BYTES: u64 = 2_048;

/// Why a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// The log file.
    #[error("could not make the log file {} ({source}); choose a log directory that can be written", .path.display())]
    Log {
        /// Its path.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The program.
    #[error("could not start {name} as {} ({source})", .program.display())]
    Start {
        /// The process.
        name: String,
        /// The program's path.
        program: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// How to start a process; everything is decided.
#[derive(Debug)]
pub struct Start<'a> {
    /// Its name in notices and its log's.
    pub name: &'a str,
    /// The program.
    pub program: &'a Path,
    /// Its arguments, placeholders filled.
    pub args: Vec<String>,
    /// Its log file; without one it shares the holder's standard error.
    pub log: Option<PathBuf>,
}

/// A process that was started and is not yet reaped: its pid is its own until then.
#[derive(Debug)]
pub struct Process {
    /// Its name.
    pub name: String,
    /// Its id.
    pub pid: Pid,
    log: Option<PathBuf>,
    /// Held open; its end tells the process to stop.
    stdin: Option<ChildStdin>,
}

impl Start<'_> {
    /// Starts the process in the network namespace of the calling thread.
    pub fn start(self) -> Result<Process, ProcessError> {
        let stderr = match &self.log {
            None => Stdio::inherit(),
            Some(path) => {
                File::create(path).map_err(|source| ProcessError::Log { path: path.clone(), source })?.into()
            }
        };
        // A group of its own: Ctrl-C reaches the whole foreground group, and it is the caller that decides.
        let mut child = Command::new(self.program)
            .arg0(PROGRAM_NAME)
            .args(&self.args)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .map_err(|source| ProcessError::Start {
                name: self.name.to_owned(),
                program: self.program.to_owned(),
                source,
            })?;
        // A pid is positive and fits (PID_MAX_LIMIT is 2^22). The `Child` is let go of: the family reaps.
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Process { name: self.name.to_owned(), pid, log: self.log, stdin: child.stdin.take() })
    }
}

impl Process {
    /// Tells the process to stop, the gentle way.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        self.log.as_deref().and_then(|path| tail(path).ok()).unwrap_or_default()
    }
}

/// The end of a file, from the first whole line on.
pub fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.seek(SeekFrom::End(0))?;
    let from = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = if from == 0 { &*text } else { text.split_once('\n').map_or(&*text, |(_, rest)| rest) };
    Ok(whole.trim_end().to_owned())
}

/// How a process ended, in words; `None` while it lives.
pub fn ended(status: WaitStatus) -> Option<String> {
    match status {
        WaitStatus::Exited(_, code) => Some(format!("exit code {code}")),
        WaitStatus::Signaled(_, signal, _) => Some(format!("signal {}", signal as i32)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use nix::sys::signal::Signal;

    use super::*;

    #[test]
    fn a_log_tail_begins_with_a_whole_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.log");
        let mut text = String::new();
        for number in 0..1_000 {
            writeln!(text, "line {number}").expect("memory");
        }
        std::fs::write(&path, &text).expect("written");
        let tail = tail(&path).expect("read");
        assert!(tail.starts_with("line ") && tail.ends_with("line 999"), "{tail}");
        assert!(tail.len() as u64 <= TAIL_BYTES);
        std::fs::write(&path, "short\n").expect("written");
        assert_eq!(super::tail(&path).expect("read"), "short");
    }

    #[test]
    fn an_end_is_told_in_words() {
        let pid = Pid::from_raw(1);
        assert_eq!(ended(WaitStatus::Exited(pid, 3)).as_deref(), Some("exit code 3"));
        assert_eq!(ended(WaitStatus::Signaled(pid, Signal::SIGKILL, false)).as_deref(), Some("signal 9"));
        assert_eq!(ended(WaitStatus::StillAlive), None);
    }
}
