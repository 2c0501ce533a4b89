//! The agent's loop: attached to the controller or on its way there, it keeps its lease, carries out
//! orders, and passes on what its worker and its kernel say.

use crate::backoff::Backoff;
use crate::clock::{Offset, boottime_nanos};
use crate::duty::{Duty, Happening};
use crate::facts::{AddressSelector, FactsError, host_facts};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{debug, info, warn};
use tuplelab_domain::id::AgentName;
use tuplelab_proto::dial::{Address, dial};
use tuplelab_proto::v1::{self, agents_client::AgentsClient, from_agent, to_agent};

/// What an agent is told when it is started.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    /// Where the controller is.
    pub controller: Address,
    /// The local address that the control connection leaves from; `None` leaves it to the route.
    pub control_address: Option<IpAddr>,
    /// The agent's name.
    pub name: AgentName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Which addresses it offers for data.
    pub addresses: Vec<AddressSelector>,
    /// Whether plans may make kernel settings here.
    pub may_set_sysctls: bool,
    /// The program whose `worker` subcommand is the engine.
    pub program: PathBuf,
    /// The version to tell the controller.
    pub version: String,
}

/// Why an agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host's limits cannot be read, or it has no address to offer.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The controller will not have it.
    #[error("the controller at {controller} refuses this agent: {why}")]
    Refused {
        /// Where the controller is.
        controller: Address,
        /// Its words.
        why: String,
    },
}

/// Messages on their way to the stream; the spool holds what does not fit.
const OUTBOUND: usize = 64;
const BEAT: Duration = Duration::from_secs(1);
/// Beats that fail to be answered for this long mean that the stream is dead, whatever TCP says.
const SILENCE: Duration = Duration::from_secs(5);

/// Works for the controller until `stop` is done; whatever is open is closed then.
///
/// # Errors
/// See [`AgentError`]. An unreachable controller is no error: the agent goes on trying.
pub async fn serve(config: AgentConfig, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
    // An address that the host does not have is said at once, not when the controller answers.
    host_facts(&config.addresses, config.may_set_sysctls)?;
    let (happenings, happened) = mpsc::channel(64);
    let mut session = Session {
        duty: Duty::new(config.program.clone(), happenings),
        instance: std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        happened,
        clock: Offset::default(),
        lease: Lease::default(),
        config,
    };
    tokio::pin!(stop);
    let mut backoff = Backoff::default();
    loop {
        let attach = session.attach();
        let attached = tokio::select! {
            () = &mut stop => break,
            attached = attach => attached,
        };
        match attached {
            Ok(stream) => {
                backoff = Backoff::default();
                let ended = tokio::select! {
                    () = &mut stop => break,
                    ended = session.converse(stream) => ended,
                };
                refusal(&session.config, &ended)?;
                warn!(reason = ended.message(), "the stream to the controller ended");
            }
            Err(status) => {
                refusal(&session.config, &status)?;
                info!(controller = %session.config.controller, reason = status.message(), "not attached");
            }
        }
        let (wait, next) = backoff.next(f64::from(boottime_nanos() as u32 % 1_000) / 1_000.0);
        backoff = next;
        tokio::select! {
            () = &mut stop => break,
            () = session.alone(wait) => {}
        }
    }
    session.duty.give_up("the agent was stopped".into());
    // The worker closes its sockets when its pipe ends; give it the time to do so.
    sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// Errors of the controller that no further try will change.
fn refusal(config: &AgentConfig, status: &Status) -> Result<(), AgentError> {
    match status.code() {
        Code::InvalidArgument | Code::AlreadyExists | Code::FailedPrecondition => Err(AgentError::Refused {
            controller: config.controller.clone(),
            why: status.message().to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The right to put load on the network: it ends by itself unless beats are answered.
#[derive(Debug, Default)]
struct Lease {
    time: Duration,
    until: Option<Instant>,
}

impl Lease {
    /// Counted from when the question was sent, so that it ends here before it ends there.
    fn renew(&mut self, asked: Instant) {
        self.until = self.until.max(Some(asked + self.time));
    }

    fn has_ended(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }
}

struct Session {
    config: AgentConfig,
    instance: String,
    duty: Duty,
    happened: mpsc::Receiver<Happening>,
    clock: Offset,
    lease: Lease,
}

struct Stream {
    inbound: Streaming<v1::ToAgent>,
    outbound: mpsc::Sender<v1::FromAgent>,
}

fn from_agent(body: from_agent::Body) -> v1::FromAgent {
    v1::FromAgent { body: Some(body) }
}

impl Session {
    async fn attach(&self) -> Result<Stream, Status> {
        let channel = dial(&self.config.controller, self.config.control_address)
            .await
            .map_err(|error| Status::unavailable(in_full(&error)))?;
        let facts = self.facts().await.map_err(|error| Status::internal(error.to_string()))?;
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let hello = v1::Hello {
            name: self.config.name.to_string(),
            version: self.config.version.clone(),
            protocol: tuplelab_proto::PROTOCOL,
            labels: self.config.labels.clone(),
            facts: Some(facts),
            instance: self.instance.clone(),
        };
        let _ = outbound.send(from_agent(from_agent::Body::Hello(hello))).await;
        let mut client = AgentsClient::new(channel);
        let inbound = tokio::time::timeout(SILENCE, client.attach(ReceiverStream::new(messages)))
            .await
            .map_err(|_| Status::deadline_exceeded("the controller did not answer"))??
            .into_inner();
        Ok(Stream { inbound, outbound })
    }

    async fn facts(&self) -> Result<v1::HostFacts, FactsError> {
        let (selectors, may_set) = (self.config.addresses.clone(), self.config.may_set_sysctls);
        let facts = tokio::task::spawn_blocking(move || host_facts(&selectors, may_set)).await;
        match facts {
            Ok(facts) => facts.map(|facts| (&facts).into()),
            Err(panicked) => std::panic::resume_unwind(panicked.into_panic()),
        }
    }

    /// Without a stream: the worker goes on until the lease ends.
    async fn alone(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            tokio::select! {
                Some(happening) = self.happened.recv() => self.duty.happen(happening, &self.clock).await,
                () = sleep(Duration::from_millis(100)) => self.mind_the_lease(),
            }
        }
    }

    fn mind_the_lease(&mut self) {
        if self.duty.is_busy() && self.lease.has_ended() {
            self.duty.give_up("the lease from the controller ended".into());
        }
    }

    /// With a stream, until it ends; says how it ended.
    async fn converse(&mut self, mut stream: Stream) -> Status {
        self.duty.spool.again();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut beats: Vec<(u64, Instant)> = Vec::new();
        let mut heard = Instant::now();
        loop {
            while let Some(message) = self.duty.spool.next() {
                let message = from_agent(from_agent::Body::Run(message.clone()));
                match stream.outbound.try_send(message) {
                    Ok(()) => self.duty.spool.sent(),
                    Err(mpsc::error::TrySendError::Full(_)) => break,
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        return match stream.inbound.message().await {
                            Err(status) => status,
                            Ok(_) => Status::unavailable("the controller closed the stream"),
                        };
                    }
                }
            }
            tokio::select! {
                // Orders first: a release must not wait behind a flood of reports.
                biased;
                message = stream.inbound.message() => {
                    match message {
                        Ok(Some(message)) => {
                            heard = Instant::now();
                            self.hear(message, &mut beats, &stream.outbound).await;
                        }
                        Ok(None) => return Status::unavailable("the controller closed the stream"),
                        Err(status) => return status,
                    }
                }
                _ = beat.tick() => {
                    self.mind_the_lease();
                    if heard.elapsed() > SILENCE {
                        return Status::unavailable("the controller has not answered for 5 s");
                    }
                    let sent_at = boottime_nanos();
                    beats.push((sent_at, Instant::now()));
                    // A full outbound queue means that the stream is stuck; silence will tell.
                    let _ = stream.outbound.try_send(from_agent(from_agent::Body::Beat(v1::Beat { sent_at, received_at: 0 })));
                }
                Some(happening) = self.happened.recv() => self.duty.happen(happening, &self.clock).await,
            }
        }
    }

    async fn hear(
        &mut self,
        message: v1::ToAgent,
        beats: &mut Vec<(u64, Instant)>,
        outbound: &mpsc::Sender<v1::FromAgent>,
    ) {
        match message.body {
            Some(to_agent::Body::Welcome(welcome)) => {
                info!(name = %self.config.name, controller = %self.config.controller, version = welcome.version, "attached");
                self.clock.compare(&welcome.clock);
                self.lease.time = Duration::from_millis(welcome.lease_millis);
            }
            Some(to_agent::Body::Beat(beat)) => {
                if let Some(position) = beats.iter().position(|(sent_at, _)| *sent_at == beat.sent_at) {
                    let (sent_at, asked) = beats.swap_remove(position);
                    beats.retain(|(other, _)| *other > sent_at);
                    self.clock.observe(sent_at, beat.received_at, boottime_nanos());
                    self.lease.renew(asked);
                }
            }
            Some(to_agent::Body::Survey(_)) => match self.facts().await {
                Ok(facts) => drop(outbound.send(from_agent(from_agent::Body::Facts(facts))).await),
                Err(error) => warn!(%error, "the host's facts could not be read"),
            },
            Some(to_agent::Body::Run(order)) => {
                debug!(?order, "order");
                // Load needs a lease that stands now: after a pause it may have ended unseen.
                let starts = matches!(
                    order.order,
                    Some(v1::run_order::Order::Prepare(_) | v1::run_order::Order::Go(_))
                );
                if starts && self.lease.has_ended() {
                    warn!("an order to start came after the lease had ended");
                    self.duty.give_up("the lease from the controller ended".into());
                } else {
                    self.duty.obey(order, &self.clock).await;
                }
            }
            Some(to_agent::Body::Ack(ack)) => self.duty.spool.acknowledge(&ack),
            None => debug!("a message from a newer controller"),
        }
    }
}

/// An error with its causes, on one line: transport errors hide the reason in their source.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
