//! The attached agents: who is there, what they offer, one bounded mailbox each. The hub knows no
//! run; it passes messages on and says who fell away.

use crate::patience::Patience;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tracing::{info, warn};
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::id::AgentName;
use tuplelab_domain::plan::Labels;
use tuplelab_domain::schedule::{Host, Inventory};
use tuplelab_proto::v1::{self, to_agent};

/// Orders on their way to one agent. A run sends a handful; a full mailbox means a dead stream.
const MAILBOX: usize = 64;
/// Messages on their way from all agents to the conductor: a full one slows the streams down.
const INBOX: usize = 4_096;

/// What the conductor hears.
#[derive(Debug)]
pub enum Heard {
    /// An agent spoke of a run.
    Message(AgentName, Box<v1::RunMessage>),
    /// An agent read its facts again.
    Surveyed(AgentName),
    /// An agent came, or came back on a new stream, and holds, or gave up last, this trial; the orders of
    /// the trial at hand are to be repeated.
    Attached(AgentName, Option<v1::Holding>),
    /// An agent was silent for too long, or said that it stops.
    Lost(AgentName, String),
}

/// An agent, as people see it.
#[derive(Debug, Clone)]
pub struct AgentView {
    /// Its name, labels and facts.
    pub host: Host,
    /// The version of its program.
    pub version: String,
    /// How long ago it was heard.
    pub silent: Duration,
}

/// Why an agent may not attach.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Another process has the name.
    #[error("an agent named {0} is attached already: give this one another --name, or stop the other one")]
    NameTaken(AgentName),
    /// Another process had it a moment ago, and may come back.
    #[error("an agent named {0} was attached a moment ago: it has a little time to come back")]
    NameKept(AgentName),
}

struct Member {
    host: Host,
    version: String,
    instance: String,
    holding: Option<v1::Holding>,
    /// Counts the streams of this hub, so that the end of an old one is not taken for the new one's.
    stream: u64,
    mailbox: mpsc::Sender<v1::ToAgent>,
    attached: bool,
    heard: Instant,
}

#[derive(Default)]
struct Members {
    by_name: BTreeMap<AgentName, Member>,
    streams: u64,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Hub {
    members: Arc<Mutex<Members>>,
    inbox: mpsc::Sender<Heard>,
    patience: Patience,
}

/// One agent's stream, as the hub knows it.
#[derive(Debug)]
pub struct Attachment {
    /// Who.
    pub name: AgentName,
    /// Which stream.
    pub stream: u64,
    /// What is to be sent on it.
    pub outbound: mpsc::Receiver<v1::ToAgent>,
}

impl Hub {
    /// An empty hub, and what it hears.
    pub fn new(patience: Patience) -> (Self, mpsc::Receiver<Heard>) {
        let (inbox, heard) = mpsc::channel(INBOX);
        (Self { members: Arc::default(), inbox, patience }, heard)
    }

    /// How long silence is borne.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        // Nothing below panics while it holds the lock; if it did, the data would still be whole.
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an agent in. The process that has the name may take it over on a new stream; another
    /// one may only once the first is lost.
    ///
    /// # Errors
    /// The name is taken.
    pub fn attach(
        &self,
        name: AgentName,
        labels: Labels,
        facts: HostFacts,
        version: String,
        instance: String,
        holding: Option<v1::Holding>,
    ) -> Result<Attachment, AttachError> {
        let (mailbox, outbound) = mpsc::channel(MAILBOX);
        let mut members = self.members();
        let back = match members.by_name.get(&name) {
            Some(other) if other.instance != instance && other.attached => {
                return Err(AttachError::NameTaken(name));
            }
            Some(other) if other.instance != instance && other.heard.elapsed() < self.patience.suspect() => {
                return Err(AttachError::NameKept(name));
            }
            Some(other) => other.instance == instance,
            None => false,
        };
        members.streams += 1;
        let stream = members.streams;
        let host = Host { name: name.clone(), labels, facts };
        let heard = Instant::now();
        let member = Member {
            host,
            version,
            instance,
            holding: holding.clone(),
            stream,
            mailbox,
            attached: true,
            heard,
        };
        let replaced = members.by_name.insert(name.clone(), member);
        drop(members);
        info!(agent = %name, back, "attached");
        if replaced.is_some() && !back {
            self.pass(Heard::Lost(name.clone(), "another process took its name over".into()));
        }
        self.pass(Heard::Attached(name.clone(), holding));
        Ok(Attachment { name, stream, outbound })
    }

    /// The stream ended; the agent has until the end of our patience to come back.
    pub fn detach(&self, name: &AgentName, stream: u64) {
        if let Some(member) = self.members().by_name.get_mut(name).filter(|member| member.stream == stream) {
            member.attached = false;
            warn!(agent = %name, "the stream ended");
        }
    }

    /// The agent is alive. Whether this stream is its own: one that is lost, or has another stream, must
    /// attach again and is given no lease on this one.
    pub fn beat(&self, name: &AgentName, stream: u64) -> bool {
        let mut members = self.members();
        let member = members.by_name.get_mut(name).filter(|member| member.stream == stream);
        member.map(|member| member.heard = Instant::now()).is_some()
    }

    /// The agent read its facts again.
    pub fn surveyed(&self, name: &AgentName, facts: HostFacts) {
        if let Some(member) = self.members().by_name.get_mut(name) {
            member.host.facts = facts;
        }
        self.pass(Heard::Surveyed(name.clone()));
    }

    /// Passes on what an agent says of a run; waits while the conductor is behind.
    pub async fn message(&self, name: &AgentName, message: v1::RunMessage) {
        let _ = self.inbox.send(Heard::Message(name.clone(), Box::new(message))).await;
    }

    fn pass(&self, heard: Heard) {
        let inbox = self.inbox.clone();
        if let Err(mpsc::error::TrySendError::Full(heard)) = inbox.clone().try_send(heard) {
            tokio::spawn(async move { inbox.send(heard).await });
        }
    }

    /// Puts an order into an agent's mailbox. It may never arrive: orders are repeated when the
    /// agent comes back, and its loss is heard of.
    pub fn tell(&self, name: &AgentName, body: to_agent::Body) {
        let members = self.members();
        let Some(member) = members.by_name.get(name) else { return };
        if let Err(error) = member.mailbox.try_send(v1::ToAgent { body: Some(body) }) {
            warn!(agent = %name, %error, "an order could not be sent");
        }
    }

    /// Asks all attached agents for fresh facts; says whom.
    pub fn survey(&self) -> Vec<AgentName> {
        let attached: Vec<AgentName> = self
            .members()
            .by_name
            .iter()
            .filter(|(_, member)| member.attached)
            .map(|(name, _)| name.clone())
            .collect();
        for name in &attached {
            self.tell(name, to_agent::Body::Survey(v1::Survey {}));
        }
        attached
    }

    /// The hosts of all attached agents that are not suspect.
    pub fn inventory(&self) -> Inventory {
        let members = self.members();
        let fit =
            members.by_name.values().filter(|m| m.attached && m.heard.elapsed() < self.patience.suspect());
        Inventory { hosts: fit.map(|member| member.host.clone()).collect() }
    }

    /// The agents that are attached, with what each said that it holds when it came.
    pub fn attached(&self) -> Vec<(AgentName, Option<v1::Holding>)> {
        let members = self.members();
        let attached = members.by_name.iter().filter(|(_, member)| member.attached);
        attached.map(|(name, member)| (name.clone(), member.holding.clone())).collect()
    }

    /// All agents, as people see them.
    pub fn agents(&self) -> Vec<AgentView> {
        let members = self.members();
        members
            .by_name
            .values()
            .map(|member| AgentView {
                host: member.host.clone(),
                version: member.version.clone(),
                silent: member.heard.elapsed(),
            })
            .collect()
    }

    /// Looks for agents that were silent for too long, for ever.
    pub async fn watch_over(self) {
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            tick.tick().await;
            let lost: Vec<(AgentName, Duration)> = {
                let mut members = self.members();
                let lost: Vec<_> = members
                    .by_name
                    .iter()
                    .filter(|(_, member)| member.heard.elapsed() >= self.patience.lost())
                    .map(|(name, member)| (name.clone(), member.heard.elapsed()))
                    .collect();
                lost.iter().for_each(|(name, _)| drop(members.by_name.remove(name)));
                lost
            };
            for (name, silent) in lost {
                warn!(agent = %name, "lost");
                self.pass(Heard::Lost(name, format!("not heard for {} s", silent.as_secs())));
            }
        }
    }
}
