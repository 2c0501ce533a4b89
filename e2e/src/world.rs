//! The place of one test: directories of its own, and a mark on every process that it starts.

use crate::binary::tuplelab;
use crate::process::{Ended, Running};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The environment variable that marks a test's processes: children inherit it.
const MARK: &str = "TUPLELAB_TEST";
/// How long processes may take to be gone once the command that started them has ended.
const GONE: Duration = Duration::from_secs(2);

/// A test's place. At its end no process may be left that carries its mark.
#[derive(Debug)]
pub struct World {
    mark: String,
    folder: TempDir,
}

impl World {
    /// A new place: `home`, `data` and `tmp` for programs, and itself as their working directory.
    ///
    /// # Panics
    /// There is no room for temporary files.
    #[expect(clippy::new_without_default, reason = "a place on the disk is nobody's default")]
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("tuplelab-e2e-").tempdir().expect("a temporary directory");
        let name = folder.path().file_name().expect("it has a name").to_string_lossy().into_owned();
        for inner in ["home", "data", "tmp"] {
            std::fs::create_dir(folder.path().join(inner)).expect("made");
        }
        Self { mark: name, folder }
    }

    /// A path in this place.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file here; its path as an argument.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).expect("written");
        name.to_owned()
    }

    /// A command that runs here and carries the mark.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.folder.path())
            .env(MARK, &self.mark)
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env("TMPDIR", self.path("tmp"));
        for name in ["TUPLELAB_CONTROLLER", "RUST_LOG", "NO_COLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts `tuplelab` with these arguments.
    pub fn start<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Running {
        let mut command = self.command(tuplelab());
        command.args(args);
        Running::start(command)
    }

    /// Runs `tuplelab` with these arguments to its end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        self.start(args).wait()
    }

    /// Every process of this test that has the arguments' word `word`, the newest last.
    pub fn processes(&self, word: &str) -> Vec<u32> {
        let named = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
        };
        processes_of(&self.mark).into_iter().filter(named).collect()
    }

    /// All files here, by their paths from here, sorted.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).expect("can be listed") {
                let path = entry.expect("can be listed").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => {
                        found.extend(path.strip_prefix(self.folder.path()).map(|p| p.display().to_string()))
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// Waits until no process of this test is left; those that do not go.
    fn left(&self) -> Vec<String> {
        let late = Instant::now() + GONE;
        loop {
            let left = processes_of(&self.mark);
            if left.is_empty() || Instant::now() > late {
                return left.into_iter().map(|pid| format!("{pid} ({})", words_of(pid))).collect();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Checks now that nothing is left, as the end of the test does.
    ///
    /// # Panics
    /// A process is left.
    #[track_caller]
    pub fn is_quiet(&self) {
        let left = self.left();
        assert!(left.is_empty(), "left running: {}", left.join(", "));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let left = self.left();
        for pid in processes_of(&self.mark) {
            // It carries this test's mark, so this test started it.
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
        assert!(left.is_empty() || std::thread::panicking(), "left running: {}", left.join(", "));
    }
}

/// Every process whose environment has this mark. A process that has ended and is not reaped has no
/// environment any more.
pub fn processes_of(mark: &str) -> Vec<u32> {
    let wanted = format!("{MARK}={mark}");
    let pids = std::fs::read_dir("/proc").expect("there is a /proc");
    let pids = pids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let marked = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
    };
    let mut found: Vec<u32> = pids.filter(marked).collect();
    found.sort_unstable();
    found
}

fn words_of(pid: u32) -> String {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ").trim_end().to_owned()
}
