//! Connection tracking, where it is active, and the table that it would have elsewhere.

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use tuplelab_domain::capacity::facts::Conntrack;

const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Connection tracking of the calling thread's namespace; `None` where nothing is tracked.
///
/// Where the module is loaded every namespace has the files, but only rules that need it make a
/// namespace track (`nf_ct_netns_get` in `net/netfilter/nf_conntrack_proto.c`). So it is active
/// where it has entries; and where it has none, one connection over loopback tells: if that leaves
/// no entry either, nothing is tracked. Rules that exempt loopback (`notrack`) hide it from this
/// probe as long as the host has no other connection.
pub fn active() -> Option<Conntrack> {
    let max = number(MAX)?;
    let count = number(COUNT)?;
    if count > 0 {
        return Some(Conntrack { count, max });
    }
    let count = probe()?;
    (count > 0).then_some(Conntrack { count, max })
}

/// The table as it will stand once tracking is made active here; `None` where this kernel shows none.
///
/// Connections that are there before it are taken up in the middle, with their next segment
/// (`nf_conntrack_tcp_loose`, on by default), and the agent's own to its controller always speaks: so
/// `connections` of this namespace count as entries already.
pub fn available(connections: u64) -> Option<Conntrack> {
    Some(Conntrack { count: number(COUNT)?.saturating_add(connections), max: number(MAX)? })
}

/// The number of entries while a connection over loopback is open; `None` where none could be opened.
fn probe() -> Option<u64> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).ok()?;
    let server: SocketAddr = listener.local_addr().ok()?;
    // In the kernel the handshake is over when `connect` returns; the time is for a host that drops it.
    let client = TcpStream::connect_timeout(&server, Duration::from_secs(1)).ok()?;
    // Closed with RST: a TIME_WAIT of ours would hold a port, and be counted among this host's facts.
    setsockopt(&client, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).ok()?;
    number(COUNT)
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::in_own_namespace;

    #[test]
    fn a_namespace_without_rules_tracks_nothing() {
        let name = "facts::conntrack::tests::a_namespace_without_rules_tracks_nothing";
        if in_own_namespace(name, "true") {
            assert_eq!(active(), None);
            if let Some(available) = available(3) {
                assert_eq!(available.count, 3);
                assert!(available.max > 0);
            }
        }
    }

    #[test]
    fn a_namespace_with_a_rule_that_needs_it_tracks() {
        let name = "facts::conntrack::tests::a_namespace_with_a_rule_that_needs_it_tracks";
        let rule = "nft 'add table inet t; add chain inet t c { type filter hook input priority 0; }; \
                    add rule inet t c ct state established accept'";
        let rule = format!("{{ {rule} || iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT; }}");
        if in_own_namespace(name, &rule) {
            assert!(active().is_some_and(|conntrack| conntrack.count > 0 && conntrack.max > 0));
        }
    }
}
