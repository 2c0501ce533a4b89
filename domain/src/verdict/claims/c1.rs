//! C1: a connection is its 5-tuple.

use super::Explanation;
use crate::verdict::point::Points;

pub(super) const EXPLANATION: Explanation =
    Explanation { mechanism: "", experiment: "", changes: "", reading: &[] };

pub(super) fn judge(_points: &mut Points<'_>) -> String {
    String::new()
}
