//! The words with which a person, a shell or a machine that shuts down ends a command: SIGINT, SIGTERM
//! and SIGHUP are the same to it, so that what it made is cleared away.

use crate::exit::{Exit, Stop};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Hears all of them from the moment it is made; none between two looks is lost.
pub struct Interrupt([Signal; 3]);

impl Interrupt {
    /// Begins to listen: from now on none of them ends the process by itself.
    pub fn listen() -> Result<Self, Stop> {
        let hear = |kind| {
            signal(kind)
                .map_err(|error| Stop::new(Exit::Failed, format!("failed to listen for Ctrl-C: {error}")))
        };
        Ok(Self([
            hear(SignalKind::interrupt())?,
            hear(SignalKind::terminate())?,
            hear(SignalKind::hangup())?,
        ]))
    }

    /// Waits for one of them.
    pub async fn recv(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
