//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use tuplelab_agent::AddressSelector;
use tuplelab_controller::{BadPatience, Patience};
use tuplelab_domain::id::AgentName;
use tuplelab_domain::units::{Count, Span};
use tuplelab_domain::verdict::ClaimId;
use tuplelab_lab::LabKind;
use tuplelab_proto::dial::Address;

const EXAMPLES: &str = "\
Examples:
  tuplelab demo                                   a lab on this machine, past 64K connections
  tuplelab check plans/demo.toml                  what a plan asks for and what it will reach
  tuplelab run plans/demo.toml                    run it in a lab on this machine
  tuplelab claims                                 eight common statements about TCP, tried here
  tuplelab claims --explain C7                    how one of them works, and what was found
  tuplelab show last                              the last run again
  tuplelab compare 0198f1 last                    two runs, case by case

Several hosts:
  tuplelab controller --listen 127.0.0.1:7600 --db lab.db
  tuplelab agent --controller http://127.0.0.1:7600 --name a --address 127.0.0.2 --label role=server
  tuplelab agent --controller http://127.0.0.1:7600 --name b --address 127.0.0.3 --label role=client
  tuplelab --controller http://127.0.0.1:7600 run plans/demo.toml

Exit codes:
  0 expectations held   1 missed   2 usage   3 plan refused   4 inconclusive   5 controller unreachable
  6 capacity short   7 run incomplete (agent lost, failed)   8 database   9 not found   70 other   130 cancelled";

/// A networked lab that shows and measures how TCP connections scale.
#[derive(Debug, Parser)]
#[command(name = "tuplelab", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// The controller to talk to: http://host:port or unix:/path.
    #[arg(long, global = true, env = "TUPLELAB_CONTROLLER", value_name = "URL")]
    pub controller: Option<Address>,
    /// The form of the log on standard error; RUST_LOG says how much.
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log: LogForm,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the shipped demo plan in a lab on this machine.
    Demo(DemoArgs),
    /// Run a plan: on --controller, or without it in a lab made on this machine for the run.
    Run(RunArgs),
    /// Try common statements about TCP on this machine's kernel, or a controller's hosts: a board of
    /// verdicts, each with the evidence behind it.
    Claims(ClaimsArgs),
    /// Check a plan: its values with every default, its cases, and the predicted capacity of each.
    Check(CheckArgs),
    /// Which limit of these hosts binds (for a plan), at which number, and the command that lifts it
    /// there.
    Doctor(DoctorArgs),
    /// Print a JSON Schema.
    Schema {
        /// Of what.
        #[arg(value_enum)]
        of: SchemaOf,
    },
    /// List the runs that are kept, newest first.
    Runs {
        /// How many.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        #[command(flatten)]
        source: Source,
    },
    /// Show one run.
    Show {
        /// An id, a unique part of its front or end, or "last".
        run: String,
        /// The evidence of every trial, whole, as JSON: what the judge judges.
        #[arg(long, conflicts_with = "json")]
        evidence: bool,
        #[command(flatten)]
        source: Source,
    },
    /// Judge a run again by this version's rules, from the evidence that is kept; nothing is changed.
    Judge {
        /// An id, a unique part of its front or end, or "last".
        run: String,
        #[command(flatten)]
        source: Source,
    },
    /// Compare two runs, case by case, and what was different around them.
    Compare {
        /// The first run.
        first: String,
        /// The second run.
        second: String,
        #[command(flatten)]
        source: Source,
    },
    /// Follow a run on a controller until it has finished.
    Watch {
        /// The run.
        #[arg(default_value = "last")]
        run: String,
    },
    /// Cancel a run on a controller.
    Cancel {
        /// The run.
        run: String,
    },
    /// List the agents of a controller.
    Agents {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask whether the controller serves, or an agent is attached: exit code 0, or 1 and a sentence.
    Health {
        /// Ask for this agent, or without NAME for the one that is named like this host.
        #[arg(long, value_name = "NAME", num_args = 0..=1)]
        agent: Option<Option<AgentName>>,
    },
    /// Copy or check a database.
    Db {
        /// What to do with it.
        #[command(subcommand)]
        what: DbCommand,
    },
    /// Keep a lab on this machine up until Ctrl-C, for runs from other terminals.
    Lab(LabArgs),
    /// Serve as a controller.
    Controller(ControllerArgs),
    /// Serve as a host's agent.
    Agent(AgentArgs),
}

/// What is done with a database.
#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Copy a database that may be in use, and check the copy; goes over nothing that is there.
    Backup {
        /// The file to make.
        dest: PathBuf,
        #[command(flatten)]
        source: Source,
    },
    /// Check a database: pages, indexes, references, schema, rows of each table. Changes nothing.
    Check {
        /// The database (default: the one that results are kept in).
        file: Option<PathBuf>,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SchemaOf {
    /// A plan file, for editors.
    Plan,
    /// A run's JSON.
    Report,
}

/// A lab of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Each host is a network namespace of its own.
    Namespaces,
    /// Each host is a set of loopback addresses.
    Loopback,
}

impl From<Kind> for LabKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Namespaces => Self::Namespaces,
            Kind::Loopback => Self::Loopback,
        }
    }
}

/// Where runs are read from: a controller, or a database that is only read.
#[derive(Debug, Args)]
pub struct Source {
    /// Read this database instead of asking a controller.
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// How long agents may be silent.
#[derive(Debug, Clone, Default, Args)]
pub struct LeaseArgs {
    /// How long an agent's load may go on without an answer from the controller (default: 15s).
    #[arg(long, value_name = "TIME")]
    pub lease: Option<Span>,
    /// How long an agent may be silent before it is given no new run (default: 3s).
    #[arg(long, value_name = "TIME")]
    pub suspect: Option<Span>,
    /// How long an agent may be silent before it is lost (default: 5s more than the lease).
    #[arg(long, value_name = "TIME")]
    pub lost: Option<Span>,
}

impl LeaseArgs {
    /// The times that are asked for.
    ///
    /// # Errors
    /// They do not make sense together.
    pub fn patience(&self) -> Result<Patience, BadPatience> {
        Patience::new(self.lease.map(|t| t.0), self.suspect.map(|t| t.0), self.lost.map(|t| t.0))
    }
}

/// Options of a lab that is made for one run.
#[derive(Debug, Args)]
pub struct OwnLab {
    /// What the hosts are (default: namespaces, or loopback where they are forbidden).
    #[arg(long, value_enum)]
    pub lab: Option<Kind>,
    /// Where results are kept (default: $XDG_DATA_HOME/tuplelab/tuplelab.db, else ./tuplelab.db).
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    #[command(flatten)]
    pub lease: LeaseArgs,
}

/// `demo`
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Hold every case's connections for this long instead of 1 s.
    #[arg(long, value_name = "TIME")]
    pub hold: Option<Span>,
    #[command(flatten)]
    pub own: OwnLab,
    /// Print the run as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `run`
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The plan file; "-" reads standard input.
    pub plan: PathBuf,
    /// Hold every case's connections for this long, whatever the plan says.
    #[arg(long, value_name = "TIME")]
    pub hold: Option<Span>,
    #[command(flatten)]
    pub own: OwnLab,
    /// Submit in this name: the controller's queue is fair between names (default: user@host).
    #[arg(long = "as", value_name = "NAME")]
    pub submitter: Option<String>,
    /// Submit to the controller and do not wait.
    #[arg(long)]
    pub detach: bool,
    /// Print the run as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `claims`
#[derive(Debug, Args)]
pub struct ClaimsArgs {
    /// Which claims to try (default: all eight).
    #[arg(value_name = "CLAIM", value_parser = claim)]
    pub claims: Vec<ClaimId>,
    /// Try nothing: tell how this claim works, how it is tried, what was last found of it here, what
    /// would change the verdict, and where to read on.
    #[arg(long, value_name = "CLAIM", value_parser = claim, conflicts_with = "claims")]
    pub explain: Option<ClaimId>,
    #[command(flatten)]
    pub own: OwnLab,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

fn claim(text: &str) -> Result<ClaimId, String> {
    ClaimId::named(text).ok_or_else(|| format!("'{text}' is no claim: write C1 to C8"))
}

/// `check`
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The plan file; "-" reads standard input.
    pub plan: PathBuf,
    /// Predict for these hosts (JSON, as `tuplelab agents --json` prints it) instead of a lab here.
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// Print the schedule, every address, port and count, as JSON.
    #[arg(long, conflicts_with = "json")]
    pub schedule: bool,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The plan file; "-" reads standard input. Without it, each host by itself.
    pub plan: Option<PathBuf>,
    /// Examine these hosts (JSON, as `tuplelab agents --json` prints it).
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// As JSON.
    #[arg(long)]
    pub json: bool,
}

/// `lab`
#[derive(Debug, Args)]
pub struct LabArgs {
    /// Server hosts.
    #[arg(long, default_value = "1")]
    pub servers: Count,
    /// Client hosts.
    #[arg(long, default_value = "4")]
    pub clients: Count,
    /// Addresses of each host.
    #[arg(long, default_value = "2")]
    pub addresses: Count,
    #[command(flatten)]
    pub own: OwnLab,
}

/// `controller`
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// Address and port to listen on.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Unix socket to listen on as well, for its owner only.
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,
    /// The database (default: $XDG_DATA_HOME/tuplelab/tuplelab.db, else ./tuplelab.db).
    #[arg(long, value_name = "FILE")]
    pub db: Option<PathBuf>,
    /// How many runs may wait.
    #[arg(long, value_name = "RUNS", default_value_t = tuplelab_controller::QueueLimits::default().all)]
    pub queue_limit: usize,
    /// How many runs of one user may wait.
    #[arg(long, value_name = "RUNS", default_value_t = tuplelab_controller::QueueLimits::default().user)]
    pub user_queue_limit: usize,
    /// Listen on an address that others can reach, though nothing is encrypted and nobody is asked who
    /// they are: whoever reaches it can run load from every agent.
    #[arg(long)]
    pub insecure: bool,
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Stop when standard input ends: for labs, which hold its other end.
    #[arg(long, hide = true)]
    pub until_input_ends: bool,
}

/// `agent`
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// A name, unique at the controller (default: this host's name, which a container has of its own).
    #[arg(long)]
    pub name: Option<AgentName>,
    /// A label that plans can ask for; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// Addresses or networks to offer for data, comma-separated; one with ! before it is left out, as in
    /// '!172.18.0.0/16' (default: every address of this host that is neither loopback nor link-local, and
    /// neither --control-address nor Docker's docker_gwbridge, if there is another).
    #[arg(long = "address", value_name = "IP|CIDR|!CIDR", value_delimiter = ',')]
    pub addresses: Vec<AddressSelector>,
    /// The local address that the control connection leaves from.
    #[arg(long, value_name = "IP")]
    pub control_address: Option<IpAddr>,
    /// Where what the controller has not acknowledged is kept, in DIR/NAME.spool (default:
    /// $XDG_STATE_HOME/tuplelab/spool, else ~/.local/state/tuplelab/spool, else among the temporary files;
    /// if that cannot be written, memory alone).
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Let plans make kernel settings, and connection tracking active, in this host's network namespace.
    #[arg(long)]
    pub allow_sysctls: bool,
    /// Stop when standard input ends: for labs, which hold its other end.
    #[arg(long, hide = true)]
    pub until_input_ends: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is no label: write key=value, as in role=server")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_has_no_contradiction() {
        Cli::command().debug_assert();
    }
}
