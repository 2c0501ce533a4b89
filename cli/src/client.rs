//! The way to a controller: dialling it, and its errors as this program's own.

use crate::exit::{Exit, Stop};
use tonic::transport::Channel;
use tonic::{Code, Status};
use tuplelab_domain::report::Report;
use tuplelab_proto::dial::{Address, dial};
use tuplelab_proto::v1::{GetRunRequest, lab_client::LabClient};
use tuplelab_proto::{CAUSE, CAUSE_DATABASE};

/// A connection to a controller.
pub type Client = LabClient<Channel>;

/// Reports of runs over many hosts may be longer than gRPC's 4 MiB.
const LARGEST_MESSAGE: usize = 256 << 20;

/// Dials a controller.
pub async fn connect(address: &Address) -> Result<Client, Stop> {
    match dial(address, None).await {
        Ok(channel) => Ok(LabClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE)),
        Err(error) => {
            let mut cause: &dyn std::error::Error = &error;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            Err(Stop::new(
                Exit::Unreachable,
                format!(
                    "no controller answers at {address} ({cause}): start one with 'tuplelab controller', or check --controller"
                ),
            ))
        }
    }
}

/// A controller's refusal as an end of this program.
pub fn refused(status: Status) -> Stop {
    let of_database = status.metadata().get(CAUSE).is_some_and(|cause| cause == CAUSE_DATABASE);
    let exit = match status.code() {
        _ if of_database => Exit::Store,
        Code::InvalidArgument | Code::AlreadyExists => Exit::PlanRefused,
        Code::FailedPrecondition | Code::ResourceExhausted => Exit::CapacityShort,
        Code::NotFound => Exit::NotFound,
        Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
        _ => Exit::Failed,
    };
    Stop::new(exit, status.message().trim_end().to_owned())
}

/// A run's report.
pub async fn report(client: &mut Client, run: &str) -> Result<Report, Stop> {
    let reply = client.get_run(GetRunRequest { run: run.into() }).await.map_err(refused)?;
    decode(&reply.into_inner().report_json)
}

/// Reads JSON that a controller sent.
pub fn decode<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, Stop> {
    serde_json::from_str(json).map_err(|error| {
        Stop::new(Exit::Failed, format!("the controller's answer cannot be read ({error}): use the same version of tuplelab on both sides"))
    })
}
