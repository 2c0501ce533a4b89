//! The word that ends a trial when the store cannot be waited for.
//!
//! What happens to a run is stored before it is acted on, with one exception: load that somebody wants
//! to end does not go on because a disk or a lock is slow. Agents are told to release what they hold; the
//! event is stored, and acted on again, when the store is back.

use crate::hub::Hub;
use crate::queue::Queue;
use std::time::Duration;
use tuplelab_domain::id::{AgentName, RunId};
use tuplelab_proto::v1::{RunOrder, to_agent};

/// How long the store may take, once somebody wants the run to end.
const PATIENCE: Duration = Duration::from_millis(300);

/// The orders that end the trial at hand.
pub(crate) struct Stop {
    pub(crate) hub: Hub,
    pub(crate) queue: Queue,
    pub(crate) id: RunId,
    pub(crate) orders: Vec<(AgentName, RunOrder)>,
}

impl Stop {
    /// Waits for `work`; if it is not done in time after somebody wanted the run to end, agents are told,
    /// and it is waited for all the same.
    pub(crate) async fn unless_in_time<T>(self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        let late = async {
            self.queue.cancelled(&self.id).await;
            tokio::time::sleep(PATIENCE).await;
        };
        tokio::select! {
            done = &mut work => return done,
            () = late => {}
        }
        tracing::warn!(run = %self.id, "the store takes long: agents are told to stop without it");
        for (agent, order) in self.orders {
            self.hub.tell(&agent, to_agent::Body::Run(order));
        }
        work.await
    }
}
