//! The agents' service: one stream each, between the wire and the hub.

use crate::clock::{boot_id, boottime_nanos};
use crate::hub::{AttachError, Attachment, Hub};
use std::pin::Pin;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::id::AgentName;
use tuplelab_proto::PROTOCOL;
use tuplelab_proto::v1::{self, agents_server::Agents, from_agent, to_agent};

/// How long a new stream may take to say who it is.
const HELLO: Duration = Duration::from_secs(5);
/// What one agent says of runs and the conductor has not taken yet; an agent sends no more at a time.
const REPORTS: usize = 256;
/// Labels that an agent may carry, and the bytes of each key or value.
const MOST_LABELS: usize = 64;
const LONGEST_LABEL: usize = 128;

/// The agents' service.
#[derive(Clone)]
pub struct AgentsService {
    hub: Hub,
    version: String,
}

impl AgentsService {
    /// The service in front of this hub.
    pub fn new(hub: Hub, version: String) -> Self {
        Self { hub, version }
    }

    fn take_in(&self, hello: v1::Hello) -> Result<Attachment, Status> {
        if hello.protocol != PROTOCOL {
            return Err(Status::failed_precondition(format!(
                "agent {} {} speaks protocol {}, controller {} speaks {PROTOCOL}: run the same version of tuplelab on both",
                hello.name, hello.version, hello.protocol, self.version
            )));
        }
        let name =
            AgentName::try_from(hello.name).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let labels = hello.labels;
        if labels.len() > MOST_LABELS
            || labels.iter().any(|(k, v)| k.len() > LONGEST_LABEL || v.len() > LONGEST_LABEL)
        {
            return Err(Status::invalid_argument(format!(
                "agent {name} carries too many or too long labels: at most {MOST_LABELS} of {LONGEST_LABEL} bytes each"
            )));
        }
        let facts =
            hello.facts.ok_or_else(|| Status::invalid_argument(format!("agent {name} sent no facts")))?;
        let facts =
            HostFacts::try_from(facts).map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.hub.attach(name, labels, facts, hello.version, hello.instance, hello.holding).map_err(|error| {
            match error {
                AttachError::NameTaken(_) => Status::already_exists(error.to_string()),
                // It tries again by itself.
                AttachError::NameKept(_) => Status::unavailable(error.to_string()),
            }
        })
    }
}

type Outbound = Pin<Box<dyn Stream<Item = Result<v1::ToAgent, Status>> + Send>>;

fn to_agent(body: to_agent::Body) -> v1::ToAgent {
    v1::ToAgent { body: Some(body) }
}

#[tonic::async_trait]
impl Agents for AgentsService {
    type AttachStream = Outbound;

    async fn attach(&self, request: Request<Streaming<v1::FromAgent>>) -> Result<Response<Outbound>, Status> {
        let mut inbound = request.into_inner();
        let first = timeout(HELLO, inbound.message()).await;
        let first = first
            .map_err(|_| Status::deadline_exceeded("the stream did not begin with Hello within 5 s"))??;
        let Some(v1::FromAgent { body: Some(from_agent::Body::Hello(hello)) }) = first else {
            return Err(Status::invalid_argument("the stream does not begin with Hello"));
        };
        let Attachment { name, stream, outbound } = self.take_in(hello)?;
        let welcome = v1::Welcome {
            version: self.version.clone(),
            protocol: PROTOCOL,
            lease_millis: self.hub.patience().lease().as_millis() as u64,
            clock: boot_id(),
        };
        // Answers to beats have a channel of their own, so that they never wait behind orders.
        let (beats, beats_out) = mpsc::channel(8);
        let hub = self.hub.clone();
        tokio::spawn(async move {
            listen(&hub, &name, stream, &mut inbound, beats).await;
            hub.detach(&name, stream);
        });
        let first = tokio_stream::once(to_agent(to_agent::Body::Welcome(welcome)));
        let rest = ReceiverStream::new(outbound).merge(ReceiverStream::new(beats_out));
        Ok(Response::new(Box::pin(first.chain(rest).map(Ok))))
    }
}

async fn listen(
    hub: &Hub,
    name: &AgentName,
    stream: u64,
    inbound: &mut Streaming<v1::FromAgent>,
    beats: mpsc::Sender<v1::ToAgent>,
) {
    // A conductor that waits for its store must not keep beats from being answered: what is said of runs
    // waits beside them. An agent has no more than this on its way.
    let (reports, mut reported) = mpsc::channel(REPORTS);
    let (to, from) = (hub.clone(), name.clone());
    tokio::spawn(async move {
        while let Some(message) = reported.recv().await {
            to.message(&from, message).await;
        }
    });
    while let Ok(Some(message)) = inbound.message().await {
        match message.body {
            Some(from_agent::Body::Beat(beat)) => {
                if !hub.beat(name, stream) {
                    return;
                }
                let answer = v1::Beat { sent_at: beat.sent_at, received_at: boottime_nanos() };
                // If the answers pile up the agent is not reading; it will miss them and reconnect.
                let _ = beats.try_send(to_agent(to_agent::Body::Beat(answer)));
            }
            Some(from_agent::Body::Facts(facts)) => match HostFacts::try_from(facts) {
                Ok(facts) => hub.surveyed(name, facts),
                Err(error) => tracing::warn!(agent = %name, %error, "facts cannot be read"),
            },
            Some(from_agent::Body::Run(message)) => drop(reports.send(message).await),
            Some(from_agent::Body::Hello(_)) | None => {}
        }
    }
}
