//! An agent against a controller that says what each test wants, over a real stream on a Unix socket; its
//! worker is a script that writes down its orders.

use super::*;
use std::os::unix::fs::PermissionsExt as _;
use std::pin::Pin;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response};
use tuplelab_domain::schedule::{Assignment, CensusFilter, Role, Work, WorkerOrder};
use v1::agents_server::{Agents, AgentsServer};
use v1::run_message::Body;
use v1::run_order::Order;

type Outbound = Pin<Box<dyn futures::Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

/// One stream, from the controller's side.
struct Attached {
    hello: v1::Hello,
    inbound: Streaming<v1::FromAgent>,
    outbound: mpsc::Sender<Result<v1::ToAgent, Status>>,
}

impl Attached {
    async fn say(&self, body: to_agent::Body) {
        self.outbound.send(Ok(v1::ToAgent { body: Some(body) })).await.expect("the agent listens");
    }

    async fn welcome(&self, lease_millis: u64) {
        let welcome = v1::Welcome { lease_millis, protocol: 1, ..Default::default() };
        self.say(to_agent::Body::Welcome(welcome)).await;
    }

    async fn order(&self, trial: u32, order: Order) {
        let order = v1::RunOrder { run: "r".into(), epoch: 1, case: 0, trial, order: Some(order) };
        self.say(to_agent::Body::Run(order)).await;
    }

    async fn prepare(&self, trial: u32, ends_after_millis: u64) {
        let assignment = Assignment {
            agent: "a".parse().expect("a name"),
            sysctls: Default::default(),
            conntrack: false,
            files: None,
            census: CensusFilter { role: Role::Client, servers: Vec::new(), clients: Vec::new() },
            work: Work::Script(Role::Client),
        };
        let prepare = v1::Prepare { token: 7, assignment: Some((&assignment).into()), ends_after_millis };
        self.order(trial, Order::Prepare(prepare)).await;
    }

    /// The next thing that the agent says of a run; beats are answered if `alive`.
    async fn hear(&mut self, alive: bool) -> v1::RunMessage {
        loop {
            let message = self.inbound.message().await.expect("the stream holds").expect("it goes on");
            match message.body {
                Some(from_agent::Body::Run(message)) => return message,
                Some(from_agent::Body::Beat(beat)) if alive => {
                    self.say(to_agent::Body::Beat(v1::Beat { received_at: beat.sent_at, ..beat })).await;
                }
                _ => {}
            }
        }
    }

    async fn ready(&mut self) {
        let said = self.hear(true).await;
        assert!(matches!(said.body, Some(Body::Ready(_))), "{said:?}");
    }

    async fn failed(&mut self, alive: bool) -> (u64, String) {
        match self.hear(alive).await {
            v1::RunMessage { sequence, body: Some(Body::Failed(v1::Failed { why })), .. } => (sequence, why),
            other => panic!("{other:?}"),
        }
    }

    async fn ack(&self, sequence: u64) {
        self.say(to_agent::Body::Ack(v1::Ack { run: "r".into(), epoch: 1, sequence })).await;
    }
}

struct Fake(mpsc::Sender<Attached>);

#[tonic::async_trait]
impl Agents for Fake {
    type AttachStream = Outbound;

    async fn attach(&self, request: Request<Streaming<v1::FromAgent>>) -> Result<Response<Outbound>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|message| message.body);
        let Some(from_agent::Body::Hello(hello)) = first else {
            return Err(Status::invalid_argument("no hello"));
        };
        let (outbound, messages) = mpsc::channel(64);
        let attached = Attached { hello, inbound, outbound };
        self.0.send(attached).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

/// A working agent, until its first part is dropped.
type Working = (oneshot::Sender<()>, JoinHandle<Result<(), AgentError>>);

/// A place with a controller and an agent that works for it.
struct Scene {
    folder: TempDir,
    attached: mpsc::Receiver<Attached>,
    serving: JoinHandle<()>,
    agent: Option<Working>,
}

impl Scene {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = UnixListener::bind(folder.path().join("c.sock")).expect("a socket");
        let (attaching, attached) = mpsc::channel(8);
        let serving = tokio::spawn(async {
            let server = Server::builder().add_service(AgentsServer::new(Fake(attaching)));
            let _ = server.serve_with_incoming(UnixListenerStream::new(listener)).await;
        });
        let program = folder.path().join("worker.sh");
        // Said before it is ready is read afterwards: the orders stand in the file in their order.
        std::fs::write(&program, "#!/bin/sh\necho '\"ready\"'\nexec cat >> \"$0.orders\"\n")
            .expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).expect("executable");
        let mut scene = Self { folder, attached, serving, agent: None };
        scene.start_agent();
        scene
    }

    fn start_agent(&mut self) {
        let (stop, stopped) = oneshot::channel::<()>();
        let folder = self.folder.path();
        let config = AgentConfig {
            controller: Address::Unix(folder.join("c.sock")),
            control_address: None,
            name: "a".parse().expect("a name"),
            labels: Default::default(),
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            may_set_sysctls: false,
            spool: SpoolPlace { folder: folder.join("spool"), required: true },
            program: folder.join("worker.sh"),
            version: "test".into(),
        };
        let serving = tokio::spawn(serve(config, async { drop(stopped.await) }));
        self.agent = Some((stop, serving));
    }

    async fn stop_agent(&mut self) {
        if let Some((stop, serving)) = self.agent.take() {
            drop(stop);
            serving.await.expect("no panic").expect("ends well");
        }
    }

    async fn attach(&mut self) -> Attached {
        timeout(Duration::from_secs(30), self.attached.recv()).await.expect("it comes").expect("it serves")
    }

    /// All that workers were told so far.
    fn orders(&self) -> Vec<WorkerOrder> {
        let text = std::fs::read_to_string(self.folder.path().join("worker.sh.orders")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an order")).collect()
    }

    async fn until(&self, told: impl Fn(&[WorkerOrder]) -> bool) {
        let waited = async {
            while !told(&self.orders()) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(30), waited).await.unwrap_or_else(|_| panic!("{:?}", self.orders()));
    }

    async fn end(mut self) {
        self.stop_agent().await;
        self.serving.abort();
    }
}

fn leases(orders: &[WorkerOrder]) -> Vec<u64> {
    let lease = |order: &WorkerOrder| match order {
        WorkerOrder::Lease { until_boottime_nanos } => Some(*until_boottime_nanos),
        _ => None,
    };
    orders.iter().filter_map(lease).collect()
}

#[tokio::test]
async fn a_worker_has_its_lease_before_its_work_and_answered_beats_renew_it() {
    let mut scene = Scene::start();
    let before = boottime_nanos();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    attached.prepare(0, 0).await;
    attached.ready().await;
    scene.until(|orders| orders.len() >= 2).await;
    let orders = scene.orders();
    assert!(matches!(orders[..2], [WorkerOrder::Lease { .. }, WorkerOrder::Prepare { .. }]), "{orders:?}");
    let first = leases(&orders)[0];
    assert!(first > before && first <= boottime_nanos() + 60_000_000_000, "counted from the question");
    let answering = tokio::spawn(async move { attached.hear(true).await });
    scene.until(|orders| leases(orders).iter().any(|until| *until > first)).await;
    answering.abort();
    scene.end().await;
}

#[tokio::test]
async fn without_answers_the_trial_is_given_up_and_said_so_and_orders_do_not_begin_it_again() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(2_000).await;
    attached.prepare(0, 0).await;
    attached.ready().await;
    let (_, why) = attached.failed(false).await;
    assert!(why.contains("lease"), "{why}");
    // As after a reconnect: what was ordered is ordered again.
    attached.welcome(60_000).await;
    attached.prepare(0, 0).await;
    attached.order(0, Order::Go(v1::Go { at: 0 })).await;
    attached.order(0, Order::Release(v1::Release {})).await;
    let said = attached.hear(true).await;
    assert!(matches!(said.body, Some(Body::Collected(_))), "{said:?}");
    let prepared = scene.orders().iter().filter(|order| matches!(order, WorkerOrder::Prepare { .. })).count();
    assert_eq!(prepared, 1);
    attached.prepare(1, 0).await;
    attached.ready().await;
    scene.end().await;
}

#[tokio::test]
async fn a_trial_ends_at_its_hard_end_though_the_lease_stands() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(600_000).await;
    attached.prepare(0, 1_500).await;
    attached.ready().await;
    let (_, why) = attached.failed(true).await;
    assert!(why.contains("longest time"), "{why}");
    let until = leases(&scene.orders());
    assert!(until.iter().all(|until| *until < boottime_nanos()), "the worker's lease ends with the trial");
    scene.end().await;
}

#[tokio::test]
async fn an_order_for_a_trial_that_it_does_not_hold_is_answered_and_nothing_is_begun() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    assert_eq!(attached.hello.holding, None);
    attached.order(3, Order::Go(v1::Go { at: 0 })).await;
    let (_, why) = attached.failed(true).await;
    assert!(why.contains("does not hold"), "{why}");
    assert_eq!(scene.orders(), []);
    scene.end().await;
}

#[tokio::test]
async fn after_a_lost_stream_it_says_what_it_holds_and_what_was_not_acknowledged() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    attached.prepare(4, 0).await;
    attached.ready().await;
    let before = attached.hello.facts.clone();
    drop(attached);
    let mut attached = scene.attach().await;
    assert_eq!(attached.hello.facts, before, "not those of the host under its load");
    let holding = attached.hello.holding.clone().expect("it holds its trial");
    assert_eq!((holding.run.as_str(), holding.epoch, holding.trial, holding.ended.as_str()), ("r", 1, 4, ""));
    attached.welcome(60_000).await;
    attached.ready().await;
    attached.ack(1).await;
    // Its orders come again, and change nothing.
    attached.prepare(4, 0).await;
    attached.order(4, Order::Release(v1::Release {})).await;
    scene.until(|orders| orders.contains(&WorkerOrder::Release)).await;
    let prepared = scene.orders().iter().filter(|order| matches!(order, WorkerOrder::Prepare { .. })).count();
    assert_eq!(prepared, 1);
    scene.end().await;
}

#[tokio::test]
async fn the_next_process_says_what_the_first_did_not_get_across_until_it_is_acknowledged() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    attached.prepare(0, 0).await;
    attached.ready().await;
    drop(attached);
    scene.stop_agent().await;
    scene.start_agent();
    let next = async |scene: &mut Scene| loop {
        // The first process may have dialled once more before it ended.
        let attached = scene.attach().await;
        if attached.hello.holding.is_none() {
            return attached;
        }
    };
    let mut attached = next(&mut scene).await;
    attached.welcome(60_000).await;
    attached.ready().await;
    let (sequence, why) = attached.failed(true).await;
    assert_eq!((sequence, why.as_str()), (2, "the agent was stopped"));
    attached.ack(2).await;
    // An order that comes behind the acknowledgement is answered after it was taken in.
    attached.order(9, Order::Halt(v1::Halt {})).await;
    assert_eq!(attached.failed(true).await.0, 3, "no number is given twice");
    scene.stop_agent().await;
    drop(attached);
    scene.start_agent();
    let mut attached = next(&mut scene).await;
    attached.welcome(60_000).await;
    assert_eq!(attached.failed(true).await.0, 3, "what was acknowledged is not said again");
    scene.end().await;
}

#[tokio::test]
async fn an_agent_that_is_stopped_says_so_at_once() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    attached.prepare(0, 0).await;
    attached.ready().await;
    let stopping = tokio::spawn(async move {
        scene.stop_agent().await;
        scene
    });
    let (sequence, why) = attached.failed(true).await;
    assert_eq!((sequence, why.as_str()), (2, "the agent was stopped"));
    attached.ack(2).await;
    stopping.await.expect("no panic").end().await;
}

#[tokio::test]
async fn beats_go_on_while_reports_pile_up() {
    let mut scene = Scene::start();
    let mut attached = scene.attach().await;
    attached.welcome(60_000).await;
    // Three thousand answers that nobody acknowledges.
    for trial in 0..3_000 {
        attached.order(trial, Order::Halt(v1::Halt {})).await;
    }
    let (mut beats, mut sent) = (0, 0);
    while beats < 3 {
        let message = attached.inbound.message().await.expect("the stream holds").expect("it goes on");
        match message.body {
            Some(from_agent::Body::Beat(beat)) => {
                beats += 1;
                attached.say(to_agent::Body::Beat(beat)).await;
            }
            Some(from_agent::Body::Run(_)) => sent += 1,
            _ => {}
        }
    }
    assert!((1..=256).contains(&sent), "{sent} were on their way without an acknowledgement");
    scene.end().await;
}
