//! What the kernel said to a step of a script.

use super::error::WireError;
use crate::v1;
use std::collections::BTreeMap;
use tuplelab_domain::script::Answer;

/// Details of one answer, and bytes of one text in it: a step lists two thousand ports at the most.
const MOST_DETAILS: usize = 1_000;
const MOST_BYTES: usize = 64 << 10;

impl From<&Answer> for v1::Answer {
    fn from(answer: &Answer) -> Self {
        Self {
            outcome: answer.outcome.clone(),
            value: answer.value,
            details: answer.details.clone().into_iter().collect(),
        }
    }
}

impl TryFrom<v1::Answer> for Answer {
    type Error = WireError;

    /// Texts are shown in other people's terminals: one with control characters is refused.
    fn try_from(message: v1::Answer) -> Result<Self, WireError> {
        let count = message.details.len();
        if count > MOST_DETAILS {
            return Err(WireError::TooMany { field: "details".into(), count, most: MOST_DETAILS });
        }
        let texts = message.details.iter().flat_map(|(name, value)| [name, value]).chain([&message.outcome]);
        for text in texts {
            if text.len() > MOST_BYTES || text.contains(char::is_control) {
                let shown: String = text.chars().take(20).collect();
                return Err(WireError::wrong("answer", format!("{shown:?}"), "no line of at most 64 KiB"));
            }
        }
        let details: BTreeMap<String, String> = message.details.into_iter().collect();
        Ok(Self { outcome: message.outcome, value: message.value, details })
    }
}
