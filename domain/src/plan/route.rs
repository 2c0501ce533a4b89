//! A route that a plan declares: which networks a router joins, as far as the hosts cannot say.

use super::given::Given;
use super::problem::PlanProblem;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Each is tried for every pair of addresses.
const MOST_ROUTES: usize = 100;
/// How one is written.
const EXAMPLE: &str = "write from = \"10.2.0.0/16\" and to = \"10.1.0.0/16\"";

/// Client addresses in `from` reach server addresses in `to`, and the answers find their way back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Route {
    /// Where connections come from.
    pub from: IpNet,
    /// Where they go to.
    pub to: IpNet,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from = \"{}\"\nto = \"{}\"", self.from, self.to)
    }
}

/// One `[[route]]`: both keys.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct RouteText {
    /// The network of the clients: "10.2.0.0/16".
    #[schemars(with = "Option<String>")]
    pub(super) from: Given<IpNet>,
    /// The network of the servers that they reach: "10.1.0.0/16".
    #[schemars(with = "Option<String>")]
    pub(super) to: Given<IpNet>,
}

/// The routes that are good; the others are problems.
pub(super) fn routes(texts: Vec<RouteText>, add: &mut dyn FnMut(PlanProblem)) -> Vec<Route> {
    if texts.len() > MOST_ROUTES {
        let what = format!("the plan has {} routes, at most {MOST_ROUTES} are read", texts.len());
        add(PlanProblem::of_file(what).remedy("write wider networks"));
        return Vec::new();
    }
    texts.into_iter().filter_map(|text| route(text, add)).collect()
}

fn route(text: RouteText, add: &mut dyn FnMut(PlanProblem)) -> Option<Route> {
    let place = text.from.place().or(text.to.place());
    let mut end = |given, key: &str| match given {
        Given::Good(network, _) => Some(IpNet::trunc(&network)),
        Given::Bad(what, at) => {
            add(PlanProblem::at(at, format!("{key} is no network: {what}")).remedy(EXAMPLE));
            None
        }
        Given::Absent => {
            let what = format!("this [[route]] has no '{key}'");
            add(PlanProblem { what, place: place.clone(), remedy: None }.remedy(EXAMPLE));
            None
        }
    };
    let (from, to) = (end(text.from, "from"), end(text.to, "to"));
    let (from, to) = (from?, to?);
    if from.addr().is_ipv4() != to.addr().is_ipv4() {
        let what = format!("{from} and {to} are not of one family");
        add(PlanProblem { what, place, remedy: None }.remedy("write two IPv4 networks, or two IPv6 ones"));
        return None;
    }
    Some(Route { from, to })
}
