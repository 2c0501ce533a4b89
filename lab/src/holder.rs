//! The holder: the life of a lab, from its spec to its end.

use std::io::{self, BufRead, Read, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Instant;

use nix::sys::prctl;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::addressing::AddressPlan;
use crate::family::Family;
use crate::namespace::{self, Namespace, NamespaceError};
use crate::network::{self, NetworkError};
use crate::notice::{HostUp, LabUp, Notice};
use crate::process::{ProcessError, Start};
use crate::spec::{CONTROLLER, LabKind, LabSpec, Placeholders, SpecError};

/// The program's hidden command that calls [`hold`]; [`crate::Lab::start`] starts it.
pub const HOLDER_COMMAND: &str = "lab-holder";

/// Why there is no lab.
#[derive(Debug, thiserror::Error)]
enum HoldError {
    #[error("could not read the lab's spec from standard input ({0})")]
    Read(#[from] io::Error),
    #[error("the lab's spec is not one line of JSON as it should be ({0})")]
    Parse(#[from] serde_json::Error),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("could not make the log directory {path} ({source})")]
    LogDir { path: String, source: io::Error },
    #[error("could not wait for signals ({0})")]
    Signals(io::Error),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    #[error(transparent)]
    Network(#[from] NetworkError),
}

impl HoldError {
    /// What a caller can answer with another kind of lab is a refusal; everything else would fail again.
    fn notice(&self) -> Notice {
        let why = self.to_string();
        match self {
            Self::Namespace(_) | Self::Network(_) => Notice::Refused { why },
            _ => Notice::Failed { why },
        }
    }
}

/// Holds a lab: reads its spec as one line from standard input, brings it up, and ends it when standard
/// input ends or SIGTERM, SIGINT or SIGHUP comes.
///
/// To be called from `main` before any thread or runtime exists, because the kernel gives a user namespace
/// only to a process with a single thread. Speaks [`Notice`]s on standard output and returns `SUCCESS` if
/// there was a lab.
pub fn hold() -> ExitCode {
    // Started as /proc/self/exe it would be called `exe`.
    let _ = prctl::set_name(c"tuplelab");
    match read_spec().and_then(|spec| live(&spec)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say(&why.notice());
            ExitCode::FAILURE
        }
    }
}

fn read_spec() -> Result<LabSpec, HoldError> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn live(spec: &LabSpec) -> Result<(), HoldError> {
    let began = Instant::now();
    let plan = spec.plan()?;
    std::fs::create_dir_all(&spec.log_dir)
        .map_err(|source| HoldError::LogDir { path: spec.log_dir.display().to_string(), source })?;
    let ground = Ground::prepare(spec.kind, plan)?;
    // Only now: a runtime before the unshare could be a second thread.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before the first child, so that no end of one is missed.
        let mut events = Events::new().map_err(HoldError::Signals)?;
        let mut family = Family::new();
        let started = ground.start_all(spec, &mut family, began);
        if let Ok(up) = &started {
            say(&Notice::Up(up.clone()));
            while events.child_ended().await {
                family.reap().into_iter().map(Notice::Exited).for_each(|exited| say(&exited));
            }
        }
        family.end();
        started.map(|_| ())
    })
}

/// What the processes will stand on.
struct Ground {
    kind: LabKind,
    rootless: bool,
    plan: AddressPlan,
    /// One per host, or none at all: then all share the caller's.
    namespaces: Vec<Namespace>,
    notes: Vec<String>,
}

impl Ground {
    fn prepare(kind: LabKind, plan: AddressPlan) -> Result<Self, HoldError> {
        match kind {
            LabKind::Loopback => {
                let notes =
                    vec!["hosts are loopback addresses: they share ports, limits and counters".to_owned()];
                Ok(Self { kind, rootless: false, plan, namespaces: Vec::new(), notes })
            }
            LabKind::Namespaces => {
                let rootless = namespace::enter_hub()?;
                let built = network::build(plan)?;
                Ok(Self {
                    kind,
                    rootless,
                    plan: built.plan,
                    namespaces: built.namespaces,
                    notes: built.notes,
                })
            }
        }
    }

    /// Starts the controller, then the agents. On an error the family holds those that did start.
    fn start_all(self, spec: &LabSpec, family: &mut Family, began: Instant) -> Result<LabUp, HoldError> {
        let control = self.plan.control;
        let start = |name, args: &[String], addresses| {
            let known = Placeholders { name: String::from(name), control: control.to_string(), addresses };
            let log = (!spec.inherit_stderr).then(|| spec.log_dir.join(format!("{name}.log")));
            Start { name, program: &spec.program, args: known.fill(args), log }
        };
        let controller = start(CONTROLLER, &spec.controller.args, String::new()).start()?;
        let controller_pid = controller.pid.as_raw().cast_unsigned();
        family.add(controller);
        let mut hosts = Vec::with_capacity(spec.hosts.len());
        for (index, (host, addresses)) in spec.hosts.iter().zip(self.plan.hosts).enumerate() {
            let agent = start(&host.name, &host.args, addresses.listed());
            let agent = match self.namespaces.get(index) {
                Some(namespace) => namespace.run(|| agent.start())??,
                None => agent.start()?,
            };
            hosts.push(HostUp {
                name: host.name.clone(),
                pid: agent.pid.as_raw().cast_unsigned(),
                v4: addresses.v4,
                v6: addresses.v6,
                control: addresses.control,
            });
            family.add(agent);
        }
        // The namespaces' descriptors end here: from now on a host lives exactly as long as its processes.
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (kind, rootless, notes) = (self.kind, self.rootless, self.notes);
        Ok(LabUp { kind, rootless, control, controller_pid, hosts, notes, took_ms })
    }
}

/// Everything that can happen to a lab that is up.
struct Events {
    child: Signal,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Resolves when the caller has closed its pipe or is dead.
    stdin_ended: oneshot::Receiver<()>,
}

impl Events {
    fn new() -> io::Result<Self> {
        Ok(Self {
            child: signal(SignalKind::child())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            stdin_ended: watch_stdin()?,
        })
    }

    /// Waits for the next event. `false` is the end of the lab.
    async fn child_ended(&mut self) -> bool {
        tokio::select! {
            biased;
            _ = &mut self.stdin_ended => false,
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => false,
            _ = self.hangup.recv() => false,
            _ = self.child.recv() => true,
        }
    }
}

/// A thread, because a standard input that is a file or a terminal cannot be polled like a pipe.
fn watch_stdin() -> io::Result<oneshot::Receiver<()>> {
    let (ended, receiver) = oneshot::channel();
    thread::Builder::new().name("tuplelab".into()).spawn(move || {
        let mut rest = [0; 256];
        let mut stdin = io::stdin().lock();
        while stdin.read(&mut rest).is_ok_and(|read| read > 0) {}
        let _ = ended.send(());
    })?;
    Ok(receiver)
}

/// A caller that no longer listens is dead or about to close the pipe: that ends the lab, not this line.
fn say(notice: &Notice) {
    if let Ok(line) = serde_json::to_string(notice) {
        let mut stdout = io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }
}
