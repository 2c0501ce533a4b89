//! A route that a plan declares: which networks a router joins, as far as the hosts cannot say.

use super::given::Given;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

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
