//! The kernel's count: how many established four-tuples one host's kernel has for one trial, and an
//! order-free digest of them, so that both ends can be compared without sending a list.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use siphasher::sip128::{Hasher128 as _, SipHasher13};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};

/// A sum of hashes of four-tuples, modulo 2^128. Both ends name a flow in the same order (active
/// opener first), so both get the same sum from the same flows, in any order, over any number of
/// hosts. Equal counts with unequal digests mean that an address was translated between the ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(with = "String")]
pub struct Digest(u128);

impl Digest {
    /// Adds one flow. SipHash-1-3 with a fixed key: every agent must compute the same value.
    pub fn add(&mut self, client: SocketAddr, server: SocketAddr) {
        let mut hasher = SipHasher13::new_with_keys(0x7475_706c_656c_6162, 0x6365_6e73_7573_0001);
        for end in [client, server] {
            match end.ip() {
                IpAddr::V4(ip) => hasher.write(&ip.octets()),
                IpAddr::V6(ip) => hasher.write(&ip.octets()),
            }
            hasher.write(&end.port().to_be_bytes());
        }
        self.0 = self.0.wrapping_add(hasher.finish128().as_u128());
    }

    /// Adds all flows of another host's digest.
    pub fn merge(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        u128::from_str_radix(&text, 16).map(Self).map_err(|e| format!("'{text}' is no digest: {e}"))
    }
}

/// A socket's state in the kernel, with the numbers of `include/net/tcp_states.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names are RFC 9293's")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    SynReceived = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    /// A request socket of a listener (`TCP_NEW_SYN_RECV`): half-open.
    NewSynReceived = 12,
    /// Bound to a port, neither listening nor connected (`TCP_BOUND_INACTIVE`, Linux 6.8).
    Bound = 13,
}

impl TcpState {
    /// Every state that the kernel reports.
    pub const ALL: [Self; 13] = [
        Self::Established,
        Self::SynSent,
        Self::SynReceived,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Closed,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::NewSynReceived,
        Self::Bound,
    ];

    /// The state of that number.
    pub fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }

    /// The name as it is serialised.
    pub fn name(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Closed => "closed",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
            Self::NewSynReceived => "new_syn_received",
            Self::Bound => "bound",
        }
    }

    /// The state of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }
}

/// A listener's accept queue at the moment of a census.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ListenerQueue {
    /// Where it listens.
    pub endpoint: SocketAddr,
    /// Connections that wait to be accepted (Recv-Q).
    pub queued: u32,
    /// The backlog in force (Send-Q): min(asked, somaxconn).
    pub backlog: u32,
}

/// What one host's kernel has for one trial, at one end.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Census {
    /// Sockets in ESTABLISHED whose four-tuple belongs to the assignment.
    pub established: u64,
    /// The digest of exactly those.
    pub digest: Digest,
    /// Of those, at a server: how many came from an address that the schedule does not know.
    pub strangers: u64,
    /// All of the assignment's sockets by state, ESTABLISHED included.
    pub states: BTreeMap<TcpState, u64>,
    /// At a server: each listener's queue.
    pub listeners: Vec<ListenerQueue>,
    /// How long the kernel took to be asked, in microseconds.
    pub micros: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_state_names_read_back() {
        for state in TcpState::ALL {
            assert_eq!(TcpState::named(state.name()), Some(state));
            assert_eq!(TcpState::of(state as u8), Some(state));
            assert_eq!(serde_json::to_string(&state).expect("serialises"), format!("\"{}\"", state.name()));
        }
    }

    #[test]
    fn the_digest_of_a_flow_is_the_same_on_every_build() {
        let mut digest = Digest::default();
        let end = |text: &str| text.parse::<SocketAddr>().expect("an endpoint");
        digest.add(end("10.66.2.1:1024"), end("10.66.1.1:7000"));
        insta::assert_snapshot!(digest, @"d6c354f8404c9bc40b0d1d2fabdecaac");
    }

    proptest! {
        #[test]
        fn a_digest_forgets_order_and_hosts_but_not_flows(
            flows in proptest::collection::vec((any::<[u8; 4]>(), any::<u16>()), 1..40),
            cut in 0usize..40,
        ) {
            let server = SocketAddr::from(([10, 0, 0, 1], 7000));
            let of = |part: &[([u8; 4], u16)]| {
                let mut digest = Digest::default();
                part.iter().for_each(|f| digest.add(SocketAddr::from(*f), server));
                digest
            };
            let cut = cut.min(flows.len());
            let mut joined = of(flows.get(cut..).unwrap_or_default());
            joined.merge(of(flows.get(..cut).unwrap_or_default()));
            prop_assert_eq!(of(&flows), joined);
            prop_assert_ne!(of(&flows), of(flows.get(1..).unwrap_or_default()));
            prop_assert_eq!(Digest::try_from(joined.to_string()), Ok(joined));
        }
    }
}
