//! A run is what is stored of it: plan, schedule and events, read back, lead to the state that is stored.

use super::*;
use crate::store::Store;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use tuplelab_domain::capacity::facts::{HostFacts, OpenFiles};
use tuplelab_domain::plan::{PlanFile, check};
use tuplelab_domain::run::{Deadline, Phase};
use tuplelab_domain::schedule::{Host, Inventory, place};

fn host(name: &str, last: u8) -> Host {
    Host {
        name: name.parse().expect("a name"),
        labels: Default::default(),
        facts: HostFacts {
            kernel: "6.18.0".into(),
            boot_id: "b".into(),
            network_namespace: u64::from(last),
            cpus: 2,
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
        },
    }
}

fn plan(load: &str) -> Plan {
    let text = format!(
        "[servers]\nports = 7000\n[clients]\nsource_ports = \"20000-20009\"\n[load]\n{load}\n[sweep]\n\"servers.ports\" = [7000, 7001]\n"
    );
    check(PlanFile::parse(&text).expect("parses")).expect("makes sense")
}

/// What may happen to a run, in any order: most of it comes from those who take part.
fn event() -> impl Strategy<Value = RunEvent> {
    let agent = select(vec!["a", "a", "b", "b", "stranger"])
        .prop_map(|name| name.parse::<AgentName>().expect("a name"));
    let why = || "gone \u{1f50c} \"quoted\"".to_owned();
    let phase =
        select(vec![Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting, Phase::Releasing]);
    let late = (0usize..3, phase, any::<bool>(), proptest::option::of(0u32..3)).prop_map(
        |(index, phase, halted, step)| RunEvent::Late { deadline: Deadline { index, phase, halted, step } },
    );
    prop_oneof![
        4 => agent.clone().prop_map(|agent| RunEvent::Ready { agent }),
        4 => agent.clone().prop_map(|agent| RunEvent::Plateau { agent }),
        4 => agent.clone().prop_map(|agent| RunEvent::Resting { agent }),
        4 => agent.clone().prop_map(|agent| RunEvent::Counted { agent }),
        4 => agent.clone().prop_map(|agent| RunEvent::Collected { agent }),
        4 => (0usize..3).prop_map(|index| RunEvent::HoldOver { index }),
        1 => (agent.clone(), 0u32..3).prop_map(|(agent, step)| RunEvent::Answered { agent, step }),
        1 => agent.clone().prop_map(move |agent| RunEvent::Failed { agent, why: why() }),
        1 => agent.prop_map(move |agent| RunEvent::Lost { agent, why: why() }),
        1 => late,
        1 => Just(RunEvent::Begin),
        1 => Just(RunEvent::Cancel),
        1 => Just(RunEvent::Interrupt),
        1 => Just(RunEvent::Unplaced { why: why() }),
    ]
}

#[test]
fn a_run_is_what_is_stored_of_it() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let folder = tempfile::tempdir().expect("a folder");
    let store = runtime.block_on(Store::open(&folder.path().join("x.db"))).expect("opens");
    let hosts = vec![host("a", 1), host("b", 2)];
    let plans = ["hold = \"1s\"", "hold = \"2s\"\nconnections = 5\nchurn = \"10/s\""].map(plan);
    let placed = plans.clone().map(|plan| place(&plan, &Inventory { hosts: hosts.clone() }).expect("fits"));
    let mut runner = TestRunner::new(Config::with_cases(48));
    let given = (0usize..2, prop_oneof![9 => Just(true), 1 => Just(false)], vec(event(), 0..40));
    let number = std::cell::Cell::new(0);
    let tried = runner.run(&given, |(which, begins, events)| {
        number.set(number.get() + 1);
        let id = RunId(format!("run-{}", number.get()));
        runtime.block_on(async {
            let (plan, schedule) = (&plans[which], &placed[which]);
            store.queue_run(&id, plan, "me", 1, None).await.expect("queues");
            store.put_schedule(&id, plan, schedule).await.expect("puts the schedule");
            let mut run = Performance::new(id.clone(), plan.clone(), schedule.clone()).run;
            for event in begins.then_some(RunEvent::Begin).into_iter().chain(events) {
                run = run.step(&event).0;
                let (phase, outcome) = (run.phase(), run.outcome());
                store.append_event(&id, 2, &event, phase, outcome).await.expect("appends");
            }
            let record = store.record(&id).await.expect("reads");
            let plan = PlanFile::parse(&record.plan_source).and_then(check).expect("a plan");
            let schedule = record.schedule.expect("it was placed");
            let again = Performance::new(id.clone(), plan, schedule).run;
            let events = store.events(&id).await.expect("reads");
            let again = events.iter().fold(again, |run, (_, event)| run.step(event).0);
            prop_assert_eq!(&again, &run);
            prop_assert_eq!((record.phase, record.outcome.as_ref()), (run.phase(), run.outcome()));
            Ok(())
        })
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}
