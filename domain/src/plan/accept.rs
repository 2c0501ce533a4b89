//! What a server does with finished handshakes.

use super::model::word_or;
use crate::units::{Count, Rate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a server treats connections that its kernel has finished the handshake of. They wait in the
/// listener's accept queue, at most min(backlog, somaxconn) + 1 of them (`sk_acceptq_is_full`,
/// include/net/sock.h), until the application calls `accept`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// Accepts each as it comes, and keeps it.
    #[default]
    All,
    /// Accepts none: they stay in the queue.
    Never,
    /// Accepts so many a second on each host, evenly spaced, and keeps them.
    PerSecond(u64),
    /// Accepts each as it comes, and closes it at once.
    Close,
    /// Accepts so many on each host and no more: the rest stays in the queue.
    Until(u64),
}

impl Accept {
    /// Whether every client's connection is accepted, and kept, in the end: only then can each be
    /// answered.
    pub fn takes_all(self) -> bool {
        matches!(self, Self::All | Self::PerSecond(_))
    }

    /// How many connections one host takes out of its queues; `None` where it is all of them.
    pub fn most(self) -> Option<u64> {
        match self {
            Self::Never => Some(0),
            Self::Until(count) => Some(count),
            Self::All | Self::PerSecond(_) | Self::Close => None,
        }
    }

    /// Whether a connection costs the server a descriptor: one in the queue, or closed, has none.
    pub fn keeps(self) -> bool {
        !matches!(self, Self::Never | Self::Close)
    }
}

impl std::str::FromStr for Accept {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let count = |text: &str| text.parse::<Count>().ok().filter(|count| count.0 > 0);
        let found = match (text, text.strip_prefix("until ").map(count)) {
            ("all", _) => Some(Self::All),
            ("never", _) => Some(Self::Never),
            ("close", _) => Some(Self::Close),
            (_, Some(until)) => until.map(|count| Self::Until(count.0)),
            (rate, None) => match rate.parse() {
                Ok(Rate::PerSecond(rate)) => Some(Self::PerSecond(rate)),
                _ => None,
            },
        };
        found.ok_or_else(|| {
            format!(
                "'{text}' is no way to accept: write \"all\", \"never\", \"close\", a rate as in \"200/s\", or \"until 500\""
            )
        })
    }
}

impl fmt::Display for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Never => f.write_str("never"),
            Self::PerSecond(rate) => write!(f, "{}", Rate::PerSecond(*rate)),
            Self::Close => f.write_str("close"),
            Self::Until(count) => write!(f, "until {}", Count(*count)),
        }
    }
}

word_or!(Accept, {
    "type": "string",
    "description": "What is done with finished handshakes: \"all\", \"never\", \"close\", \"200/s\", \"until 500\".",
    "pattern": "^(all|never|close|(until )?[0-9][0-9_,]*(\\.[0-9]+)?[kKmM]?(/s)?)$"
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_accept_reads_back_as_it_prints() {
        for (text, accept) in [
            ("all", Accept::All),
            ("never", Accept::Never),
            ("close", Accept::Close),
            ("200/s", Accept::PerSecond(200)),
            ("1500/s", Accept::PerSecond(1_500)),
            ("until 500", Accept::Until(500)),
            ("until 10k", Accept::Until(10_000)),
        ] {
            assert_eq!(text.parse(), Ok(accept));
            assert_eq!(accept.to_string(), text);
            let json = serde_json::to_string(&accept).expect("serialises");
            assert_eq!(serde_json::from_str::<Accept>(&json).expect("reads back"), accept);
        }
    }

    #[test]
    fn what_is_no_way_to_accept_is_told_with_all_that_are() {
        for text in ["", "some", "0/s", "unlimited", "until", "until 0", "until now", "500", "until 5/s"] {
            let error = text.parse::<Accept>().expect_err(text);
            assert!(error.contains("\"never\"") && error.contains("\"until 500\""), "{error}");
        }
    }

    #[test]
    fn only_what_is_accepted_and_kept_costs_a_descriptor_and_can_be_answered() {
        let all = [Accept::All, Accept::PerSecond(9), Accept::Until(9), Accept::Close, Accept::Never];
        assert_eq!(all.map(Accept::takes_all), [true, true, false, false, false]);
        assert_eq!(all.map(Accept::keeps), [true, true, true, false, false]);
        assert_eq!(all.map(Accept::most), [None, None, Some(9), None, Some(0)]);
    }
}
