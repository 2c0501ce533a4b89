//! Values as they lie in a column, and back.

use super::error::Fault;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A value as JSON text.
pub(super) fn to_json(table: &'static str, value: &impl Serialize) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Decode { table, why: error.to_string() })
}

/// A value from JSON text.
pub(super) fn from_json<T: DeserializeOwned>(table: &'static str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::Decode { table, why: error.to_string() })
}

/// A value whose JSON form is a word (a phase, a role, a limit, a name), from that word.
pub(super) fn from_word<T: DeserializeOwned>(table: &'static str, word: String) -> Result<T, Fault> {
    let value = serde_json::Value::String(word);
    T::deserialize(&value).map_err(|error| Fault::Decode { table, why: format!("{error} ({value})") })
}

/// SQLite's integers are signed. A number past 2^63 keeps its bits and comes back as it was; a
/// kernel may show one, and a trial's evidence must not be lost over it.
pub(super) fn to_int(number: u64) -> i64 {
    number.cast_signed()
}

/// A number that `to_int` stored.
pub(super) fn from_int(stored: i64) -> u64 {
    stored.cast_unsigned()
}

/// An index, or another number that was a `u32` before it was stored.
pub(super) fn from_index(table: &'static str, stored: i64) -> Result<u32, Fault> {
    u32::try_from(stored).map_err(|_| Fault::Decode { table, why: format!("{stored} is no index") })
}
