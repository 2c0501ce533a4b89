//! A line of a script.

use super::action::Action;
use super::endpoint::HostRef;
use std::fmt;
use std::str::FromStr;

/// One step: who does what, and what its answer is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The host.
    pub host: HostRef,
    /// What it does.
    pub action: Action,
    /// What the answer is called, if the judge is to look for it.
    pub label: Option<String>,
}

/// A line is no step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("step {line}: {why}")]
pub struct BadStep {
    /// The line of the script, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: String,
}

impl Step {
    /// Reads a script; blank lines and comments are passed over.
    ///
    /// # Errors
    /// Every line that is no step.
    pub fn parse_all(script: &str) -> Result<Vec<Self>, Vec<BadStep>> {
        let (mut steps, mut bad) = (Vec::new(), Vec::new());
        for (index, line) in script.lines().enumerate() {
            let line = line.split('#').next().unwrap_or("").trim();
            if line.is_empty() {
                continue;
            }
            match line.parse() {
                Ok(step) => steps.push(step),
                Err(why) => bad.push(BadStep { line: index + 1, why }),
            }
        }
        if bad.is_empty() { Ok(steps) } else { Err(bad) }
    }
}

impl FromStr for Step {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let (call, label) = match line.split_once("->") {
            Some((call, label)) => (call, Some(label.trim())),
            None => (line, None),
        };
        let label = match label {
            None => None,
            Some(label)
                if (1..=64).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) =>
            {
                Some(label.to_owned())
            }
            Some(label) => {
                return Err(format!("'{label}' is no label: write letters, digits, '.', '_' and '-'"));
            }
        };
        let (host, action) = call
            .trim()
            .split_once(char::is_whitespace)
            .ok_or("a step is a host and what it does, as in 'client connect a server:7000'")?;
        Ok(Self { host: host.parse()?, action: action.parse()?, label })
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.host, self.action)?;
        match &self.label {
            Some(label) => write!(f, " -> {label}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A step of every verb.
    const EVERY: &str = "\
server socket l tcp reuseaddr reuseport
server bind l self:7000
server listen l 5
client.2 socket u udp no_port v6only port_range=4000-4999
client.2 bind u [::]:53
client socket s tcp reuseaddr linger=5 syncnt=127
client connect a server@2:7000 within 250ms
client finish a within 3000ms
server accept b l within 1000ms
client send a 16
server receive b within 1000ms
server name b
client close a
client reset a
client many c 2000 connect server:7000 within 1000ms
client many d 3000 connect server:7000 bind self:0 no_port within 1000ms
client many e 500 connect server:7000 bind self@2:2000-2999,4000 reuseaddr within 5000ms -> held
client many g 5 connect server:7000 linger=0 syncnt=2 within 100ms
client ring r 3000 connect server:7000 rings 10 within 1000ms
client ring s 5 connect server:7000 within 1000ms
server take t l within 1000ms
server take t l count 5 within 1000ms
server take t l count 5 every 1500us within 1000ms
server fill f
server files 100
server end
server stop
server continue
client wait 500ms
server sockets 7000 -> queue
server capture 7000
server packets -> wire
server counters -> c6.moved
server limits -> host
client syn 50 server:7000 from 10.66.99.1:1024 never
client ack";

    #[test]
    fn every_verb_prints_as_it_is_read() {
        let steps = Step::parse_all(EVERY).expect("all are steps");
        let printed: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(printed.join("\n"), EVERY);
    }

    #[test]
    fn linger0_is_another_word_for_a_linger_of_0() {
        let steps = Step::parse_all("client socket a tcp linger0").expect("is a step");
        assert_eq!(steps[0].to_string(), "client socket a tcp linger=0");
    }

    #[test]
    fn a_line_that_is_no_step_says_which_and_why() {
        let why = |script: &str| match Step::parse_all(script).expect_err("is refused").as_slice() {
            [one] => one.to_string(),
            several => format!("{} problems", several.len()),
        };
        assert_eq!(why("client dance a\nclient close a\nclient sing"), "2 problems");
        assert_eq!(
            why("\nclient dance a"),
            "step 2: 'dance' is nothing that a step does: socket, bind, listen, connect, finish, accept, send, receive, name, close, reset, many, ring, take, fill, files, end, stop, continue, wait, sockets, capture, packets, counters, limits, syn, ack"
        );
        assert_eq!(
            why("client"),
            "step 1: a step is a host and what it does, as in 'client connect a server:7000'"
        );
        assert_eq!(
            why("router close a"),
            "step 1: 'router' is no host: write server, client, or client.2 for the second one"
        );
        assert_eq!(
            why("client close A"),
            "step 1: 'A' is no name of a socket: write up to 32 small letters, digits and '_'"
        );
        assert_eq!(
            why("client bind a server"),
            "step 1: 'server' is no endpoint: write an address and a port, as in server:7000, self@2:0 or any:7000"
        );
        assert_eq!(why("client listen a 5 6"), "step 1: '6' is too much for 'listen'");
        assert_eq!(why("client close a within 1s"), "step 1: 'close' does not wait: leave 'within' out");
        assert_eq!(
            why("client many a 20000 connect server:1"),
            "step 1: 20000 sockets are too many (or too few) for one step: write 1 to 19000; more are a load"
        );
        assert_eq!(
            why("client socket a tcp syncnt=128"),
            "step 1: '128' is no count of SYNs: write 1 to 127"
        );
        assert_eq!(
            why("client many a 2 connect server:1 linger=-1"),
            "step 1: '-1' is no time to linger: write seconds, 0 to 10"
        );
        assert_eq!(
            why("client socket a tcp reuseaddr=1"),
            "step 1: 'reuseaddr=1' is no option of a socket: write reuseaddr, reuseport, no_port, v6only, dual, linger=SECONDS, syncnt=N or port_range=low-high"
        );
        assert_eq!(
            why("client wait 61s"),
            "step 1: '61s' is too long for one step: write up to a minute, \"60s\""
        );
        assert_eq!(why("server take a l count 0"), "step 1: 0 connections are too few to take");
        assert_eq!(why("server take a l slowly"), "step 1: 'slowly' is too much for 'take'");
        assert_eq!(
            why("client ring a 5 connect server:1 rings 0"),
            "step 1: 0 rings are too many (or too few): write 1 to 1000"
        );
        assert_eq!(
            why("client ring a 5 listen server:1"),
            "step 1: 'ring' does one thing: ring NAME COUNT connect ENDPOINT"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,60}", verb in "(many|ring|take|syn|socket|bind|connect)", host in "(client|server)") {
            let _ = Step::parse_all(&text);
            let _ = Step::parse_all(&format!("{host} {verb} {text}"));
        }
    }
}
