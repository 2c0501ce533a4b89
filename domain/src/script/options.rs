//! Options of a socket, by the words that a step sets them with.

use std::fmt;

/// Every word, for a reader who wrote another one.
pub(super) const ALL: &str =
    "reuseaddr, reuseport, no_port, v6only, dual, linger=SECONDS, syncnt=N or port_range=low-high";

/// Seconds that a close may linger: it blocks the step, socket after socket.
const LONGEST_LINGER: u16 = 10;

/// What is set on a socket before it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Options {
    /// SO_REUSEADDR
    pub reuseaddr: bool,
    /// SO_REUSEPORT
    pub reuseport: bool,
    /// IP_BIND_ADDRESS_NO_PORT (Linux 4.2)
    pub no_port: bool,
    /// IPV6_V6ONLY on (`v6only`) or off (`dual`); both make the socket an IPv6 one.
    pub v6only: Option<bool>,
    /// SO_LINGER, in seconds: `close` waits that long for the peer to have all, non-blocking sockets
    /// included (`inet_release` in `net/ipv4/af_inet.c` does not look at that). With 0, for which
    /// `linger0` is another word, it sends RST.
    pub linger: Option<u16>,
    /// TCP_SYNCNT, 1 to 127 (`MAX_TCP_SYNCNT` in `include/net/tcp.h`), else `tcp_syn_retries`, 6 by default:
    /// `connect` gives up after 2^(N+1) - 1 seconds (`tcp_write_timeout` in `net/ipv4/tcp_timer.c`). Until
    /// then the SYN is sent N times more, or since Linux 6.5 oftener (`tcp_syn_linear_timeouts`).
    pub syncnt: Option<u8>,
    /// IP_LOCAL_PORT_RANGE (Linux 6.3): low and high.
    pub port_range: Option<(u16, u16)>,
}

impl Options {
    /// Takes one word; `false` if it is no option.
    pub(super) fn take(&mut self, word: &str) -> Result<bool, String> {
        match word.split_once('=').unwrap_or((word, "")) {
            ("reuseaddr", "") => self.reuseaddr = true,
            ("reuseport", "") => self.reuseport = true,
            ("no_port", "") => self.no_port = true,
            ("v6only", "") => self.v6only = Some(true),
            ("dual", "") => self.v6only = Some(false),
            ("linger0", "") => self.linger = Some(0),
            ("linger", seconds) => {
                let good = seconds.parse().ok().filter(|seconds| *seconds <= LONGEST_LINGER);
                self.linger = Some(good.ok_or_else(|| {
                    format!("'{seconds}' is no time to linger: write seconds, 0 to {LONGEST_LINGER}")
                })?);
            }
            ("syncnt", count) => {
                let good = count.parse().ok().filter(|count| (1..=127).contains(count));
                self.syncnt =
                    Some(good.ok_or_else(|| format!("'{count}' is no count of SYNs: write 1 to 127"))?);
            }
            ("port_range", range) => {
                let bounds = range
                    .split_once('-')
                    .and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
                self.port_range =
                    Some(bounds.ok_or_else(|| format!("'{range}' is no range of ports: write low-high"))?);
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.reuseaddr, "reuseaddr"),
            (self.reuseport, "reuseport"),
            (self.no_port, "no_port"),
            (self.v6only == Some(true), "v6only"),
            (self.v6only == Some(false), "dual"),
        ];
        words.iter().filter(|(set, _)| *set).try_for_each(|(_, word)| write!(f, " {word}"))?;
        self.linger.iter().try_for_each(|seconds| write!(f, " linger={seconds}"))?;
        self.syncnt.iter().try_for_each(|count| write!(f, " syncnt={count}"))?;
        self.port_range.iter().try_for_each(|(low, high)| write!(f, " port_range={low}-{high}"))
    }
}
