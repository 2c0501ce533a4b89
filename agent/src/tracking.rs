//! Connection tracking, made active in the agent's network namespace for a trial, and taken away.
//!
//! Tracking works where something needs it, and a rule with a `ct` expression does: `nft_ct_get_init`
//! (`net/netfilter/nft_ct.c`) calls `nf_ct_netns_get`, which registers the hooks of
//! `nf_conntrack_proto.c` for this namespace. No packet has to meet the rule. So there is one, in a
//! chain without a hook, and the data path gets tracking and nothing else:
//!
//! ```text
//! agent                                        kernel
//!   | batch begin                                |
//!   | table inet tuplelab-PID, flags owner       |
//!   | chain need                                 |  nft_ct_get_init
//!   | rule  ct state -> register 1   (ack) ----> |    nf_ct_netns_get: hooks of IPv4 and IPv6
//!   | batch end                                  |
//!   | <------------------------------------- ack |
//!   |        ... the trial ...                   |
//!   | close -----------------------------------> |  nft_rcv_nl_event: the owner's tables go
//!   | delete all entries ----------------------> |  ctnetlink_flush_conntrack
//! ```
//!
//! The table is owned by the socket that made it (NFT_TABLE_F_OWNER, Linux 5.12): it goes with the
//! socket, and so with the agent, however that ends.
//!
//! Written by hand: `rustables`, the one crate that speaks nf_tables without C, is GPL-3.0-or-later,
//! `netlink-packet-netfilter` knows no nf_tables, `nftnl` links libnftnl, `nftables` runs `nft`. The
//! price is the numbers below, from `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

use crate::facts::active_conntrack;
use crate::netlink::{NetlinkError, change, push_attribute, request};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use nix::libc::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST};

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const NFNL_SUBSYS_NFTABLES: u16 = 10;

const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NFT_MSG_NEWCHAIN: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 3;
const NFT_MSG_NEWRULE: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 6;
/// Without a tuple in it: every entry of the namespace.
const IPCTNL_MSG_CT_DELETE: u16 = (NFNL_SUBSYS_CTNETLINK << 8) | 2;

const NFPROTO_UNSPEC: u8 = 0;
/// Both IPv4 and IPv6.
const NFPROTO_INET: u8 = 1;

const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFT_TABLE_F_OWNER: u32 = 2;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_CT_DREG: u16 = 1;
const NFTA_CT_KEY: u16 = 2;
const NFT_CT_STATE: u32 = 0;
const NFT_REG_1: u32 = 1;
/// An attribute that holds attributes.
const NLA_F_NESTED: u16 = 0x8000;

/// Tracking that could not be made active.
#[derive(Debug, thiserror::Error)]
#[error("failed to make connection tracking active in this network namespace: {source}; {}", remedy(source))]
pub struct TrackingError {
    #[from]
    source: NetlinkError,
}

fn remedy(error: &NetlinkError) -> &'static str {
    match error {
        NetlinkError::Refused(Errno::EPERM) => {
            "give the agent CAP_NET_ADMIN over its network namespace (a lab's agents have it), shared with no \
             other agent that has the same process number"
        }
        NetlinkError::Refused(Errno::ENOENT) => "the kernel needs CONFIG_NFT_CT (`modprobe nft_ct`)",
        _ => "the kernel needs CONFIG_NF_TABLES_INET, and to be Linux 5.12 or later",
    }
}

/// Makes connection tracking active in the calling thread's network namespace.
pub fn activate() -> Result<TrackingGuard, TrackingError> {
    // Where others track, the entries are not ours to delete.
    let was_active = active_conntrack().is_some();
    let table = change(NETLINK_NETFILTER, &rule_that_needs_tracking(&table_name())?)?;
    Ok(TrackingGuard { table: Some(table), was_active })
}

/// Tracking that was made active. Dropping it takes it away, and the entries that it left, which
/// would outlive it (an established connection's by five days) and take the next trial's room.
#[derive(Debug)]
#[must_use = "dropping it ends the tracking"]
pub struct TrackingGuard {
    table: Option<Socket>,
    was_active: bool,
}

impl Drop for TrackingGuard {
    fn drop(&mut self) {
        // The kernel is done with the table when this returns: close() runs the notifier.
        self.table = None;
        if !self.was_active
            && let Err(error) = delete_entries()
        {
            tracing::warn!(
                "entries of connection tracking stay until their time is over: {error}; to delete them the \
                 kernel needs CONFIG_NF_CT_NETLINK"
            );
        }
    }
}

fn delete_entries() -> Result<(), NetlinkError> {
    let delete = message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, NFPROTO_UNSPEC, 0, &[])?;
    change(NETLINK_NETFILTER, &[delete]).map(drop)
}

/// Names go without their final NUL, which nf_tables does not ask for.
fn table_name() -> Vec<u8> {
    padded(format!("tuplelab-{}", std::process::id()).into_bytes())
}

fn rule_that_needs_tracking(table: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let chain = b"need";
    let new = NLM_F_CREATE | NLM_F_EXCL;
    let inet = |kind, flags, attributes: &[u8]| message(kind, flags, NFPROTO_INET, 0, attributes);
    let batch = |kind| message(kind, 0, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES, &[]);

    let owned = [(NFTA_TABLE_NAME, table), (NFTA_TABLE_FLAGS, &NFT_TABLE_F_OWNER.to_be_bytes())];
    let state =
        [(NFTA_CT_DREG, &NFT_REG_1.to_be_bytes()[..]), (NFTA_CT_KEY, &NFT_CT_STATE.to_be_bytes()[..])];
    let expression =
        attributes(&[(NFTA_EXPR_NAME, b"ct\0\0"), (NFTA_EXPR_DATA | NLA_F_NESTED, &attributes(&state))]);
    let expressions = attributes(&[(NFTA_LIST_ELEM | NLA_F_NESTED, &expression)]);
    let rule = [
        (NFTA_RULE_TABLE, table),
        (NFTA_RULE_CHAIN, chain),
        (NFTA_RULE_EXPRESSIONS | NLA_F_NESTED, &expressions),
    ];
    Ok(vec![
        batch(NFNL_MSG_BATCH_BEGIN)?,
        inet(NFT_MSG_NEWTABLE, new, &attributes(&owned))?,
        inet(NFT_MSG_NEWCHAIN, new, &attributes(&[(NFTA_CHAIN_TABLE, table), (NFTA_CHAIN_NAME, chain)]))?,
        inet(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_ACK, &attributes(&rule))?,
        batch(NFNL_MSG_BATCH_END)?,
    ])
}

/// A message of nfnetlink: `struct nfgenmsg` (family, version 0, a number in network order), then
/// attributes.
fn message(
    kind: u16,
    flags: i32,
    family: u8,
    resource: u16,
    attributes: &[u8],
) -> Result<Vec<u8>, NetlinkError> {
    let [high, low] = resource.to_be_bytes();
    let body = [&[family, 0, high, low], attributes].concat();
    request(kind, (NLM_F_REQUEST | flags) as u16, &body)
}

fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    list.iter().for_each(|(kind, payload)| push_attribute(&mut bytes, *kind, payload));
    bytes
}

/// Zeros up to a multiple of four.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readings::readings;
    use crate::testing::{connect, in_own_namespace, listen};

    fn count() -> u64 {
        readings().get("conntrack.count").expect("the kernel shows its table")
    }

    /// A connection in a namespace of its own, closed at the end with both ends' sockets.
    fn with_a_connection<T>(from: &str, look: impl FnOnce() -> T) -> T {
        let listener = listen("127.66.60.1:0");
        let _client = connect(from, listener.local_addr().expect("bound"));
        look()
    }

    #[test]
    fn tracking_lasts_as_long_as_its_guard_and_leaves_no_entry() {
        let name = "tracking::tests::tracking_lasts_as_long_as_its_guard_and_leaves_no_entry";
        if !in_own_namespace(name, "true") {
            return;
        }
        if readings().get("conntrack.count").is_none() {
            return eprintln!("left out: {name} needs nf_conntrack in the kernel");
        }
        assert_eq!(with_a_connection("127.66.60.2:0", count), 0, "nothing is tracked before");
        for _ in 0..2 {
            let guard = match activate() {
                Ok(guard) => guard,
                Err(error) => return eprintln!("left out: {error}"),
            };
            assert_eq!(count(), 0, "an idle table begins empty");
            assert_eq!(with_a_connection("127.66.60.3:0", count), 1);
            let again = activate().expect_err("one table a process").to_string();
            assert!(again.contains("EPERM") && again.contains("no other agent"), "{again}");
            drop(guard);
            assert_eq!(count(), 0, "what was tracked is gone");
            assert_eq!(with_a_connection("127.66.60.4:0", count), 0, "and nothing is tracked after");
            assert_eq!(active_conntrack(), None);
        }
    }

    #[test]
    fn entries_of_somebody_elses_tracking_stay() {
        let name = "tracking::tests::entries_of_somebody_elses_tracking_stay";
        let rule = "nft 'add table inet t; add chain inet t c; add rule inet t c ct state new'";
        if !in_own_namespace(name, rule) {
            return;
        }
        with_a_connection("127.66.60.5:0", || {
            assert_eq!(count(), 1);
            drop(activate().expect("made active"));
            assert_eq!(count(), 1);
        });
    }

    #[test]
    fn a_refusal_says_what_was_to_be_done_why_not_and_what_helps() {
        for (errno, remedy) in [
            (Errno::EPERM, "CAP_NET_ADMIN"),
            (Errno::ENOENT, "CONFIG_NFT_CT"),
            (Errno::EOPNOTSUPP, "Linux 5.12"),
        ] {
            let error = TrackingError::from(NetlinkError::Refused(errno)).to_string();
            assert!(
                error.contains("connection tracking")
                    && error.contains(&errno.to_string())
                    && error.contains(remedy),
                "{error}"
            );
        }
    }
}
