//! The agent's loop: attached to the controller or on its way there, it keeps its lease, carries out
//! orders, and passes on what its worker and its kernel say.

#[cfg(test)]
mod tests;

use crate::backoff::Backoff;
use crate::clock::{Offset, boottime_nanos};
use crate::duty::{Duty, Happening};
use crate::facts::{AddressSelector, FactsError, host_facts};
use crate::lease::Lease;
use crate::spool::{JournalError, Spool};
use futures::stream::{PollNext, select_with_strategy};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
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
    /// Where what is not acknowledged is kept.
    pub spool: SpoolPlace,
    /// The program whose `worker` subcommand is the engine.
    pub program: PathBuf,
    /// The version to tell the controller.
    pub version: String,
}

/// Where an agent keeps what it has said and nobody has acknowledged: `FOLDER/NAME.spool`.
#[derive(Debug, Clone)]
pub struct SpoolPlace {
    /// The directory; it is made if it is missing.
    pub folder: PathBuf,
    /// Whether the agent refuses to work without it; else it says so and keeps it in memory only.
    pub required: bool,
}

/// Why an agent ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The host's limits cannot be read, or it has no address to offer.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The spool that it was told to use cannot be used.
    #[error(transparent)]
    Spool(#[from] JournalError),
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
const OUTBOUND: usize = 16;
/// Beats have a way of their own, past all that waits there.
const BEATS: usize = 4;
const BEAT: Duration = Duration::from_secs(1);
/// Beats that fail to be answered for this long mean that the stream is dead, whatever TCP says.
const SILENCE: Duration = Duration::from_secs(5);
/// Why a trial is given up when the agent stops, and how long that may take to be stored.
const STOPPED: &str = "the agent was stopped";
const LEAVE: Duration = Duration::from_millis(500);
/// How long a host may take to be read.
const FACTS: Duration = Duration::from_secs(20);
/// An agent that holds a trial is back soon, or the trial ends with its lease.
const SOON: Duration = Duration::from_secs(1);

/// Works for the controller until `stop` is done; whatever is open is closed then.
///
/// # Errors
/// See [`AgentError`]. An unreachable controller is no error: the agent goes on trying.
pub async fn serve(config: AgentConfig, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
    // An address that the host does not have is said at once, not when the controller answers.
    host_facts(&config.addresses, config.may_set_sysctls)?;
    let spool = spool(&config)?;
    let (happenings, happened) = mpsc::channel(64);
    let mut session = Session {
        duty: Duty::new(config.program.clone(), happenings, spool),
        instance: std::fs::read_to_string("/proc/sys/kernel/random/uuid")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        happened,
        clock: Offset::default(),
        lease: Lease::default(),
        known: None,
        config: Arc::new(config),
    };
    tokio::pin!(stop);
    let mut backoff = Backoff::default();
    loop {
        let known = session.known.clone().filter(|_| session.duty.ends_at().is_some());
        let attach = attach(session.config.clone(), session.instance.clone(), session.duty.holding(), known);
        let attached = tokio::select! {
            () = &mut stop => break,
            attached = session.meanwhile(attach) => attached,
        };
        match attached {
            Ok(mut stream) => {
                session.known = Some(stream.facts.clone());
                backoff = Backoff::default();
                let ended = tokio::select! {
                    () = &mut stop => {
                        session.take_leave(stream).await;
                        break;
                    }
                    ended = session.converse(&mut stream) => ended,
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
        let wait = if session.duty.ends_at().is_some() { wait.min(SOON) } else { wait };
        tokio::select! {
            () = &mut stop => break,
            () = session.meanwhile(sleep(wait)) => {}
        }
    }
    session.duty.give_up(STOPPED.into());
    // The worker closes its sockets when its pipe ends; give it the time to do so.
    sleep(Duration::from_millis(200)).await;
    Ok(())
}

/// What is to be said still, on the disk where there is room for it.
fn spool(config: &AgentConfig) -> Result<Spool, AgentError> {
    match Spool::open(&config.spool.folder, config.name.as_str()) {
        Err(error) if config.spool.required => Err(error.into()),
        Err(error) => {
            warn!(%error, "what is not acknowledged is kept in memory only, and lost with this process");
            Ok(Spool::default())
        }
        Ok(spool) => Ok(spool),
    }
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

struct Session {
    config: Arc<AgentConfig>,
    instance: String,
    duty: Duty,
    happened: mpsc::Receiver<Happening>,
    clock: Offset,
    lease: Lease,
    /// What the host offered when it was last read for an attachment.
    known: Option<v1::HostFacts>,
}

struct Stream {
    inbound: Streaming<v1::ToAgent>,
    outbound: mpsc::Sender<v1::FromAgent>,
    beats: mpsc::Sender<v1::FromAgent>,
    facts: v1::HostFacts,
    /// When it was asked for: a lease that comes with it counts from then.
    asked: u64,
}

fn from_agent(body: from_agent::Body) -> v1::FromAgent {
    v1::FromAgent { body: Some(body) }
}

/// Opens a stream and says who this is. Bounded: dialling, reading the host and the controller's answer
/// have their time. While a trial is held the host offers what it was `known` to offer before: the trial's
/// own sockets take nothing from the next one.
async fn attach(
    config: Arc<AgentConfig>,
    instance: String,
    holding: Option<v1::Holding>,
    known: Option<v1::HostFacts>,
) -> Result<Stream, Status> {
    let channel = dial(&config.controller, config.control_address)
        .await
        .map_err(|error| Status::unavailable(in_full(&error)))?;
    let facts = match known {
        Some(known) => known,
        None => facts(&config).await.map_err(Status::internal)?,
    };
    let (outbound, messages) = mpsc::channel(OUTBOUND);
    let (beats, beating) = mpsc::channel(BEATS);
    let hello = v1::Hello {
        name: config.name.to_string(),
        version: config.version.clone(),
        protocol: tuplelab_proto::PROTOCOL,
        labels: config.labels.clone(),
        facts: Some(facts.clone()),
        instance,
        holding,
    };
    let asked = boottime_nanos();
    let _ = outbound.send(from_agent(from_agent::Body::Hello(hello))).await;
    // A beat goes before whatever else waits. The hello comes first: no beat is made before it is answered.
    let messages = ReceiverStream::new(messages);
    let all = select_with_strategy(ReceiverStream::new(beating), messages, |(): &mut ()| PollNext::Left);
    let mut client = AgentsClient::new(channel);
    let inbound = timeout(SILENCE, client.attach(all))
        .await
        .map_err(|_| Status::deadline_exceeded("the controller did not answer"))??
        .into_inner();
    Ok(Stream { inbound, outbound, beats, facts, asked })
}

async fn facts(config: &Arc<AgentConfig>) -> Result<v1::HostFacts, String> {
    let config = config.clone();
    let read = tokio::task::spawn_blocking(move || host_facts(&config.addresses, config.may_set_sysctls));
    match timeout(FACTS, read).await {
        Ok(Ok(Ok(facts))) => Ok((&facts).into()),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(panicked)) => std::panic::resume_unwind(panicked.into_panic()),
        Err(_) => Err(format!("the host's facts could not be read within {} s", FACTS.as_secs())),
    }
}

/// Done at that moment of CLOCK_BOOTTIME; never without one.
async fn at(moment: Option<u64>) {
    match moment {
        Some(moment) => sleep(Duration::from_nanos(moment.saturating_sub(boottime_nanos()))).await,
        None => std::future::pending().await,
    }
}

impl Session {
    /// Without a stream, while something else is awaited: the worker goes on until the lease ends.
    async fn meanwhile<T>(&mut self, awaited: impl Future<Output = T>) -> T {
        tokio::pin!(awaited);
        loop {
            self.duty.mind(boottime_nanos());
            tokio::select! {
                value = &mut awaited => return value,
                Some(happening) = self.happened.recv() => self.duty.happen(happening, &self.clock).await,
                () = at(self.duty.ends_at()) => {}
            }
        }
    }

    /// With a stream, until it ends; says how it ended.
    async fn converse(&mut self, stream: &mut Stream) -> Status {
        self.duty.spool.again();
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut asked: Vec<u64> = Vec::new();
        let mut heard = Instant::now();
        loop {
            // Before anything else: this process may have been stopped since it last looked.
            self.duty.mind(boottime_nanos());
            let waits = self.duty.spool.next().is_some();
            tokio::select! {
                // Orders first: a release must not wait behind a flood of reports.
                biased;
                message = stream.inbound.message() => {
                    match message {
                        Ok(Some(message)) => {
                            heard = Instant::now();
                            self.hear(message, &mut asked, stream).await;
                        }
                        Ok(None) => return Status::unavailable("the controller closed the stream"),
                        Err(status) => return status,
                    }
                }
                _ = beat.tick() => {
                    if heard.elapsed() > SILENCE {
                        return Status::unavailable(format!("the controller has not answered for {} s", SILENCE.as_secs()));
                    }
                    let sent_at = boottime_nanos();
                    let body = from_agent::Body::Beat(v1::Beat { sent_at, received_at: 0 });
                    // If beats pile up the stream is stuck; silence will tell.
                    if stream.beats.try_send(from_agent(body)).is_ok() {
                        asked.push(sent_at);
                    }
                }
                () = at(self.duty.ends_at()) => {}
                Some(happening) = self.happened.recv() => self.duty.happen(happening, &self.clock).await,
                Ok(room) = stream.outbound.reserve(), if waits => {
                    if let Some(message) = self.duty.spool.next() {
                        room.send(from_agent(from_agent::Body::Run(message.clone())));
                        self.duty.spool.sent();
                    }
                }
            }
        }
    }

    /// Says that the trial is given up, and waits a moment for it to be stored; what is not stays in the
    /// spool.
    async fn take_leave(&mut self, mut stream: Stream) {
        self.duty.give_up(STOPPED.into());
        let said = async {
            while let Some(message) = self.duty.spool.next() {
                let message = from_agent(from_agent::Body::Run(message.clone()));
                if stream.outbound.send(message).await.is_err() {
                    return;
                }
                self.duty.spool.sent();
            }
            while self.duty.spool.waits() {
                match stream.inbound.message().await {
                    Ok(Some(v1::ToAgent { body: Some(to_agent::Body::Ack(ack)) })) => {
                        self.duty.spool.acknowledge(&ack);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        };
        let _ = timeout(LEAVE, said).await;
    }

    async fn hear(&mut self, message: v1::ToAgent, asked: &mut Vec<u64>, stream: &Stream) {
        match message.body {
            Some(to_agent::Body::Welcome(welcome)) => {
                info!(name = %self.config.name, controller = %self.config.controller, version = welcome.version, "attached");
                self.clock.compare(&welcome.clock);
                self.lease.grant(Duration::from_millis(welcome.lease_millis), stream.asked);
                self.duty.lease(self.lease.until()).await;
            }
            Some(to_agent::Body::Beat(beat)) => {
                if asked.contains(&beat.sent_at) {
                    asked.retain(|other| *other > beat.sent_at);
                    self.clock.observe(beat.sent_at, beat.received_at, boottime_nanos());
                    self.lease.renew(beat.sent_at);
                    self.duty.lease(self.lease.until()).await;
                }
            }
            Some(to_agent::Body::Survey(_)) => {
                // It takes its time, and beats do not wait.
                let (config, outbound) = (self.config.clone(), stream.outbound.clone());
                tokio::spawn(async move {
                    match facts(&config).await {
                        Ok(facts) => drop(outbound.send(from_agent(from_agent::Body::Facts(facts))).await),
                        Err(error) => warn!(%error, "the host's facts could not be read"),
                    }
                });
            }
            Some(to_agent::Body::Run(order)) => {
                debug!(?order, "order");
                self.duty.obey(order, &self.clock).await;
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
