//! What a caller asks for: the lab's kind, its hosts, and how each process is started.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::addressing::{AddressError, AddressPlan};

/// The controller's name in notices and log files; no host may have it.
pub const CONTROLLER: &str = "controller";

/// A name becomes a file name and a command argument, so it is short and plain.
const LONGEST_NAME: usize = 63;

/// A whole lab. The holder reads it as one line of JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabSpec {
    /// What a host is.
    pub kind: LabKind,
    /// The program that is started as holder, controller and agents; an absolute path.
    pub program: PathBuf,
    /// Where each process has its log file `NAME.log`; made if it does not exist.
    pub log_dir: PathBuf,
    /// Let the processes write to the holder's own standard error instead of log files.
    #[serde(default)]
    pub inherit_stderr: bool,
    /// The controller, which sits in the hub.
    pub controller: ProcessSpec,
    /// The hosts in the order of their addresses.
    pub hosts: Vec<HostSpec>,
}

/// What a host of the lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabKind {
    /// Each host is a network namespace, joined to the others by a bridge.
    Namespaces,
    /// Each host is a set of addresses in 127/8; all share the caller's namespace, its ports and its limits.
    Loopback,
}

/// How the controller is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Arguments after the program's name; they may hold [placeholders](Placeholders).
    pub args: Vec<String>,
}

/// One host and its agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// The host's name, unique in the lab.
    pub name: String,
    /// How many data addresses it has, of each family that the lab offers.
    pub addresses: u32,
    /// Arguments of its agent; they may hold [placeholders](Placeholders).
    pub args: Vec<String>,
}

/// Why a spec cannot become a lab.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// A name that cannot be a file name.
    #[error(
        "host name {0:?} is not 1 to {LONGEST_NAME} letters, digits, '.', '_' or '-'; choose a plainer name"
    )]
    Name(String),
    /// Two processes of one name.
    #[error("the name {0:?} is given twice; every host needs a name of its own, and {CONTROLLER:?} is taken")]
    TakenName(String),
    /// A relative program path would mean something else to a process with another directory.
    #[error("the program {} is not an absolute path; give the resolved /proc/self/exe", .0.display())]
    Program(PathBuf),
    /// The addresses do not fit.
    #[error(transparent)]
    Addresses(#[from] AddressError),
}

impl LabSpec {
    /// Checks the names and lays out the addresses.
    pub fn plan(&self) -> Result<AddressPlan, SpecError> {
        if !self.program.is_absolute() {
            return Err(SpecError::Program(self.program.clone()));
        }
        let mut taken = BTreeSet::from([CONTROLLER]);
        for host in &self.hosts {
            if !is_plain(&host.name) {
                return Err(SpecError::Name(host.name.clone()));
            }
            if !taken.insert(&host.name) {
                return Err(SpecError::TakenName(host.name.clone()));
            }
        }
        let counts: Vec<u32> = self.hosts.iter().map(|host| host.addresses).collect();
        Ok(AddressPlan::new(self.kind, &counts)?)
    }
}

fn is_plain(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(plain) && !name.starts_with(['.', '-'])
}

/// What the holder knows and the caller does not yet: it stands in arguments as `{control}`, `{addresses}`
/// and `{name}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholders {
    /// The process's own name.
    pub name: String,
    /// The address on which the controller listens.
    pub control: String,
    /// The process's data addresses, comma-separated, IPv4 before IPv6.
    pub addresses: String,
}

impl Placeholders {
    /// The arguments with every placeholder replaced; other braces stay as they are.
    pub fn fill(&self, args: &[String]) -> Vec<String> {
        let fill = |arg: &String| {
            arg.replace("{control}", &self.control)
                .replace("{addresses}", &self.addresses)
                .replace("{name}", &self.name)
        };
        args.iter().map(fill).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(names: &[&str]) -> LabSpec {
        LabSpec {
            kind: LabKind::Namespaces,
            program: "/bin/true".into(),
            log_dir: "/tmp/lab".into(),
            inherit_stderr: false,
            controller: ProcessSpec { args: vec!["controller".into()] },
            hosts: names
                .iter()
                .map(|name| HostSpec { name: (*name).into(), addresses: 2, args: vec![] })
                .collect(),
        }
    }

    #[test]
    fn placeholders_are_filled_wherever_they_stand() {
        let known = Placeholders {
            name: "a-1".into(),
            control: "10.67.0.1".into(),
            addresses: "10.66.1.1,fd66::1:1".into(),
        };
        let args = ["--controller", "http://{control}:7600", "--address={addresses}", "{name}", "{other}"];
        let filled = known.fill(&args.map(String::from));
        assert_eq!(
            filled,
            ["--controller", "http://10.67.0.1:7600", "--address=10.66.1.1,fd66::1:1", "a-1", "{other}"]
        );
    }

    #[test]
    fn two_hosts_of_one_name_are_refused() {
        assert_eq!(spec(&["a", "a"]).plan(), Err(SpecError::TakenName("a".into())));
        assert_eq!(spec(&["controller"]).plan(), Err(SpecError::TakenName("controller".into())));
    }

    #[test]
    fn a_name_that_would_leave_the_log_directory_is_refused() {
        for name in ["", "../x", "a/b", "-v", ".hidden", "a b"] {
            assert_eq!(spec(&[name]).plan(), Err(SpecError::Name(name.into())));
        }
    }

    #[test]
    fn a_spec_survives_its_line_of_json() {
        let before = spec(&["a", "b"]);
        let line = serde_json::to_string(&before).expect("a spec is plain data");
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<LabSpec>(&line).expect("the same shape"), before);
    }
}
