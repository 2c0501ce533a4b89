//! What a host can hold.

use super::error::{NO_ADDRESS, NO_NETWORK, WireError, each, read, read_each, required, texts};
use crate::v1;
use tuplelab_domain::capacity::facts::{BoundSocket, Conntrack, HostFacts, OpenFiles};
use tuplelab_domain::environment::{Kind, Place};
use tuplelab_domain::sample::TcpState;
use tuplelab_domain::sysctl::Sysctl;

impl From<&HostFacts> for v1::HostFacts {
    fn from(facts: &HostFacts) -> Self {
        Self {
            kernel: facts.kernel.clone(),
            boot_id: facts.boot_id.clone(),
            network_namespace: facts.network_namespace,
            cpus: facts.cpus,
            memory_available: facts.memory_available,
            open_files: Some((&facts.open_files).into()),
            addresses: texts(&facts.addresses),
            networks: texts(&facts.networks),
            sysctls: facts
                .sysctls
                .iter()
                .map(|(sysctl, value)| (sysctl.name().into(), value.clone()))
                .collect(),
            bound: facts.bound.iter().map(Into::into).collect(),
            conntrack: facts.conntrack.as_ref().map(Into::into),
            may_set_sysctls: facts.may_set_sysctls,
            conntrack_available: facts.conntrack_available.as_ref().map(Into::into),
            place: Some(facts.place.into()),
        }
    }
}

impl TryFrom<v1::HostFacts> for HostFacts {
    type Error = WireError;

    /// Settings that this version does not know are left out: a newer agent reads more of them.
    fn try_from(message: v1::HostFacts) -> Result<Self, WireError> {
        let known = |(name, value): (String, String)| Some((Sysctl::named(&name)?, value));
        Ok(Self {
            kernel: message.kernel,
            boot_id: message.boot_id,
            network_namespace: message.network_namespace,
            cpus: message.cpus,
            memory_available: message.memory_available,
            open_files: required("open_files", message.open_files)?.into(),
            addresses: read_each("addresses", &message.addresses, NO_ADDRESS)?,
            networks: read_each("networks", &message.networks, NO_NETWORK)?,
            sysctls: message.sysctls.into_iter().filter_map(known).collect(),
            bound: each("bound", message.bound, TryInto::try_into)?,
            conntrack: message.conntrack.map(Into::into),
            conntrack_available: message.conntrack_available.map(Into::into),
            may_set_sysctls: message.may_set_sysctls,
            place: message.place.map(Into::into).unwrap_or_default(),
        })
    }
}

impl From<Place> for v1::Place {
    fn from(place: Place) -> Self {
        let Place { kind, virtual_machine, memory_max, pids_max } = place;
        Self { kind: kind.name().into(), virtual_machine, memory_max, pids_max }
    }
}

impl From<v1::Place> for Place {
    /// A kind that this version does not know is unknown: a newer agent tells more of them apart.
    fn from(message: v1::Place) -> Self {
        let v1::Place { kind, virtual_machine, memory_max, pids_max } = message;
        Self { kind: Kind::named(&kind).unwrap_or_default(), virtual_machine, memory_max, pids_max }
    }
}

impl From<&OpenFiles> for v1::OpenFiles {
    fn from(files: &OpenFiles) -> Self {
        let OpenFiles { per_table, system, allocated, exempt, threads } = *files;
        Self { per_table, system, allocated, exempt, threads }
    }
}

impl From<v1::OpenFiles> for OpenFiles {
    fn from(message: v1::OpenFiles) -> Self {
        let v1::OpenFiles { per_table, system, allocated, exempt, threads } = message;
        Self { per_table, system, allocated, exempt, threads }
    }
}

impl From<&BoundSocket> for v1::BoundSocket {
    fn from(socket: &BoundSocket) -> Self {
        Self {
            address: socket.address.to_string(),
            port: socket.port.into(),
            state: socket.state.name().into(),
        }
    }
}

impl TryFrom<v1::BoundSocket> for BoundSocket {
    type Error = WireError;
    fn try_from(message: v1::BoundSocket) -> Result<Self, WireError> {
        Ok(Self {
            address: read("address", &message.address, NO_ADDRESS)?,
            port: u16::try_from(message.port)
                .map_err(|_| WireError::wrong("port", message.port, "no port: the largest is 65535"))?,
            state: state("state", &message.state)?,
        })
    }
}

/// A state's name, read.
pub(super) fn state(field: &str, name: &str) -> Result<TcpState, WireError> {
    TcpState::named(name).ok_or_else(|| WireError::wrong(field, name, "no state of a socket"))
}

impl From<&Conntrack> for v1::Conntrack {
    fn from(conntrack: &Conntrack) -> Self {
        Self { count: conntrack.count, max: conntrack.max }
    }
}

impl From<v1::Conntrack> for Conntrack {
    fn from(message: v1::Conntrack) -> Self {
        Self { count: message.count, max: message.max }
    }
}
