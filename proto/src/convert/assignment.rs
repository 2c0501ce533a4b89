//! One agent's part of one trial.

use super::error::{NO_ADDRESS, NO_ENDPOINT, WireError, each, part, read, read_each, required, texts};
use crate::v1;
use std::collections::BTreeMap;
use tuplelab_domain::plan::Accept;
use tuplelab_domain::ports::PortSet;
use tuplelab_domain::schedule::{
    Assignment, BlockPorts, CensusFilter, Churn, Connect, ConnectLane, FlowBlock, Listener, Role, Serve,
    ServeLane, Stretch, Turn, Work,
};
use tuplelab_domain::sysctl::{Sysctl, Sysctls};

/// How many blocks of flows one assignment may have, over all its lanes.
pub const MAX_FLOW_BLOCKS: usize = 1_000_000;

impl From<&Assignment> for v1::Assignment {
    fn from(assignment: &Assignment) -> Self {
        let sysctls = &assignment.sysctls;
        Self {
            agent: assignment.agent.to_string(),
            sysctls: sysctls.iter().map(|(sysctl, value)| (sysctl.name().into(), value.clone())).collect(),
            conntrack: assignment.conntrack,
            census: Some((&assignment.census).into()),
            work: Some((&assignment.work).into()),
            files: assignment.files,
        }
    }
}

impl TryFrom<v1::Assignment> for Assignment {
    type Error = WireError;

    /// Settings that this version does not know are refused: without one, the trial were another.
    fn try_from(message: v1::Assignment) -> Result<Self, WireError> {
        Ok(Self {
            agent: read("agent", &message.agent, "no agent's name")?,
            sysctls: settings(message.sysctls)?,
            conntrack: message.conntrack,
            census: part("census", message.census)?,
            work: required("work", message.work)?.try_into()?,
            files: message.files,
        })
    }
}

fn settings(named: BTreeMap<String, String>) -> Result<Sysctls, WireError> {
    let known = |(name, value): (String, String)| match Sysctl::named(&name) {
        Some(sysctl) => Ok((sysctl, value)),
        None => Err(WireError::wrong("sysctls", name, "no setting that this version can make")),
    };
    named.into_iter().map(known).collect()
}

impl From<&CensusFilter> for v1::CensusFilter {
    fn from(filter: &CensusFilter) -> Self {
        Self {
            role: filter.role.name().into(),
            servers: texts(&filter.servers),
            clients: texts(&filter.clients),
        }
    }
}

impl TryFrom<v1::CensusFilter> for CensusFilter {
    type Error = WireError;
    fn try_from(message: v1::CensusFilter) -> Result<Self, WireError> {
        Ok(Self {
            role: role_named(&message.role)?,
            servers: read_each("servers", &message.servers, NO_ENDPOINT)?,
            clients: read_each("clients", &message.clients, NO_ADDRESS)?,
        })
    }
}

fn role_named(name: &str) -> Result<Role, WireError> {
    let role = [Role::Server, Role::Client].into_iter().find(|role| role.name() == name);
    role.ok_or_else(|| WireError::wrong("role", name, "neither server nor client"))
}

impl From<&Work> for v1::assignment::Work {
    fn from(work: &Work) -> Self {
        match work {
            Work::Serve(serve) => Self::Serve(serve.into()),
            Work::Connect(connect) => Self::Connect(connect.into()),
            Work::Script(role) => Self::Script(role.name().into()),
        }
    }
}

impl TryFrom<v1::assignment::Work> for Work {
    type Error = WireError;
    fn try_from(message: v1::assignment::Work) -> Result<Self, WireError> {
        use v1::assignment::Work as Message;
        match message {
            Message::Serve(serve) => {
                serve.try_into().map(Self::Serve).map_err(|e: WireError| e.within("serve"))
            }
            Message::Connect(connect) => {
                connect.try_into().map(Self::Connect).map_err(|e: WireError| e.within("connect"))
            }
            Message::Script(role) => role_named(&role).map(Self::Script),
        }
    }
}

impl From<&Serve> for v1::Serve {
    fn from(serve: &Serve) -> Self {
        let turn = |turn: &Turn| v1::Turn { listener: turn.listener, quota: turn.quota };
        let lane = |lane: &ServeLane| v1::ServeLane { turns: lane.turns.iter().map(turn).collect() };
        Self {
            listeners: serve.listeners.iter().map(Into::into).collect(),
            lanes: serve.lanes.iter().map(lane).collect(),
            accept: serve.accept.to_string(),
            answered: Some(serve.answered),
            watch: serve.watch,
        }
    }
}

impl TryFrom<v1::Serve> for Serve {
    type Error = WireError;
    fn try_from(message: v1::Serve) -> Result<Self, WireError> {
        let listeners: Vec<Listener> = each("listeners", message.listeners, TryInto::try_into)?;
        let turn = |turn: v1::Turn| match listeners.get(turn.listener as usize) {
            Some(_) => Ok(Turn { listener: turn.listener, quota: turn.quota }),
            None => Err(WireError::wrong("listener", turn.listener, "no listener's index")),
        };
        let lane = |lane: v1::ServeLane| Ok(ServeLane { turns: each("turns", lane.turns, turn)? });
        let lanes = each("lanes", message.lanes, lane)?;
        let accept = match message.accept.as_str() {
            "" => Accept::All,
            text => read("accept", text, "no way to accept that this version knows")?,
        };
        let (answered, watch) = (message.answered.unwrap_or(true), message.watch);
        Ok(Self { listeners, lanes, accept, answered, watch })
    }
}

impl From<&Listener> for v1::Listener {
    fn from(listener: &Listener) -> Self {
        Self { endpoint: listener.endpoint.to_string(), backlog: listener.backlog }
    }
}

impl TryFrom<v1::Listener> for Listener {
    type Error = WireError;
    fn try_from(message: v1::Listener) -> Result<Self, WireError> {
        Ok(Self { endpoint: read("endpoint", &message.endpoint, NO_ENDPOINT)?, backlog: message.backlog })
    }
}

impl From<&Connect> for v1::Connect {
    fn from(connect: &Connect) -> Self {
        let lane =
            |lane: &ConnectLane| v1::ConnectLane { blocks: lane.blocks.iter().map(Into::into).collect() };
        Self {
            lanes: connect.lanes.iter().map(lane).collect(),
            connectors: connect.connectors,
            window: connect.window,
            rate: connect.rate,
            timeout_micros: connect.timeout_micros,
            beyond: connect.beyond,
            answered: Some(connect.answered),
            stretches: connect
                .stretches
                .iter()
                .map(|s| v1::Stretch { connects: s.connects, micros: s.micros })
                .collect(),
            churn: connect.churn.as_ref().map(Into::into),
            activity: connect.activity.map(|activity| activity.to_string()).unwrap_or_default(),
        }
    }
}

impl TryFrom<v1::Connect> for Connect {
    type Error = WireError;
    fn try_from(message: v1::Connect) -> Result<Self, WireError> {
        let count = message.lanes.iter().map(|lane| lane.blocks.len()).sum();
        if count > MAX_FLOW_BLOCKS {
            return Err(WireError::TooMany { field: "lanes".into(), count, most: MAX_FLOW_BLOCKS });
        }
        if let Some(rate) = message.rate.filter(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(WireError::wrong("rate", rate, "no rate: it has to be finite and above 0"));
        }
        let lane = |lane: v1::ConnectLane| {
            Ok(ConnectLane { blocks: each("blocks", lane.blocks, TryInto::try_into)? })
        };
        Ok(Self {
            lanes: each("lanes", message.lanes, lane)?,
            connectors: message.connectors,
            window: message.window,
            rate: message.rate,
            timeout_micros: message.timeout_micros,
            beyond: message.beyond,
            answered: message.answered.unwrap_or(true),
            stretches: message
                .stretches
                .iter()
                .map(|s| Stretch { connects: s.connects, micros: s.micros })
                .collect(),
            churn: message.churn.map(|churn| part("churn", Some(churn))).transpose()?,
            activity: match message.activity.as_str() {
                "" => None,
                text => Some(read("activity", text, "no activity that this version knows")?),
            },
        })
    }
}

impl From<&Churn> for v1::Churn {
    fn from(churn: &Churn) -> Self {
        Self { rate: churn.rate, close: churn.close.to_string(), window: churn.window }
    }
}

impl TryFrom<v1::Churn> for Churn {
    type Error = WireError;
    fn try_from(message: v1::Churn) -> Result<Self, WireError> {
        let v1::Churn { rate, close, window } = message;
        if !(rate.is_finite() && rate > 0.0) {
            return Err(WireError::wrong("rate", rate, "no rate: it has to be finite and above 0"));
        }
        Ok(Self { rate, close: read("close", &close, "no way to close that this version knows")?, window })
    }
}

impl From<&FlowBlock> for v1::FlowBlock {
    fn from(block: &FlowBlock) -> Self {
        Self {
            first_flow: block.first_flow,
            source: block.source.to_string(),
            destination: block.destination.to_string(),
            ports: Some(match &block.ports {
                BlockPorts::Explicit(ports) => v1::flow_block::Ports::Explicit(ports.to_string()),
                BlockPorts::Kernel(count) => v1::flow_block::Ports::Kernel(*count),
            }),
            spare: if block.spare.is_empty() { String::new() } else { block.spare.to_string() },
        }
    }
}

impl TryFrom<v1::FlowBlock> for FlowBlock {
    type Error = WireError;
    fn try_from(message: v1::FlowBlock) -> Result<Self, WireError> {
        let ports = match required("ports", message.ports)? {
            v1::flow_block::Ports::Explicit(text) => {
                BlockPorts::Explicit(read("explicit", &text, "no set of ports")?)
            }
            v1::flow_block::Ports::Kernel(count) => BlockPorts::Kernel(count),
        };
        let first_flow = message.first_flow;
        if first_flow.checked_add(ports.count().into()).is_none() {
            return Err(WireError::wrong(
                "first_flow",
                first_flow,
                "too large: the flows after it have no number",
            ));
        }
        Ok(Self {
            first_flow,
            source: read("source", &message.source, NO_ADDRESS)?,
            destination: read("destination", &message.destination, NO_ENDPOINT)?,
            ports,
            spare: match message.spare.as_str() {
                "" => PortSet::empty(),
                text => read("spare", text, "no set of ports")?,
            },
        })
    }
}
