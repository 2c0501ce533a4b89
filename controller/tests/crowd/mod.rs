//! A controller in a process of its own, the hosts that it needs to take plans in, and a crowd of clients.
//! Shared by the test and the benchmark of the queue.

#![allow(dead_code, reason = "the test and the benchmark each ask for a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tuplelab_controller::{ControllerConfig, Patience, QueueLimits, serve};
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_proto::PROTOCOL;
use tuplelab_proto::dial::{Address, dial};
use tuplelab_proto::v1::{
    self, FromAgent, Hello, RunMessage, SubmitRequest, agents_client::AgentsClient, from_agent,
    lab_client::LabClient, run_message, run_order, to_agent,
};

/// In a process that is to be a controller: where it listens, and its database.
const LISTEN: &str = "TUPLELAB_TEST_LISTEN";
const DB: &str = "TUPLELAB_TEST_DB";
const AGAIN: Duration = Duration::from_millis(50);

/// A controller in a process of its own.
pub struct Controller {
    child: Child,
    db: PathBuf,
    args: Vec<String>,
    pub address: SocketAddr,
}

impl Controller {
    /// Starts this program again with these arguments, which lead to [`be_a_controller`].
    pub fn start(db: &Path, args: &[&str]) -> Self {
        let args = args.iter().map(|word| (*word).to_owned()).collect();
        Self::on(db.to_owned(), args, SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    fn on(db: PathBuf, args: Vec<String>, listen: SocketAddr) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(&args)
            .env(LISTEN, listen.to_string())
            .env(DB, &db)
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it has an output")).lines();
        let address = loop {
            let line = lines.next().expect("it says where it listens").expect("it can be read");
            // A harness of tests may have begun the line.
            if let Some((_, address)) = line.split_once("listens on ") {
                break address.parse().expect("an address");
            }
        };
        Self { child, db, args, address }
    }

    /// kill -9, and another one on the same database and address.
    pub fn kill_and_start_again(&mut self) {
        self.kill();
        *self = Self::on(self.db.clone(), self.args.clone(), self.address);
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("it is there");
        self.child.wait().expect("it ends");
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves as a controller for ever, if this process was started to be one.
pub async fn be_a_controller() {
    let (Ok(listen), Ok(db)) = (std::env::var(LISTEN), std::env::var(DB)) else { return };
    let config = ControllerConfig {
        listen: Some(listen.parse().expect("an address")),
        insecure: false,
        unix: None,
        db: db.into(),
        patience: Patience::default(),
        queue: QueueLimits::default(),
        version: "test".into(),
    };
    let ready = |address: Option<SocketAddr>| {
        use std::io::Write as _;
        writeln!(std::io::stdout(), "listens on {}", address.expect("over TCP")).expect("is heard");
    };
    serve(config, ready, std::future::pending()).await.expect("serves");
}

pub async fn lab(address: SocketAddr) -> LabClient<tonic::transport::Channel> {
    let url: Address = format!("http://{address}").parse().expect("an address");
    loop {
        match dial(&url, None).await {
            Ok(channel) => return LabClient::new(channel),
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}

/// What the two hosts are told, and what they tell.
#[derive(Default)]
pub struct Hosts {
    /// Whether they refuse every run.
    pub refuse: AtomicBool,
    /// How many orders they had to prepare something, and to release it.
    pub prepared: AtomicUsize,
    pub released: AtomicUsize,
}

/// Two hosts that attach, and come back when the controller does. They never open a connection: a run
/// that has its turn waits for them, until `refuse` is set; from then on they refuse every run at once.
pub fn hosts(address: SocketAddr, hosts: &Arc<Hosts>) {
    for (name, last) in [("server-1", 1), ("client-1", 2)] {
        let hosts = hosts.clone();
        tokio::spawn(async move {
            loop {
                let _ = host(address, name, last, &hosts).await;
                tokio::time::sleep(AGAIN).await;
            }
        });
    }
}

async fn host(
    address: SocketAddr,
    name: &str,
    last: u8,
    hosts: &Hosts,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let url: Address = format!("http://{address}").parse()?;
    let mut client = AgentsClient::new(dial(&url, None).await?);
    let (say, said) = mpsc::channel(64);
    let facts = v1::HostFacts::from(&facts(last));
    let hello = Hello {
        name: name.into(),
        version: "test".into(),
        protocol: PROTOCOL,
        facts: Some(facts.clone()),
        instance: name.into(),
        ..Default::default()
    };
    let tell = |body| FromAgent { body: Some(body) };
    say.send(tell(from_agent::Body::Hello(hello))).await?;
    let mut orders = client.attach(ReceiverStream::new(said)).await?.into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    let mut sequences: BTreeMap<String, u64> = BTreeMap::new();
    let mut asked: Vec<v1::RunOrder> = Vec::new();
    loop {
        tokio::select! {
            order = orders.message() => match order?.ok_or("the stream ended")?.body {
                Some(to_agent::Body::Survey(_)) => say.send(tell(from_agent::Body::Facts(facts.clone()))).await?,
                Some(to_agent::Body::Run(order)) => {
                    match &order.order {
                        Some(run_order::Order::Prepare(_)) => hosts.prepared.fetch_add(1, Ordering::Relaxed),
                        Some(run_order::Order::Release(_)) => hosts.released.fetch_add(1, Ordering::Relaxed),
                        _ => 0,
                    };
                    asked.push(order);
                }
                _ => {}
            },
            _ = beat.tick() => say.send(tell(from_agent::Body::Beat(v1::Beat::default()))).await?,
        }
        for order in asked.extract_if(.., |order| {
            hosts.refuse.load(Ordering::Relaxed) || !matches!(order.order, Some(run_order::Order::Prepare(_)))
        }) {
            let body = match order.order {
                Some(run_order::Order::Prepare(_)) => {
                    run_message::Body::Failed(v1::Failed { why: "it opens nothing".into() })
                }
                Some(run_order::Order::Release(_)) => {
                    run_message::Body::Collected(v1::Collected { last: None })
                }
                _ => continue,
            };
            let sequence = sequences.entry(order.run.clone()).or_default();
            *sequence += 1;
            let message = RunMessage {
                run: order.run,
                epoch: order.epoch,
                case: order.case,
                trial: order.trial,
                sequence: *sequence,
                body: Some(body),
            };
            say.send(tell(from_agent::Body::Run(message))).await?;
        }
    }
}

fn facts(last: u8) -> HostFacts {
    HostFacts {
        kernel: "6.18.0".into(),
        boot_id: "b".into(),
        network_namespace: u64::from(last),
        cpus: 4,
        memory_available: 8 << 30,
        open_files: OpenFiles {
            per_table: 20_000,
            system: 1 << 40,
            allocated: 0,
            exempt: false,
            threads: 4_000,
        },
        addresses: vec![std::net::IpAddr::from([10, 9, 0, last])],
        sysctls: Default::default(),
        bound: Vec::new(),
        conntrack: None,
        conntrack_available: None,
        may_set_sysctls: false,
        networks: Vec::new(),
        place: Default::default(),
    }
}

/// A submission that was acknowledged.
pub struct Acknowledged {
    pub user: String,
    pub request: String,
    pub run: String,
    pub took: Duration,
    /// Whether it had to be asked more than once.
    pub again: bool,
}

/// The plan of a client: each has one of its own.
pub fn plan(user: &str) -> String {
    format!(
        "question = \"{user}?\"\n[servers]\nports = 7000\n[clients]\nsource_ports = \"20000\"\n[load]\nhold = \"1ms\"\n"
    )
}

/// One client: submits so many plans, each until it is acknowledged; `count` counts these.
pub async fn submit(
    address: SocketAddr,
    user: String,
    plans: usize,
    count: Arc<AtomicUsize>,
) -> Vec<Acknowledged> {
    let mut client = lab(address).await;
    let mut acknowledged = Vec::new();
    for number in 0..plans {
        let request =
            SubmitRequest { plan: plan(&user), submitter: user.clone(), request: format!("{user}-{number}") };
        let (begun, mut again) = (Instant::now(), false);
        let run = loop {
            match client.submit(request.clone()).await {
                Ok(reply) => break reply.into_inner().run,
                // The controller is gone, or its hosts are not back yet: nobody knows what became of it.
                Err(_) => {
                    again = true;
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        let took = begun.elapsed();
        count.fetch_add(1, Ordering::Relaxed);
        acknowledged.push(Acknowledged { user: user.clone(), request: request.request, run, took, again });
    }
    acknowledged
}

/// Waits until the hosts are attached.
pub async fn attached(address: SocketAddr) {
    let mut client = lab(address).await;
    loop {
        let agents = client.list_agents(v1::ListAgentsRequest {}).await.expect("it answers").into_inner();
        if agents.agents.len() == 2 {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// So many clients submit so many plans each; in the middle the controller is killed and started again.
pub async fn crowd(controller: &mut Controller, clients: usize, plans: usize) -> Vec<Acknowledged> {
    let count = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..clients)
        .map(|number| {
            tokio::spawn(submit(controller.address, format!("user-{number}"), plans, count.clone()))
        })
        .collect();
    while count.load(Ordering::Relaxed) < clients.len() * plans / 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::task::block_in_place(|| controller.kill_and_start_again());
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.expect("it comes to its end"));
    }
    all
}
