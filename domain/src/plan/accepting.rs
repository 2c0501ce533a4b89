//! Whether what a server does with its connections goes together with what a client waits for.

use super::accept::Accept;
use super::file::Body;
use super::model::{Connections, Setup};
use super::problem::PlanProblem;
use std::ops::Range;

/// Where the values stand that have to go together.
pub(super) struct Places {
    accept: Option<Range<usize>>,
    answered: Option<Range<usize>>,
    connections: Option<Range<usize>>,
}

impl Places {
    pub(super) fn of(body: &Body) -> Self {
        Self {
            accept: body.servers.accept.place(),
            answered: body.load.answered.place(),
            connections: body.load.connections.place(),
        }
    }

    /// What does not go together in this setup.
    pub(super) fn problems(self, setup: &Setup) -> Vec<PlanProblem> {
        let accept = setup.servers.accept;
        let mut problems = Vec::new();
        if setup.load.answered && !accept.takes_all() {
            let what = format!(
                "with servers.accept = \"{accept}\" not every client is answered, but load.answered = true waits for it"
            );
            problems.push(
                PlanProblem { place: self.answered.or_else(|| self.accept.clone()), what, remedy: None }
                    .remedy(
                        "write load.answered = false: a connection then counts once its handshake is over",
                    ),
            );
        }
        if accept == Accept::Close && setup.load.connections == Connections::Max {
            let what = "with servers.accept = \"close\" nothing is held, so load.connections = \"max\" says no number";
            problems.push(
                PlanProblem { place: self.connections.or(self.accept), what: what.into(), remedy: None }
                    .remedy("write how many are to be opened, as in load.connections = 1000"),
            );
        }
        problems
    }
}
