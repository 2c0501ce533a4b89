use super::*;
use proptest::prelude::*;

fn name(text: &str) -> AgentName {
    text.parse().expect("a name")
}

/// A run of so many trials with one server and two clients.
pub(in crate::run) fn run(trials: u32) -> Run {
    let party = |agent: &str, role| Party { agent: name(agent), role };
    let one = |trial| TrialPlan {
        case: 0,
        trial,
        parties: vec![party("s", Role::Server), party("c1", Role::Client), party("c2", Role::Client)],
        course: Course::Load { ramp: Duration::from_secs(7), hold: Duration::from_secs(3), rest: None },
    };
    Run::queued().place((0..trials).map(one).collect())
}

/// An event as tests write it: `ready s`, `late ramping 0`, `cancel`.
fn event(text: &str) -> RunEvent {
    let words: Vec<&str> = text.split(' ').collect();
    let agent = || name(words[1]);
    let why = || "gone".to_owned();
    match words[0] {
        "begin" => RunEvent::Begin,
        "ready" => RunEvent::Ready { agent: agent() },
        "plateau" => RunEvent::Plateau { agent: agent() },
        "resting" => RunEvent::Resting { agent: agent() },
        "counted" => RunEvent::Counted { agent: agent() },
        "collected" => RunEvent::Collected { agent: agent() },
        "failed" => RunEvent::Failed { agent: agent(), why: why() },
        "lost" => RunEvent::Lost { agent: agent(), why: why() },
        "answered" => RunEvent::Answered { agent: agent(), step: words[2].parse().expect("a step") },
        "held" => RunEvent::HoldOver { index: words[1].parse().expect("an index") },
        "late" => {
            let phases =
                [Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting, Phase::Releasing];
            let phase = phases.into_iter().find(|phase| phase.name() == words[1]).expect("a phase");
            let deadline = Deadline {
                index: words[2].parse().expect("an index"),
                phase,
                halted: words.contains(&"halted"),
                step: words.get(3).and_then(|step| step.parse().ok()),
            };
            RunEvent::Late { deadline }
        }
        "unplaced" => RunEvent::Unplaced { why: why() },
        "interrupt" => RunEvent::Interrupt,
        "cancel" => RunEvent::Cancel,
        other => panic!("no event: {other}"),
    }
}

/// An effect in a few words; the index is left out, deadlines too.
fn told(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Prepare { index } => format!("prepare {index}"),
        Effect::Go { .. } => "go".into(),
        Effect::Step { step, .. } => format!("step {step}"),
        Effect::Hold { time, .. } => format!("hold {}s", time.as_secs()),
        Effect::Halt { .. } => "halt".into(),
        Effect::Move { .. } => "move".into(),
        Effect::Rest { .. } => "rest".into(),
        Effect::Count { .. } => "count".into(),
        Effect::Release { agents, .. } => {
            format!("release {}", agents.iter().map(AgentName::as_str).collect::<Vec<_>>().join(" "))
        }
        Effect::Watch { .. } => return None,
        Effect::Close { whole, .. } => if *whole { "close" } else { "close cut" }.into(),
        Effect::Finish { outcome } => format!("finish {outcome}"),
    })
}

fn play(run: Run, events: &[&str]) -> (Run, Vec<String>) {
    let mut all = Vec::new();
    let mut run = run;
    for text in events {
        let (next, effects) = run.step(&event(text));
        run = next;
        all.extend(effects.iter().filter_map(told));
    }
    (run, all)
}

const READY: [&str; 4] = ["begin", "ready s", "ready c2", "ready c1"];
const PLATEAU: [&str; 2] = ["plateau c1", "plateau c2"];
const COUNTED: [&str; 3] = ["counted c1", "counted s", "counted c2"];
const COLLECTED: [&str; 3] = ["collected c1", "collected c2", "collected s"];

/// A run of two trials led to this phase of its first, by the shortest way.
fn at(phase: Phase) -> Run {
    let steps: Vec<&str> = match phase {
        Phase::Queued => Vec::new(),
        Phase::Preparing => READY[..1].to_vec(),
        Phase::Ramping => READY.to_vec(),
        Phase::Holding => [&READY[..], &PLATEAU].concat(),
        Phase::Counting => [&READY[..], &PLATEAU, &["held 0"]].concat(),
        Phase::Releasing => [&READY[..], &PLATEAU, &["held 0"], &COUNTED].concat(),
        Phase::Finished => vec!["cancel"],
    };
    let (run, _) = play(run(2), &steps);
    assert_eq!(run.phase(), phase);
    run
}

const PHASES: [Phase; 7] = [
    Phase::Queued,
    Phase::Preparing,
    Phase::Ramping,
    Phase::Holding,
    Phase::Counting,
    Phase::Releasing,
    Phase::Finished,
];

#[test]
fn nobody_goes_until_everybody_is_ready() {
    let (run, effects) = play(run(1), &["begin", "ready c1", "ready c1", "ready s"]);
    assert_eq!((run.phase(), effects), (Phase::Preparing, vec!["prepare 0".to_owned()]));
    assert_eq!(play(run, &["ready c2"]).1, ["go"]);
}

#[test]
fn the_hold_starts_when_all_clients_have_reached_their_plateau() {
    let (run, effects) = play(at(Phase::Ramping), &["plateau c2", "plateau s", "plateau c2"]);
    assert_eq!((run.phase(), effects.len()), (Phase::Ramping, 0));
    assert_eq!(play(run, &["plateau c1"]).1, ["hold 3s"]);
}

#[test]
fn two_trials_are_taken_to_their_end() {
    let second = ["ready c1", "ready c2", "ready s", "plateau c1", "plateau c2", "held 1"];
    let events =
        [&READY[..], &PLATEAU, &["held 0"], &COUNTED, &COLLECTED, &second, &COUNTED, &COLLECTED].concat();
    let (run, effects) = play(run(2), &events);
    let trial = ["go", "hold 3s", "count", "close", "release c1 c2 s"];
    let expected = [&["prepare 0"][..], &trial, &["prepare 1"], &trial, &["finish completed"]].concat();
    assert_eq!(effects, expected);
    assert_eq!(run.outcome(), Some(&Outcome::Completed));
}

#[test]
fn a_cancel_in_every_phase_releases_everybody_and_ends_as_cancelled() {
    for phase in [Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting] {
        let (run, effects) = play(at(phase), &["cancel", "cancel"]);
        assert_eq!(effects, ["close cut", "release c1 c2 s"], "{phase:?}");
        assert_eq!(play(run, &COLLECTED).1, ["finish cancelled"], "{phase:?}");
    }
    assert_eq!(play(at(Phase::Queued), &["cancel"]).1, ["finish cancelled"]);
    let (run, effects) = play(at(Phase::Releasing), &["cancel"]);
    assert!(effects.is_empty(), "everybody is told to close already");
    assert_eq!(play(run, &COLLECTED).1, ["finish cancelled"], "the second trial is not begun");
}

#[test]
fn a_lost_agent_ends_the_trial_and_is_not_waited_for() {
    for phase in [Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting] {
        let (run, effects) = play(at(phase), &["lost c1"]);
        assert_eq!(effects[0], "close cut", "{phase:?}");
        assert_eq!(effects[1], "release c2 s", "{phase:?}");
        let (run, effects) = play(run, &["collected s", "lost c2"]);
        assert_eq!(effects, ["finish incomplete: agent c1 was lost (gone)"], "the first cause wins");
        assert_eq!(run.phase(), Phase::Finished);
    }
    let all = play(at(Phase::Ramping), &["lost c1", "lost s", "lost c2"]).1;
    assert_eq!(all.last().map(String::as_str), Some("finish incomplete: agent c1 was lost (gone)"));
}

#[test]
fn an_agent_lost_while_it_closes_ends_the_run_one_lost_afterwards_only_if_it_is_needed_again() {
    let lost = ["finish incomplete: agent c1 was lost (gone)"];
    assert_eq!(play(at(Phase::Releasing), &["lost c1", "collected c2", "collected s"]).1, lost);
    let events = ["collected c1", "lost c1", "collected c2", "collected s"];
    assert_eq!(play(at(Phase::Releasing), &events).1, lost, "a trial follows");
    let last = [
        &READY[..],
        &PLATEAU,
        &["held 0"],
        &COUNTED,
        &["collected c1", "lost c1", "failed c1", "collected c2", "collected s"],
    ];
    assert_eq!(play(run(1), &last.concat()).0.outcome(), Some(&Outcome::Completed));
}

#[test]
fn a_worker_that_fails_ends_the_run_and_is_not_waited_for() {
    for (phase, outcome) in [
        (Phase::Preparing, "finish failed: agent c1: gone"),
        (Phase::Ramping, "finish incomplete: agent c1 was lost (gone)"),
        (Phase::Holding, "finish incomplete: agent c1 was lost (gone)"),
        (Phase::Counting, "finish incomplete: agent c1 was lost (gone)"),
        (Phase::Releasing, "finish incomplete: agent c1 was lost (gone)"),
    ] {
        let (run, _) = play(at(phase), &["failed c1", "failed c1"]);
        assert_eq!(run.phase(), Phase::Releasing, "{phase:?}");
        assert_eq!(play(run, &["collected c2", "collected s"]).1, [outcome], "{phase:?}");
    }
}

#[test]
fn a_ramp_that_is_too_long_is_halted_and_then_counted() {
    let (run, effects) =
        play(at(Phase::Ramping), &["plateau c1", "late ramping 0", "late ramping 0", "plateau c2"]);
    assert_eq!(effects, ["halt", "hold 3s"]);
    assert_eq!(play(run, &["held 0"]).1, ["count"]);
    let (_, effects) = play(at(Phase::Ramping), &["late ramping 0 halted"]);
    assert!(effects.is_empty(), "nobody was told to halt");
}

#[test]
fn a_deadline_names_those_who_did_not_come() {
    for (phase, events, why) in [
        (
            Phase::Preparing,
            &["ready s", "late preparing 0"][..],
            "failed: c1, c2 did not get ready within 30 s",
        ),
        (
            Phase::Ramping,
            &["plateau c1", "late ramping 0", "late ramping 0 halted"],
            "failed: c2 did not stop opening connections within 15 s",
        ),
        (
            Phase::Counting,
            &["counted c1", "counted c2", "late counting 0"],
            "failed: s did not count within 60 s",
        ),
        (Phase::Releasing, &["collected s"], "failed: c1, c2 did not close everything within 60 s"),
    ] {
        let (run, _) = play(at(phase), events);
        let (run, effects) = play(run, &["late releasing 0"]);
        assert_eq!(effects, [format!("finish {why}")], "{phase:?}");
        assert_eq!(run.outcome().map(ToString::to_string).as_deref(), Some(why));
    }
}

#[test]
fn late_deadlines_strangers_and_events_of_other_phases_change_nothing() {
    let events = [
        "ready x",
        "plateau x",
        "counted x",
        "collected x",
        "failed x",
        "lost x",
        "held 1",
        "late preparing 1",
        "late holding 0",
        "late releasing 1",
        "late ramping 1 halted",
        "late counting 1",
        "plateau s",
    ];
    for phase in PHASES {
        for text in events {
            let (run, effects) = at(phase).step(&event(text));
            assert_eq!((run, effects), (at(phase), Vec::new()), "{text} while {phase:?}");
        }
    }
    for (phase, own) in [
        (Phase::Preparing, "ready"),
        (Phase::Ramping, "plateau"),
        (Phase::Counting, "counted"),
        (Phase::Releasing, "collected"),
    ] {
        for other in PHASES.into_iter().filter(|other| *other != phase) {
            let text = format!("{own} c1");
            assert_eq!(at(other).step(&event(&text)).0, at(other), "{text} while {other:?}");
        }
    }
}

#[test]
fn an_interrupted_run_releases_who_is_there_and_waits_for_nobody_who_is_not() {
    for phase in [Phase::Preparing, Phase::Ramping, Phase::Holding, Phase::Counting] {
        let (run, effects) = play(at(phase), &["interrupt"]);
        assert_eq!(effects, ["close cut", "release c1 c2 s"], "{phase:?}");
        let end = ["finish interrupted: the controller ended while it was under way"];
        assert_eq!(play(run, &["collected c1", "lost c2", "lost s"]).1, end, "{phase:?}");
    }
}

#[test]
fn who_was_ready_and_is_not_released_has_to_hold_the_trial() {
    let holds = |run: &Run| ["s", "c1", "c2", "x"].map(|agent| run.must_hold(&name(agent)));
    assert_eq!(holds(&play(run(1), &["begin", "ready s"]).0), [true, false, false, false]);
    for phase in [Phase::Ramping, Phase::Holding, Phase::Counting] {
        assert_eq!(holds(&at(phase)), [true, true, true, false], "{phase:?}");
    }
    for phase in [Phase::Queued, Phase::Releasing, Phase::Finished] {
        assert_eq!(holds(&at(phase)), [false; 4], "{phase:?}");
    }
    assert_eq!(play(at(Phase::Ramping), &["plateau c1"]).0.waiting().len(), 1);
    assert!(at(Phase::Holding).waiting().is_empty());
}

#[test]
fn a_run_that_cannot_begin_ends_with_its_reason() {
    assert_eq!(play(run(1), &["unplaced"]).1, ["finish refused: gone"]);
    assert_eq!(play(Run::queued(), &["begin"]).1, ["finish failed: the run has no trial"]);
    assert_eq!(
        play(at(Phase::Queued), &["interrupt"]).1,
        ["finish interrupted: the controller ended while it was under way"]
    );
    assert!(play(at(Phase::Holding), &["unplaced", "begin"]).1.is_empty());
}

pub(in crate::run) fn any_event() -> impl Strategy<Value = RunEvent> {
    let agents = vec!["s", "c1", "c2", "x"];
    let of_agent = (
        prop::sample::select(&["ready", "plateau", "counted", "collected", "failed", "lost"][..]),
        prop::sample::select(agents),
    )
        .prop_map(|(what, who)| format!("{what} {who}"));
    let phases = vec!["preparing", "ramping", "holding", "counting", "releasing"];
    let late = (prop::sample::select(phases), 0..3, prop::sample::select(&["", " halted"][..]))
        .prop_map(|(phase, index, halted)| format!("late {phase} {index}{halted}"));
    let others = prop::sample::select(&["begin", "cancel", "interrupt", "unplaced", "held 0", "held 1"][..])
        .prop_map(str::to_owned);
    prop_oneof![10 => of_agent, 2 => late, 1 => others].prop_map(|text| event(&text))
}

/// Events as they come when all goes well, with others in between: long ways are seen too.
pub(in crate::run) fn any_history() -> impl Strategy<Value = Vec<RunEvent>> {
    let second = ["ready c1", "ready c2", "ready s", "plateau c1", "plateau c2", "held 1"];
    let good: Vec<&str> =
        [&READY[..], &PLATEAU, &["held 0"], &COUNTED, &COLLECTED, &second, &COUNTED, &COLLECTED].concat();
    let good: Vec<RunEvent> = good.into_iter().map(event).collect();
    (0..=good.len(), proptest::collection::vec((any::<prop::sample::Index>(), any_event()), 0..12)).prop_map(
        move |(length, others)| {
            let mut events = good[..length].to_vec();
            others.into_iter().for_each(|(at, other)| events.insert(at.index(events.len() + 1), other));
            events
        },
    )
}

proptest! {
    #[test]
    fn a_run_ends_once_and_closes_every_trial_that_it_began_once(events in any_history()) {
        let mut state = run(2);
        let mut finished = 0;
        let mut begun = Vec::new();
        let mut closed = Vec::new();
        for event in &events {
            let before = state.clone();
            let (next, effects) = state.step(event);
            if before.outcome().is_some() {
                prop_assert_eq!((&next, effects.len()), (&before, 0), "a finished run changed");
            }
            for effect in effects {
                match effect {
                    Effect::Finish { .. } => finished += 1,
                    Effect::Prepare { index } => begun.push(index),
                    Effect::Close { index, .. } => closed.push(index),
                    Effect::Release { agents, .. } => prop_assert!(agents.iter().all(|agent| !next.lost.contains_key(agent))),
                    _ => {}
                }
            }
            prop_assert_eq!(next.outcome().is_some(), finished == 1);
            state = next;
        }
        prop_assert!(finished <= 1);
        let open = usize::from(!matches!(state.phase(), Phase::Queued | Phase::Releasing | Phase::Finished));
        prop_assert_eq!(&begun[..begun.len() - open], &closed[..]);
        let replayed = events.iter().fold(run(2), |run, event| run.step(event).0);
        prop_assert_eq!(replayed, state);
    }

    #[test]
    fn a_run_that_is_cancelled_ends_when_all_have_closed_or_are_lost(events in any_history(), lost in any::<[bool; 3]>()) {
        let mut state = events.iter().fold(run(2), |run, event| run.step(event).0).step(&RunEvent::Cancel).0;
        for (agent, lost) in ["s", "c1", "c2"].into_iter().zip(lost) {
            let what = if lost { "lost" } else { "collected" };
            state = state.step(&event(&format!("{what} {agent}"))).0;
        }
        prop_assert_eq!(state.phase(), Phase::Finished);
    }
}

/// A script of three steps: server, client, server.
fn script(trials: u32) -> Run {
    let party = |agent: &str, role| Party { agent: name(agent), role };
    let turn = |agent: &str| Turn { agent: name(agent), time: Duration::from_secs(5) };
    let one = |trial| TrialPlan {
        case: 0,
        trial,
        parties: vec![party("s", Role::Server), party("c1", Role::Client)],
        course: Course::Script(vec![turn("s"), turn("c1"), turn("s")]),
    };
    Run::queued().place((0..trials).map(one).collect())
}

#[test]
fn steps_are_done_one_after_the_other_and_then_everything_closes() {
    let (run, told) = play(
        script(2),
        &[
            "begin",
            "ready s",
            "ready c1",
            "answered s 0",
            "answered c1 1",
            "answered s 2",
            "collected s",
            "collected c1",
        ],
    );
    assert_eq!(told, ["prepare 0", "step 0", "step 1", "step 2", "close", "release c1 s", "prepare 1"]);
    assert_eq!((run.phase(), run.index()), (Phase::Preparing, Some(1)));
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let begun = ["begin", "ready s", "ready c1"];
    for stray in ["answered c1 0", "answered s 1", "answered s 9", "plateau c1", "counted s", "held 0"] {
        let (run, _) = play(script(1), &begun);
        let (after, effects) = run.clone().step(&event(stray));
        assert_eq!((after, effects), (run, Vec::new()), "{stray}");
    }
}

#[test]
fn a_step_that_is_not_answered_in_time_ends_the_run_by_name() {
    let begun = ["begin", "ready s", "ready c1", "answered s 0"];
    let (run, told) = play(script(1), &[&begun[..], &["late ramping 0 0"]].concat());
    assert_eq!((run.phase(), told.len()), (Phase::Ramping, 3), "the deadline of a step that is done");
    let (run, told) = play(run, &["late ramping 0 1", "collected s", "collected c1"]);
    assert_eq!(told[0], "close cut");
    let why = run.outcome().map(ToString::to_string).unwrap_or_default();
    assert_eq!(why, "failed: c1 did not answer step 2 within 5 s");
}

#[test]
fn where_held_connections_move_nobody_is_counted_before_all_clients_rest() {
    let mut run = run(1);
    run.trials[0].course = Course::Load {
        ramp: Duration::from_secs(7),
        hold: Duration::from_secs(3),
        rest: Some(Duration::from_secs(9)),
    };
    let (run, told) = play(run, &[&READY[..], &PLATEAU].concat());
    assert_eq!(told[2..], ["move", "hold 3s"]);
    let (run, told) = play(run, &["resting c1", "held 0", "late holding 1", "resting c1", "held 0"]);
    assert_eq!((told, run.phase()), (vec!["rest".to_owned()], Phase::Holding), "the other one still moves");
    let (late, told) = play(run.clone(), &["late holding 0"]);
    assert_eq!((late.phase(), &told[0]), (Phase::Releasing, &"close cut".to_owned()));
    let (run, told) = play(run, &["resting c2", "late holding 0"]);
    assert_eq!((told, run.phase()), (vec!["hold 0s".to_owned()], Phase::Holding), "a moment for the server");
    let (run, told) = play(run, &["held 0"]);
    assert_eq!((told, run.phase()), (vec!["count".to_owned()], Phase::Counting));
}
