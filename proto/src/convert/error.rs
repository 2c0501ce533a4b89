//! What is wrong with a message that came in.

use std::fmt;
use std::str::FromStr;

/// A message has no meaning: which field, what it holds, and what that is not.
///
/// Fields are named by their path in the message: `connect.lanes[2].blocks[0].source`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A part is absent that has to be there.
    #[error("the field '{field}' is missing")]
    Missing {
        /// Its path.
        field: String,
    },
    /// A value is there and has no meaning.
    #[error("the field '{field}' holds '{value}', which is {wrong}")]
    Wrong {
        /// Its path.
        field: String,
        /// The value, fit to be printed: escaped and cut to 80 characters.
        value: String,
        /// What it is not: "no address".
        wrong: &'static str,
    },
    /// A list is longer than anybody could mean.
    #[error("the field '{field}' holds {count} flow blocks, and {most} are the most")]
    TooMany {
        /// Its path.
        field: String,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
}

/// The characters of a wrong value that are kept: enough to know it by.
const SHOWN: usize = 80;

impl WireError {
    pub(super) fn wrong(field: impl Into<String>, value: impl fmt::Display, wrong: &'static str) -> Self {
        let value = value.to_string();
        let mut shown: String = value.chars().take(SHOWN).flat_map(char::escape_debug).collect();
        if value.chars().nth(SHOWN).is_some() {
            shown.push('…');
        }
        Self::Wrong { field: field.into(), value: shown, wrong }
    }

    /// The same error, seen from the message that has this one in its field `outer`.
    #[must_use]
    pub fn within(mut self, outer: &str) -> Self {
        let (Self::Missing { field } | Self::Wrong { field, .. } | Self::TooMany { field, .. }) = &mut self;
        *field = format!("{outer}.{field}");
        self
    }
}

/// The part of a message that has to be there.
///
/// # Errors
/// [`WireError::Missing`] where it is not.
pub fn required<T>(field: &str, part: Option<T>) -> Result<T, WireError> {
    part.ok_or_else(|| WireError::Missing { field: field.into() })
}

/// A part that has to be there, converted.
pub(super) fn part<M, D>(field: &str, message: Option<M>) -> Result<D, WireError>
where
    D: TryFrom<M, Error = WireError>,
{
    D::try_from(required(field, message)?).map_err(|e| e.within(field))
}

/// Each message of a list, converted; an error names its place in the list.
pub(super) fn each<M, D>(
    field: &str,
    list: Vec<M>,
    convert: impl Fn(M) -> Result<D, WireError>,
) -> Result<Vec<D>, WireError> {
    let at = |index, error: WireError| error.within(&format!("{field}[{index}]"));
    list.into_iter().enumerate().map(|(i, message)| convert(message).map_err(|e| at(i, e))).collect()
}

/// A text that is to be read as a value.
pub(super) fn read<T: FromStr>(field: &str, text: &str, wrong: &'static str) -> Result<T, WireError> {
    text.parse().map_err(|_| WireError::wrong(field, text, wrong))
}

/// Each text of a list, read.
pub(super) fn read_each<T: FromStr>(
    field: &str,
    texts: &[String],
    wrong: &'static str,
) -> Result<Vec<T>, WireError> {
    texts.iter().enumerate().map(|(i, text)| read(&format!("{field}[{i}]"), text, wrong)).collect()
}

/// Each value of a list as text.
pub(super) fn texts(values: &[impl fmt::Display]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) const NO_ADDRESS: &str = "no address";
pub(super) const NO_NETWORK: &str = "no network as in 10.1.0.0/24";
pub(super) const NO_ENDPOINT: &str = "no address with a port";
