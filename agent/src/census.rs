//! The kernel's count of an assignment's sockets, at this end.

use crate::diag::{DiagError, End, Family, PortFilter, Record, States, dump, whole};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use tuplelab_domain::sample::{Census, ListenerQueue, TcpState};
use tuplelab_domain::schedule::{CensusFilter, Role};

/// Asks the kernel for the sockets that the filter names, in the calling thread's namespace.
///
/// A client's own are those from its addresses to the listed servers; a server's own are those at
/// its endpoints, whoever the peer is. Where both ends lie in one namespace each connection is two
/// sockets, and the side tells them apart. Bound sockets without a peer are not counted: at a
/// million flows that would double the time, and a flow that is no more than bound is no flow yet.
pub fn census(filter: &CensusFilter) -> Result<Census, DiagError> {
    let begun = Instant::now();
    let own = Own::of(filter);
    let mut census = whole(|| {
        let mut count = Count::default();
        for family in Family::ALL {
            if let Some(ports) = own.ports(family) {
                dump(family, States::hashed(), Some(ports), |record| count.add(&own, record))?;
            }
        }
        Ok(count.census())
    })?;
    census.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(census)
}

/// The filter, sorted so that a million records are looked up fast.
struct Own {
    role: Role,
    servers: Vec<SocketAddr>,
    clients: Vec<IpAddr>,
}

impl Own {
    fn of(filter: &CensusFilter) -> Self {
        // Anew from address and port: an IPv6 scope or flow label would never equal the record's.
        let mut servers: Vec<_> = filter.servers.iter().map(|s| SocketAddr::new(s.ip(), s.port())).collect();
        let mut clients = filter.clients.clone();
        servers.sort_unstable();
        clients.sort_unstable();
        Self { role: filter.role, servers, clients }
    }

    /// The narrowest range of ports that the kernel can be asked for; `None` where no server is of
    /// that family.
    fn ports(&self, family: Family) -> Option<PortFilter> {
        let ports = || self.servers.iter().filter(|s| Family::of(s.ip()) == family).map(SocketAddr::port);
        let end = match self.role {
            Role::Server => End::Local,
            Role::Client => End::Remote,
        };
        Some(PortFilter { end, low: ports().min()?, high: ports().max()? })
    }

    fn serves(&self, endpoint: SocketAddr) -> bool {
        self.servers.binary_search(&endpoint).is_ok()
    }

    fn knows(&self, client: IpAddr) -> bool {
        self.clients.binary_search(&client).is_ok()
    }
}

#[derive(Default)]
struct Count {
    census: Census,
    /// By the kernel's number: a map would be looked up once per record.
    states: [u64; 16],
}

impl Count {
    fn add(&mut self, own: &Own, record: &Record) {
        let Record { local, remote, .. } = *record;
        let (client, server) = match own.role {
            Role::Client if own.serves(remote) && own.knows(local.ip()) => (local, remote),
            Role::Server if own.serves(local) => (remote, local),
            Role::Client | Role::Server => return,
        };
        let Some(state) = record.state else { return };
        if let Some(count) = self.states.get_mut(state as usize) {
            *count += 1;
        }
        match state {
            TcpState::Established => {
                self.census.established += 1;
                self.census.digest.add(client, server);
                if !own.knows(client.ip()) {
                    self.census.strangers += 1;
                }
            }
            TcpState::Listen => self.census.listeners.push(ListenerQueue {
                endpoint: server,
                queued: record.receive_queue,
                backlog: record.send_queue,
            }),
            _ => {}
        }
    }

    fn census(self) -> Census {
        let mut census = self.census;
        let of = |state: TcpState| self.states.get(state as usize).copied().filter(|count| *count > 0);
        census.states = TcpState::ALL.into_iter().filter_map(|state| Some((state, of(state)?))).collect();
        census.listeners.sort_by_key(|listener| listener.endpoint);
        census
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{connect, listen};
    use tuplelab_domain::sample::Digest;

    fn filter(role: Role, servers: &[SocketAddr], clients: &[&str]) -> CensusFilter {
        let clients = clients.iter().map(|text| text.parse().expect("an address")).collect();
        CensusFilter { role, servers: servers.to_vec(), clients }
    }

    #[test]
    fn both_ends_of_five_hundred_connections_agree_in_count_and_digest() {
        let listeners = [listen("127.66.20.1:0"), listen("127.66.20.2:0")];
        let servers = listeners.each_ref().map(|l| l.local_addr().expect("bound"));
        let sources = ["127.66.20.11", "127.66.20.12"];
        let mut held = Vec::new();
        for n in 0..500 {
            held.push(connect(&format!("{}:0", sources[n % 2]), servers[n / 2 % 2]));
            held.push(listeners[n / 2 % 2].accept().expect("accepted").0);
        }
        let client = census(&filter(Role::Client, &servers, &sources)).expect("counts");
        let server = census(&filter(Role::Server, &servers, &sources)).expect("counts");
        assert_eq!((client.established, server.established), (500, 500));
        assert_eq!(client.digest, server.digest);
        assert_ne!(client.digest, Digest::default());
        assert_eq!((client.strangers, server.strangers), (0, 0));
        assert_eq!(client.states, [(TcpState::Established, 500)].into());
        assert_eq!(server.states, [(TcpState::Established, 500), (TcpState::Listen, 2)].into());
        assert!(client.listeners.is_empty());
        assert_eq!(server.listeners.iter().map(|l| l.endpoint).collect::<Vec<_>>(), servers);

        let mut halves = census(&filter(Role::Client, &servers, &sources[..1])).expect("counts");
        let other = census(&filter(Role::Client, &servers, &sources[1..])).expect("counts");
        assert_eq!((halves.established, other.established), (250, 250));
        halves.digest.merge(other.digest);
        assert_eq!(halves.digest, server.digest, "two hosts' digests add up to the server's");
        let one = census(&filter(Role::Server, &servers[..1], &sources)).expect("counts");
        assert_eq!(one.established, 250);
    }

    #[test]
    fn a_connection_from_an_unknown_address_is_a_stranger() {
        let listener = listen("127.66.21.1:0");
        let servers = [listener.local_addr().expect("bound")];
        let _known = connect("127.66.21.2:0", servers[0]);
        let _stranger = connect("127.66.21.3:0", servers[0]);
        let server = census(&filter(Role::Server, &servers, &["127.66.21.2"])).expect("counts");
        assert_eq!((server.established, server.strangers), (2, 1));
        let client = census(&filter(Role::Client, &servers, &["127.66.21.2"])).expect("counts");
        assert_eq!(client.established, 1);
        assert_ne!(client.digest, server.digest);
    }

    #[test]
    fn an_accept_queue_shows_its_length_and_its_backlog() {
        let listener = listen("127.66.22.1:0");
        let servers = [listener.local_addr().expect("bound")];
        let filter = filter(Role::Server, &servers, &["127.66.22.2"]);
        let backlog = census(&filter).expect("counts").listeners[0].backlog;
        let _held: Vec<_> = (0..3).map(|_| connect("127.66.22.2:0", servers[0])).collect();
        let queue = census(&filter).expect("counts").listeners.remove(0);
        assert_eq!(queue, ListenerQueue { endpoint: servers[0], queued: 3, backlog });
        assert!(backlog > 0);
        drop(listener.accept().expect("accepted"));
        assert_eq!(census(&filter).expect("counts").listeners[0].queued, 2);
    }

    #[test]
    fn ports_between_the_servers_ports_do_not_count() {
        // The kernel filters by the range of all ports; what lies between is sorted out here.
        let mut listeners = [listen("127.66.23.1:0"), listen("127.66.23.1:0"), listen("127.66.23.1:0")];
        listeners.sort_by_key(|l| l.local_addr().expect("bound").port());
        let all = listeners.each_ref().map(|l| l.local_addr().expect("bound"));
        let _held = all.map(|server| connect("127.66.23.2:0", server));
        let outer = [all[0], all[2]];
        for role in [Role::Client, Role::Server] {
            assert_eq!(census(&filter(role, &outer, &["127.66.23.2"])).expect("counts").established, 2);
        }
    }

    #[test]
    fn both_families_are_counted_where_both_serve() {
        let Ok(v6) = std::net::TcpListener::bind("[::1]:0") else {
            return eprintln!("left out: this host has no ::1");
        };
        let v4 = listen("127.66.24.1:0");
        let servers = [v6.local_addr().expect("bound"), v4.local_addr().expect("bound")];
        let _held = [connect("[::1]:0", servers[0]), connect("127.66.24.2:0", servers[1])];
        let clients = ["::1", "127.66.24.2"];
        let client = census(&filter(Role::Client, &servers, &clients)).expect("counts");
        let server = census(&filter(Role::Server, &servers, &clients)).expect("counts");
        assert_eq!((client.established, client.digest), (2, server.digest));
        assert_eq!(server.strangers, 0);
    }

    #[test]
    fn an_assignment_without_servers_has_no_sockets() {
        let none = census(&filter(Role::Client, &[], &["127.66.25.1"])).expect("counts");
        assert_eq!((none.established, none.states.len(), none.digest), (0, 0, Digest::default()));
    }
}
