//! Names of things: newtypes that print and serialise as the plain value.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;

/// A text was no name: it is empty, too long, or has a character outside the alphabet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no name: use 1 to 64 letters, digits, '.', '_' or '-'")]
pub struct BadName(pub String);

fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// The name under which an agent attaches, unique at its controller: `[A-Za-z0-9._-]{1,64}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct AgentName(String);

impl AgentName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for AgentName {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, BadName> {
        if is_name(&text) { Ok(Self(text)) } else { Err(BadName(text)) }
    }
}

impl std::str::FromStr for AgentName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        Self::try_from(text.to_owned())
    }
}

impl From<AgentName> for String {
    fn from(name: AgentName) -> String {
        name.0
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A run's name: a version 7 UUID in its usual text form, so that runs sort by their time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RunId(pub String);

impl RunId {
    /// The last 8 characters: the random end, enough to tell runs apart in a table.
    pub fn short(&self) -> &str {
        let start = self.0.len().saturating_sub(8);
        self.0.get(start..).unwrap_or(&self.0)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A plan's name: the SHA-256 of its source text, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PlanDigest(pub String);

impl PlanDigest {
    /// The digest of a plan's source text.
    pub fn of(source: &str) -> Self {
        let bytes = Sha256::digest(source.as_bytes());
        Self(bytes.iter().map(|b| format!("{b:02x}")).collect())
    }
}

impl fmt::Display for PlanDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What tells one trial's connections from every other's: the first eight bytes of the token that
/// a client sends on each connection. Derived from run, case and trial, so both ends know it.
pub fn trial_token(run: &RunId, case: u32, trial: u32) -> u64 {
    let digest = Sha256::digest(format!("{run}/{case}/{trial}").as_bytes());
    digest.iter().take(8).fold(0, |token, byte| (token << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_space_a_slash_or_an_escape_is_refused() {
        for bad in ["", "a b", "../x", "\u{1b}[31m", &"x".repeat(65)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad:?} was taken");
        }
        assert_eq!("host-1.lab_a".parse::<AgentName>().map(String::from), Ok("host-1.lab_a".into()));
    }

    #[test]
    fn tokens_differ_between_runs_cases_and_trials() {
        let a = RunId("a".into());
        let tokens = [
            trial_token(&a, 0, 0),
            trial_token(&a, 0, 1),
            trial_token(&a, 1, 0),
            trial_token(&RunId("b".into()), 0, 0),
        ];
        for (i, x) in tokens.iter().enumerate() {
            assert!(tokens.iter().skip(i + 1).all(|y| x != y));
        }
    }
}
