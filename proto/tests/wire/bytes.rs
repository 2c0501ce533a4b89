//! Whatever bytes a peer sends, they have a meaning or are refused; nothing panics.

use crate::given;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use prost::Message;
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::sample::{Census, Plateau, Readings, Sample};
use tuplelab_domain::schedule::Assignment;
use tuplelab_proto::v1;

/// Takes the bytes for a message of each kind.
fn take(bytes: &[u8]) {
    fn as_one<M: Message + Default, D: TryFrom<M>>(bytes: &[u8]) {
        if let Ok(message) = M::decode(bytes) {
            let _ = D::try_from(message);
        }
    }
    as_one::<v1::HostFacts, HostFacts>(bytes);
    as_one::<v1::Assignment, Assignment>(bytes);
    as_one::<v1::Sample, Sample>(bytes);
    as_one::<v1::Plateau, Plateau>(bytes);
    as_one::<v1::Census, Census>(bytes);
    as_one::<v1::Readings, Readings>(bytes);
    let _ = (v1::FromAgent::decode(bytes), v1::ToAgent::decode(bytes));
}

/// Some bytes of a real message, replaced.
fn damaged(mut bytes: Vec<u8>, damage: &[(Index, u8)]) -> Vec<u8> {
    for (place, byte) in damage {
        let place = place.index(bytes.len().max(1));
        bytes.get_mut(place).into_iter().for_each(|old| *old = *byte);
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_make_nothing_panic(bytes in vec(any::<u8>(), 0..200)) {
        take(&bytes);
    }
}

proptest! {
    #[test]
    fn damaged_messages_make_nothing_panic(
        facts in given::facts(),
        assignment in given::assignment(),
        plateau in given::plateau(),
        census in given::census(),
        damage in vec(any::<(Index, u8)>(), 1..6),
    ) {
        take(&damaged(v1::HostFacts::from(&facts).encode_to_vec(), &damage));
        take(&damaged(v1::Assignment::from(&assignment).encode_to_vec(), &damage));
        take(&damaged(v1::Plateau::from(&plateau).encode_to_vec(), &damage));
        take(&damaged(v1::Census::from(&census).encode_to_vec(), &damage));
    }
}
