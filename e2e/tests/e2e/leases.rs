//! Controllers, agents and workers that are killed or stopped while a run is under way: what stands on a
//! lease ends with it, and what may go on goes on.

use e2e::{Lab, Running, World, has_namespaces, has_program, tuplelab};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use tuplelab_domain::report::Report;
use tuplelab_domain::run::Outcome;

const HOST: &str = "client-1";
const SOCKET: &str = "unix:c.sock";
/// Who attaches reads its host's facts, and for that connects once to itself; the load is fifty a second.
const OWN: u64 = 8;
const LEASE_ENDED: &str = "the lease from the controller ended";

/// A controller and two agents by hand, on one host of a lab: the kernel's counters there are theirs alone,
/// and the control connections are no TCP.
struct ByHand {
    world: World,
    lab: Lab,
    lease: &'static str,
    controller: Option<Running>,
    server: Running,
    client: Running,
}

impl ByHand {
    fn start(lease: &'static str) -> Option<Self> {
        if !has_namespaces() || !has_program("nsenter") {
            return None;
        }
        let world = World::new();
        let lab = Lab::start(&world, &["--servers", "1", "--clients", "1"]);
        let controller = controller(&world, &lab, lease);
        let (server, client) = (agent(&world, &lab, 0), agent(&world, &lab, 1));
        Some(Self { controller: Some(controller), world, lab, lease, server, client })
    }

    /// Submits a plan of a thousand connections and waits until it is in this phase.
    fn begin(&self, load: &str, phase: &str) -> String {
        self.submit(&self.plan(load), phase)
    }

    fn submit(&self, plan: &str, phase: &str) -> String {
        let run = self.at(&["run", plan, "--detach"]).wait().exits(0).stdout.trim().to_owned();
        let watching = self.at(&["watch", &run]);
        watching.notes(phase);
        run
    }

    fn plan(&self, load: &str) -> String {
        let text = format!(
            "[clients]\nsource_ports = \"20000-20999\"\n[load]\n{load}[[expect]]\nestablished = \"predicted\"\n"
        );
        self.world.write("plan.toml", text)
    }

    fn at(&self, args: &[&str]) -> Running {
        self.world.start(["--controller", SOCKET].iter().chain(args))
    }

    fn kill_controller(&mut self) {
        self.end_controller(Signal::SIGKILL);
    }

    fn end_controller(&mut self, signal: Signal) {
        let controller = self.controller.take().expect("it is there");
        controller.signal(signal);
        controller.wait();
    }

    fn start_controller(&mut self) {
        self.controller = Some(controller(&self.world, &self.lab, self.lease));
    }

    /// Waits for the end of the run; its report.
    fn ends(&self, run: &str, code: i32) -> Report {
        self.at(&["watch", run]).wait().exits(code);
        self.at(&["show", run, "--json"]).wait().exits(0).report()
    }

    /// Connects that this host's kernel has begun so far.
    fn opens(&self) -> u64 {
        let snmp = self.lab.start_on(&self.world, HOST, "cat", &["/proc/net/snmp"]).wait().exits(0).stdout;
        let mut tcp = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (tcp.next().expect("names"), tcp.next().expect("values"));
        let mut both = names.split(' ').zip(values.split(' '));
        both.find(|(name, _)| *name == "ActiveOpens").expect("it is counted").1.parse().expect("a number")
    }

    /// Nothing is begun any more.
    fn opens_nothing(&self) -> u64 {
        let opens = self.opens();
        std::thread::sleep(Duration::from_millis(1_500));
        let more = self.opens() - opens;
        assert!(more <= OWN, "something still connects: {more} times");
        opens
    }

    fn end(self) {
        for daemon in [Some(self.client), Some(self.server), self.controller].into_iter().flatten() {
            daemon.stop();
        }
        self.lab.stop().exits(0);
    }
}

fn controller(world: &World, lab: &Lab, lease: &str) -> Running {
    let program = tuplelab().display().to_string();
    let args = ["controller", "--unix", "c.sock", "--db", "hand.db", "--lease", lease];
    let controller = lab.start_on(world, HOST, &program, &args);
    controller.notes("controller at");
    controller
}

fn agent(world: &World, lab: &Lab, index: usize) -> Running {
    let (name, label) = [("s", "role=server"), ("c", "role=client")][index];
    let address = lab.host(HOST).addresses[index].to_string();
    let program = tuplelab().display().to_string();
    let args = ["--controller", SOCKET, "agent", "--name", name, "--address", &address, "--label", label];
    let agent = lab.start_on(world, HOST, &program, &args);
    agent.notes("attached");
    agent
}

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("it is ours");
}

/// A controller that is ended and started again after three seconds costs nothing.
fn goes_on(signal: Signal, load: &str, phase: &str) {
    let Some(mut hand) = ByHand::start("15s") else { return };
    let before = hand.opens();
    let run = hand.begin(load, phase);
    hand.end_controller(signal);
    std::thread::sleep(Duration::from_secs(3));
    hand.start_controller();
    let report = hand.ends(&run, 0);
    assert_eq!(report.outcome, Some(Outcome::Completed));
    let case = report.cases.first().expect("a case");
    let counts = (case.established.client, case.established.server, case.kernel.client, case.kernel.server);
    assert_eq!(counts, (1_000, 1_000, Some(1_000), Some(1_000)));
    assert_eq!(case.digests_equal, Some(true));
    assert!(case.gaps.is_empty(), "what was measured meanwhile was delivered: {:?}", case.gaps);
    let opens = hand.opens() - before;
    assert!((1_000..=1_000 + OWN).contains(&opens), "each connection was opened once: {opens}");
    hand.end();
}

#[test]
fn a_controller_that_is_killed_in_the_ramp_and_started_again_goes_on_with_the_run() {
    goes_on(Signal::SIGKILL, "rate = \"150/s\"\nhold = \"500ms\"\n", "ramping");
}

#[test]
fn a_controller_that_is_killed_in_the_hold_and_started_again_goes_on_with_the_run() {
    goes_on(Signal::SIGKILL, "hold = \"7s\"\n", "holding");
}

#[test]
fn a_controller_that_is_terminated_and_started_again_goes_on_with_the_run() {
    goes_on(Signal::SIGTERM, "hold = \"7s\"\n", "holding");
}

#[test]
fn a_controller_that_is_killed_between_two_steps_of_a_script_goes_on_with_the_next() {
    let Some(mut hand) = ByHand::start("15s") else { return };
    let script = "steps = \"\"\"\nserver socket l tcp\nserver bind l self:7350\nserver listen l 5\n\
        client many c 6 connect server:7350 -> held\nclient wait 6s\nserver sockets 7350 -> queue\n\"\"\"\n\
        [[expect]]\nanswer = \"held = 6\"\n[[expect]]\nanswer = \"queue:queued = 6\"\n";
    let plan = hand.world.write("script.toml", script);
    let run = hand.submit(&plan, "6 steps");
    // The fifth takes six seconds.
    std::thread::sleep(Duration::from_secs(1));
    hand.kill_controller();
    std::thread::sleep(Duration::from_secs(3));
    hand.start_controller();
    let report = hand.ends(&run, 0);
    let script = report.scripts.first().expect("a script");
    let steps: Vec<u32> = script.steps.iter().map(|step| step.step).collect();
    assert_eq!((steps, script.gaps.len()), ((0..6).collect(), 0));
    hand.end();
}

#[test]
fn a_controller_that_is_ended_for_good_interrupts_the_run() {
    let Some(mut hand) = ByHand::start("3s") else { return };
    let run = hand.begin("hold = \"60s\"\n", "holding");
    hand.end_controller(Signal::SIGINT);
    let show = hand.world.run(["show", &run, "--db", "hand.db", "--json"]).exits(0).report();
    assert_eq!(show.outcome, Some(Outcome::Interrupted));
    let gaps = &show.cases.first().expect("what was measured is kept").gaps;
    assert!(gaps.iter().any(|gap| gap.contains("the controller was away")), "{gaps:?}");
    // The next one knows no run under way, and the agents close what they hold.
    hand.start_controller();
    hand.client.notes("collected");
    hand.server.notes("collected");
    hand.end();
}

#[test]
fn without_their_controller_agents_end_their_load_with_the_lease_and_the_run_is_interrupted() {
    let Some(mut hand) = ByHand::start("3s") else { return };
    let run = hand.begin("rate = \"50/s\"\n", "ramping");
    hand.kill_controller();
    hand.server.notes(LEASE_ENDED);
    hand.client.notes(LEASE_ENDED);
    let opens = hand.opens_nothing();
    assert!(hand.world.processes("worker").is_empty(), "a worker is left");
    hand.start_controller();
    let report = hand.ends(&run, 7);
    assert_eq!(report.outcome, Some(Outcome::Interrupted));
    let case = report.cases.first().expect("what was measured is kept");
    assert!(!case.gaps.is_empty(), "and it says that it is not whole");
    assert!(hand.opens() <= opens + OWN, "no load was begun again");

    // What the agents had to say was taken: nothing is left for their next lives.
    hand.client.notes("attached");
    for index in [0, 1] {
        std::thread::sleep(Duration::from_millis(500));
        let agent = if index == 0 { &mut hand.server } else { &mut hand.client };
        agent.signal(Signal::SIGKILL);
        std::thread::sleep(Duration::from_secs(4));
        *agent = self::agent(&hand.world, &hand.lab, index);
        assert!(!agent.notes("attached").contains("an earlier life"), "something was not delivered");
    }
    hand.end();
}

#[test]
fn an_agent_that_is_stopped_beyond_its_lease_sends_nothing_when_it_goes_on() {
    let Some(hand) = ByHand::start("3s") else { return };
    let run = hand.begin("rate = \"50/s\"\n", "ramping");
    hand.client.signal(Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(5));
    let opens = hand.opens_nothing();
    hand.client.signal(Signal::SIGCONT);
    hand.client.notes("gave the trial up");
    assert!(hand.opens_nothing() <= opens + OWN);
    let report = hand.ends(&run, 7);
    assert!(matches!(report.outcome, Some(Outcome::AgentLost { .. })), "{:?}", report.outcome);
    hand.end();
}

#[test]
fn an_agent_that_is_stopped_until_it_is_lost_attaches_again_and_works() {
    let Some(hand) = ByHand::start("3s") else { return };
    let run = hand.begin("rate = \"50/s\"\n", "ramping");
    hand.client.signal(Signal::SIGSTOP);
    let report = hand.ends(&run, 7);
    let Some(Outcome::AgentLost { agent, why }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(agent.as_str() == "c" && why.contains("not heard"), "{agent}: {why}");
    let gaps = &report.cases.first().expect("what was measured is kept").gaps;
    assert!(gaps.iter().any(|gap| gap.contains("c was lost")), "{gaps:?}");
    hand.client.signal(Signal::SIGCONT);
    hand.client.notes("gave the trial up");
    while hand.at(&["agents", "--json"]).wait().exits(0).json()["hosts"]
        .as_array()
        .is_none_or(|h| h.len() < 2)
    {
        std::thread::sleep(Duration::from_millis(100));
    }
    hand.at(&["run", &hand.plan("hold = \"0s\"\n")]).wait().exits(0);
    hand.end();
}

#[test]
fn a_worker_that_is_stopped_beyond_its_lease_looks_at_the_clock_before_it_connects() {
    let Some(hand) = ByHand::start("3s") else { return };
    let run = hand.begin("rate = \"50/s\"\n", "ramping");
    // Its agent is stopped as well, or its renewals would be waiting for it.
    hand.client.signal(Signal::SIGSTOP);
    let is_clients = |pid: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status
            .lines()
            .any(|line| line.strip_prefix("PPid:").is_some_and(|p| p.trim() == hand.client.pid().to_string()))
    };
    let workers: Vec<u32> = hand.world.processes("worker").into_iter().filter(is_clients).collect();
    assert_eq!(workers.len(), 1);
    signal(workers[0], Signal::SIGSTOP);
    std::thread::sleep(Duration::from_secs(5));
    let opens = hand.opens_nothing();
    signal(workers[0], Signal::SIGCONT);
    assert_eq!(hand.opens_nothing(), opens);
    hand.client.signal(Signal::SIGCONT);
    hand.ends(&run, 7);
    assert!(hand.opens() <= opens + OWN, "no load was begun again");
    hand.end();
}

#[test]
fn what_an_agent_that_is_killed_had_said_is_delivered_by_its_next_life() {
    let Some(mut hand) = ByHand::start("15s") else { return };
    let run = hand.begin("rate = \"50/s\"\n", "ramping");
    hand.kill_controller();
    std::thread::sleep(Duration::from_millis(2_500));
    hand.client.signal(Signal::SIGKILL);
    hand.start_controller();
    let next = agent(&hand.world, &hand.lab, 1);
    assert!(next.notes("attached").contains("an earlier life of this agent left"), "nothing was kept");
    drop(std::mem::replace(&mut hand.client, next));
    let report = hand.ends(&run, 7);
    let Some(Outcome::AgentLost { agent, why }) = &report.outcome else { panic!("{:?}", report.outcome) };
    assert!(agent.as_str() == "c" && why.contains("started again"), "{agent}: {why}");
    hand.end();
}

#[test]
fn a_spool_that_is_asked_for_and_cannot_be_had_is_refused_by_name() {
    let world = World::new();
    let here = ["--controller", SOCKET, "agent", "--name", "a", "--address", "127.0.0.1"];
    world.write("a.spool", "my diary\n");
    for (folder, words) in [(".", "is no spool of tuplelab"), ("a.spool/below", "cannot be used")] {
        let refused = world.run(here.iter().chain(&["--spool", folder])).exits(70);
        assert!(refused.stderr.contains(words) && refused.stderr.contains("--spool"), "{}", refused.told());
    }
    assert_eq!(std::fs::read_to_string(world.path("a.spool")).expect("it is there"), "my diary\n");
}

#[test]
fn times_that_contradict_each_other_are_refused_before_anything_is_made() {
    let world = World::new();
    let wrong = ["--lease", "15s", "--lost", "10s"];
    for command in [&["controller", "--unix", "c.sock", "--db", "x.db"][..], &["lab"], &["demo"]] {
        let refused = world.run(command.iter().chain(&wrong)).exits(2);
        assert!(refused.stderr.contains("lost = 10s"), "{}", refused.told());
    }
    assert!(world.files().is_empty(), "{:?}", world.files());
}
