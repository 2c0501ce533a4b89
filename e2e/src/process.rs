//! A started program: its output so far, signals to it, its end.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// No command of these tests takes as long: past it the program is killed and the test has failed.
const LONGEST: Duration = Duration::from_secs(90);
/// How often a process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// One of the two outputs, read by a thread of its own.
#[derive(Debug, Default)]
struct Heard {
    text: Mutex<(String, bool)>,
    grew: Condvar,
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, (String, bool)> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(self: Arc<Self>, source: impl Read + Send + 'static) -> JoinHandle<()> {
        std::thread::spawn(move || {
            let mut source = BufReader::new(source);
            let mut line = Vec::new();
            while source.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                self.lock().0 += &String::from_utf8_lossy(&line);
                self.grew.notify_all();
                line.clear();
            }
            self.lock().1 = true;
            self.grew.notify_all();
        })
    }
}

/// A program that was started and is not waited for yet. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    words: String,
    child: Child,
    input: Option<ChildStdin>,
    out: Arc<Heard>,
    err: Arc<Heard>,
    readers: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts a command with pipes.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(mut command: Command) -> Self {
        let words = format!("{command:?}");
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap_or_else(|error| panic!("{words} does not start: {error}"));
        let (out, err) = (Arc::new(Heard::default()), Arc::new(Heard::default()));
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (input, Some(stdout), Some(stderr)) = pipes else { panic!("{words} has no pipes") };
        let readers = vec![out.clone().listen(stdout), err.clone().listen(stderr)];
        Self { words, child, input, out, err, readers }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes to its standard input, and ends that.
    pub fn tell(&mut self, text: &str) {
        use std::io::Write as _;
        if let Some(mut input) = self.input.take() {
            input.write_all(text.as_bytes()).expect("the program reads its input");
        }
    }

    /// Waits until a line of its standard output contains `words`; all of that output until then.
    pub fn says(&self, words: &str) -> String {
        self.hears(&self.out, words)
    }

    /// Waits until a line of its standard error contains `words`; all of that output until then.
    pub fn notes(&self, words: &str) -> String {
        self.hears(&self.err, words)
    }

    fn hears(&self, heard: &Heard, words: &str) -> String {
        let late = Instant::now() + LONGEST;
        let mut text = heard.lock();
        while !text.0.contains(words) {
            let ended = text.1 || Instant::now() > late;
            assert!(!ended, "{}\nnever said '{words}':\n{}\n{}", self.words, text.0, self.so_far(heard));
            let waited = heard.grew.wait_timeout(text, Duration::from_millis(100));
            text = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        text.0.clone()
    }

    /// What its other output has, for a failure's message.
    fn so_far(&self, not: &Heard) -> String {
        let other = if std::ptr::eq(not, &raw const *self.out) { &self.err } else { &self.out };
        other.lock().0.clone()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_some()
    }

    /// Sends it a signal, and nobody else.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it is still there");
    }

    /// Waits for its end; kills it after a while that is too long.
    ///
    /// # Panics
    /// It did not end by itself.
    pub fn wait(mut self) -> Ended {
        self.input = None;
        let late = Instant::now() + LONGEST;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if Instant::now() > late {
                let _ = self.child.kill();
                let (out, err) = (self.out.lock().0.clone(), self.err.lock().0.clone());
                panic!("{} did not end within {LONGEST:?}:\n{out}\n{err}", self.words);
            }
            std::thread::sleep(LOOK);
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("reads to the end");
        }
        let (stdout, stderr) = (self.out.lock().0.clone(), self.err.lock().0.clone());
        Ended { words: self.words.clone(), code: status.code(), signal: status.signal(), stdout, stderr }
    }

    /// Asks it to end (SIGTERM), then waits.
    pub fn stop(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not reaped yet, or a refusal without effect: never another process's pid.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a program ended, and all that it said.
#[derive(Debug)]
pub struct Ended {
    words: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Ended {
    /// Everything, for a failure's message.
    pub fn told(&self) -> String {
        let Self { words, code, signal, stdout, stderr } = self;
        format!("{words}\ncode {code:?}, signal {signal:?}\n-- stdout\n{stdout}\n-- stderr\n{stderr}")
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// It is another, or the program has panicked.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.told());
        assert!(!self.stderr.contains("panicked"), "{}", self.told());
        self
    }

    /// Its standard output as JSON.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.told()))
    }

    /// Its standard output as a run's report.
    ///
    /// # Panics
    /// It is none.
    #[track_caller]
    pub fn report(&self) -> tuplelab_domain::report::Report {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}\n{}", self.told()))
    }
}
