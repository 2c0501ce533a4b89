//! A run that the store refused to go on with: it is not left without an end.

use super::{Conductor, SETTLE};
use crate::decision::interrupt_one;
use crate::store::StoreError;
use tuplelab_domain::id::RunId;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};

/// What becomes of a run that the store refused.
#[derive(PartialEq, Eq)]
pub(crate) enum Next {
    /// It is tried again.
    Again,
    /// It is over.
    Over,
}

impl Conductor {
    /// What follows when the store refused: nothing of the run goes on, and what became of it is stored
    /// once that can be. A run that had not begun is tried again: it was acknowledged.
    pub(crate) async fn settle(&mut self, id: &RunId, error: &StoreError) -> Next {
        loop {
            self.idle_for(SETTLE).await;
            match self.converge(id, error).await {
                Ok(next) => return next,
                Err(error) if error.may_pass() => {}
                Err(error) => {
                    self.tell_end(id, &Outcome::Failed { why: error.to_string() });
                    return Next::Over;
                }
            }
        }
    }

    async fn converge(&self, id: &RunId, error: &StoreError) -> Result<Next, StoreError> {
        match self.store.phase(id).await? {
            Phase::Finished => {}
            Phase::Queued if self.queue.is_cancelled(id) => self.end_unplaced(id, &RunEvent::Cancel).await?,
            Phase::Queued if error.may_pass() => return Ok(Next::Again),
            Phase::Queued => {
                self.end_unplaced(id, &RunEvent::Unplaced { why: error.to_string() }).await?;
            }
            _ => {
                interrupt_one(&self.store, id).await?;
                self.tell_end(id, &Outcome::Interrupted);
            }
        }
        Ok(Next::Over)
    }
}
