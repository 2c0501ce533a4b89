//! C7: a connection can fail after a successful handshake, with a FIN.

use super::Explanation;
use crate::verdict::point::Points;

pub(super) const EXPLANATION: Explanation =
    Explanation { mechanism: "", experiment: "", changes: "", reading: &[] };

pub(super) fn judge(_points: &mut Points<'_>) -> String {
    String::new()
}
