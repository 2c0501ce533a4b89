//! A lab on this machine: which hosts it needs for a plan, how its processes are started, when it is
//! ready. The lab itself is the `lab` crate's.

use crate::args::LeaseArgs;
use crate::client::{Client, connect};
use crate::exit::{Exit, Stop};
use crate::interrupt::Interrupt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tuplelab_domain::plan::Plan;
use tuplelab_lab::{HostSpec, Lab, LabError, LabKind, LabSpec, LabUp, ProcessSpec};
use tuplelab_proto::dial::Address;
use tuplelab_proto::v1::ListAgentsRequest;

/// The port of a lab's controller, inside the lab's own network.
const PORT: u16 = 7600;
/// How long controller and agents may take to be there.
const READY: Duration = Duration::from_secs(20);

/// How many hosts of each role, and how many addresses each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Server hosts.
    pub servers: u32,
    /// Client hosts.
    pub clients: u32,
    /// Addresses of each server.
    pub server_addresses: u32,
    /// Addresses of each client.
    pub client_addresses: u32,
}

impl Size {
    /// No host at all.
    pub const NONE: Self = Self { servers: 0, clients: 0, server_addresses: 0, client_addresses: 0 };

    /// What is enough for either.
    pub fn and(self, other: Self) -> Self {
        Self {
            servers: self.servers.max(other.servers),
            clients: self.clients.max(other.clients),
            server_addresses: self.server_addresses.max(other.server_addresses),
            client_addresses: self.client_addresses.max(other.client_addresses),
        }
    }

    /// What the largest cases of a plan need.
    pub fn of(plan: &Plan) -> Self {
        let most = |of: &dyn Fn(&tuplelab_domain::plan::Setup) -> u32| {
            plan.cases.iter().map(|case| of(&case.setup)).max().unwrap_or(1)
        };
        Self {
            servers: most(&|setup| setup.servers.hosts),
            clients: most(&|setup| setup.clients.hosts),
            server_addresses: most(&|setup| setup.servers.addresses),
            client_addresses: most(&|setup| setup.clients.addresses),
        }
    }

    /// Name, role and addresses of every host.
    pub fn hosts(self) -> impl Iterator<Item = (String, &'static str, u32)> {
        let servers =
            (1..=self.servers).map(move |i| (format!("server-{i}"), "server", self.server_addresses));
        let clients =
            (1..=self.clients).map(move |i| (format!("client-{i}"), "client", self.client_addresses));
        servers.chain(clients)
    }
}

/// The spec of a lab; `folder` is for its socket and its logs.
pub fn spec(
    kind: LabKind,
    size: Size,
    folder: &Path,
    db: &Path,
    lease: &LeaseArgs,
    program: PathBuf,
) -> LabSpec {
    let socket = folder.join("controller.sock");
    let unix = socket.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    let mut controller =
        words(&["controller", "--until-input-ends", "--unix", &unix, "--db", &db.display().to_string()]);
    for (name, time) in [("--lease", lease.lease), ("--suspect", lease.suspect), ("--lost", lease.lost)] {
        controller.extend(time.iter().flat_map(|time| [name.to_owned(), time.to_string()]));
    }
    let spool = folder.join("spool").display().to_string();
    let dial = match kind {
        LabKind::Namespaces => {
            // Nothing but the lab's own hosts can reach its hub.
            controller.extend(words(&["--insecure", "--listen"]));
            controller.push(format!("{{control}}:{PORT}"));
            format!("http://{{control}}:{PORT}")
        }
        // The hosts share this machine's ports: a socket takes none.
        LabKind::Loopback => format!("unix:{unix}"),
    };
    let hosts = size.hosts().map(|(name, role, addresses)| {
        let mut args = words(&["agent", "--until-input-ends", "--name", "{name}", "--controller"]);
        args.push(dial.clone());
        args.extend(words(&["--spool", &spool, "--address", "{addresses}", "--label"]));
        args.push(format!("role={role}"));
        if kind == LabKind::Namespaces {
            args.push("--allow-sysctls".into());
        }
        HostSpec { name, addresses, args }
    });
    LabSpec {
        kind,
        program,
        log_dir: folder.join("log"),
        inherit_stderr: false,
        controller: ProcessSpec { args: controller },
        hosts: hosts.collect(),
    }
}

/// A lab that is up, with a way to its controller.
pub struct LocalLab {
    lab: Lab,
    /// The controller's socket.
    pub address: Address,
    /// What is to be said to people: why hosts are loopback addresses, what the lab lacks.
    pub notes: Vec<String>,
    folder: TempDir,
}

impl LocalLab {
    /// Starts a lab: of the given kind, or namespaces and, where they are forbidden, loopback.
    pub async fn start(
        kind: Option<LabKind>,
        size: Size,
        db: &Path,
        lease: &LeaseArgs,
    ) -> Result<(Self, Client), Stop> {
        // Said here, and not by a controller that does not come up.
        lease.patience().map_err(|error| Stop::new(Exit::Usage, error.to_string()))?;
        let failed = |what: String| Stop::new(Exit::Failed, format!("the lab did not come up: {what}"));
        // From here on Ctrl-C must not end this process before the lab and its folder.
        let mut interrupt = Interrupt::listen()?;
        let folder = tempfile::Builder::new()
            .prefix("tuplelab-")
            .tempdir()
            .map_err(|error| failed(error.to_string()))?;
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let db = std::path::absolute(db).map_err(|error| failed(error.to_string()))?;
        let mut notes = Vec::new();
        let first =
            spec(kind.unwrap_or(LabKind::Namespaces), size, folder.path(), &db, lease, program.clone());
        let lab = match (start(first).await?, kind) {
            (Err(LabError::Refused(why)), None) => {
                notes.push(format!("network namespaces are forbidden here ({why}): the hosts are loopback addresses and share this machine's ports"));
                let second = spec(LabKind::Loopback, size, folder.path(), &db, lease, program);
                start(second).await?.map_err(|error| failed(error.to_string()))?
            }
            (lab, _) => lab.map_err(|error| failed(error.to_string()))?,
        };
        notes.extend(lab.up().notes.iter().cloned());
        let address = Address::Unix(folder.path().join("controller.sock"));
        let mut lab = Self { lab, address, notes, folder };
        let ready = tokio::select! {
            biased;
            () = interrupt.recv() => Err(Stop::new(Exit::Cancelled, "cancelled before the lab was up")),
            ready = lab.until_ready() => ready,
        };
        match ready {
            Ok(client) => Ok((lab, client)),
            Err(stop) => lab.stop().await.and(Err(stop)),
        }
    }

    /// The lab as it came up.
    pub fn up(&self) -> &LabUp {
        self.lab.up()
    }

    /// Waits until every host's agent is attached.
    async fn until_ready(&mut self) -> Result<Client, Stop> {
        let hosts = self.lab.up().hosts.len();
        let late = Instant::now() + READY;
        let mut missing = "its controller does not answer".to_owned();
        while Instant::now() < late {
            if let Some(words) = self.all_alive()? {
                return Err(self.broken(words));
            }
            if let Ok(mut client) = connect(&self.address).await
                && let Ok(agents) = client.list_agents(ListAgentsRequest {}).await
            {
                let attached = agents.into_inner().agents.len();
                if attached == hosts {
                    return Ok(client);
                }
                missing = format!("{attached} of {hosts} agents are attached");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(self.broken(format!("after {} s {missing}", READY.as_secs())))
    }

    /// Looks whether a process of the lab has ended by itself. A host's agent is a loss that the
    /// controller finds out and names; it comes back as words. Without its controller the lab is none.
    pub fn all_alive(&mut self) -> Result<Option<String>, Stop> {
        let Some(exited) = self.lab.try_exited() else { return Ok(None) };
        let tail = exited.log_tail.trim_end();
        let colon = if tail.is_empty() { "" } else { ":\n" };
        let words = format!("{} ended ({}){colon}{tail}", exited.name, exited.status);
        let host = self.lab.up().hosts.iter().any(|host| host.name == exited.name);
        match exited.status == format!("exit code {}", Exit::Store as u8) {
            // A controller that refuses its database says why, and so does this program's own code.
            true if !host => Err(Stop::new(Exit::Store, tail.trim_start_matches("error: ").to_owned())),
            _ if host => Ok(Some(words)),
            _ => Err(self.broken(words)),
        }
    }

    fn broken(&self, what: String) -> Stop {
        Stop::new(Exit::Failed, format!("the lab is not whole: {what}"))
    }

    /// Ends the lab and everything in it.
    pub async fn stop(self) -> Result<(), Stop> {
        let lab = self.lab;
        let stopped = tokio::task::spawn_blocking(move || lab.stop()).await;
        drop(self.folder);
        match stopped {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Stop::new(Exit::Failed, format!("the lab did not end cleanly: {error}"))),
            Err(error) => Err(Stop::new(Exit::Failed, format!("the lab did not end cleanly: {error}"))),
        }
    }
}

/// `Lab::start` waits for its child, so it must not be on the runtime's own threads.
async fn start(spec: LabSpec) -> Result<Result<Lab, LabError>, Stop> {
    tokio::task::spawn_blocking(move || Lab::start(&spec))
        .await
        .map_err(|error| Stop::new(Exit::Failed, format!("the lab did not come up: {error}")))
}
