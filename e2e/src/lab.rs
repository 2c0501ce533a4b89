//! `tuplelab lab`: what it prints, read as a user reads it.

use crate::process::{Ended, Running};
use crate::world::World;
use std::net::IpAddr;

/// A lab that stays up, from its own words.
#[derive(Debug)]
pub struct Lab {
    /// The command.
    pub running: Running,
    /// Its controller, for `--controller`.
    pub controller: String,
    /// The hosts.
    pub hosts: Vec<Host>,
    /// How a host is entered: `nsenter`, its options, `PID`, `COMMAND`; none of a loopback lab.
    enter: Option<String>,
}

/// A host of a lab.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its agent's process.
    pub pid: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

impl Lab {
    /// Starts `tuplelab lab` with further arguments, and waits until it is up.
    pub fn start(world: &World, args: &[&str]) -> Self {
        let running = world.start(["lab", "--db", "lab.db"].iter().chain(args));
        let text = running.says("Ctrl-C ends the lab");
        let mut lab = Self { running, controller: String::new(), hosts: Vec::new(), enter: None };
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["export", setting] => {
                    lab.controller = setting.trim_start_matches("TUPLELAB_CONTROLLER=").to_owned();
                }
                [name, "pid", pid, addresses @ ..] => lab.hosts.push(Host {
                    name: (*name).to_owned(),
                    pid: pid.parse().expect("a pid"),
                    addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
                }),
                ["enter", "a", "host:", enter @ ..] => lab.enter = Some(enter.join(" ")),
                _ => {}
            }
        }
        lab
    }

    /// A host by its name.
    pub fn host(&self, name: &str) -> &Host {
        self.hosts.iter().find(|host| host.name == name).expect("a host of that name")
    }

    /// Starts a program on a host, by the words with which the lab tells how.
    pub fn start_on(&self, world: &World, host: &str, program: &str, args: &[&str]) -> Running {
        let pid = self.host(host).pid.to_string();
        let enter = self.enter.as_deref().unwrap_or("COMMAND").replace("PID", &pid);
        let mut words = enter.split_whitespace().map(|word| if word == "COMMAND" { program } else { word });
        let mut command = world.command(words.next().expect("a program"));
        command.args(words).args(args);
        Running::start(command)
    }

    /// Runs `tuplelab` on this lab to its end.
    pub fn run(&self, world: &World, args: &[&str]) -> Ended {
        world.run(["--controller", &self.controller].iter().chain(args))
    }

    /// Starts `tuplelab` on this lab.
    pub fn begin(&self, world: &World, args: &[&str]) -> Running {
        world.start(["--controller", &self.controller].iter().chain(args))
    }

    /// Ends the lab as a user does, by Ctrl-C.
    pub fn stop(self) -> Ended {
        self.running.signal(nix::sys::signal::Signal::SIGINT);
        self.running.wait()
    }
}
