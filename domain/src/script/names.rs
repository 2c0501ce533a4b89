//! Which names a script's steps use: what cannot be done is said before anything is run.

use super::action::Action;
use super::endpoint::HostRef;
use super::step::Step;
use std::collections::{BTreeMap, BTreeSet};

/// What is known of a host's process after the steps so far.
#[derive(Default)]
struct Known<'a> {
    names: BTreeSet<&'a str>,
    ended: bool,
    stopped: bool,
}

impl<'a> Known<'a> {
    fn uses(&self, name: &str) -> Option<String> {
        (!self.names.contains(name)).then(|| {
            format!("there is no socket '{name}' on this host yet: make it first, as in 'socket {name} tcp'")
        })
    }

    fn makes(&mut self, name: &'a str) -> Option<String> {
        (!self.names.insert(name)).then(|| {
            format!("'{name}' is another socket's name on this host: close that first, or write another")
        })
    }

    /// What is wrong with the step, if anything.
    fn take(&mut self, action: &'a Action) -> Option<String> {
        if !action.is_the_agents() && self.ended {
            return Some("this host's process was ended by an earlier step".into());
        }
        if !action.is_the_agents() && self.stopped {
            return Some("this host's process is stopped: write 'continue' before".into());
        }
        match action {
            Action::Socket(name, ..) | Action::Ring { name, .. } => self.makes(name),
            // An accept that was refused leaves its name free, and may be tried again.
            Action::Accept(name, listener, _) | Action::Take { name, listener, .. } => {
                let problem = self.uses(listener);
                self.names.insert(name);
                problem
            }
            Action::Many { name, .. } | Action::Fill(name) => {
                self.names.insert(name);
                None
            }
            Action::Bind(name, _)
            | Action::Listen(name, _)
            | Action::Connect(name, ..)
            | Action::Finish(name, _)
            | Action::Send(name, _)
            | Action::Receive(name, _)
            | Action::Name(name) => self.uses(name),
            Action::Close(name) | Action::Reset(name) => {
                let problem = self.uses(name);
                self.names.remove(name.as_str());
                problem
            }
            Action::End => {
                self.ended = true;
                None
            }
            Action::Stop | Action::Continue => {
                self.stopped = *action == Action::Stop;
                None
            }
            _ => None,
        }
    }
}

/// Every step that cannot be done, by its position, and why.
pub fn impossible(steps: &[Step]) -> Vec<(usize, String)> {
    let mut hosts: BTreeMap<HostRef, Known<'_>> = BTreeMap::new();
    let problems = steps.iter().enumerate().filter_map(|(index, step)| {
        let why = hosts.entry(step.host).or_default().take(&step.action)?;
        Some((index, why))
    });
    problems.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(script: &str) -> Vec<(usize, String)> {
        impossible(&Step::parse_all(script).expect("steps"))
    }

    #[test]
    fn what_is_made_before_it_is_used_is_possible() {
        let script = "server socket l tcp\nserver listen l 5\nclient many c 3 connect server:7000\n\
            client many c 3 connect server:7000\nserver accept a l\nserver take t l\nserver close a\n\
            server accept a l\nserver stop\nserver sockets 7000\nserver continue\nserver send t 1\nserver end\n\
            server packets";
        assert_eq!(wrong(script), []);
    }

    #[test]
    fn each_step_that_cannot_be_done_is_named_with_its_reason() {
        let script = "client listen l 5\nserver socket l tcp\nserver socket l tcp\nserver accept a m\n\
            server close l\nserver listen l 1\nserver stop\nserver fill f\nserver continue\nserver end\nserver fill f";
        let found = wrong(script);
        let numbers: Vec<usize> = found.iter().map(|(index, _)| *index).collect();
        assert_eq!(numbers, [0, 2, 3, 5, 7, 10], "{found:?}");
        assert!(found[0].1.contains("no socket 'l' on this host yet"));
        assert!(found[1].1.contains("another socket's name"));
        assert!(found[4].1.contains("is stopped") && found[5].1.contains("was ended"));
    }
}
