//! The kernel's own counters at one moment.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Counters and gauges of one host, by the kernel's own names with their table in front:
/// `TcpExt.ListenOverflows` (/proc/net/netstat), `Tcp.EstabResets` (/proc/net/snmp),
/// `sockstat.TCP.inuse` (/proc/net/sockstat), `meminfo.Slab` (bytes, /proc/meminfo),
/// `conntrack.count`. A table that the host does not show is absent, never zero.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Readings(pub BTreeMap<String, u64>);

impl Readings {
    /// The value of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// How much each counter rose or fell since `before`; names that either lacks, and those that
    /// did not move, are left out.
    pub fn since(&self, before: &Self) -> BTreeMap<String, i64> {
        self.0
            .iter()
            .filter_map(|(name, after)| {
                let moved = i128::from(*after) - i128::from(before.get(name)?);
                (moved != 0).then(|| (name.clone(), moved.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_leaves_out_what_did_not_move_or_was_not_read() {
        let of = |pairs: &[(&str, u64)]| Readings(pairs.iter().map(|(k, v)| ((*k).into(), *v)).collect());
        let moved = of(&[("a", 5), ("b", 1), ("c", 7)]).since(&of(&[("a", 2), ("b", 3), ("c", 7)]));
        assert_eq!(moved, BTreeMap::from([("a".into(), 3), ("b".into(), -2)]));
        assert!(of(&[("new", 1)]).since(&of(&[])).is_empty());
    }
}
