//! Numbers with units, as people write them in a plan: `250k`, `20k/s`, `5s`, `100ppm`.
//!
//! Every type here reads a TOML number or string, prints in the same form, and refuses what does
//! not fit with a sentence that gives an example.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::str::FromStr;

/// The largest count that a plan may ask for: 10^10, far past any fleet, far below overflow.
const LARGEST_COUNT: u64 = 10_000_000_000;

/// Reads `12`, `12k`, `1.5m`, `2_000`, `64,512`; `None` where the text is no such number.
fn parse_count(text: &str) -> Option<u64> {
    let text = text.trim().replace(['_', ','], "").to_ascii_lowercase();
    let (digits, factor) = match text.strip_suffix('k') {
        Some(digits) => (digits, 1_000),
        None => match text.strip_suffix('m') {
            Some(digits) => (digits, 1_000_000),
            None => (text.as_str(), 1),
        },
    };
    // `u64::from_str` takes a sign, people who write counts do not.
    if !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || part.len() > 6 || (digits.contains('.') && (part.is_empty() || factor == 1)) {
        return None;
    }
    let scale = 10u64.pow(u32::try_from(part.len()).ok()?);
    let part = if part.is_empty() { 0 } else { part.parse::<u64>().ok()? };
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    let part = part.checked_mul(factor)?;
    if part % scale != 0 {
        return None;
    }
    whole.checked_add(part / scale).filter(|count| *count <= LARGEST_COUNT)
}

fn print_count(count: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match count {
        n if n >= 1_000_000 && n % 1_000_000 == 0 => write!(f, "{}m", n / 1_000_000),
        n if n >= 1_000 && n % 1_000 == 0 => write!(f, "{}k", n / 1_000),
        n => write!(f, "{n}"),
    }
}

/// What a TOML value may be where one of these types is expected.
#[derive(Deserialize)]
#[serde(untagged)]
enum NumberOrText {
    Number(i64),
    Text(String),
    Other(serde::de::IgnoredAny),
}

fn text_of<'de, D: Deserializer<'de>>(deserializer: D, example: &str) -> Result<String, D::Error> {
    match NumberOrText::deserialize(deserializer)? {
        NumberOrText::Number(number) => Ok(number.to_string()),
        NumberOrText::Text(text) => Ok(text),
        NumberOrText::Other(_) => Err(serde::de::Error::custom(format!("expected {example}"))),
    }
}

macro_rules! textual {
    ($name:ident, $example:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_of(deserializer, $example)?.parse().map_err(serde::de::Error::custom)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// A number of things: `28`, `"250k"`, `"1m"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

impl FromStr for Count {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        parse_count(text).map(Self).ok_or_else(|| {
            format!(
                "'{text}' is no count: write a whole number up to 10000m, as in 64512, \"250k\" or \"1m\""
            )
        })
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        print_count(self.0, f)
    }
}

textual!(Count, "a count such as 64512, \"250k\" or \"1m\"", {
    "type": ["integer", "string"], "description": "A count: 64512, \"250k\", \"1m\".",
    "minimum": 0, "pattern": "^[0-9][0-9_,]*(\\.[0-9]+)?[kKmM]?$"
});

/// Events per second, `"20k/s"`, or as fast as it goes, `"unlimited"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rate {
    /// As fast as it goes.
    Unlimited,
    /// At most, and aimed at, this many per second.
    PerSecond(u64),
}

impl FromStr for Rate {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim() == "unlimited" {
            return Ok(Self::Unlimited);
        }
        let count = text.trim().strip_suffix("/s").and_then(parse_count).filter(|count| *count > 0);
        count.map(Self::PerSecond).ok_or_else(|| {
            format!("'{text}' is no rate: write \"unlimited\" or connects per second, as in \"20k/s\"")
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("unlimited"),
            Self::PerSecond(count) => {
                print_count(*count, f)?;
                f.write_str("/s")
            }
        }
    }
}

textual!(Rate, "\"unlimited\" or a rate such as \"20k/s\"", {
    "type": "string", "description": "\"unlimited\", or connects per second: \"20k/s\".",
    "pattern": "^(unlimited|[0-9][0-9_,]*(\\.[0-9]+)?[kKmM]?/s)$"
});

/// A span of time, `"5s"`, `"1m 30s"`, `"250ms"`: at most a day, in whole microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub std::time::Duration);

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "'{text}' is no duration of whole microseconds up to a day: write a number and a unit, as in \"5s\", \"250ms\" or \"1m 30s\""
            )
        };
        let whole = |span: &std::time::Duration| span.subsec_nanos().is_multiple_of(1_000);
        let span: jiff::SignedDuration = text.trim().parse().map_err(|_| wrong())?;
        let span = std::time::Duration::try_from(span).map_err(|_| wrong())?;
        if span > std::time::Duration::from_secs(86_400) || !whole(&span) {
            Err(wrong())
        } else {
            Ok(Self(span))
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::SignedDuration::try_from(self.0) {
            Ok(span) => write!(f, "{span:#}"),
            Err(_) => write!(f, "{}s", self.0.as_secs()),
        }
    }
}

textual!(Span, "a duration such as \"5s\" or \"1m 30s\"", {
    "type": "string", "description": "A duration: \"5s\", \"250ms\", \"1m 30s\"."
});

/// Parts in a million, `"100ppm"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ppm(pub u32);

impl FromStr for Ppm {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix("ppm").and_then(|n| n.trim().parse::<u32>().ok());
        number.filter(|ppm| *ppm <= 1_000_000).map(Self).ok_or_else(|| {
            format!("'{text}' is no share: write parts in a million, as in \"0ppm\" or \"100ppm\"")
        })
    }
}

impl fmt::Display for Ppm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ppm", self.0)
    }
}

textual!(Ppm, "a share such as \"0ppm\"", {
    "type": "string", "description": "Parts in a million: \"100ppm\".", "pattern": "^[0-9]+ ?ppm$"
});

/// Prints a number with a comma between thousands, as tables do: `258,048`.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Prints bytes with a binary unit: `7.9 KiB`.
pub fn bytes(number: f64) -> String {
    let mut value = number;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value.abs() < 1024.0 {
            return if unit == "B" { format!("{value:.0} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counts_are_read_as_people_write_them() {
        let read = |text: &str| text.parse::<Count>().map(|c| c.0).ok();
        assert_eq!(read("64,512"), Some(64_512));
        assert_eq!(read("250k"), Some(250_000));
        assert_eq!(read("1.5m"), Some(1_500_000));
        assert_eq!(read("10000m"), Some(10_000_000_000));
        for bad in [
            "",
            "k",
            "-1",
            "1.5",
            "1.",
            "1000000000000",
            "9999999999999999999999m",
            "1e6",
            "0x10",
            "1.23456789k",
            "+5",
            "1.+5k",
            "1.2.3k",
        ] {
            assert_eq!(read(bad), None, "{bad:?} was taken");
        }
    }

    #[test]
    fn a_rate_of_nothing_or_without_its_unit_is_refused() {
        assert_eq!("20k/s".parse(), Ok(Rate::PerSecond(20_000)));
        assert!("0/s".parse::<Rate>().is_err());
        assert!("20k".parse::<Rate>().is_err());
    }

    #[test]
    fn a_duration_is_refused_when_negative_longer_than_a_day_finer_than_a_microsecond_or_without_unit() {
        assert_eq!("1m 30s".parse::<Span>().map(|s| s.0.as_secs()), Ok(90));
        for bad in ["-5s", "2d", "25h", "5", "", "99999999999999999999s", "5ns"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(258_048), "258,048");
        assert_eq!(bytes(8088.0), "7.9 KiB");
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(count in 0..=LARGEST_COUNT, millis in 0u64..86_400_000, ppm in 0u32..=1_000_000) {
            prop_assert_eq!(Count(count).to_string().parse(), Ok(Count(count)));
            let span = Span(std::time::Duration::from_millis(millis));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
            prop_assert_eq!(Ppm(ppm).to_string().parse(), Ok(Ppm(ppm)));
            if count > 0 {
                let rate = Rate::PerSecond(count);
                prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            }
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = (text.parse::<Count>(), text.parse::<Rate>(), text.parse::<Span>(), text.parse::<Ppm>());
        }
    }
}
