//! The operators' service: between the wire and queue, store and hub.

use crate::clock::now_micros;
use crate::hub::Hub;
use crate::queue::Queue;
use crate::store::{RunSummary, Store, StoreError};
use std::pin::Pin;
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};
use tuplelab_domain::id::RunId;
use tuplelab_domain::plan::{PlanFile, PlanProblem, check};
use tuplelab_domain::report::{Report, compare};
use tuplelab_domain::run::Phase;
use tuplelab_domain::schedule::place;
use tuplelab_proto::v1::{self, lab_server::Lab};

/// The longest plan that is taken, in bytes.
const LONGEST_PLAN: usize = 256 * 1024;
/// The longest name of a submitter, in characters.
const LONGEST_SUBMITTER: usize = 128;
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

    async fn find(&self, name: &str) -> Result<RunId, Status> {
        self.store.find_run(name).await.map_err(status)
    }
}

fn status(error: StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::NotFound { .. } => Status::not_found(text),
        StoreError::Ambiguous { .. } => Status::invalid_argument(text),
        StoreError::Full { .. } | StoreError::Locked { .. } | StoreError::ReadOnly { .. } => {
            Status::unavailable(text)
        }
        _ => Status::internal(text),
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
        let v1::SubmitRequest { plan: source, submitter } = request.into_inner();
        if source.len() > LONGEST_PLAN {
            return Err(Status::invalid_argument(format!(
                "the plan has {} bytes; at most {LONGEST_PLAN} are taken",
                source.len()
            )));
        }
        let plan = PlanFile::parse(&source).and_then(check).map_err(|problems| {
            Status::invalid_argument(PlanProblem::render(&problems, "plan", &source, false))
        })?;
        // With what is known now; when its turn comes it is placed again on fresh facts.
        place(&plan, &self.hub.inventory()).map_err(|shortfalls| {
            let lines: Vec<String> = shortfalls.iter().map(ToString::to_string).collect();
            Status::failed_precondition(lines.join("\n"))
        })?;
        self.queue.has_room().map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let run = RunId(uuid::Uuid::now_v7().to_string());
        self.store.queue_run(&run, &plan, &shown(&submitter), now_micros()).await.map_err(status)?;
        let ahead = self.queue.push(run.clone());
        tracing::info!(%run, ahead, "submitted");
        Ok(Response::new(v1::SubmitReply { run: run.to_string(), ahead: ahead as u32 }))
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
        if !self.queue.cancel(&run) {
            let phase = self.store.record(&run).await.map_err(status)?.phase;
            let over =
                if phase == Phase::Finished { "has finished already" } else { "is not under way here" };
            return Err(Status::failed_precondition(format!("run {run} {over}: there is nothing to cancel")));
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
