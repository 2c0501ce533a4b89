//! How well the clients started together: their first connects, on one clock.

use super::End;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A host's clock (CLOCK_BOOTTIME), as its agent measured it against the controller's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HostClock {
    /// Which clock it is: the kernel's boot id. Hosts with the same one share it; `None` where the
    /// agent did not say.
    pub id: Option<String>,
    /// The controller's clock minus this one, in nanoseconds.
    pub offset_nanos: i64,
    /// The offset is known to within this, in nanoseconds; `None` where it was not measured.
    pub bound_nanos: Option<u64>,
}

/// How far apart the first connects of all clients were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartSkew {
    /// Over so many clients.
    pub clients: u64,
    /// The last first connect minus the first one, in microseconds, rounded.
    pub micros: u64,
    /// The true number lies within this of it, in microseconds, rounded up: 0 where all have one clock.
    pub bound_micros: u64,
}

/// The first connects that were begun by one clock, in nanoseconds.
#[derive(Default)]
struct OneClock {
    offset: i64,
    bound: Option<u64>,
    firsts: Vec<i128>,
}

impl StartSkew {
    /// Of these clients; `None` without any, where one did not say when it began, and where the clocks
    /// of hosts that have different ones were not measured.
    pub(super) fn of<'a>(clients: impl Iterator<Item = &'a End>) -> Option<Self> {
        // On one clock all have one offset, the best known one: what it is then cancels out.
        let mut clocks: BTreeMap<(Option<&str>, usize), OneClock> = BTreeMap::new();
        let mut count = 0;
        for (index, end) in clients.enumerate() {
            let HostClock { id, offset_nanos, bound_nanos } = end.clock.as_ref()?;
            let key = id.as_deref().map_or((None, index), |id| (Some(id), 0));
            let clock = clocks.entry(key).or_default();
            if clock.firsts.is_empty()
                || bound_nanos.is_some_and(|bound| clock.bound.is_none_or(|known| bound < known))
            {
                (clock.offset, clock.bound) = (*offset_nanos, *bound_nanos);
            }
            clock.firsts.push(i128::from(end.go_nanos?) + i128::from(end.first_micros?) * 1_000);
            count += 1;
        }
        // Two clocks may be off against each other by the sum of both bounds.
        let bound = if clocks.len() > 1 {
            let mut bounds = clocks.values().map(|clock| clock.bound).collect::<Option<Vec<u64>>>()?;
            bounds.sort_unstable_by(|a, b| b.cmp(a));
            bounds.iter().take(2).fold(0, |sum: u64, bound| sum.saturating_add(*bound))
        } else {
            0
        };
        let moments = clocks
            .values()
            .flat_map(|clock| clock.firsts.iter().map(|first| first + i128::from(clock.offset)));
        let (first, last) = moments.fold((i128::MAX, i128::MIN), |(min, max), at| (at.min(min), at.max(max)));
        let nanos = u64::try_from(last.checked_sub(first)?).ok()?;
        Some(Self {
            clients: count,
            micros: nanos.saturating_add(500) / 1_000,
            bound_micros: bound.div_ceil(1_000),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_lab::{agreeing_run, plan};
    use crate::schedule::Role;

    /// A client whose Go was then, on a clock of that name, offset and bound; its first connect came
    /// 1,000 us later.
    fn client(go: u64, id: Option<&str>, offset_nanos: i64, bound_nanos: Option<u64>) -> End {
        let trial = agreeing_run(&plan("[clients]\nsource_ports = \"20000\"")).remove(0);
        let end = trial.ends.into_iter().find(|end| end.role == Role::Client).expect("a client");
        let clock = Some(HostClock { id: id.map(str::to_owned), offset_nanos, bound_nanos });
        End { go_nanos: Some(go), clock, ..end }
    }

    fn skew(clients: &[End]) -> Option<(u64, u64)> {
        StartSkew::of(clients.iter()).map(|skew| (skew.micros, skew.bound_micros))
    }

    #[test]
    fn on_one_clock_the_skew_is_exact_whatever_was_measured_of_the_clock() {
        let shared = |go, offset, bound| client(go, Some("a"), offset, bound);
        assert_eq!(skew(&[shared(5_000, 300, Some(90)), shared(12_000, -200, None)]), Some((7, 0)));
        assert_eq!(skew(&[shared(5_000, 0, None)]), Some((0, 0)), "one client starts with itself");
    }

    #[test]
    fn on_different_clocks_it_is_known_to_the_sum_of_the_two_worst_bounds() {
        let far = client(1_000_000, Some("b"), -990_000, Some(2_500));
        let near = client(5_000, Some("a"), 1_000, Some(1_000));
        let silent = client(7_000, None, 0, Some(10));
        assert_eq!(skew(&[near.clone(), far.clone()]), Some((4, 4)), "6,000 and 10,000, to within 3,500");
        assert_eq!(skew(&[near, far, silent]), Some((4, 4)));
    }

    #[test]
    fn what_is_not_known_of_one_client_is_not_known_of_all() {
        let known = client(5_000, Some("a"), 0, Some(1));
        let other = client(5_000, Some("b"), 0, Some(1));
        assert_eq!(skew(&[known.clone(), other.clone()]), Some((0, 1)));
        for unknown in [
            client(5_000, Some("b"), 0, None),
            client(5_000, None, 0, None),
            End { go_nanos: None, ..other.clone() },
            End { first_micros: None, ..other.clone() },
            End { clock: None, ..other },
        ] {
            assert_eq!(skew(&[known.clone(), unknown]), None);
        }
        assert_eq!(skew(&[]), None);
    }
}
