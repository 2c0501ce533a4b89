//! A case's script with its choices made: who does which call on which address.

use crate::id::AgentName;
use crate::plan::{Case, Family};
use crate::schedule::Role;
use crate::script::{Action, HostRef, Unresolved};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One step with the agent that does it, and addresses in place of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedStep {
    /// Who.
    pub agent: AgentName,
    /// What.
    pub action: Action,
    /// What the answer is called, if the judge is to look for it.
    pub label: Option<String>,
}

/// A host of the case: its agent and the addresses that it uses.
pub(super) struct Placed<'a> {
    pub(super) agent: &'a AgentName,
    pub(super) addresses: &'a [IpAddr],
}

/// The case's steps, on its hosts in the order in which they were chosen.
///
/// # Errors
/// A step names a host or an address that the case does not have; a checked plan has none.
pub(super) fn steps_on(
    case: &Case,
    servers: &[Placed<'_>],
    clients: &[Placed<'_>],
) -> Result<Vec<PlacedStep>, Unresolved> {
    let of = |host: HostRef| match host.role {
        Role::Server => servers.get(host.index),
        Role::Client => clients.get(host.index),
    };
    let v6 = case.setup.load.family == Family::Ipv6;
    let addresses = |host: HostRef| of(host).map(|host| host.addresses.to_vec()).unwrap_or_default();
    let mut placed = Vec::with_capacity(case.setup.steps.len());
    for step in &case.setup.steps {
        let Some(host) = of(step.host) else { continue };
        placed.push(PlacedStep {
            agent: host.agent.clone(),
            action: step.action.clone().resolve(|at| at.resolve(host.addresses, addresses, v6))?,
            label: step.label.clone(),
        });
    }
    Ok(placed)
}
