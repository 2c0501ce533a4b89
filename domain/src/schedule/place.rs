//! Plan and inventory in, schedule out: who does what, with every address, port and count. The same
//! input always gives the same schedule.

use super::assignment::{
    Assignment, BlockPorts, CensusFilter, Churn, Connect, ConnectLane, FlowBlock, Listener, Role, Serve, Work,
};
use super::choose::{Chosen, choose_hosts};
use super::inventory::Inventory;
use super::placed::{Placed, PlacedStep, steps_on};
use super::queue::{accepted, answered_in_time, rooms, within};
use super::reach::apart;
use super::share::{connect_lanes, proportional, serve_lanes};
use super::shortfall::Shortfall;
use super::stretch::{share as share_of, stretches};
use super::way::{Way, ways_of};
use crate::capacity::facts::{BoundSocket, HostFacts};
use crate::capacity::{DESCRIPTORS_KEPT, Limit, Part, Prediction, predict};
use crate::plan::{Accept, Case, Connections, Plan, Route, Setup, SourcePorts};
use crate::ports::PortSet;
use crate::sample::TcpState;
use crate::units::Rate;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Unanswered connections that one connector keeps in flight where the accept queue has room.
const WIDEST_WINDOW: u64 = 64;

/// Ports of a block beside those that are held or in TIME_WAIT, for connections that replace others.
const SPARE_PORTS: u64 = 64;

/// All concrete work of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schedule {
    /// In the order of the plan's cases.
    pub cases: Vec<CaseSchedule>,
}

/// All concrete work of one case; every trial of it is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseSchedule {
    /// What the model says of it.
    pub prediction: Prediction,
    /// How many connections are opened.
    pub target: u64,
    /// One per agent; the servers first.
    pub assignments: Vec<Assignment>,
    /// The script's steps, in order, where the case is one.
    pub steps: Vec<PlacedStep>,
    /// Why the case is left out, shortfall by shortfall, if it is: then nobody is assigned to it.
    pub left_out: Vec<String>,
}

impl CaseSchedule {
    /// What the servers do with finished handshakes, and whether clients wait for their answers.
    pub fn asked_of_servers(&self) -> (Accept, bool) {
        let serving = self.assignments.iter().find_map(|assignment| match &assignment.work {
            Work::Serve(serve) => Some((serve.accept, serve.answered)),
            _ => None,
        });
        serving.unwrap_or((Accept::All, true))
    }

    /// Connects to be begun per second over all clients; `None` where that is left open.
    pub fn asked_rate(&self) -> Option<u64> {
        let rates = self.assignments.iter().filter_map(|assignment| match &assignment.work {
            Work::Connect(connect) => connect.rate,
            _ => None,
        });
        // The shares of a whole number.
        Some(rates.sum::<f64>().round() as u64).filter(|rate| *rate > 0)
    }
}

/// Places every case of a plan on the hosts.
///
/// A partial plan leaves out the cases that do not fit.
///
/// # Errors
/// Every shortfall of every case: too few hosts, a setting that may not be made, a limit below what
/// the plan asks for. Of a partial plan only where no case fits.
pub fn place(plan: &Plan, inventory: &Inventory) -> Result<Schedule, Vec<Shortfall>> {
    let mut cases = Vec::new();
    let mut shortfalls = Vec::new();
    let mut fitting = 0;
    for case in &plan.cases {
        match place_case(case, inventory, &plan.routes) {
            Ok(placed) => {
                fitting += 1;
                cases.push(placed);
            }
            Err(short) => {
                cases.push(CaseSchedule {
                    prediction: Prediction::none(),
                    target: 0,
                    assignments: Vec::new(),
                    steps: Vec::new(),
                    left_out: short.iter().map(ToString::to_string).collect(),
                });
                shortfalls.extend(short);
            }
        }
    }
    let whole = shortfalls.is_empty() || (plan.partial && fitting > 0);
    if whole { Ok(Schedule { cases }) } else { Err(shortfalls) }
}

fn place_case(case: &Case, inventory: &Inventory, routes: &[Route]) -> Result<CaseSchedule, Vec<Shortfall>> {
    let setup = &case.setup;
    let (servers, mut clients) = choose_hosts(case, inventory, routes)?;
    if !setup.steps.is_empty() {
        return place_script(case, &servers, &clients);
    }
    let alone = apart(case, &servers, &clients, routes, false);
    if !alone.is_empty() {
        return Err(alone);
    }
    let listeners = listeners_of(&servers, setup);
    hold_listeners(&mut clients, &servers, &listeners);
    let endpoints: Vec<SocketAddr> = listeners.iter().flatten().map(|listener| listener.endpoint).collect();
    let ways = ways_of(&clients, &servers, &listeners, setup, routes);
    let weights: Vec<u64> = ways.iter().map(|way| u64::from(way.ports.len())).collect();
    let tuples: u64 = weights.iter().sum();
    let accept = setup.servers.accept;
    let queue_of = |server: &Chosen| u64::from(setup.servers.backlog.min(server.facts.somaxconn())) + 1;
    let accept_queue = servers.iter().map(queue_of).min().unwrap_or(0);
    let rooms: Option<Vec<u64>> = servers
        .iter()
        .zip(&listeners)
        .map(|(server, listeners)| rooms(accept, queue_of(server), listeners.len()))
        .collect::<Option<Vec<_>>>()
        .map(|rooms| rooms.concat());
    let room = rooms.as_ref().map(|rooms| rooms.iter().sum());
    let parts = parts_of(&servers, &listeners, &clients, &ways, tuples, accept);
    let prediction = predict(setup.load.connections, tuples, &parts, accept_queue, room);
    demand(case, &prediction).map_err(|mut short| {
        // More pairs would have more four-tuples.
        if short.iter().any(|short| matches!(short, Shortfall::Capacity { limit: Limit::FourTuples, .. })) {
            short.extend(apart(case, &servers, &clients, routes, true));
        }
        short
    })?;
    room_to_churn(case, tuples)?;
    // What the queues have no room for may be asked for all the same: then its connects are dropped.
    let target = match setup.load.connections {
        Connections::Exactly(asked) => asked,
        Connections::Max => with_excess(case, &prediction, tuples)?,
    };
    let weights = match &rooms {
        Some(rooms) => {
            let destinations: Vec<usize> = ways.iter().map(|way| way.destination).collect();
            within(rooms, weights, &destinations, target)
        }
        None => weights,
    };

    let blocks = blocks_of(&ways, &proportional(target, &weights), setup, target);
    let mut expected = vec![0u64; endpoints.len()];
    for (block, way) in blocks.iter().zip(&ways) {
        if let Some(count) = expected.get_mut(way.destination) {
            *count += u64::from(block.ports.count());
        }
    }
    let sources: Vec<IpAddr> = clients.iter().flat_map(|client| client.addresses.iter().copied()).collect();
    // One at a time where a queue fills up: two that come for its last place would both be told that
    // their handshake is over (the last ACK of one is dropped, tcp_check_req in net/ipv4).
    let connectors = match rooms {
        Some(_) => vec![1; clients.len()],
        None => connectors_of(&servers, &clients),
    };
    let total_connectors: u64 = connectors.iter().sum();
    let unanswered = accept_queue.min(answered_in_time(accept, setup.load.timeout));
    let window = (unanswered / total_connectors.max(1)).clamp(1, WIDEST_WINDOW) as u32;

    let timetable = stretches(&setup.load.stages, target);
    let lanes_of = client_lanes(&clients, &ways, &blocks, &connectors);
    // Connections that are closed and not noticed yet, or new and not answered yet: a quarter of the
    // smallest table at most.
    let tables = servers.iter().map(|server| lane_capacity(&server.facts) / 4).min().unwrap_or(1);
    let spare = setup.load.churn.map(|_| unanswered.min(tables).clamp(1, u32::MAX.into()));
    // Where nothing is replaced one more will do: a turn that goes around comes to rest at a lane with
    // room.
    let spare = spare.or(setup.load.activity.map(|_| 1));
    let all_lanes: u64 = lanes_of.iter().map(|lanes| lanes.len() as u64).sum();
    let churn_window = spare.map_or(1, |spare| spare / all_lanes.max(1)).clamp(1, WIDEST_WINDOW) as u32;

    let mut assignments = Vec::new();
    let mut at = 0;
    for (server, listeners) in servers.iter().zip(listeners) {
        let own = expected.get(at..at + listeners.len()).unwrap_or_default();
        at += listeners.len();
        assignments.push(Assignment {
            agent: server.name.clone(),
            sysctls: server.sysctls.clone(),
            conntrack: server.conntrack,
            files: server.files,
            census: CensusFilter {
                role: Role::Server,
                servers: listeners.iter().map(|listener| listener.endpoint).collect(),
                clients: sources.clone(),
            },
            work: Work::Serve(Serve {
                lanes: serve_lanes(&accepted(accept, own), watching_capacity(&server.facts, spare)),
                listeners,
                accept,
                answered: setup.load.answered,
                watch: spare.map(|spare| spare as u32),
            }),
        });
    }
    for ((client, lanes), connectors) in clients.iter().zip(lanes_of).zip(connectors) {
        let flows: u64 =
            lanes.iter().flat_map(|lane| &lane.blocks).map(|block| u64::from(block.ports.count())).sum();
        let part = |rate: Rate| match rate {
            Rate::PerSecond(rate) if flows > 0 => Some(rate as f64 * flows as f64 / target.max(1) as f64),
            Rate::PerSecond(_) | Rate::Unlimited => None,
        };
        assignments.push(Assignment {
            agent: client.name.clone(),
            sysctls: client.sysctls.clone(),
            conntrack: client.conntrack,
            files: client.files,
            census: CensusFilter {
                role: Role::Client,
                servers: endpoints.clone(),
                clients: client.addresses.clone(),
            },
            work: Work::Connect(Connect {
                lanes,
                connectors: connectors as u32,
                window,
                rate: part(setup.load.rate),
                stretches: share_of(&timetable, flows, target),
                timeout_micros: setup.load.timeout.0.as_micros() as u64,
                beyond: prediction.bound_by == Limit::FourTuples,
                answered: setup.load.answered,
                churn: setup.load.churn.and_then(part).map(|rate| Churn {
                    rate,
                    close: setup.load.close,
                    window: churn_window,
                }),
                activity: setup.load.activity,
            }),
        });
    }
    Ok(CaseSchedule { prediction, target, assignments, steps: Vec::new(), left_out: Vec::new() })
}

/// A script on its hosts: all of them take part, also one that no step is for.
fn place_script(case: &Case, servers: &[Chosen], clients: &[Chosen]) -> Result<CaseSchedule, Vec<Shortfall>> {
    fn placed(hosts: &[Chosen]) -> Vec<Placed<'_>> {
        hosts.iter().map(|host| Placed { agent: &host.name, addresses: &host.addresses }).collect()
    }
    let steps = steps_on(case, &placed(servers), &placed(clients)).map_err(|unresolved| {
        vec![Shortfall::Step { case: case.name.clone(), why: unresolved.to_string() }]
    })?;
    let assign = |role| {
        move |host: &Chosen| Assignment {
            agent: host.name.clone(),
            sysctls: host.sysctls.clone(),
            conntrack: host.conntrack,
            files: host.files,
            census: CensusFilter { role, servers: Vec::new(), clients: Vec::new() },
            work: Work::Script(role),
        }
    };
    let serving = servers.iter().map(assign(Role::Server));
    let assignments = serving.chain(clients.iter().map(assign(Role::Client))).collect();
    Ok(CaseSchedule { prediction: Prediction::none(), target: 0, assignments, steps, left_out: Vec::new() })
}

/// Refuses a case of which the hosts cannot hold what it asks for, with every limit that is short. A
/// full accept queue is none of them: what happens then is what such a case is made for.
fn demand(case: &Case, prediction: &Prediction) -> Result<(), Vec<Shortfall>> {
    if let Connections::Exactly(asked) = case.setup.load.connections {
        let short: Vec<_> = prediction
            .margins
            .iter()
            .filter(|margin| margin.offered < asked && margin.limit != Limit::AcceptQueue)
            .map(|margin| Shortfall::Capacity {
                case: case.name.clone(),
                limit: margin.limit,
                place: margin.place.clone(),
                asked,
                offered: margin.offered,
            })
            .collect();
        if !short.is_empty() {
            return Err(short);
        }
    }
    match prediction.margins.first() {
        Some(margin) if prediction.connections == 0 => Err(vec![Shortfall::Nothing {
            case: case.name.clone(),
            limit: margin.limit,
            place: margin.place.clone(),
        }]),
        _ => Ok(()),
    }
}

/// How many connections are opened: the predicted ones, and those that the plan wants to see go
/// wrong. Even those need four-tuples of their own.
fn with_excess(case: &Case, prediction: &Prediction, tuples: u64) -> Result<u64, Vec<Shortfall>> {
    let excess = u64::from(case.setup.load.excess);
    let target = prediction.connections.saturating_add(excess);
    if excess > 0 && target > tuples {
        return Err(vec![Shortfall::Capacity {
            case: case.name.clone(),
            limit: Limit::FourTuples,
            place: "all clients".into(),
            asked: target,
            offered: tuples,
        }]);
    }
    Ok(target)
}

/// Refuses a churn whose closed connections keep more four-tuples from being used than there are.
fn room_to_churn(case: &Case, tuples: u64) -> Result<(), Vec<Shortfall>> {
    let load = &case.setup.load;
    let (Some(Rate::PerSecond(rate)), Connections::Exactly(held)) = (load.churn, load.connections) else {
        return Ok(());
    };
    let asked = held.saturating_add(load.close.resting(rate as f64, load.hold.0));
    if asked <= tuples {
        return Ok(());
    }
    let (case, limit) = (case.name.clone(), Limit::FourTuples);
    Err(vec![Shortfall::Capacity { case, limit, place: "all clients".into(), asked, offered: tuples }])
}

/// Each client's blocks, in lanes.
fn client_lanes(
    clients: &[Chosen],
    ways: &[Way],
    blocks: &[FlowBlock],
    connectors: &[u64],
) -> Vec<Vec<ConnectLane>> {
    let of = |(index, (client, least)): (usize, (&Chosen, &u64))| {
        let own: Vec<FlowBlock> = ways
            .iter()
            .zip(blocks)
            .filter(|(way, block)| way.client == index && block.ports.count() > 0)
            .map(|(_, block)| block.clone())
            .collect();
        connect_lanes(&own, lane_capacity(&client.facts), *least)
    };
    clients.iter().zip(connectors).enumerate().map(of).collect()
}

/// A lane that watches its connections needs a descriptor for that, and room for some more of them.
fn watching_capacity(facts: &HostFacts, spare: Option<u64>) -> u64 {
    let all = lane_capacity(facts);
    spare.map_or(all, |spare| all.saturating_sub(spare + 1)).max(1)
}

fn lane_capacity(facts: &HostFacts) -> u64 {
    facts.open_files.per_table.saturating_sub(DESCRIPTORS_KEPT).max(1)
}

/// Each server's listeners: every port at every address.
fn listeners_of(servers: &[Chosen], setup: &Setup) -> Vec<Vec<Listener>> {
    servers
        .iter()
        .map(|server| {
            let at = |address: &IpAddr| {
                let address = *address;
                setup.servers.ports.iter().map(move |port| Listener {
                    endpoint: SocketAddr::new(address, port),
                    backlog: setup.servers.backlog,
                })
            };
            server.addresses.iter().flat_map(at).collect()
        })
        .collect()
}

/// Makes the case's own listeners known to the clients that share a namespace with them: there they
/// hold their ports like any other socket (and a client cannot connect to itself).
fn hold_listeners(clients: &mut [Chosen], servers: &[Chosen], listeners: &[Vec<Listener>]) {
    for client in clients {
        for (server, own) in servers.iter().zip(listeners) {
            let same = server.facts.boot_id == client.facts.boot_id
                && server.facts.network_namespace == client.facts.network_namespace;
            if !same {
                continue;
            }
            client.facts.bound.extend(own.iter().map(|listener| BoundSocket {
                address: listener.endpoint.ip(),
                port: listener.endpoint.port(),
                state: TcpState::Listen,
            }));
        }
    }
}

fn parts_of<'a>(
    servers: &'a [Chosen],
    listeners: &[Vec<Listener>],
    clients: &'a [Chosen],
    ways: &[Way],
    tuples: u64,
    accept: Accept,
) -> Vec<Part<'a>> {
    let share = |own: &dyn Fn(&Way) -> bool| {
        let own: u64 = ways.iter().filter(|way| own(way)).map(|way| u64::from(way.ports.len())).sum();
        own as f64 / tuples.max(1) as f64
    };
    let mut first = 0;
    let serving: Vec<_> = servers
        .iter()
        .zip(listeners)
        .map(|(server, listeners)| {
            let own = first..first + listeners.len();
            first = own.end;
            (server, share(&|way| own.contains(&way.destination)), accept.keeps())
        })
        .collect();
    let connecting =
        clients.iter().enumerate().map(|(index, client)| (client, share(&|way| way.client == index), true));
    serving
        .into_iter()
        .chain(connecting)
        .map(|(host, share, keeps)| Part { name: host.name.as_str(), facts: &host.facts, share, keeps })
        .collect()
}

fn blocks_of(ways: &[Way], counts: &[u64], setup: &Setup, target: u64) -> Vec<FlowBlock> {
    let mut first_flow = 0;
    ways.iter()
        .zip(counts)
        .map(|(way, count)| {
            let count = *count as u32;
            // Ports in TIME_WAIT for what is closed in a minute, and a few to go on with in turn.
            let spare = match setup.load.churn {
                Some(Rate::PerSecond(rate)) => {
                    let share = rate as f64 * f64::from(count) / target.max(1) as f64;
                    setup.load.close.resting(share, setup.load.hold.0) + SPARE_PORTS
                }
                Some(Rate::Unlimited) | None => 0,
            };
            let left = u64::from(way.ports.len().saturating_sub(count));
            let block = FlowBlock {
                first_flow,
                source: way.source,
                destination: way.endpoint,
                ports: match setup.clients.source_ports {
                    SourcePorts::Explicit(_) => BlockPorts::Explicit(way.ports.slice(0, count)),
                    SourcePorts::Kernel => BlockPorts::Kernel(count),
                },
                spare: match setup.clients.source_ports {
                    SourcePorts::Explicit(_) => way.ports.slice(count, spare.min(left) as u32),
                    SourcePorts::Kernel => PortSet::empty(),
                },
            };
            first_flow += u64::from(count);
            block
        })
        .collect()
}

/// How many connectors each client runs at a time: twice its kernel's processors divided by the
/// workers that are active on that kernel, and at least one. Twice, because a connector whose window is
/// full waits for the one acceptor: with a client and a server on two processors, two connectors open a
/// quarter more a second than one, for the same CPU a connection (docs/PERFORMANCE.md).
fn connectors_of(servers: &[Chosen], clients: &[Chosen]) -> Vec<u64> {
    clients
        .iter()
        .map(|client| {
            let same = |host: &&Chosen| host.facts.boot_id == client.facts.boot_id;
            let workers = servers.iter().filter(same).count() + clients.iter().filter(same).count();
            (2 * u64::from(client.facts.cpus) / workers.max(1) as u64).max(1)
        })
        .collect()
}
