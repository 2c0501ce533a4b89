//! Which addresses a host offers, as its operator writes it.

use ipnet::IpNet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An address, or all that lie in a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSelector {
    /// This address; the host must have it.
    Address(IpAddr),
    /// The host's addresses in this network: those of its interfaces, and, where the kernel has a
    /// local route that covers the whole network (AnyIP), every host address of it.
    Network(IpNet),
    /// None of the host's addresses in this network, whatever else is selected.
    Except(IpNet),
}

/// A text selects no addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSelector {
    /// It is neither an address nor a network.
    #[error(
        "'{0}' is neither an address nor a network: write one as in \"10.66.1.1\", \"fd66::1\", \"10.66.0.0/16\" or, to leave it out, \"!172.18.0.0/16\""
    )]
    Unreadable(String),
    /// No connection can leave from it.
    #[error(
        "no connection can have the end {0}: name an address of one host, or a network as in \"10.66.0.0/16\""
    )]
    NotUnicast(IpAddr),
}

impl FromStr for AddressSelector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        let text = text.trim();
        if let Some(left_out) = text.strip_prefix('!') {
            let network = left_out.parse().or_else(|_| left_out.parse::<IpAddr>().map(IpNet::from));
            let network: IpNet = network.map_err(|_| BadSelector::Unreadable(text.to_owned()))?;
            return Ok(Self::Except(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let broadcast = address == IpAddr::from(Ipv4Addr::BROADCAST);
            if address.is_unspecified() || address.is_multicast() || broadcast {
                return Err(BadSelector::NotUnicast(address));
            }
            return Ok(Self::Address(address));
        }
        let network: IpNet = text.parse().map_err(|_| BadSelector::Unreadable(text.to_owned()))?;
        Ok(Self::Network(network.trunc()))
    }
}

impl fmt::Display for AddressSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Network(network) => network.fmt(f),
            Self::Except(network) => write!(f, "!{network}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_and_a_network_read_back() {
        for text in ["10.66.1.1", "fd66::1", "10.66.0.0/16", "fd66::/64", "!172.18.0.0/16", "!fd66::/64"] {
            assert_eq!(text.parse::<AddressSelector>().expect("good").to_string(), text);
        }
        assert_eq!("10.66.1.5/24".parse::<AddressSelector>().expect("good").to_string(), "10.66.1.0/24");
        assert_eq!("!10.66.1.5".parse::<AddressSelector>().expect("good").to_string(), "!10.66.1.5/32");
    }

    #[test]
    fn a_bad_text_is_refused_with_a_remedy() {
        for text in ["", "eth0", "10.66.1", "10.66.1.1/33", "10.66.1.1:7000", "fd66::1/129", "!", "!eth0"] {
            let refusal = text.parse::<AddressSelector>().expect_err("refused").to_string();
            assert!(
                refusal.contains(&format!("'{text}'")) && refusal.contains("write one as in"),
                "{refusal}"
            );
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255"] {
            let refusal = text.parse::<AddressSelector>().expect_err("refused").to_string();
            assert!(refusal.contains(text) && refusal.contains("name an address"), "{refusal}");
        }
    }
}
