//! What a worker and a kernel say while a trial runs: counters, never lists of flows.

mod census;
mod counters;
mod failure;
mod histogram;
mod readings;

pub use census::{Census, Digest, ListenerQueue, TcpState};
pub use counters::{Beyond, Counters, Plateau, Sample};
pub use failure::{Call, Failure, Failures};
pub use histogram::{BadHistogram, ConnectTimes, Histogram, Occupancy, Recorder};
pub use readings::Readings;
