//! What is said on held connections.

use super::model::word_or;
use crate::units::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// So much is sent back by a server in one piece, and fits every socket's buffer.
const MOST_BYTES: u32 = 4_096;

/// Each held connection sends so many bytes once in each span of time; the server sends them back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Bytes of one round, each way.
    pub bytes: u32,
    /// From one round of a connection to its next.
    pub every: Span,
}

impl std::str::FromStr for Activity {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.trim().split_once("B every ").and_then(|(bytes, every)| {
            let bytes = bytes.trim().parse().ok().filter(|bytes| (1..=MOST_BYTES).contains(bytes))?;
            let every = every.parse::<Span>().ok().filter(|every| !every.0.is_zero())?;
            Some(Self { bytes, every })
        });
        found.ok_or_else(|| {
            format!(
                "'{text}' is no activity: write 1 to {MOST_BYTES} bytes and how often, as in \"64B every 10s\""
            )
        })
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}B every {}", self.bytes, self.every)
    }
}

word_or!(Activity, {
    "type": "string", "description": "What each held connection sends, and gets back: \"64B every 10s\"."
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_activity_reads_back_as_it_prints_and_nothing_else_is_one() {
        for text in ["64B every 10s", "1B every 250ms", "4096B every 1m"] {
            assert_eq!(text.parse::<Activity>().map(|activity| activity.to_string()), Ok(text.into()));
        }
        for text in ["", "64 every 10s", "0B every 1s", "4097B every 1s", "64B every 0s", "64B"] {
            assert!(
                text.parse::<Activity>().is_err_and(|error| error.contains("\"64B every 10s\"")),
                "{text}"
            );
        }
    }
}
