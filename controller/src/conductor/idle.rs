//! What is heard of runs that nobody conducts, or that are over.

use super::Conductor;
use crate::hub::Heard;
use crate::performance::{Row, row};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::warn;
use tuplelab_domain::id::AgentName;
use tuplelab_proto::v1::{self, run_order::Order, to_agent};

impl Conductor {
    pub(super) async fn idle_for(&mut self, time: Duration) {
        let late = Instant::now() + time;
        loop {
            tokio::select! {
                () = sleep_until(late) => return,
                Some(heard) = self.heard.recv() => self.idle(heard).await,
            }
        }
    }

    /// What is heard while no run is under way: late words of runs that are over are stored, and
    /// acknowledged so that nobody keeps them any longer.
    pub(super) async fn idle(&self, heard: Heard) {
        match heard {
            Heard::Message(agent, message) => self.stale(&agent, &message).await,
            Heard::Attached(agent, Some(holding)) if holding.ended.is_empty() => self.let_go(&agent, holding),
            Heard::Attached(..) | Heard::Surveyed(_) | Heard::Lost(..) => {}
        }
    }

    /// A trial that nobody conducts is closed.
    pub(super) fn let_go(&self, agent: &AgentName, holding: v1::Holding) {
        warn!(%agent, run = holding.run, "holds a trial that is over: it is told to close it");
        let v1::Holding { run, epoch, case, trial, .. } = holding;
        let order = Some(Order::Release(v1::Release {}));
        self.hub.tell(agent, to_agent::Body::Run(v1::RunOrder { run, epoch, case, trial, order }));
    }

    /// What came too late is kept apart, in no run's evidence.
    pub(super) async fn stale(&self, agent: &AgentName, message: &v1::RunMessage) {
        if let Row::Message(row) = row(agent, message, true)
            && let Err(error) = self.store.put_heard(&[], &[row]).await
        {
            warn!(%error, "what came too late could not be stored");
            return;
        }
        self.acknowledge(agent, &message.run, message.epoch, message.sequence);
    }

    pub(super) fn acknowledge(&self, agent: &AgentName, run: &str, epoch: u32, sequence: u64) {
        self.hub.tell(agent, to_agent::Body::Ack(v1::Ack { run: run.into(), epoch, sequence }));
    }
}
