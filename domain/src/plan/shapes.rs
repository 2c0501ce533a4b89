//! Whether the shape of a load goes together with the rest of it.

use super::accept::Accept;
use super::close::Close;
use super::file::Body;
use super::model::{Connections, Setup, SourcePorts};
use super::problem::PlanProblem;
use super::stage::Stage;
use crate::units::{Rate, thousands};
use std::ops::Range;

/// Where the values stand that have to go together.
pub(super) struct Shapes {
    stages: Option<Range<usize>>,
    churn: Option<Range<usize>>,
    close: Option<Range<usize>>,
    activity: Option<Range<usize>>,
}

impl Shapes {
    pub(super) fn of(body: &Body) -> Self {
        let load = &body.load;
        Self {
            stages: load.stages.place(),
            churn: load.churn.place(),
            close: load.close.place(),
            activity: load.activity.place(),
        }
    }

    /// What does not go together in this setup.
    pub(super) fn problems(self, setup: &Setup) -> Vec<PlanProblem> {
        let mut problems = Vec::new();
        self.stages(setup, &mut problems);
        self.churn(setup, &mut problems);
        self.activity(setup, &mut problems);
        problems
    }

    fn activity(&self, setup: &Setup, problems: &mut Vec<PlanProblem>) {
        let (load, Some(_)) = (&setup.load, setup.load.activity) else { return };
        let mut problem = |what: String, remedy: &str| {
            let place = self.activity.clone();
            problems.push(PlanProblem { place, what, remedy: Some(remedy.into()) });
        };
        if load.churn.is_some() {
            problem("load.activity and load.churn do not go together yet".into(), "leave one of them out");
        }
        if load.hold.0.is_zero() {
            let what = "with load.hold = 0s there is no time for load.activity";
            problem(what.into(), "write how long it goes on, as in load.hold = \"5s\"");
        }
        if setup.servers.accept != Accept::All {
            let what =
                format!("load.activity needs servers that accept all, not \"{}\"", setup.servers.accept);
            problem(what, "leave servers.accept out");
        }
    }

    fn churn(&self, setup: &Setup, problems: &mut Vec<PlanProblem>) {
        let load = &setup.load;
        let mut problem = |place: &Option<Range<usize>>, what: String, remedy: &str| {
            problems.push(PlanProblem { place: place.clone(), what, remedy: Some(remedy.into()) });
        };
        let Some(Rate::PerSecond(rate)) = load.churn else {
            if load.close != Close::default() {
                let what =
                    format!("load.close = \"{}\" says how churn closes, and there is none", load.close);
                problem(&self.close, what, "write load.churn = \"1k/s\" too, or leave load.close out");
            }
            return;
        };
        if load.hold.0.is_zero() {
            let what = "with load.hold = 0s there is no time for load.churn";
            problem(&self.churn, what.into(), "write how long it goes on, as in load.hold = \"5s\"");
        }
        if setup.servers.accept != Accept::All {
            let what = format!("load.churn needs servers that accept all, not \"{}\"", setup.servers.accept);
            problem(&self.churn, what, "leave servers.accept out");
        }
        let Connections::Exactly(asked) = load.connections else {
            let what =
                "load.churn needs room beside the held connections, load.connections = \"max\" leaves none";
            problem(&self.churn, what.into(), "write a number of connections below what the ports allow");
            return;
        };
        let SourcePorts::Explicit(ports) = &setup.clients.source_ports else { return };
        let Setup { servers, clients, .. } = setup;
        let pairs = [clients.hosts, clients.addresses, servers.hosts, servers.addresses, servers.ports.len()]
            .into_iter()
            .fold(1u64, |pairs, more| pairs.saturating_mul(more.into()));
        let tuples = pairs.saturating_mul(ports.len().into());
        let needed = asked.saturating_add(load.close.resting(rate as f64, load.hold.0));
        if load.close == Close::Fin && needed > tuples {
            let what = format!(
                "load.close = \"fin\" leaves ports in TIME_WAIT for a minute: {} connections and {} closed ones need {} four-tuples, the plan's ports give {}",
                thousands(asked),
                thousands(needed - asked),
                thousands(needed),
                thousands(tuples)
            );
            let place = if self.close.is_some() { &self.close } else { &self.churn };
            problem(
                place,
                what,
                "ask for fewer connections, a lower churn or a shorter hold, or more ports or addresses",
            );
        }
    }

    fn stages(&self, setup: &Setup, problems: &mut Vec<PlanProblem>) {
        let Some(place) = self.stages.clone() else { return };
        let mut problem = |what: String, remedy: &str| {
            problems.push(PlanProblem::at(place.clone(), what).remedy(remedy));
        };
        let stages = &setup.load.stages;
        if setup.load.rate != Rate::Unlimited {
            let what = format!(
                "load.stages and load.rate = \"{}\" both say how fast connects begin",
                setup.load.rate
            );
            problem(what, "leave one of them out; a case undoes the base's by load.rate = \"unlimited\"");
        }
        let Some((last, before)) = stages.split_last() else { return };
        if let Some(rest) = before.iter().find(|stage| matches!(stage, Stage::Rest(_))) {
            problem(
                format!("\"{rest}\" leaves nothing for the stages after it"),
                "write it as the last stage",
            );
            return;
        }
        match (last, setup.load.connections) {
            (Stage::Pause(_), _) => {
                let what = format!("\"{last}\" is the last stage, and nothing begins after it");
                problem(what, "leave it out; load.hold says how long all connections are held");
            }
            (Stage::Connects(..), Connections::Max) => {
                let what = "load.connections = \"max\" says no number, so the stages may not begin them all";
                problem(what.into(), "write a last stage \"rest at unlimited\", or a number of connections");
            }
            (_, Connections::Exactly(asked)) => {
                let sum = stages.iter().filter_map(|s| s.connects()).fold(0, u64::saturating_add);
                let rest = matches!(last, Stage::Rest(_));
                if sum > asked || (sum < asked && !rest) {
                    let what = format!(
                        "the stages begin {} connects, load.connections asks for {}",
                        thousands(sum),
                        thousands(asked)
                    );
                    problem(what, "make the numbers equal, or end with \"rest at ..\"");
                } else if sum == asked && rest {
                    let what = format!("\"{last}\" has nothing left to begin");
                    problem(what, "leave it out, or lower the numbers before it");
                }
            }
            (Stage::Rest(_), Connections::Max) => {}
        }
    }
}

/// Whether these are stages at all.
pub(super) fn are_stages(stages: &[Stage]) -> Result<(), String> {
    match stages.len() {
        0 => Err("load.stages names no stage: write at least one, as in \"rest at 5k/s\"".into()),
        1..=MOST_STAGES => Ok(()),
        more => Err(format!("load.stages has {more} stages; at most {MOST_STAGES} are kept")),
    }
}

/// A connect's stage is looked up among all; more is no shape that a person would write.
const MOST_STAGES: usize = 100;
