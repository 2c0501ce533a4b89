//! A run that an earlier life of the controller left under way, in every phase.

use super::*;
use crate::conductor::Conductor;
use crate::decision::interrupt;
use crate::hub::Hub;
use crate::performance::{Row, row};
use crate::queue::Queue;
use proptest::prelude::*;
use std::net::IpAddr;
use std::path::Path;
use tempfile::TempDir;
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_domain::plan::Plan;
use tuplelab_domain::report::RunRecord;
use tuplelab_domain::run::{Deadline, Outcome};
use tuplelab_domain::schedule::{Host, Inventory, Schedule, place};
use tuplelab_proto::v1::run_message::Body;
use tuplelab_proto::v1::run_order::Order;
use tuplelab_proto::v1::to_agent;

fn at(seconds: i64, clock: &str, clock_seconds: u64) -> Conducted {
    let clock_nanos = clock_seconds * 1_000_000_000;
    Conducted { at_micros: seconds * 1_000_000, clock: clock.into(), clock_nanos }
}

#[test]
fn a_clock_that_was_set_tells_nothing_while_the_kernel_lived_on() {
    let then = at(1_000, "boot", 50);
    assert_eq!(away(&then, &at(9_000, "boot", 53)), Duration::from_secs(3));
    assert_eq!(away(&then, &at(1_007, "another boot", 2)), Duration::from_secs(7));
    assert_eq!(away(&then, &at(900, "another boot", 2)), Duration::ZERO, "set back: as if it were now");
    assert_eq!(away(&at(1_000, "", 50), &at(1_004, "", 60)), Duration::from_secs(4));
}

#[test]
fn agents_are_waited_for_as_long_as_a_lease_may_stand() {
    let patience = Patience::default();
    let wait = |away| time_to_come_back(Duration::from_secs(away), patience).map(|time| time.as_secs());
    assert_eq!([3, 14, 16, 17, 60].map(wait), [Some(17), Some(6), Some(5), None, None]);
}

fn name(text: &str) -> AgentName {
    text.parse().expect("a name")
}

fn host(agent: &str, role: &str, address: [u8; 4]) -> Host {
    Host {
        name: name(agent),
        labels: [("role".to_owned(), role.to_owned())].into(),
        facts: HostFacts {
            kernel: "6.18.0".into(),
            boot_id: agent.into(),
            network_namespace: 1,
            cpus: 4,
            memory_available: 64 << 30,
            open_files: OpenFiles {
                per_table: 20_000,
                system: 1 << 40,
                allocated: 100,
                exempt: false,
                threads: 4_000,
            },
            addresses: vec![IpAddr::from(address)],
            networks: Vec::new(),
            sysctls: Default::default(),
            bound: Vec::new(),
            conntrack: None,
            conntrack_available: None,
            may_set_sysctls: false,
            place: Default::default(),
        },
    }
}

fn plan() -> Plan {
    let text = "[clients]\nsource_ports = \"20000-20009\"\n[load]\nhold = \"0s\"\n";
    check(PlanFile::parse(text).expect("parses")).expect("makes sense")
}

fn schedule(plan: &Plan) -> Schedule {
    let hosts = vec![host("s", "server", [10, 0, 0, 1]), host("c", "client", [10, 0, 0, 2])];
    place(plan, &Inventory { hosts }).expect("fits")
}

/// The phases that a restart may find, each with the events that lead there.
fn phases() -> Vec<(&'static str, Vec<RunEvent>)> {
    let (s, c) = (|| name("s"), || name("c"));
    let all = [
        ("preparing", RunEvent::Begin),
        ("half prepared", RunEvent::Ready { agent: s() }),
        ("ramping", RunEvent::Ready { agent: c() }),
        ("holding", RunEvent::Plateau { agent: c() }),
        ("counting", RunEvent::HoldOver { index: 0 }),
        ("half counted", RunEvent::Counted { agent: c() }),
        ("releasing", RunEvent::Counted { agent: s() }),
        ("half released", RunEvent::Collected { agent: s() }),
    ];
    (1..=all.len())
        .map(|count| (all[count - 1].0, all[..count].iter().map(|(_, event)| event.clone()).collect()))
        .collect()
}

/// A database in which a run was led there and left.
struct Left {
    id: RunId,
    store: Store,
    _folder: TempDir,
}

impl Left {
    async fn after(events: &[RunEvent]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Store::open(&folder.path().join("x.db")).await.expect("opens");
        let left = Self { id: RunId("0190-run".into()), store, _folder: folder };
        let plan = plan();
        let schedule = schedule(&plan);
        left.store.queue_run(&left.id, &plan, "me", 1, None).await.expect("queues");
        left.store.put_schedule(&left.id, &plan, &schedule).await.expect("stores");
        let mut run = Performance::new(left.id.clone(), plan, schedule).run;
        for event in events {
            (run, _) = run.step(event);
            left.store
                .append_event(&left.id, now_micros(), event, run.phase(), run.outcome())
                .await
                .expect("appends");
        }
        left.conducted(Duration::ZERO).await;
        left
    }

    async fn conducted(&self, ago: Duration) {
        let now = moment();
        let clock_nanos = now.clock_nanos - u64::try_from(ago.as_nanos()).expect("small");
        self.store.conducts(&self.id, &Conducted { clock_nanos, ..now }).await.expect("stores");
    }

    /// A controller is started on it, agents do what they do, and the run has an end.
    async fn ends<A: Future<Output = ()> + Send + 'static>(
        &self,
        agents: impl FnOnce(Hub) -> A,
    ) -> RunRecord {
        let (hub, heard) = Hub::new(Patience::default());
        let queue = Queue::default();
        let conductor = Conductor::new(self.store.clone(), hub.clone(), queue, heard);
        conductor.take_up().await.expect("reads");
        let working = tokio::spawn(conductor.work());
        let agents = tokio::spawn(agents(hub));
        let ended = async {
            loop {
                let record = self.store.record(&self.id).await.expect("reads");
                if record.outcome.is_some() {
                    return record;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let record = tokio::time::timeout(Duration::from_secs(60), ended).await.expect("it has an end");
        working.abort();
        agents.abort();
        record
    }
}

fn holding(ended: &str) -> Option<v1::Holding> {
    Some(v1::Holding { run: "0190-run".into(), epoch: 1, case: 0, trial: 0, ended: ended.into() })
}

fn ready() -> v1::Ready {
    v1::Ready { clock: "a clock".into(), ..Default::default() }
}

fn plateau() -> v1::Plateau {
    let counters = v1::Counters { attempted: 10, established: 10, held: 10, ..Default::default() };
    v1::Plateau { counters: Some(counters), cpu_micros: 77, ..Default::default() }
}

/// An agent that does what it is told; `holding` is what it says that it holds when it comes back.
async fn agent(hub: Hub, who: &'static str, holding: Option<v1::Holding>) {
    let facts = host(who, who, [10, 0, 0, 3]).facts;
    let mut attached = hub
        .attach(name(who), Default::default(), facts, "test".into(), who.into(), holding)
        .expect("the name is free");
    let mut sequence = 100;
    while let Some(message) = attached.outbound.recv().await {
        hub.beat(&attached.name, attached.stream);
        let Some(to_agent::Body::Run(order)) = message.body else { continue };
        let body = match order.order {
            Some(Order::Prepare(prepare)) => {
                assert!(prepare.ends_after_millis > 60_000, "no trial is without an end");
                Body::Ready(ready())
            }
            Some(Order::Go(_)) if who == "c" => Body::Plateau(plateau()),
            Some(Order::Count(_)) => Body::Counted(v1::Counted::default()),
            Some(Order::Release(_)) => Body::Collected(v1::Collected::default()),
            _ => continue,
        };
        sequence += 1;
        let message =
            v1::RunMessage { run: order.run, epoch: 1, case: 0, trial: 0, sequence, body: Some(body) };
        hub.message(&attached.name, message).await;
    }
}

async fn both(hub: Hub, holding: Option<v1::Holding>) {
    tokio::join!(agent(hub.clone(), "s", holding.clone()), agent(hub, "c", holding));
}

#[tokio::test]
async fn in_every_phase_a_run_whose_agents_come_back_goes_on_to_its_end() {
    for (phase, events) in phases() {
        let left = Left::after(&events).await;
        let record = left.ends(|hub| both(hub, holding(""))).await;
        assert_eq!(record.outcome, Some(Outcome::Completed), "{phase}");
        let log = left.store.events(&left.id).await.expect("reads");
        assert!(
            log.iter().zip(&events).all(|((_, logged), event)| logged == event),
            "{phase}: the log was kept"
        );
    }
}

#[tokio::test]
async fn in_every_phase_a_run_whose_agents_stay_away_is_interrupted() {
    let ends = phases().into_iter().map(|(phase, events)| async move {
        let left = Left::after(&events).await;
        left.conducted(Duration::from_secs(16)).await;
        let record = left.ends(|_| std::future::pending()).await;
        assert_eq!(record.outcome, Some(Outcome::Interrupted), "{phase}");
        assert_eq!(
            record.evidence.len(),
            usize::from(!phase.contains("released") && phase != "releasing"),
            "{phase}"
        );
        assert!(record.evidence.iter().all(|evidence| !evidence.gaps.is_empty()), "{phase}");
    });
    futures::future::join_all(ends).await;
}

#[tokio::test]
async fn in_every_phase_a_run_that_was_left_for_longer_than_a_lease_is_over_at_once() {
    for (phase, events) in phases() {
        let left = Left::after(&events).await;
        left.conducted(Duration::from_secs(60)).await;
        let record = left.ends(|_| std::future::pending()).await;
        assert_eq!(record.outcome, Some(Outcome::Interrupted), "{phase}");
    }
}

#[tokio::test]
async fn a_controller_that_stops_for_good_leaves_no_run_under_way() {
    for (phase, events) in phases() {
        let left = Left::after(&events).await;
        interrupt(&left.store).await.expect("stores");
        assert_eq!(left.store.unfinished().await.expect("reads"), [], "{phase}");
        let record = left.store.record(&left.id).await.expect("reads");
        assert_eq!((record.phase, record.outcome), (Phase::Finished, Some(Outcome::Interrupted)), "{phase}");
    }
}

#[tokio::test]
async fn an_agent_whose_lease_ended_meanwhile_interrupts_the_run_and_one_that_was_started_again_is_lost() {
    let (_, ramping) = phases().swap_remove(2);
    let left = Left::after(&ramping).await;
    let record = left.ends(|hub| both(hub, holding("the lease ended"))).await;
    assert_eq!(record.outcome, Some(Outcome::Interrupted));
    let left = Left::after(&ramping).await;
    let record = left.ends(|hub| async {
        tokio::join!(agent(hub.clone(), "s", holding("")), agent(hub, "c", None));
    });
    let Some(Outcome::AgentLost { agent, why }) = record.await.outcome else { panic!("it is not lost") };
    assert!(agent == name("c") && why.contains("started again"), "{agent}: {why}");
}

#[tokio::test]
async fn what_was_acknowledged_before_the_restart_is_part_of_the_evidence() {
    let (_, holding_phase) = phases().swap_remove(3);
    let left = Left::after(&holding_phase).await;
    let message = |sequence, body| v1::RunMessage {
        run: left.id.to_string(),
        epoch: 1,
        case: 0,
        trial: 0,
        sequence,
        body: Some(body),
    };
    let sample = v1::Sample { sequence: 0, counters: plateau().counters, ..Default::default() };
    let said = [
        message(1, Body::Ready(ready())),
        message(2, Body::Sample(sample)),
        message(3, Body::Plateau(plateau())),
    ];
    for message in &said {
        let (samples, messages) = match row(&name("c"), message, false) {
            Row::Sample(row) => (vec![row], vec![]),
            Row::Message(row) => (vec![], vec![row]),
        };
        left.store.put_heard(&samples, &messages).await.expect("stores");
    }
    let record = left.ends(|hub| both(hub, holding(""))).await;
    assert_eq!(record.outcome, Some(Outcome::Completed));
    let end = record.evidence.iter().flat_map(|trial| &trial.ends).find(|end| end.agent == name("c"));
    let end = end.expect("the client's end");
    assert_eq!((end.counters.established, end.cpu_micros, end.samples_missing), (10, Some(77), 0));
    assert_eq!(end.clock.as_ref().and_then(|clock| clock.id.clone()).as_deref(), Some("a clock"));
}

#[tokio::test]
async fn what_comes_when_a_run_is_over_is_kept_apart_and_acknowledged_and_what_is_held_is_released() {
    let left = Left::after(&phases().pop().expect("phases").1).await;
    interrupt(&left.store).await.expect("stores");
    let (hub, heard) = Hub::new(Patience::default());
    let conductor = Conductor::new(left.store.clone(), hub.clone(), Queue::default(), heard);
    let working = tokio::spawn(conductor.work());
    let facts = host("c", "client", [10, 0, 0, 3]).facts;
    let mut attached = hub
        .attach(name("c"), Default::default(), facts, "test".into(), "c".into(), holding(""))
        .expect("the name is free");
    let body = Some(Body::Sample(v1::Sample { counters: plateau().counters, ..Default::default() }));
    let sample = v1::RunMessage { run: left.id.to_string(), epoch: 1, case: 0, trial: 0, sequence: 9, body };
    // A spool that is played twice.
    for _ in 0..2 {
        hub.message(&name("c"), sample.clone()).await;
    }
    let mut told = Vec::new();
    while told.len() < 3 {
        told.extend(attached.outbound.recv().await.expect("the hub speaks").body);
    }
    let ack = to_agent::Body::Ack(v1::Ack { run: left.id.to_string(), epoch: 1, sequence: 9 });
    assert!(matches!(&told[0], to_agent::Body::Run(order) if matches!(order.order, Some(Order::Release(_)))));
    assert_eq!(told[1..], [ack.clone(), ack]);
    assert_eq!(left.store.samples(&left.id).await.expect("reads"), [], "it is merged into nothing");
    let kept = left.store.messages(&left.id).await.expect("reads");
    assert_eq!(kept.iter().map(|row| (row.kind.as_str(), row.late)).collect::<Vec<_>>(), [("sample", true)]);
    assert_eq!(v1::RunMessage::decode(kept[0].body.as_slice()), Ok(sample));
    working.abort();
}

#[tokio::test]
async fn an_agent_that_is_taken_for_lost_has_no_lease_on_its_old_stream() {
    let (hub, _heard) = Hub::new(Patience::default());
    let attach = |instance: &str| {
        let facts = host("c", "client", [10, 0, 0, 3]).facts;
        hub.attach(name("c"), Default::default(), facts, "test".into(), instance.into(), None)
    };
    let first = attach("one").expect("the name is free");
    assert!(hub.beat(&first.name, first.stream));
    let second = attach("one").expect("it comes back");
    assert!(!hub.beat(&first.name, first.stream) && hub.beat(&second.name, second.stream));
    assert!(!hub.beat(&name("nobody"), first.stream));
    assert!(matches!(attach("two"), Err(crate::hub::AttachError::NameTaken(_))));
    hub.detach(&second.name, second.stream);
    assert!(matches!(attach("two"), Err(crate::hub::AttachError::NameKept(_))), "it may come back");
}

fn any_event() -> impl Strategy<Value = RunEvent> {
    let agent = || prop::sample::select(&["s", "c", "x"][..]).prop_map(name);
    let why = || "gone".to_owned();
    let phases = [Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting, Phase::Releasing];
    prop_oneof![
        Just(RunEvent::Begin),
        Just(RunEvent::Cancel),
        Just(RunEvent::Interrupt),
        agent().prop_map(|agent| RunEvent::Ready { agent }),
        agent().prop_map(|agent| RunEvent::Plateau { agent }),
        agent().prop_map(|agent| RunEvent::Counted { agent }),
        agent().prop_map(|agent| RunEvent::Collected { agent }),
        agent().prop_map(move |agent| RunEvent::Lost { agent, why: why() }),
        agent().prop_map(move |agent| RunEvent::Failed { agent, why: why() }),
        (0usize..2).prop_map(|index| RunEvent::HoldOver { index }),
        (prop::sample::select(phases.to_vec()), any::<bool>()).prop_map(|(phase, halted)| RunEvent::Late {
            deadline: Deadline { index: 0, phase, halted, step: None }
        }),
    ]
}

/// A way through the phases with other events in between.
fn any_history() -> impl Strategy<Value = Vec<RunEvent>> {
    let good = phases().pop().map(|(_, events)| events).unwrap_or_default();
    (0..=good.len(), proptest::collection::vec((any::<prop::sample::Index>(), any_event()), 0..8)).prop_map(
        move |(length, others)| {
            let mut events = good[..length].to_vec();
            others.into_iter().for_each(|(at, other)| events.insert(at.index(events.len() + 1), other));
            events
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn the_stored_log_of_whatever_happened_replays_to_the_stored_state(events in any_history()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let left = Left::after(&events).await;
            let record = left.store.record(&left.id).await.expect("reads");
            let adopted = rebuild(&left.store, &left.id).await.expect("reads").expect("it was placed");
            let run = adopted.performance.run;
            prop_assert_eq!((run.phase(), run.outcome()), (record.phase, record.outcome.as_ref()));
            let ended = record.outcome.is_some() || record.phase == Phase::Queued;
            prop_assert_eq!(adopted.due.is_empty(), ended, "whoever waits has something to wait for");
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn a_run_whose_store_failed_has_its_end_when_the_store_is_back() {
    let left = Left::after(&phases().swap_remove(2).1).await;
    // Another process has the file for longer than a writer waits.
    let path = left.store.path().to_owned();
    let url = format!("sqlite:{}", path.display());
    let other = sqlx::SqlitePool::connect(&url).await.expect("opens");
    let lock = other.begin_with("BEGIN EXCLUSIVE").await.expect("locks");
    let error = left.store.conducts(&left.id, &moment()).await.expect_err("it is locked");
    assert!(error.may_pass(), "{error}");
    let (hub, heard) = Hub::new(Patience::default());
    let (store, id) = (left.store.clone(), left.id.clone());
    let ending = tokio::spawn(async move {
        Conductor::new(store, hub, Queue::default(), heard).settle(&id, &error).await;
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!ending.is_finished());
    drop(lock);
    tokio::time::timeout(Duration::from_secs(60), ending).await.expect("in time").expect("no panic");
    assert_eq!(left.store.record(&left.id).await.expect("reads").outcome, Some(Outcome::Interrupted));
}

#[tokio::test]
async fn a_run_that_cannot_be_rebuilt_is_interrupted_and_holds_nothing_up() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(Path::new(&folder.path().join("x.db"))).await.expect("opens");
    let left = Left { id: RunId("0190-run".into()), store, _folder: folder };
    left.store.queue_run(&left.id, &plan(), "me", 1, None).await.expect("queues");
    left.store.append_event(&left.id, 1, &RunEvent::Begin, Phase::Preparing, None).await.expect("appends");
    let record = left.ends(|_| std::future::pending()).await;
    assert_eq!(record.outcome, Some(Outcome::Interrupted), "it has no schedule");
}
