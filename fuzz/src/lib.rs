//! What is fuzzed, each a function of bytes that panics where something does not hold. libFuzzer calls
//! them (`fuzz_targets/`), and so does a test on stable (`proto/tests/fuzz.rs`), which includes this file.

use prost::Message;
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::plan::{PlanFile, PlanProblem, check};
use tuplelab_domain::sample::{Census, ConnectTimes, Digest, Histogram, Plateau, Readings, Sample};
use tuplelab_domain::schedule::Assignment;
use tuplelab_proto::v1;

/// A plan's text: it is a plan or has problems, and each problem can be shown beside the text. A plan is
/// the same one when it is read again.
pub fn plan(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match PlanFile::parse(&text).and_then(check) {
        Ok(plan) => {
            let again = PlanFile::parse(&plan.source).and_then(check);
            assert!(again.is_ok_and(|again| again == plan), "it reads otherwise the second time");
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            let shown = PlanProblem::render(&problems, "plan", &text, false);
            assert!(!shown.trim().is_empty(), "a problem that cannot be shown");
        }
    }
}

/// A message of each kind: it has a meaning or is refused, and what has one keeps it over the wire.
pub fn wire(bytes: &[u8]) {
    fn means<M, D>(bytes: &[u8])
    where
        M: Message + Default + for<'a> From<&'a D>,
        D: TryFrom<M> + PartialEq,
    {
        let Ok(message) = M::decode(bytes) else { return };
        let Ok(meant) = D::try_from(message) else { return };
        let again = M::decode(M::from(&meant).encode_to_vec().as_slice()).map(D::try_from);
        assert!(matches!(again, Ok(Ok(again)) if again == meant), "it means something else the second time");
    }
    means::<v1::HostFacts, HostFacts>(bytes);
    means::<v1::Assignment, Assignment>(bytes);
    means::<v1::Sample, Sample>(bytes);
    means::<v1::Plateau, Plateau>(bytes);
    means::<v1::Census, Census>(bytes);
    means::<v1::Readings, Readings>(bytes);
    let _ = (v1::FromAgent::decode(bytes), v1::ToAgent::decode(bytes), v1::SubmitRequest::decode(bytes));
}

/// Flows of 12 bytes each: a digest does not depend on their order, nor on who added which of them, and
/// reads back from its text; other text is refused.
pub fn digest(bytes: &[u8]) {
    let flows: Vec<_> = bytes
        .as_chunks::<12>()
        .0
        .iter()
        .map(|[a, b, c, d, e, f, g, h, i, j, k, l]| {
            let client = ([*a, *b, *c, *d], u16::from_be_bytes([*e, *f])).into();
            (client, ([*g, *h, *i, *j], u16::from_be_bytes([*k, *l])).into())
        })
        .collect();
    let mut all = Digest::default();
    flows.iter().for_each(|(client, server)| all.add(*client, *server));
    let mut halves = [Digest::default(); 2];
    flows.iter().rev().zip([0, 1].into_iter().cycle()).for_each(|((client, server), half)| {
        if let Some(half) = halves.get_mut::<usize>(half) {
            half.add(*client, *server);
        }
    });
    let [mut one, other] = halves;
    one.merge(other);
    assert!(one == all, "the order of flows changes their digest");
    assert!(Digest::try_from(all.to_string()) == Ok(all), "a digest does not read back");
    if let Ok(read) = Digest::try_from(String::from_utf8_lossy(bytes).into_owned()) {
        assert!(Digest::try_from(read.to_string()) == Ok(read));
    }
}

/// Two histograms as JSON lists, with a line between them: what is read adds up, in either order.
pub fn histogram(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (one, other) = text.split_once('\n').unwrap_or((&text, ""));
    let read = |text: &str| serde_json::from_str::<Histogram>(text).ok();
    let _ = serde_json::from_str::<ConnectTimes>(one);
    let Some(one) = read(one) else { return };
    let other = read(other).unwrap_or_default();
    let (mut sum, mut reversed) = (one.clone(), other.clone());
    sum.merge(&other);
    reversed.merge(&one);
    assert!(sum == reversed, "a + b is not b + a");
    assert!(sum.count() == one.count().saturating_add(other.count()));
    assert!(sum.max() == one.max().max(other.max()));
    let quantiles: Vec<_> = [0.0, 0.5, 0.99, 1.0].iter().filter_map(|share| sum.quantile(*share)).collect();
    assert!(quantiles.is_sorted() && quantiles.last().copied() == sum.max());
    let json = serde_json::to_string(&sum).unwrap_or_default();
    // A sum of counts that is too large to be counted is no histogram.
    if sum.count() < u64::MAX {
        assert!(read(&json).is_some_and(|again| again == sum), "a histogram does not read back");
    }
}
