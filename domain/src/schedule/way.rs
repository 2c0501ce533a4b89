//! The ways that connections of a case can take: from which source address to which listener.

use super::assignment::Listener;
use super::choose::Chosen;
use super::reach::{reaches, site};
use crate::capacity::usable_ports;
use crate::plan::{Route, Setup};
use crate::ports::PortSet;
use std::net::{IpAddr, SocketAddr};

/// From one source address to one destination, by index, with the ports that may be used.
pub(super) struct Way {
    pub(super) client: usize,
    pub(super) source: IpAddr,
    pub(super) destination: usize,
    pub(super) endpoint: SocketAddr,
    pub(super) ports: PortSet,
}

/// All ways there are, in the order client, destination, source: neighbours share a destination, so
/// that a server with several ports fills them one after the other on every client alike.
pub(super) fn ways_of(
    clients: &[Chosen],
    servers: &[Chosen],
    listeners: &[Vec<Listener>],
    setup: &Setup,
    routes: &[Route],
) -> Vec<Way> {
    let asked = &setup.clients.source_ports;
    let endpoints: Vec<_> = servers
        .iter()
        .zip(listeners)
        .flat_map(|(server, own)| own.iter().map(move |listener| (server, listener.endpoint)))
        .map(|(server, endpoint)| (site(server, endpoint.ip()), endpoint))
        .collect();
    let mut ways = Vec::new();
    for (index, client) in clients.iter().enumerate() {
        let usable: Vec<_> = client
            .addresses
            .iter()
            .map(|source| (site(client, *source), *source, usable_ports(&client.facts, *source, asked)))
            .collect();
        for (destination, (there, endpoint)) in endpoints.iter().enumerate() {
            let reaching = usable.iter().filter(|(here, ..)| reaches(here, there, routes));
            ways.extend(reaching.map(|(_, source, ports)| Way {
                client: index,
                source: *source,
                destination,
                endpoint: *endpoint,
                ports: ports.clone(),
            }));
        }
    }
    ways
}
