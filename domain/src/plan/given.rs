//! A value as it was given in the file: absent, good, or bad, and where it stands. Reading never
//! stops at a bad value, so that one look at a plan finds all its problems.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use std::ops::Range;
use toml::Spanned;

/// A value that the file may hold, with its place (bytes in the source).
#[derive(Debug, Clone, Default)]
pub(super) enum Given<T> {
    /// Not in the file: the default applies.
    #[default]
    Absent,
    /// In the file, and of the right form.
    Good(T, Range<usize>),
    /// In the file, and not of the right form.
    Bad(String, Range<usize>),
}

impl<T> Given<T> {
    /// Where it stands, if it is in the file.
    pub(super) fn place(&self) -> Option<Range<usize>> {
        match self {
            Self::Absent => None,
            Self::Good(_, place) | Self::Bad(_, place) => Some(place.clone()),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<toml::Value>::deserialize(deserializer)?;
        let place = spanned.span();
        if let toml::Value::Datetime(date) = spanned.get_ref() {
            // It would pass for a text.
            return Ok(Self::Bad(format!("{date} is a date: write a text in quotes"), place));
        }
        Ok(match T::deserialize(spanned.into_inner()) {
            Ok(value) => Self::Good(value, place),
            Err(error) => Self::Bad(error.message().trim_end().to_owned(), place),
        })
    }
}

impl<T: JsonSchema> JsonSchema for Given<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
