//! `health`: one question with an answer within seconds, for engines that watch over containers.

use crate::client::{connect, refused};
use crate::exit::{Done, Exit, Stop};
use crate::name::agent_name;
use crate::output::print;
use std::time::Duration;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tuplelab_domain::id::AgentName;
use tuplelab_proto::dial::{Address, dial};
use tuplelab_proto::v1::ListAgentsRequest;

/// Longer than an answer takes on a host under load, shorter than engines wait before they kill.
const PATIENCE: Duration = Duration::from_secs(4);
/// Without it nobody can run a plan.
const SERVICE: &str = "tuplelab.v1.Lab";

/// Whether the controller serves, or, with a name, whether the agent of that name is attached to it.
pub async fn health(agent: Option<Option<AgentName>>, controller: Address) -> Done {
    let agent = agent.map(agent_name).transpose()?;
    let answer = async {
        match agent {
            None => serves(&controller).await,
            Some(name) => attached(&name, &controller).await,
        }
    };
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(said)) => print(&said),
        // Engines know healthy and not; which way it is not is for the sentence.
        Ok(Err(stop)) => Err(Stop::new(Exit::Missed, format!("not healthy: {}", stop.message))),
        Err(_) => Err(Stop::new(
            Exit::Missed,
            format!(
                "not healthy: the controller at {controller} did not answer within {} s",
                PATIENCE.as_secs()
            ),
        )),
    }
}

async fn serves(controller: &Address) -> Result<String, Stop> {
    let channel = dial(controller, None).await.map_err(|error| {
        Stop::new(Exit::Missed, format!("no controller answers at {controller} ({error})"))
    })?;
    let request = HealthCheckRequest { service: SERVICE.into() };
    let reply = HealthClient::new(channel).check(request).await.map_err(refused)?.into_inner();
    match reply.status() {
        ServingStatus::Serving => Ok(format!("healthy: the controller at {controller} serves")),
        status => Err(Stop::new(
            Exit::Missed,
            format!("the controller at {controller} says {} of {SERVICE}", status.as_str_name()),
        )),
    }
}

/// The controller is asked, and not the agent's process: an agent that lives but has lost its stream is
/// of no use to any run, and only the other end of the stream knows that it is there.
async fn attached(name: &AgentName, controller: &Address) -> Result<String, Stop> {
    let mut client = connect(controller).await?;
    let agents = client.list_agents(ListAgentsRequest {}).await.map_err(refused)?.into_inner().agents;
    match agents.iter().find(|agent| agent.name == name.as_str()) {
        Some(agent) if agent.state != "suspect" => {
            Ok(format!("healthy: agent {name} is attached to {controller} ({})", agent.state))
        }
        Some(_) => Err(Stop::new(Exit::Missed, format!("agent {name} has been silent towards {controller}"))),
        None => Err(Stop::new(
            Exit::Missed,
            format!("agent {name} is not attached to the controller at {controller}: is it running?"),
        )),
    }
}
