//! A flow's failure: a measurement, named by the system call that gave it and its errno.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// The system call that a flow failed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `socket(2)`
    Socket,
    /// `setsockopt(2)`
    Setsockopt,
    /// `bind(2)`
    Bind,
    /// `listen(2)`
    Listen,
    /// `connect(2)`, also where its error came later
    Connect,
    /// `send(2)` of the token or its echo
    Send,
    /// `recv(2)` of the token or its echo
    Receive,
    /// `accept4(2)`
    Accept,
}

impl Call {
    /// The call's name, as in its manual page.
    pub fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Setsockopt => "setsockopt",
            Self::Bind => "bind",
            Self::Listen => "listen",
            Self::Connect => "connect",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Accept => "accept",
        }
    }

    /// The call of that name.
    pub fn named(name: &str) -> Option<Self> {
        use Call::*;
        [Socket, Setsockopt, Bind, Listen, Connect, Send, Receive, Accept]
            .into_iter()
            .find(|c| c.name() == name)
    }
}

/// One class of failure: where, and with which error.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    /// The call that gave the error.
    pub call: Call,
    /// The errno's name (`EADDRNOTAVAIL`), or one of ours where the kernel gave none: `EOF` (the
    /// peer closed before it answered), `NO_ANSWER` (the time for an answer was up), `WRONG_ANSWER`
    /// (another token came back).
    pub error: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.call.name(), self.error)
    }
}

/// Failures by class, each with its count. Serialises as `{"connect EADDRNOTAVAIL": 3}`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, u64>", into = "BTreeMap<String, u64>")]
#[schemars(with = "BTreeMap<String, u64>")]
pub struct Failures(BTreeMap<Failure, u64>);

impl Failures {
    /// Counts `count` more of this class.
    pub fn add(&mut self, call: Call, error: impl Into<String>, count: u64) {
        if count > 0 {
            *self.0.entry(Failure { call, error: error.into() }).or_default() += count;
        }
    }

    /// Counts all of `other`'s too.
    pub fn merge(&mut self, other: &Self) {
        for (failure, count) in &other.0 {
            self.add(failure.call, failure.error.clone(), *count);
        }
    }

    /// How many failed, of all classes.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether nothing failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each class and its count, in the order of the calls.
    pub fn iter(&self) -> impl Iterator<Item = (&Failure, u64)> {
        self.0.iter().map(|(failure, count)| (failure, *count))
    }
}

impl From<Failures> for BTreeMap<String, u64> {
    fn from(failures: Failures) -> Self {
        failures.0.iter().map(|(failure, count)| (failure.to_string(), *count)).collect()
    }
}

impl TryFrom<BTreeMap<String, u64>> for Failures {
    type Error = String;
    fn try_from(map: BTreeMap<String, u64>) -> Result<Self, String> {
        let mut failures = Self::default();
        for (text, count) in map {
            let (call, error) = text
                .split_once(' ')
                .and_then(|(call, error)| Some((Call::named(call)?, error)))
                .ok_or_else(|| format!("'{text}' is no failure: expected a call and an error"))?;
            failures.add(call, error, count);
        }
        Ok(failures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_read_back_from_their_json() {
        let mut failures = Failures::default();
        failures.add(Call::Connect, "EADDRNOTAVAIL", 2);
        failures.add(Call::Accept, "EMFILE", 1);
        failures.add(Call::Connect, "EADDRNOTAVAIL", 1);
        let json = serde_json::to_string(&failures).expect("serialises");
        assert_eq!(json, r#"{"accept EMFILE":1,"connect EADDRNOTAVAIL":3}"#);
        assert_eq!(serde_json::from_str::<Failures>(&json).expect("reads back"), failures);
        assert_eq!(failures.total(), 4);
    }
}
