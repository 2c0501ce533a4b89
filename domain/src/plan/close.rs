//! How a connection that churn replaces is closed.

use super::model::word_or;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// How a client closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Close {
    /// With a reset (SO_LINGER of 0): nothing is left of it, its port can be used again at once.
    #[default]
    Rst,
    /// With FIN, first of both ends: its port stays in TIME_WAIT, which keeps it from that destination.
    Fin,
}

impl Close {
    /// How long a port cannot be used again towards the same destination: TCP_TIMEWAIT_LEN
    /// (include/net/tcp.h). On loopback the kernel may give it back after a second (tcp_tw_reuse = 2).
    pub fn rests(self) -> Duration {
        match self {
            Self::Rst => Duration::ZERO,
            Self::Fin => Duration::from_secs(60),
        }
    }

    /// How many ports rest at a time at most, where so many connections are closed a second for so
    /// long.
    pub fn resting(self, per_second: f64, hold: Duration) -> u64 {
        (per_second * hold.min(self.rests()).as_secs_f64()).ceil() as u64
    }
}

impl std::str::FromStr for Close {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "rst" => Ok(Self::Rst),
            "fin" => Ok(Self::Fin),
            _ => Err(format!("'{text}' is no way to close: write \"rst\" or \"fin\"")),
        }
    }
}

impl fmt::Display for Close {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rst => "rst",
            Self::Fin => "fin",
        })
    }
}

word_or!(Close, {
    "type": "string", "enum": ["rst", "fin"],
    "description": "How a replaced connection is closed: with a reset, or with FIN by the client first."
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fin_keeps_ports_from_being_used_again() {
        let second = Duration::from_secs(1);
        assert_eq!(Close::Rst.resting(1_000.0, 5 * second), 0);
        assert_eq!(Close::Fin.resting(1_000.0, 5 * second), 5_000);
        assert_eq!(Close::Fin.resting(0.5, 3 * second), 2);
        assert_eq!(Close::Fin.resting(1_000.0, 3_600 * second), 60_000, "a minute's worth");
        for close in [Close::Rst, Close::Fin] {
            assert_eq!(close.to_string().parse(), Ok(close));
        }
        assert!("reset".parse::<Close>().is_err_and(|error| error.contains("\"rst\" or \"fin\"")));
    }
}
