//! One stage of a ramp: so many connects at a rate, a pause, or all that is left.

use super::model::word_or;
use crate::units::{Count, Rate, Span};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One stage of a ramp. Stages follow one another on a timetable that is known beforehand (open loop):
/// each begins when the one before it was to be over, whether or not it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// So many connects, evenly spaced at this rate. Those of an unlimited rate are all due at the
    /// stage's beginning: a burst that takes no time on the timetable.
    Connects(u64, Rate),
    /// All that are left, at this rate.
    Rest(Rate),
    /// Nothing begins for so long.
    Pause(Span),
}

impl Stage {
    /// How many connects it begins; `None` is all that are left.
    pub fn connects(self) -> Option<u64> {
        match self {
            Self::Connects(count, _) => Some(count),
            Self::Rest(_) => None,
            Self::Pause(_) => Some(0),
        }
    }
}

impl std::str::FromStr for Stage {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "'{text}' is no stage{why}: write \"10k at 1k/s\", \"10k at unlimited\", \"pause 5s\" or \"rest at 5k/s\""
            )
        };
        let text = text.trim();
        if let Some(span) = text.strip_prefix("pause ") {
            return match span.parse::<Span>() {
                Ok(span) if !span.0.is_zero() => Ok(Self::Pause(span)),
                _ => Err(wrong(" with a pause of up to a day")),
            };
        }
        let (what, rate) = text.split_once(" at ").ok_or_else(|| wrong(""))?;
        let rate = rate.parse::<Rate>().map_err(|_| wrong(" with a rate"))?;
        match what.trim() {
            "rest" => Ok(Self::Rest(rate)),
            count => match count.parse::<Count>() {
                Ok(Count(count @ 1..)) => Ok(Self::Connects(count, rate)),
                _ => Err(wrong(" with a number of connects")),
            },
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connects(count, rate) => write!(f, "{} at {rate}", Count(*count)),
            Self::Rest(rate) => write!(f, "rest at {rate}"),
            Self::Pause(span) => write!(f, "pause {span}"),
        }
    }
}

word_or!(Stage, {
    "type": "string",
    "description": "A stage of the ramp: \"10k at 1k/s\", \"10k at unlimited\", \"pause 5s\", \"rest at 5k/s\"."
});

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_stage_reads_back_as_it_prints() {
        let pause = |millis| Stage::Pause(Span(Duration::from_millis(millis)));
        for (text, stage) in [
            ("10k at 1k/s", Stage::Connects(10_000, Rate::PerSecond(1_000))),
            ("7 at unlimited", Stage::Connects(7, Rate::Unlimited)),
            ("rest at 5k/s", Stage::Rest(Rate::PerSecond(5_000))),
            ("rest at unlimited", Stage::Rest(Rate::Unlimited)),
            ("pause 5s", pause(5_000)),
            ("pause 250ms", pause(250)),
        ] {
            assert_eq!(text.parse(), Ok(stage));
            assert_eq!(stage.to_string(), text);
            let json = serde_json::to_string(&stage).expect("serialises");
            assert_eq!(serde_json::from_str::<Stage>(&json).expect("reads back"), stage);
        }
    }

    #[test]
    fn what_is_no_stage_is_told_with_all_that_are() {
        for text in ["", "10k", "at 1k/s", "0 at 1k/s", "10k at 0/s", "pause", "pause 0s", "rest", "5s"] {
            let error = text.parse::<Stage>().expect_err(text);
            assert!(error.contains("\"10k at 1k/s\"") && error.contains("\"pause 5s\""), "{error}");
        }
    }
}
