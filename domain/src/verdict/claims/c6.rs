//! C6: requests wait in a backlog of 5 to 10.

use super::Explanation;
use crate::verdict::point::Points;

pub(super) const EXPLANATION: Explanation =
    Explanation { mechanism: "", experiment: "", changes: "", reading: &[] };

pub(super) fn judge(_points: &mut Points<'_>) -> String {
    String::new()
}
