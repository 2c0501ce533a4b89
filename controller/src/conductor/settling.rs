//! A run that the store refused to go on with: it is not left without an end.

use super::{Conductor, SETTLE};
use crate::clock::now_micros;
use crate::store::StoreError;
use tuplelab_domain::id::RunId;
use tuplelab_domain::run::{Outcome, Phase, RunEvent};

/// What becomes of a run that the store refused.
#[derive(PartialEq, Eq)]
pub(super) enum Next {
    /// It is tried again.
    Again,
    /// It is over.
    Over,
}

impl Conductor {
    /// What follows when the store refused: nothing of the run goes on, and what became of it is stored
    /// once that can be. A run that had not begun is tried again: it was acknowledged.
    pub(super) async fn settle(&mut self, id: &RunId, error: &StoreError) -> Next {
        if !error.may_pass() {
            self.tell_end(id, &Outcome::Failed { why: error.to_string() });
            return Next::Over;
        }
        loop {
            self.idle_for(SETTLE).await;
            match self.converge(id).await {
                Ok(next) => return next,
                Err(error) if error.may_pass() => {}
                Err(error) => {
                    self.tell_end(id, &Outcome::Failed { why: error.to_string() });
                    return Next::Over;
                }
            }
        }
    }

    async fn converge(&self, id: &RunId) -> Result<Next, StoreError> {
        match self.store.phase(id).await? {
            Phase::Finished => {}
            Phase::Queued if !self.queue.is_cancelled(id) => return Ok(Next::Again),
            Phase::Queued => self.end_unplaced(id, &RunEvent::Cancel).await?,
            _ => {
                let (event, outcome) = (RunEvent::Interrupt, Outcome::Interrupted);
                self.store.append_event(id, now_micros(), &event, Phase::Finished, Some(&outcome)).await?;
                self.tell_end(id, &outcome);
            }
        }
        Ok(Next::Over)
    }
}
