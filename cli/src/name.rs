//! What an agent is called when nobody says so.

use crate::exit::{Exit, Stop};
use tuplelab_domain::id::AgentName;

/// The name given, else this host's: a container or a pod has one of its own, and an image without a
/// shell cannot write it into a command line.
pub fn agent_name(given: Option<AgentName>) -> Result<AgentName, Stop> {
    if let Some(name) = given {
        return Ok(name);
    }
    let host = nix::unistd::gethostname().map_err(|error| {
        Stop::new(Exit::Usage, format!("this host's name cannot be read ({error}): give a name"))
    })?;
    let host = host.to_string_lossy().into_owned();
    AgentName::try_from(host.clone()).map_err(|error| {
        Stop::new(
            Exit::Usage,
            format!("this host's name '{host}' is none for an agent ({error}): give a name"),
        )
    })
}
