//! Where a step's socket is, or goes: names in the plan, addresses once the case is placed.

use crate::schedule::Role;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A host of a case: `server`, `client`, `client.2` (the second one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostRef {
    /// Which cohort.
    pub role: Role,
    /// Which of its hosts, from 0.
    pub index: usize,
}

impl FromStr for HostRef {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (role, number) = text.split_once('.').unwrap_or((text, "1"));
        let role = match role {
            "server" => Role::Server,
            "client" => Role::Client,
            _ => {
                return Err(format!(
                    "'{text}' is no host: write server, client, or client.2 for the second one"
                ));
            }
        };
        match number.parse::<usize>() {
            Ok(number) if (1..=10_000).contains(&number) => Ok(Self { role, index: number - 1 }),
            _ => Err(format!("'{text}' is no host: hosts are numbered from 1, as in client.2")),
        }
    }
}

impl fmt::Display for HostRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.name())?;
        if self.index > 0 { write!(f, ".{}", self.index + 1) } else { Ok(()) }
    }
}

/// An address as a step names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The step's own host, its address of this number (from 0): `self`, `self@2`.
    Own(usize),
    /// Another host's address: `server`, `client.2@3`.
    Of(HostRef, usize),
    /// No address, of the case's family: `any`.
    Any,
    /// An address itself: `10.66.9.9`, `[fd66::9]`.
    Literal(IpAddr),
}

/// An address and a port: `server:7000`, `self@2:0`, `any:7000`, `[::]:7000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub place: Place,
    /// The port; 0 leaves the choice to the kernel.
    pub port: u16,
}

/// A step names an address that the case's hosts do not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' names no address of this case: ask for more hosts or addresses")]
pub struct Unresolved(pub Endpoint);

impl Endpoint {
    /// The same with the address itself; `addresses` gives those of a host, `own` those of the step's.
    ///
    /// # Errors
    /// There is no such host or address.
    pub fn resolve(
        self,
        own: &[IpAddr],
        addresses: impl Fn(HostRef) -> Vec<IpAddr>,
        v6: bool,
    ) -> Result<Self, Unresolved> {
        let address = match self.place {
            Place::Own(number) => own.get(number).copied(),
            Place::Of(host, number) => addresses(host).get(number).copied(),
            Place::Any if v6 => Some(Ipv6Addr::UNSPECIFIED.into()),
            Place::Any => Some(Ipv4Addr::UNSPECIFIED.into()),
            Place::Literal(address) => Some(address),
        };
        address.map(|address| Self { place: Place::Literal(address), ..self }).ok_or(Unresolved(self))
    }

    /// The socket address, once it is resolved.
    pub fn address(self) -> Option<SocketAddr> {
        match self.place {
            Place::Literal(ip) => Some(SocketAddr::new(ip, self.port)),
            Place::Own(_) | Place::Of(..) | Place::Any => None,
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no endpoint: write an address and a port, as in server:7000, self@2:0 or any:7000"
            )
        };
        let (place, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        let literal = place.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(place);
        if let Ok(address) = literal.parse() {
            return Ok(Self { place: Place::Literal(address), port });
        }
        let (host, number) = place.split_once('@').unwrap_or((place, "1"));
        let number = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1)).ok_or_else(wrong)?;
        let place = match host {
            "any" if number == 0 => Place::Any,
            "self" => Place::Own(number),
            host => Place::Of(host.parse().map_err(|_| wrong())?, number),
        };
        Ok(Self { place, port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: usize| if number > 0 { format!("@{}", number + 1) } else { String::new() };
        match self.place {
            Place::Own(n) => write!(f, "self{}:{}", number(n), self.port),
            Place::Of(host, n) => write!(f, "{host}{}:{}", number(n), self.port),
            Place::Any => write!(f, "any:{}", self.port),
            Place::Literal(ip) => write!(f, "{}", SocketAddr::new(ip, self.port)),
        }
    }
}
