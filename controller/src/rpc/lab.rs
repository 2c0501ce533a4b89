//! The operators' service: between the wire and queue, store and hub.

use crate::clock::now_micros;
use crate::hub::Hub;
use crate::line::Waiting;
use crate::queue::{Cancelling, Queue};
use crate::store::{RunSummary, Store, StoreError};
use std::pin::Pin;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use tuplelab_domain::id::RunId;
use tuplelab_domain::plan::{PlanFile, PlanProblem, check};
use tuplelab_domain::report::{Report, compare};
use tuplelab_domain::run::{Phase, Run, RunEvent};
use tuplelab_domain::schedule::place;
use tuplelab_proto::v1::{self, lab_server::Lab};
use tuplelab_proto::{CAUSE, CAUSE_DATABASE};

/// The longest plan that is taken, in bytes.
const LONGEST_PLAN: usize = 256 * 1024;
/// The longest name of a submitter, in characters.
const LONGEST_SUBMITTER: usize = 128;
/// The longest name that a client may give its submission, in characters.
const LONGEST_REQUEST: usize = 64;
/// Runs that one listing shows at most.
const MOST_LISTED: u32 = 10_000;

/// The operators' service.
#[derive(Clone)]
pub struct LabService {
    store: Store,
    hub: Hub,
    queue: Queue,
}

impl LabService {
    /// The service in front of these.
    pub fn new(store: Store, hub: Hub, queue: Queue) -> Self {
        Self { store, hub, queue }
    }

    fn waits(&self, run: &RunId) -> Response<v1::SubmitReply> {
        let ahead = self.queue.ahead_of(run).unwrap_or(0);
        Response::new(v1::SubmitReply { run: run.to_string(), ahead: ahead as u32 })
    }

    async fn find(&self, name: &str) -> Result<RunId, Status> {
        self.store.find_run(name).await.map_err(status)
    }
}

fn status(error: StoreError) -> Status {
    let text = error.to_string();
    let mut status = match error {
        StoreError::NotFound { .. } => return Status::not_found(text),
        StoreError::Ambiguous { .. } => return Status::invalid_argument(text),
        StoreError::Reused { .. } => return Status::already_exists(text),
        StoreError::Full { .. } => Status::resource_exhausted(text),
        StoreError::Locked { .. } | StoreError::Busy { .. } | StoreError::ReadOnly { .. } => {
            Status::unavailable(text)
        }
        StoreError::TooLong { .. } => Status::deadline_exceeded(text),
        _ => Status::internal(text),
    };
    status.metadata_mut().insert(CAUSE, MetadataValue::from_static(CAUSE_DATABASE));
    status
}

/// A client's name for its submission, if it gave one.
fn request_id(request: String) -> Result<Option<String>, Status> {
    let sound = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    match request.len() {
        0 => Ok(None),
        length if length <= LONGEST_REQUEST && request.chars().all(sound) => Ok(Some(request)),
        _ => Err(Status::invalid_argument(format!(
            "{request:?} is no request id: write 1 to {LONGEST_REQUEST} of A-Z a-z 0-9 . _ -, such as a UUID"
        ))),
    }
}

/// Stores that a run which waited is cancelled. If that cannot be stored it waits again: a cancel that
/// was confirmed must not be forgotten when the controller is started again.
async fn end_waiting(store: &Store, queue: &Queue, waiting: Waiting) -> Result<(), StoreError> {
    let run = waiting.run.clone();
    let event = RunEvent::Cancel;
    let (ended, _) = Run::queued().step(&event);
    match store.append_event(&run, now_micros(), &event, ended.phase(), ended.outcome()).await {
        Ok(()) => {
            let outcome = ended.outcome();
            let update = v1::RunUpdate {
                run: run.to_string(),
                phase: ended.phase().name().into(),
                outcome: outcome.map(|outcome| outcome.name().to_owned()).unwrap_or_default(),
                why: outcome.map(ToString::to_string).unwrap_or_default(),
                ..Default::default()
            };
            queue.tell(&run, update);
            queue.done(&run);
            Ok(())
        }
        Err(error) => {
            queue.put_back(vec![waiting], &[]);
            Err(error)
        }
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(value).map_err(|error| Status::internal(error.to_string()))
}

/// A submitter's name as it may be shown anywhere: no control characters, bounded.
fn shown(name: &str) -> String {
    let name: String = name.chars().filter(|c| !c.is_control()).take(LONGEST_SUBMITTER).collect();
    if name.trim().is_empty() { "unknown".into() } else { name }
}

type Updates = Pin<Box<dyn Stream<Item = Result<v1::RunUpdate, Status>> + Send>>;

#[tonic::async_trait]
impl Lab for LabService {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitReply>, Status> {
        let v1::SubmitRequest { plan: source, submitter, request } = request.into_inner();
        if source.len() > LONGEST_PLAN {
            return Err(Status::invalid_argument(format!(
                "the plan has {} bytes; at most {LONGEST_PLAN} are taken",
                source.len()
            )));
        }
        let plan = PlanFile::parse(&source).and_then(check).map_err(|problems| {
            Status::invalid_argument(PlanProblem::render(&problems, "plan", &source, false))
        })?;
        let (submitter, request) = (shown(&submitter), request_id(request)?);
        if let Some(request) = &request
            && let Some(run) = self.store.requested(&plan, &submitter, request).await.map_err(status)?
        {
            return Ok(self.waits(&run));
        }
        // With what is known now; when its turn comes it is placed again on fresh facts.
        place(&plan, &self.hub.inventory()).map_err(|shortfalls| {
            let lines: Vec<String> = shortfalls.iter().map(ToString::to_string).collect();
            Status::failed_precondition(lines.join("\n"))
        })?;
        let kept = self.queue.keep_place(&submitter);
        let kept = kept.map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let run = RunId(uuid::Uuid::now_v7().to_string());
        // On its own: a client that goes away in the middle must not leave a run that is stored and
        // that nobody queues.
        let store = self.store.clone();
        let stored = tokio::spawn(async move {
            let at = now_micros();
            let known = store.queue_run(&run, &plan, &submitter, at, request.as_deref()).await?;
            if known == run {
                let ahead = kept.take(run.clone(), at);
                tracing::info!(%run, ahead, "submitted");
            }
            Ok(known)
        });
        let stored = stored.await.map_err(|error| Status::internal(error.to_string()))?;
        Ok(self.waits(&stored.map_err(status)?))
    }

    type WatchStream = Updates;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Updates>, Status> {
        let run = self.find(&request.into_inner().run).await?;
        if let Some(updates) = self.queue.watch(&run) {
            // The stream ends when the run is done and its sender is dropped; the last update stays.
            return Ok(Response::new(Box::pin(WatchStream::new(updates).map(Ok))));
        }
        let record = self.store.record(&run).await.map_err(status)?;
        let outcome = record.outcome.as_ref();
        let update = v1::RunUpdate {
            run: run.to_string(),
            phase: record.phase.name().into(),
            outcome: outcome.map(|outcome| outcome.name().to_owned()).unwrap_or_default(),
            why: outcome.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(update)))))
    }

    async fn cancel(&self, request: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        let run = self.find(&request.into_inner().run).await?;
        match self.queue.cancel(&run) {
            Cancelling::UnderWay => {}
            Cancelling::TakenOut(waiting) => {
                let (store, queue) = (self.store.clone(), self.queue.clone());
                // On its own, as a submission is.
                let ended = tokio::spawn(async move { end_waiting(&store, &queue, waiting).await });
                ended.await.map_err(|error| Status::internal(error.to_string()))?.map_err(status)?;
            }
            Cancelling::Unknown => {
                let phase = self.store.phase(&run).await.map_err(status)?;
                let over =
                    if phase == Phase::Finished { "has finished already" } else { "is not under way here" };
                return Err(Status::failed_precondition(format!(
                    "run {run} {over}: there is nothing to cancel"
                )));
            }
        }
        Ok(Response::new(v1::CancelReply { run: run.to_string() }))
    }

    async fn list_runs(
        &self,
        request: Request<v1::ListRunsRequest>,
    ) -> Result<Response<v1::ListRunsReply>, Status> {
        let limit = match request.into_inner().limit {
            0 => 50,
            limit => limit.min(MOST_LISTED),
        };
        let runs = self.store.list_runs(limit).await.map_err(status)?;
        Ok(Response::new(v1::ListRunsReply { runs: runs.into_iter().map(Into::into).collect() }))
    }

    async fn get_run(
        &self,
        request: Request<v1::GetRunRequest>,
    ) -> Result<Response<v1::GetRunReply>, Status> {
        let run = self.find(&request.into_inner().run).await?;
        let record = self.store.record(&run).await.map_err(status)?;
        Ok(Response::new(v1::GetRunReply { report_json: json(&Report::new(&record))? }))
    }

    async fn compare_runs(
        &self,
        request: Request<v1::CompareRunsRequest>,
    ) -> Result<Response<v1::CompareRunsReply>, Status> {
        let v1::CompareRunsRequest { first, second } = request.into_inner();
        let first = self.store.record(&self.find(&first).await?).await.map_err(status)?;
        let second = self.store.record(&self.find(&second).await?).await.map_err(status)?;
        Ok(Response::new(v1::CompareRunsReply { comparison_json: json(&compare(&first, &second))? }))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsReply>, Status> {
        let patience = self.hub.patience();
        let current = self.queue.current();
        let agents = self.hub.agents().into_iter().map(|agent| {
            let state = match (&current, agent.silent > patience.suspect()) {
                (_, true) => "suspect",
                (Some(_), false) => "busy",
                (None, false) => "idle",
            };
            v1::AgentSummary {
                name: agent.host.name.to_string(),
                version: agent.version,
                labels: agent.host.labels,
                facts: Some((&agent.host.facts).into()),
                state: state.into(),
                run: current
                    .as_ref()
                    .filter(|_| state == "busy")
                    .map(ToString::to_string)
                    .unwrap_or_default(),
            }
        });
        Ok(Response::new(v1::ListAgentsReply { agents: agents.collect() }))
    }
}

impl From<RunSummary> for v1::RunSummary {
    fn from(run: RunSummary) -> Self {
        Self {
            run: run.id.to_string(),
            plan: run.plan.to_string(),
            question: run.question,
            submitter: run.submitter,
            submitted_micros: run.submitted_micros,
            phase: run.phase.name().into(),
            outcome: run.outcome.map(|outcome| outcome.name().to_owned()).unwrap_or_default(),
            most_held: run.most_held.unwrap_or(0),
            findings: run
                .findings
                .into_iter()
                .map(|(finding, count)| (finding.name().to_owned(), count as u32))
                .collect(),
        }
    }
}
