//! The fuzz targets of `fuzz/src/lib.rs`, on stable and within seconds: real inputs, damaged at random.
//! `fuzz/` lets a fuzzer look longer.

#[path = "wire/given.rs"]
#[expect(dead_code, reason = "the wire's own tests use the rest")]
mod given;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message as _;
use tuplelab_proto::v1;

/// One act of damage.
#[derive(Debug, Clone)]
enum Damage {
    Put(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, Index),
    Repeat(Index, Index),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    // Bytes that mean something to some of them, and all others.
    let byte = prop_oneof![proptest::sample::select(b"\n\"'[]{}=,.-#0123456789 \\_x".to_vec()), any::<u8>()];
    vec(
        prop_oneof![
            (any::<Index>(), byte.clone()).prop_map(|(at, byte)| Damage::Put(at, byte)),
            (any::<Index>(), vec(byte, 1..8)).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
            any::<(Index, Index)>().prop_map(|(from, to)| Damage::Cut(from, to)),
            any::<(Index, Index)>().prop_map(|(from, to)| Damage::Repeat(from, to)),
        ],
        0..5,
    )
}

fn damaged(mut bytes: Vec<u8>, damage: &[Damage]) -> Vec<u8> {
    for act in damage {
        let end = bytes.len() + 1;
        let part = |from: &Index, to: &Index| {
            let (from, to) = (from.index(end), to.index(end));
            from.min(to)..from.max(to).min(from.min(to) + 64)
        };
        match act {
            Damage::Put(at, byte) => {
                let at = at.index(end);
                bytes.get_mut(at).into_iter().for_each(|old| *old = *byte);
            }
            Damage::Insert(at, new) => drop(bytes.splice(at.index(end)..at.index(end), new.iter().copied())),
            Damage::Cut(from, to) => drop(bytes.drain(part(from, to))),
            Damage::Repeat(from, to) => {
                let again = bytes.get(part(from, to)).unwrap_or_default().to_vec();
                let at = to.index(end);
                bytes.splice(at..at, again);
            }
        }
    }
    bytes
}

/// Every plan that is shipped.
fn plans() -> Vec<Vec<u8>> {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../plans"))];
    let mut plans = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("can be listed") {
            let path = entry.expect("can be listed").path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|end| end == "toml") => {
                    plans.push(std::fs::read(path).expect("can be read"));
                }
                false => {}
            }
        }
    }
    assert!(plans.len() > 5, "the shipped plans are not there");
    plans
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn plans_are_read_or_refused(plan in proptest::sample::select(plans()), damage in damage()) {
        targets::plan(&damaged(plan, &damage));
    }

    #[test]
    fn messages_have_a_meaning_or_are_refused(
        facts in given::facts(),
        assignment in given::assignment(),
        plateau in given::plateau(),
        census in given::census(),
        damage in damage(),
    ) {
        for bytes in [
            v1::HostFacts::from(&facts).encode_to_vec(),
            v1::Assignment::from(&assignment).encode_to_vec(),
            v1::Plateau::from(&plateau).encode_to_vec(),
            v1::Census::from(&census).encode_to_vec(),
        ] {
            targets::wire(&damaged(bytes, &damage));
        }
    }

    #[test]
    fn digests_do_not_depend_on_an_order(bytes in vec(any::<u8>(), 0..400), text in "[0-9a-fA-F+_-]{0,34}") {
        targets::digest(&bytes);
        targets::digest(text.as_bytes());
    }

    #[test]
    fn histograms_add_up(
        one in vec((1u64..1 << 40, prop_oneof![1u64..9, any::<u64>()]), 0..20),
        other in vec((1u64..1 << 40, 1u64..9), 0..20),
        damage in damage(),
    ) {
        let list = |mut steps: Vec<(u64, u64)>| {
            steps.sort_unstable();
            let numbers: Vec<String> = steps.iter().map(|(time, count)| format!("{time},{count}")).collect();
            format!("[{}]", numbers.join(","))
        };
        let text = format!("{}\n{}", list(one), list(other));
        targets::histogram(text.as_bytes());
        targets::histogram(&damaged(text.into_bytes(), &damage));
    }
}
