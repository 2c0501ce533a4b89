//! Cutting counts into parts: flows over blocks, blocks over lanes, connections over listeners.

use super::assignment::{BlockPorts, ConnectLane, FlowBlock, ServeLane, Turn};

/// `total` cut in proportion to `weights`, to whole numbers that add up to it exactly and never
/// exceed a weight as long as `total` is at most their sum.
pub(super) fn proportional(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|w| u128::from(*w)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let mut seen: u128 = 0;
    let mut given: u128 = 0;
    weights
        .iter()
        .map(|weight| {
            seen += u128::from(*weight);
            let until = u128::from(total) * seen / sum;
            let part = until - given;
            given = until;
            part as u64
        })
        .collect()
}

/// A host's blocks cut into lanes of at most `capacity` flows, and into at least `least` lanes where
/// there are flows enough.
pub(super) fn connect_lanes(blocks: &[FlowBlock], capacity: u64, least: u64) -> Vec<ConnectLane> {
    let total: u64 = blocks.iter().map(|block| u64::from(block.ports.count())).sum();
    let count = total.div_ceil(capacity.max(1)).max(least.min(total)).max(1);
    let sizes = proportional(total, &vec![1; count as usize]);
    let mut rest = blocks.iter().cloned();
    let mut open: Option<FlowBlock> = None;
    sizes
        .into_iter()
        .map(|size| {
            let mut room = size;
            let mut lane = ConnectLane { blocks: Vec::new() };
            while room > 0 {
                let Some(block) = open.take().or_else(|| rest.next()) else { break };
                let (here, left) = split(block, room);
                room -= u64::from(here.ports.count());
                open = left;
                if here.ports.count() > 0 {
                    lane.blocks.push(here);
                }
            }
            lane
        })
        .collect()
}

/// The first `room` flows of a block, and the rest of it.
fn split(block: FlowBlock, room: u64) -> (FlowBlock, Option<FlowBlock>) {
    let count = block.ports.count();
    if u64::from(count) <= room {
        return (block, None);
    }
    let here = room as u32;
    let (first, second) = match &block.ports {
        BlockPorts::Kernel(_) => (BlockPorts::Kernel(here), BlockPorts::Kernel(count - here)),
        BlockPorts::Explicit(ports) => (
            BlockPorts::Explicit(ports.slice(0, here)),
            BlockPorts::Explicit(ports.slice(here, count - here)),
        ),
    };
    let spare = (u64::from(block.spare.len()) * room / u64::from(count)) as u32;
    let rest = block.spare.slice(spare, block.spare.len() - spare);
    let left = FlowBlock { first_flow: block.first_flow + room, ports: second, spare: rest, ..block.clone() };
    let spare = block.spare.slice(0, spare);
    (FlowBlock { ports: first, spare, ..block }, Some(left))
}

/// The listeners' expected connections, one after the other, cut into lanes of at most `capacity`.
/// A listener that lies across a cut is served by one lane after the other.
pub(super) fn serve_lanes(expected: &[u64], capacity: u64) -> Vec<ServeLane> {
    let total: u64 = expected.iter().sum();
    let count = total.div_ceil(capacity.max(1)).max(1);
    let sizes = proportional(total, &vec![1; count as usize]);
    let mut lanes: Vec<ServeLane> = sizes.iter().map(|_| ServeLane { turns: Vec::new() }).collect();
    let mut lane = 0;
    let mut room = sizes.first().copied().unwrap_or(0);
    for (listener, expected) in expected.iter().enumerate() {
        let mut left = *expected;
        loop {
            let here = left.min(room);
            if here > 0 || left == 0 {
                let turn = Turn { listener: listener as u32, quota: here as u32 };
                if let Some(lane) = lanes.get_mut(lane) {
                    lane.turns.push(turn);
                }
            }
            left -= here;
            room -= here;
            if left == 0 {
                break;
            }
            lane += 1;
            room = sizes.get(lane).copied().unwrap_or(left);
        }
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortSet;
    use proptest::prelude::*;

    fn block(first_flow: u64, ports: BlockPorts) -> FlowBlock {
        FlowBlock {
            first_flow,
            source: [10, 66, 2, 1].into(),
            destination: ([10, 66, 1, 1], 7000).into(),
            ports,
            spare: PortSet::empty(),
        }
    }

    #[test]
    fn a_listener_across_two_lanes_has_a_turn_in_each_and_an_idle_one_still_has_one() {
        let lanes = serve_lanes(&[3, 5, 0], 4);
        let turns: Vec<Vec<_>> =
            lanes.iter().map(|lane| lane.turns.iter().map(|t| (t.listener, t.quota)).collect()).collect();
        assert_eq!(turns, [vec![(0, 3), (1, 1)], vec![(1, 4), (2, 0)]]);
    }

    proptest! {
        #[test]
        fn parts_add_up_and_none_exceeds_its_weight(
            weights in proptest::collection::vec(0u64..100_000, 1..20), share in 0.0f64..=1.0,
        ) {
            let sum: u64 = weights.iter().sum();
            let total = (sum as f64 * share) as u64;
            let parts = proportional(total, &weights);
            if sum > 0 {
                prop_assert_eq!(parts.iter().sum::<u64>(), total);
            }
            for (part, weight) in parts.iter().zip(&weights) {
                prop_assert!(part <= weight, "{} of {}", part, weight);
            }
        }

        #[test]
        fn lanes_cover_every_flow_once_and_none_is_too_full(
            counts in proptest::collection::vec((1u32..30_000, any::<bool>()), 1..6),
            capacity in 100u64..20_000, least in 1u64..4,
        ) {
            let mut first = 0;
            let blocks: Vec<_> = counts.iter().map(|(count, kernel)| {
                let ports = if *kernel { BlockPorts::Kernel(*count) } else { BlockPorts::Explicit(PortSet::range(1024, 1023 + *count as u16)) };
                let block = block(first, ports);
                first += u64::from(*count);
                block
            }).collect();
            let lanes = connect_lanes(&blocks, capacity, least);
            prop_assert!(lanes.len() as u64 >= least.min(first));
            let mut next = 0;
            for lane in &lanes {
                prop_assert!(lane.blocks.iter().map(|b| u64::from(b.ports.count())).sum::<u64>() <= capacity);
                for block in &lane.blocks {
                    prop_assert_eq!(block.first_flow, next);
                    next += u64::from(block.ports.count());
                }
            }
            prop_assert_eq!(next, first);
        }

        #[test]
        fn acceptors_have_room_for_every_connection(
            expected in proptest::collection::vec(0u64..60_000, 1..8), capacity in 50u64..20_000,
        ) {
            let lanes = serve_lanes(&expected, capacity);
            let mut got = vec![0u64; expected.len()];
            for lane in &lanes {
                prop_assert!(lane.turns.iter().map(|t| u64::from(t.quota)).sum::<u64>() <= capacity);
                for turn in &lane.turns {
                    got[turn.listener as usize] += u64::from(turn.quota);
                }
            }
            prop_assert_eq!(&got, &expected);
            for listener in 0..expected.len() {
                prop_assert!(lanes.iter().any(|l| l.turns.iter().any(|t| t.listener as usize == listener)));
            }
        }
    }
}
