//! What a run is made of, what can happen to it, and what is to be done then.

use super::outcome::Outcome;
use crate::id::AgentName;
use crate::schedule::Role;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// One agent's part in a trial, as the run sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Who.
    pub agent: AgentName,
    /// Which end.
    pub role: Role,
}

/// One trial, as the run sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialPlan {
    /// The case, from 0.
    pub case: u32,
    /// The trial of that case, from 0.
    pub trial: u32,
    /// Who takes part.
    pub parties: Vec<Party>,
    /// What they do.
    pub course: Course,
}

/// What is done in a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Course {
    /// Connections are opened, held, counted.
    Load {
        /// How long the ramp may take before it is halted.
        ramp: Duration,
        /// How long the plateau is held.
        hold: Duration,
        /// Where the held connections move (churn, activity): how long they may take to come to rest.
        #[serde(default)]
        rest: Option<Duration>,
    },
    /// Steps are done in order.
    Script(Vec<Turn>),
}

/// Whose step it is, and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who.
    pub agent: AgentName,
    /// How long.
    pub time: Duration,
}

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its turn.
    Queued,
    /// Listeners are bound, lanes started.
    Preparing,
    /// Connections are opened, or a script's steps are done.
    Ramping,
    /// All are open, nothing more opens.
    Holding,
    /// The kernels are asked.
    Counting,
    /// Everything is closed.
    Releasing,
    /// Over.
    Finished,
}

impl Phase {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Ramping => "ramping",
            Self::Holding => "holding",
            Self::Counting => "counting",
            Self::Releasing => "releasing",
            Self::Finished => "finished",
        }
    }
}

/// A moment after which a phase is not waited for any longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadline {
    /// The position in the list of trials.
    pub index: usize,
    /// The phase that it bounds.
    pub phase: Phase,
    /// Whether the ramp was halted already.
    pub halted: bool,
    /// The step of a script that it bounds.
    #[serde(default)]
    pub step: Option<u32>,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum RunEvent {
    /// Its turn has come.
    Begin,
    /// It does not fit on the hosts.
    Unplaced {
        /// The shortfalls.
        why: String,
    },
    /// An agent is prepared.
    Ready {
        /// Who.
        agent: AgentName,
    },
    /// An agent cannot or will not do its part, or its worker ended.
    Failed {
        /// Who.
        agent: AgentName,
        /// Why.
        why: String,
    },
    /// A client opens nothing more.
    Plateau {
        /// Who.
        agent: AgentName,
    },
    /// Nothing moves at a client any more.
    Resting {
        /// Who.
        agent: AgentName,
    },
    /// An agent did a step of the script.
    Answered {
        /// Who.
        agent: AgentName,
        /// The step's position in the script.
        step: u32,
    },
    /// The time of holding is over.
    HoldOver {
        /// The position in the list of trials.
        index: usize,
    },
    /// An agent's kernel was counted.
    Counted {
        /// Who.
        agent: AgentName,
    },
    /// An agent has closed everything.
    Collected {
        /// Who.
        agent: AgentName,
    },
    /// An agent fell away.
    Lost {
        /// Who.
        agent: AgentName,
        /// What is known of it.
        why: String,
    },
    /// A deadline passed.
    Late {
        /// Which.
        deadline: Deadline,
    },
    /// Somebody wants it to end.
    Cancel,
    /// The controller found it unfinished when it started.
    Interrupt,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Give every party its assignment.
    Prepare {
        /// The position in the list of trials.
        index: usize,
    },
    /// Let everybody go.
    Go {
        /// The position in the list of trials.
        index: usize,
    },
    /// Let the agent whose turn it is do this step.
    Step {
        /// The position in the list of trials.
        index: usize,
        /// The step's position in the script.
        step: u32,
    },
    /// Say `HoldOver` after this time.
    Hold {
        /// The position in the list of trials.
        index: usize,
        /// How long.
        time: Duration,
    },
    /// Tell the clients to let the held connections move.
    Move {
        /// The position in the list of trials.
        index: usize,
    },
    /// Tell the clients to let them rest.
    Rest {
        /// The position in the list of trials.
        index: usize,
    },
    /// Tell the clients to open nothing more.
    Halt {
        /// The position in the list of trials.
        index: usize,
    },
    /// Ask every party's kernel.
    Count {
        /// The position in the list of trials.
        index: usize,
    },
    /// Tell these parties to close everything.
    Release {
        /// The position in the list of trials.
        index: usize,
        /// Those that are still there.
        agents: Vec<AgentName>,
    },
    /// Say `Late` after this time.
    Watch {
        /// What it bounds.
        deadline: Deadline,
        /// How long.
        time: Duration,
    },
    /// The trial's evidence is complete.
    Close {
        /// The position in the list of trials.
        index: usize,
        /// Whether it went through all its phases.
        whole: bool,
    },
    /// It is over.
    Finish {
        /// How.
        outcome: Outcome,
    },
}
