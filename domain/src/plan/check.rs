//! From a plan file to a plan: every value is looked at, every problem is reported, at once.

use super::accept::Accept;
use super::accepting::Places;
use super::close::Close;
use super::file::{Body, ExpectText, PlanFile};
use super::given::Given;
use super::model::{
    AnswerIs, Case, Clients, Connections, Expectation, Family, Labels, Load, Plan, Servers, Setup,
    SourcePorts,
};
use super::problem::PlanProblem;
use super::route::routes;
use super::shapes::{Shapes, are_stages};
use crate::id::PlanDigest;
use crate::ports::PortSet;
use crate::schedule::Role;
use crate::script::{HostRef, Step, impossible};
use crate::sysctl::{Sysctl, Sysctls};
use crate::units::{Count, Rate, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

/// Fleets larger than this are not what one controller drives.
const HOSTS: RangeInclusive<u64> = 1..=10_000;
/// Some show what the kernel does to them; each may wait out the whole load.timeout.
const EXCESS: RangeInclusive<u64> = 0..=10_000;
/// A host's addresses: a /16 of them.
const ADDRESSES: RangeInclusive<u64> = 1..=65_536;
/// `listen` takes an int.
const BACKLOG: RangeInclusive<u64> = 0..=i32::MAX as u64;
const TRIALS: RangeInclusive<u64> = 1..=1_000;
/// Each step is an exchange with an agent and a line of the log.
const MOST_STEPS: usize = 1_000;
/// A table needs some descriptors that hold no connection; the kernel's own bound, fs.nr_open, is at
/// most about 2^30 (fs/file.c).
const FILES: RangeInclusive<u64> = 128..=1 << 30;
/// A schedule of this many pairs is some 20 MB in the store; a million connections from one range of
/// ports need 36.
const MOST_PAIRS: u64 = 100_000;

/// Turns a file into a plan.
///
/// # Errors
/// All problems of the file, in the order of their places.
pub fn check(file: PlanFile) -> Result<Plan, Vec<PlanProblem>> {
    let mut checker = Checker { problems: file.problems };
    let question = checker.value(file.head.question, String::new(), |text| printable(text));
    let trials = checker.count("trials", file.head.trials, 1, TRIALS) as u32;
    let claims = checker.value(file.head.claims, Vec::new(), |_| Ok(()));
    let partial = checker.value(file.head.partial, false, |_| Ok(()));
    let routes = routes(file.head.route, &mut |problem| checker.add(problem));
    let expectations: Vec<Expectation> =
        file.head.expect.into_iter().filter_map(|text| checker.expectation(text)).collect();
    let base = checker.setup(file.base);
    let cases: Vec<Case> = file
        .cases
        .into_iter()
        .enumerate()
        .map(|(index, text)| Case {
            name: text.name.unwrap_or_else(|| name_of(index, &text.parameters)),
            parameters: text.parameters,
            setup: checker.case(text.body),
        })
        .collect();
    checker.distinct(&cases);
    checker.labelled(&cases, &expectations);
    checker.pairs(&cases);
    if cases.is_empty() && checker.problems.is_empty() {
        checker.problems.push(PlanProblem::of_file("the plan has no case"));
    }
    if checker.problems.is_empty() {
        let digest = PlanDigest::of(&file.source);
        return Ok(Plan {
            digest,
            source: file.source,
            question,
            trials,
            base,
            cases,
            expectations,
            claims,
            partial,
            routes,
        });
    }
    checker.problems.sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.start));
    Err(checker.problems)
}

fn name_of(index: usize, parameters: &BTreeMap<String, String>) -> String {
    if parameters.is_empty() {
        return format!("case {}", index + 1);
    }
    parameters.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

/// Texts of a plan are shown in other people's terminals: no control character steers them.
fn printable(text: &str) -> Result<(), String> {
    match text.chars().find(|character| character.is_control() && *character != '\n') {
        Some(character) => Err(format!("a text has no control characters: leave out {character:?}")),
        None => Ok(()),
    }
}

fn printable_labels(labels: &Labels) -> Result<(), String> {
    labels.iter().try_for_each(|(key, value)| printable(key).and_then(|()| printable(value)))
}

struct Checker {
    problems: Vec<PlanProblem>,
}

impl Checker {
    /// Values of the base are seen again in every case, so a problem is kept once.
    fn add(&mut self, problem: PlanProblem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn value<T>(&mut self, given: Given<T>, default: T, test: impl Fn(&T) -> Result<(), String>) -> T {
        match given {
            Given::Absent => default,
            Given::Bad(what, place) => {
                self.add(PlanProblem::at(place, what));
                default
            }
            Given::Good(value, place) => {
                if let Err(what) = test(&value) {
                    self.add(PlanProblem::at(place, what));
                }
                value
            }
        }
    }

    fn count(&mut self, key: &str, given: Given<Count>, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = self.value(given, Count(default), |count| {
            if range.contains(&count.0) {
                return Ok(());
            }
            Err(format!("{key} = {} is out of range: write {} to {}", count.0, range.start(), range.end()))
        });
        // Whatever was out of range is a problem already; the value only has to fit.
        value.0.clamp(*range.start(), *range.end())
    }

    /// Cases are told apart by their names: in reports, and where two runs are compared.
    fn distinct(&mut self, cases: &[Case]) {
        let mut names = BTreeSet::new();
        for case in cases {
            if !names.insert(&case.name) {
                let problem = PlanProblem::of_file(format!("two cases are called '{}'", case.name));
                self.add(
                    problem.remedy("name each [[case]], sweep over each value once, repeat by trials = 2"),
                );
            }
        }
    }

    /// Every pair of a source address and a destination is a line of the schedule.
    fn pairs(&mut self, cases: &[Case]) {
        let pairs = |case: &Case| {
            let Setup { servers, clients, .. } = &case.setup;
            let sources = u64::from(clients.hosts) * u64::from(clients.addresses);
            let destinations =
                u64::from(servers.hosts) * u64::from(servers.addresses) * u64::from(servers.ports.len());
            sources.saturating_mul(destinations)
        };
        let sum = cases.iter().map(pairs).fold(0, u64::saturating_add);
        if sum > MOST_PAIRS {
            let what = format!(
                "the plan's cases have {sum} pairs of a source address and an address and port to connect to; at most {MOST_PAIRS} are scheduled"
            );
            self.add(PlanProblem::of_file(what).remedy("use fewer addresses, ports or cases"));
        }
    }

    /// A count that has no default.
    fn given_count(&mut self, key: &str, given: Given<Count>, range: RangeInclusive<u64>) -> Option<u64> {
        given.place()?;
        Some(self.count(key, given, *range.start(), range))
    }

    /// The setup of a case: its values must also go together. Those of the base need not, as long as
    /// every case gives its own.
    fn case(&mut self, body: Body) -> Setup {
        let (places, shapes) = (Places::of(&body), Shapes::of(&body));
        let setup = self.setup(body);
        let problems = places.problems(&setup).into_iter().chain(shapes.problems(&setup));
        problems.for_each(|problem| self.add(problem));
        setup
    }

    fn setup(&mut self, body: Body) -> Setup {
        let server_ports = match body.servers.ports {
            Given::Absent => Given::Absent,
            Given::Bad(what, place) => Given::Bad(what, place),
            Given::Good(text, place) => Given::Good(text.0, place),
        };
        let servers = Servers {
            hosts: self.count("servers.hosts", body.servers.hosts, 1, HOSTS) as u32,
            addresses: self.count("servers.addresses", body.servers.addresses, 1, ADDRESSES) as u32,
            ports: self.value(server_ports, PortSet::range(7000, 7000), |ports| {
                if ports.is_empty() {
                    Err("servers.ports names no port: write one, as in \"7000\"".into())
                } else {
                    Ok(())
                }
            }),
            backlog: self.count("servers.backlog", body.servers.backlog, 4096, BACKLOG) as u32,
            conntrack: self.value(body.servers.conntrack, false, |_| Ok(())),
            accept: self.value(body.servers.accept, Accept::All, |_| Ok(())),
            files: self.given_count("servers.files", body.servers.files, FILES),
            labels: self.value(body.servers.labels, BTreeMap::new(), printable_labels),
            sysctls: self.sysctls(body.servers.sysctls),
        };
        let clients = Clients {
            hosts: self.count("clients.hosts", body.clients.hosts, 1, HOSTS) as u32,
            addresses: self.count("clients.addresses", body.clients.addresses, 1, ADDRESSES) as u32,
            source_ports: self.value(
                body.clients.source_ports,
                SourcePorts::Explicit(PortSet::range(1024, 65535)),
                |_| Ok(()),
            ),
            conntrack: self.value(body.clients.conntrack, false, |_| Ok(())),
            files: self.given_count("clients.files", body.clients.files, FILES),
            labels: self.value(body.clients.labels, BTreeMap::new(), printable_labels),
            sysctls: self.sysctls(body.clients.sysctls),
        };
        let churn = body.load.churn.place().map(|_| {
            self.value(body.load.churn, Rate::PerSecond(1), |rate| match rate {
                Rate::Unlimited => {
                    Err("load.churn = \"unlimited\" is no rate: write one, as in \"1k/s\"".into())
                }
                Rate::PerSecond(_) => Ok(()),
            })
        });
        let activity = match body.load.activity {
            Given::Absent => None,
            Given::Good(activity, _) => Some(activity),
            Given::Bad(what, place) => {
                self.add(PlanProblem::at(place, what));
                None
            }
        };
        let excess = self.excess(body.load.excess, &body.load.connections);
        let load =
            Load {
                family: self.value(body.load.family, Family::Ipv4, |_| Ok(())),
                connections: self.value(body.load.connections, Connections::Max, |connections| {
                    match connections {
                        Connections::Exactly(0) => {
                            Err("load.connections = 0 asks for nothing: write \"max\" or at least 1".into())
                        }
                        _ => Ok(()),
                    }
                }),
                excess,
                answered: self.value(body.load.answered, true, |_| Ok(())),
                rate: self.value(body.load.rate, Rate::Unlimited, |_| Ok(())),
                stages: self.value(body.load.stages, Vec::new(), |stages| are_stages(stages)),
                churn,
                activity,
                close: self.value(body.load.close, Close::Rst, |_| Ok(())),
                hold: self.value(body.load.hold, Span(Duration::from_secs(1)), |_| Ok(())),
                timeout: self.value(body.load.timeout, Span(Duration::from_secs(10)), |timeout| {
                    if timeout.0.is_zero() {
                        Err("load.timeout = 0s gives no connection a chance: write at least \"100ms\"".into())
                    } else {
                        Ok(())
                    }
                }),
            };
        let steps = self.steps(body.steps, &servers, &clients, load.family);
        Setup { servers, clients, load, steps }
    }

    /// A script's lines, with hosts and addresses that the cohorts have.
    fn steps(
        &mut self,
        given: Given<String>,
        servers: &Servers,
        clients: &Clients,
        family: Family,
    ) -> Vec<Step> {
        let (text, place) = match given {
            Given::Absent => return Vec::new(),
            Given::Bad(what, place) => {
                self.add(PlanProblem::at(place, what));
                return Vec::new();
            }
            Given::Good(text, place) => (text, place),
        };
        if let Err(what) = printable(&text.replace('\t', " ")) {
            self.add(PlanProblem::at(place, what));
            return Vec::new();
        }
        let steps = match Step::parse_all(&text) {
            Ok(steps) => steps,
            Err(bad) => {
                bad.iter().for_each(|bad| self.add(PlanProblem::at(place.clone(), bad.to_string())));
                return Vec::new();
            }
        };
        for (index, why) in impossible(&steps) {
            if let Some(step) = steps.get(index) {
                self.add(PlanProblem::at(place.clone(), format!("'{step}': {why}")));
            }
        }
        let addresses = |host: HostRef| {
            let (hosts, addresses) = match host.role {
                Role::Server => (servers.hosts, servers.addresses),
                Role::Client => (clients.hosts, clients.addresses),
            };
            let has = if host.index < hosts as usize { addresses as usize } else { 0 };
            vec![family.unspecified(); has]
        };
        for step in &steps {
            let own = addresses(step.host);
            if own.is_empty() {
                let what = format!("'{step}': the case has no host '{}'", step.host);
                self.add(PlanProblem::at(place.clone(), what).remedy("ask for more hosts"));
                continue;
            }
            let v6 = family == Family::Ipv6;
            if let Err(unresolved) =
                step.action.clone().resolve(|endpoint| endpoint.resolve(&own, addresses, v6))
            {
                self.add(PlanProblem::at(place.clone(), format!("'{step}': {unresolved}")));
            }
        }
        if steps.is_empty() {
            self.add(PlanProblem::at(place, "the script has no step"));
        } else if steps.len() > MOST_STEPS {
            let what = format!("the script has {} steps; at most {MOST_STEPS} are done", steps.len());
            self.add(PlanProblem::at(place, what).remedy("split it into several cases"));
        }
        steps
    }

    /// An answer that no step is labelled for would never be given.
    fn labelled(&mut self, cases: &[Case], expectations: &[Expectation]) {
        let labels: BTreeSet<&str> = cases
            .iter()
            .flat_map(|case| &case.setup.steps)
            .filter_map(|step| step.label.as_deref())
            .collect();
        for expectation in expectations {
            if let Expectation::Answer(AnswerIs { label, .. }) = expectation
                && !labels.contains(label.as_str())
            {
                let what = format!("{expectation} is about a step labelled '{label}', and no step is");
                self.add(PlanProblem::of_file(what).remedy("label the step: CALL -> LABEL"));
            }
        }
    }

    /// An excess goes beyond the hosts' own limits, so it has no meaning beside a number of the plan's.
    fn excess(&mut self, given: Given<Count>, connections: &Given<Connections>) -> u32 {
        let numbered = matches!(connections, Given::Good(Connections::Exactly(_), _));
        if let Given::Good(Count(1..), place) = &given
            && numbered
        {
            let what = "load.excess goes beyond what the hosts hold, load.connections asks for a number";
            self.add(
                PlanProblem::at(place.clone(), what).remedy("leave load.connections out, or write \"max\""),
            );
        }
        self.count("load.excess", given, 0, EXCESS) as u32
    }

    fn sysctls(&mut self, given: Given<BTreeMap<String, toml::Value>>) -> Sysctls {
        let (values, place) = match given {
            Given::Absent => return Sysctls::new(),
            Given::Bad(what, place) => {
                self.add(PlanProblem::at(place, what));
                return Sysctls::new();
            }
            Given::Good(values, place) => (values, place),
        };
        let mut sysctls = Sysctls::new();
        for (name, value) in values {
            let Some(sysctl) = Sysctl::named(&name) else {
                let known: Vec<_> = Sysctl::ALL.into_iter().map(Sysctl::name).collect();
                self.add(
                    PlanProblem::at(place.clone(), format!("unknown kernel setting '{name}'"))
                        .remedy(format!("known here: {}", known.join(", "))),
                );
                continue;
            };
            match setting(sysctl, &value) {
                Ok(text) => drop(sysctls.insert(sysctl, text)),
                Err(what) => self.add(PlanProblem::at(place.clone(), format!("{name}: {what}"))),
            }
        }
        sysctls
    }

    fn expectation(&mut self, text: ExpectText) -> Option<Expectation> {
        let mut found: Vec<(Expectation, Range<usize>)> = Vec::new();
        match text.established {
            Given::Absent => {}
            Given::Bad(what, place) => self.add(PlanProblem::at(place, what)),
            Given::Good(value, place) => {
                let word = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                match word.as_str() {
                    "predicted" => found.push((Expectation::EstablishedAsPredicted, place)),
                    count => match count.parse::<Count>() {
                        Ok(count) => found.push((Expectation::Established(count.0), place)),
                        Err(what) => self.add(PlanProblem::at(place, format!("{what}, or \"predicted\""))),
                    },
                }
            }
        }
        let mut take =
            |expectation: Result<Option<(Expectation, Range<usize>)>, PlanProblem>| match expectation {
                Ok(one) => found.extend(one),
                Err(problem) => self.problems.push(problem),
            };
        take(given_as(text.failed, Expectation::Failed));
        take(given_as(text.connect_p99, Expectation::ConnectP99));
        take(given_as(text.ramp_error, Expectation::RampError));
        take(given_as(text.bound_by, Expectation::BoundBy));
        take(given_as(text.answer, Expectation::Answer));
        take(match text.rate {
            Given::Good(Rate::Unlimited, place) => {
                Err(PlanProblem::at(place, "a rate of \"unlimited\" cannot be missed")
                    .remedy("write at least how many per second, as in \"10k/s\""))
            }
            Given::Good(Rate::PerSecond(rate), place) => Ok(Some((Expectation::Rate(rate), place))),
            Given::Bad(what, place) => Err(PlanProblem::at(place, what)),
            Given::Absent => Ok(None),
        });
        let mut found = found.into_iter();
        let first = found.next();
        if let Some((_, place)) = found.next() {
            self.add(
                PlanProblem::at(place, "an [[expect]] says one thing")
                    .remedy("write a further [[expect]] for this key"),
            );
        }
        first.map(|(expectation, _)| expectation)
    }
}

fn given_as<T, U>(given: Given<T>, make: impl Fn(T) -> U) -> Result<Option<(U, Range<usize>)>, PlanProblem> {
    match given {
        Given::Absent => Ok(None),
        Given::Bad(what, place) => Err(PlanProblem::at(place, what)),
        Given::Good(value, place) => Ok(Some((make(value), place))),
    }
}

/// A kernel setting's value as the kernel reads it.
fn setting(sysctl: Sysctl, value: &toml::Value) -> Result<String, String> {
    let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
    match sysctl {
        Sysctl::IpLocalReservedPorts => {
            text.parse::<PortSet>().map(|ports| ports.to_string()).map_err(|error| error.to_string())
        }
        Sysctl::IpLocalPortRange => {
            let bounds = text.replace('-', " ");
            let bounds: Vec<_> = bounds.split_whitespace().map(str::parse::<u16>).collect();
            match bounds.as_slice() {
                [Ok(low), Ok(high)] if *low >= 1 && low <= high => Ok(format!("{low} {high}")),
                _ => Err(format!("'{text}' is no range of ports: write it as in \"20000-21999\"")),
            }
        }
        _ => {
            let most = most_of(sysctl);
            match text.parse::<u32>() {
                Ok(number) if number <= most => Ok(number.to_string()),
                _ => Err(format!("'{text}' is no value: write a whole number from 0 to {most}")),
            }
        }
    }
}

/// The largest value that the kernel takes (net/ipv4/sysctl_net_ipv4.c).
fn most_of(sysctl: Sysctl) -> u32 {
    match sysctl {
        Sysctl::IpUnprivilegedPortStart => 65_535,
        Sysctl::TcpAbortOnOverflow | Sysctl::TcpSyncookies => 255,
        Sysctl::TcpTwReuse => 2,
        _ => i32::MAX as u32,
    }
}
