//! Sets of TCP ports: the arithmetic on which every four-tuple count stands.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A set of ports as sorted ranges that neither touch nor overlap. Its text form is the kernel's
/// own (`ip_local_reserved_ports`): `7000`, `7000-7003`, `7000,7002-7010`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortSet {
    ranges: Vec<(u16, u16)>,
}

/// A text names no set of ports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPorts {
    /// A part is neither a port nor `low-high`.
    #[error("'{0}' is no port: write ports from 1 to 65535 as in \"7000\", \"7000-7003\" or \"7000,7010\"")]
    NotAPort(String),
    /// A range runs backwards.
    #[error("the range {0}-{1} runs backwards: write the smaller port first")]
    Backwards(u16, u16),
}

impl PortSet {
    /// The set with no port.
    pub fn empty() -> Self {
        Self::default()
    }

    /// All ports from `low` to `high`, both included; empty when `low > high`.
    pub fn range(low: u16, high: u16) -> Self {
        Self { ranges: if low <= high { vec![(low, high)] } else { Vec::new() } }
    }

    /// The set of these ports, in any order, repeated or not.
    pub fn of(ports: impl IntoIterator<Item = u16>) -> Self {
        Self::normal(ports.into_iter().map(|p| (p, p)).collect())
    }

    fn normal(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (low, high) in ranges {
            match joined.last_mut() {
                Some(last) if u32::from(low) <= u32::from(last.1) + 1 => last.1 = last.1.max(high),
                _ => joined.push((low, high)),
            }
        }
        Self { ranges: joined }
    }

    /// How many ports are in the set (0 to 65,536).
    pub fn len(&self) -> u32 {
        self.ranges.iter().map(|(low, high)| u32::from(*high) - u32::from(*low) + 1).sum()
    }

    /// Whether no port is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The smallest and the largest port.
    pub fn bounds(&self) -> Option<(u16, u16)> {
        Some((self.ranges.first()?.0, self.ranges.last()?.1))
    }

    /// Whether `port` is in the set.
    pub fn contains(&self, port: u16) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&port))
    }

    /// The ports in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.ranges.iter().flat_map(|(low, high)| *low..=*high)
    }

    /// The ports of this set that are not in `other`.
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = Vec::new();
        for &(low, high) in &self.ranges {
            let mut from = u32::from(low);
            for &(cut_low, cut_high) in &other.ranges {
                if cut_high < low || cut_low > high {
                    continue;
                }
                if from < u32::from(cut_low) {
                    left.push((from as u16, cut_low - 1));
                }
                from = u32::from(cut_high) + 1;
            }
            if from <= u32::from(high) {
                left.push((from as u16, high));
            }
        }
        Self { ranges: left }
    }

    /// The ports in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self::normal(self.ranges.iter().chain(&other.ranges).copied().collect())
    }

    /// The ports in both sets.
    pub fn intersect(&self, other: &Self) -> Self {
        self.minus(&self.minus(other))
    }

    /// `count` ports from position `skip` on, in ascending order; fewer where the set ends.
    pub fn slice(&self, skip: u32, count: u32) -> Self {
        let (mut skip, mut count) = (skip, count);
        let mut taken = Vec::new();
        for &(low, high) in &self.ranges {
            let length = u32::from(high) - u32::from(low) + 1;
            if skip >= length {
                skip -= length;
                continue;
            }
            if count == 0 {
                break;
            }
            let from = u32::from(low) + skip;
            let take = count.min(length - skip);
            taken.push((from as u16, (from + take - 1) as u16));
            count -= take;
            skip = 0;
        }
        Self { ranges: taken }
    }
}

impl fmt::Display for PortSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (low, high)) in self.ranges.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            if low == high { write!(f, "{comma}{low}")? } else { write!(f, "{comma}{low}-{high}")? }
        }
        Ok(())
    }
}

impl std::str::FromStr for PortSet {
    type Err = BadPorts;

    /// Reads the kernel's form; an empty text is the empty set. Port 0 is refused: it means
    /// "choose one" to `bind` and never names a port.
    fn from_str(text: &str) -> Result<Self, BadPorts> {
        let port = |part: &str| match part.trim().parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(BadPorts::NotAPort(part.trim().to_owned())),
        };
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (low, high) = match part.split_once('-') {
                Some((low, high)) => (port(low)?, port(high)?),
                None => (port(part)?, port(part)?),
            };
            if low > high {
                return Err(BadPorts::Backwards(low, high));
            }
            ranges.push((low, high));
        }
        Ok(Self::normal(ranges))
    }
}

impl TryFrom<String> for PortSet {
    type Error = BadPorts;
    fn try_from(text: String) -> Result<Self, BadPorts> {
        text.parse()
    }
}

impl From<PortSet> for String {
    fn from(set: PortSet) -> String {
        set.to_string()
    }
}

impl JsonSchema for PortSet {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PortSet".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Ports as the kernel writes them: \"7000\", \"7000-7003\", \"7000,7010-7019\".",
            "pattern": "^ *[0-9]+ *(- *[0-9]+ *)?(, *[0-9]+ *(- *[0-9]+ *)?)*$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_default_range_has_28_232_ports_and_the_unprivileged_one_64_512() {
        assert_eq!(PortSet::range(32768, 60999).len(), 28_232);
        assert_eq!(PortSet::range(1024, 65535).len(), 64_512);
        assert_eq!(PortSet::range(1, 65535).len(), 65_535);
    }

    #[test]
    fn a_text_that_names_no_ports_is_refused_with_the_part_that_is_wrong() {
        assert_eq!("7000,70000".parse::<PortSet>(), Err(BadPorts::NotAPort("70000".into())));
        assert_eq!("0".parse::<PortSet>(), Err(BadPorts::NotAPort("0".into())));
        assert_eq!("9-8".parse::<PortSet>(), Err(BadPorts::Backwards(9, 8)));
        assert_eq!("".parse::<PortSet>(), Ok(PortSet::empty()));
        assert_eq!("5-7, 8,3".parse::<PortSet>().map(|s| s.to_string()), Ok("3,5-8".into()));
    }

    fn any_set() -> impl Strategy<Value = PortSet> {
        proptest::collection::vec((any::<u16>(), 0u16..600), 0..6).prop_map(|parts| {
            PortSet::normal(parts.into_iter().map(|(low, n)| (low, low.saturating_add(n))).collect())
        })
    }

    proptest! {
        #[test]
        fn arithmetic_on_ranges_agrees_with_arithmetic_on_sets(a in any_set(), b in any_set()) {
            let (x, y): (BTreeSet<u16>, BTreeSet<u16>) = (a.iter().collect(), b.iter().collect());
            prop_assert_eq!(a.len() as usize, x.len());
            prop_assert_eq!(a.minus(&b), PortSet::of(x.difference(&y).copied()));
            prop_assert_eq!(a.union(&b), PortSet::of(x.union(&y).copied()));
            prop_assert_eq!(a.intersect(&b), PortSet::of(x.intersection(&y).copied()));
        }

        #[test]
        fn slices_in_a_row_cover_the_set_once(a in any_set(), size in 1u32..5000) {
            let mut seen = Vec::new();
            let mut at = 0;
            while at < a.len() {
                seen.extend(a.slice(at, size).iter());
                at += size;
            }
            prop_assert_eq!(seen, a.iter().collect::<Vec<_>>());
        }

        #[test]
        fn the_text_form_reads_back(a in any_set().prop_filter("port 0", |a| !a.contains(0))) {
            prop_assert_eq!(a.to_string().parse::<PortSet>(), Ok(a));
        }
    }
}
