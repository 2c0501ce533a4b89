//! Short sequences of socket calls, written in a plan, whose every answer is evidence.
//!
//! A load asks how many; a script asks what exactly happens. One line is one step, done on one host
//! after the step before it was answered, wherever that was:
//!
//! ```text
//! server   socket l tcp
//! server   bind l self:7000
//! server   listen l 5
//! client   many c 20 connect server:7000  -> held
//! server   sockets 7000                   -> queue
//! ```
//! `HOST VERB ARGUMENTS [-> LABEL]`; a label names the answer for the judge. `#` begins a comment.

mod action;
mod endpoint;
mod groups;
mod names;
mod observation;
mod options;
mod step;

pub use action::{Action, Choice, Handshake, Protocol};
pub use endpoint::{Endpoint, HostRef, Place, Unresolved};
pub use names::impossible;
pub use observation::{Answer, Observation};
pub use options::Options;
pub use step::{BadStep, Step};
