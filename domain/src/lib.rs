//! The pure core of tuplelab: what is asked, what is possible, what is done, what was found.
//!
//! What lives here: every decision. What does not: sockets, files, clocks, random numbers, async
//! runtimes (`clippy.toml` and `tests/wall.rs` see to it). Where to start: follow one plan through
//! the modules, in this order; each arrow is one function with one input and one output.
//!
//! ```text
//! text --plan::file--> PlanFile --plan::check--> Plan --schedule::place(+ Inventory)--> Schedule
//!      Schedule -> Assignment -> (agents work) -> Sample, Census, Readings -> Evidence
//!      Evidence --verdict::judge--> Verdict --report--> text, JSON
//! ```
//!
//! # Vocabulary
//!
//! | word | meaning |
//! |---|---|
//! | plan | what a person asks for: one question, its cohorts, load, cases, trials, expectations |
//! | cohort | flows with the same role, endpoints and behaviour |
//! | role | active opener (client) or passive opener (server), RFC 9293 |
//! | endpoint, listener | an address and a port; a passive one with a backlog |
//! | flow | one TCP connection, named by its four-tuple; each end has its own view |
//! | case, trial | one point of a plan's sweep; one repetition of it (RFC 2544) |
//! | run, outcome | one execution of a plan; how it ended (not whether its claims held) |
//! | host facts, inventory | limits read from a host before scheduling; the facts of all agents |
//! | limit, margin, shortfall | a bound of a host; asked against offered; a margin that does not hold |
//! | place, remedy | where a host runs (machine, namespace, container, pod); the command that lifts a limit there |
//! | schedule, assignment | all hosts' concrete work; one agent's part, no choices left |
//! | agent, worker, lane | daemon on a host; its engine process; a thread with its own descriptor table |
//! | lease | the right to put load on the network; it ends by itself unless the controller is heard |
//! | spool | what an agent said and the controller has not acknowledged |
//! | epoch | a life of a run: after a restart of the controller within the lease it is still the same |
//! | sample, readings | one worker's counters at one tick; the kernel's own counters |
//! | due | the moment at which a plan's rate wants a connect to begin; its time runs from there |
//! | occupancy | the tenth of a client's flows that was established when a connect began |
//! | ramp | how well the rate was met in each full second |
//! | census | one host's kernel's count and digest of the established four-tuples |
//! | plateau | nothing more will open: the target is reached, or something bound |
//! | expectation, claim | a sentence of a plan, or a common statement about TCP, that can be false |
//! | evidence, verdict | all that a judgement may use; what was found, with its reason |
//! | report | a view of a run; it holds no knowledge of its own |

pub mod capacity;
pub mod environment;
pub mod evidence;
pub mod id;
pub mod plan;
pub mod ports;
pub mod report;
pub mod run;
pub mod sample;
#[cfg(test)]
pub(crate) mod sample_lab;
pub mod schedule;
pub mod script;
pub mod sysctl;
pub mod units;
pub mod verdict;
