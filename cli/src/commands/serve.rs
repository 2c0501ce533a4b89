//! `controller` and `agent`: the daemons.

use crate::args::{AgentArgs, ControllerArgs};
use crate::exit::{Done, Exit, Stop};
use crate::output::say;
use crate::place;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Instrument as _;
use tuplelab_agent::{AgentConfig, AgentError, SpoolPlace};
use tuplelab_controller::{ControllerConfig, ControllerError, Ending};
use tuplelab_proto::dial::Address;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Done when the daemon is to stop: at SIGTERM, at Ctrl-C, and, if asked for, at the end of standard
/// input. A second signal ends the process at once. SIGTERM alone is how daemons are stopped to be started
/// again; a lab is not.
async fn stop(until_input_ends: bool) -> Result<impl Future<Output = Ending>, Stop> {
    let failed =
        |error: std::io::Error| Stop::new(Exit::Failed, format!("failed to listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        let input = async {
            if !until_input_ends {
                return std::future::pending().await;
            }
            let mut input = tokio::io::stdin();
            let mut nothing = [0; 64];
            while input.read(&mut nothing).await.is_ok_and(|read| read > 0) {}
        };
        let ending = tokio::select! {
            _ = terminate.recv() => if until_input_ends { Ending::ForGood } else { Ending::ForNow },
            _ = interrupt.recv() => Ending::ForGood,
            () = input => Ending::ForGood,
        };
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            std::process::exit(i32::from(Exit::Cancelled as u8));
        });
        ending
    })
}

/// Serves as a controller.
pub async fn controller(args: ControllerArgs) -> Done {
    let config = ControllerConfig {
        listen: args.listen,
        insecure: args.insecure,
        unix: args.unix,
        db: place::to_write(args.db.as_deref())?,
        patience: args.lease.patience().map_err(|error| Stop::new(Exit::Usage, error.to_string()))?,
        version: VERSION.into(),
    };
    let db = config.db.display().to_string();
    let unix = config.unix.clone();
    let ready = |address: Option<std::net::SocketAddr>| {
        let places = address
            .map(|address| format!("http://{address}"))
            .into_iter()
            .chain(unix.map(|path| format!("unix:{}", path.display())));
        say(&format!("controller at {}, results in {db}", places.collect::<Vec<_>>().join(" and ")));
    };
    let stop = stop(args.until_input_ends).await?;
    match tuplelab_controller::serve(config, ready, stop).await {
        Ok(()) => Ok(Exit::Held),
        Err(error) => {
            let exit = match error {
                ControllerError::Store(_) => Exit::Store,
                ControllerError::Exposed(_) | ControllerError::Nowhere => Exit::Usage,
                ControllerError::Listen { .. } | ControllerError::Serve(_) => Exit::Failed,
            };
            Err(Stop::new(exit, error.to_string()))
        }
    }
}

/// Serves as a host's agent.
pub async fn agent(args: AgentArgs, controller: Address) -> Done {
    let program = std::env::current_exe().map_err(|error| {
        Stop::new(Exit::Failed, format!("this program's own file cannot be found: {error}"))
    })?;
    let config = AgentConfig {
        controller,
        control_address: args.control_address,
        name: args.name,
        labels: args.labels.into_iter().collect(),
        addresses: args.addresses,
        may_set_sysctls: args.allow_sysctls,
        spool: SpoolPlace {
            required: args.spool.is_some(),
            folder: args.spool.unwrap_or_else(place::of_spools),
        },
        program,
        version: VERSION.into(),
    };
    let stop = stop(args.until_input_ends).await?;
    // Everything that this process logs is of this agent.
    let span = tracing::info_span!("agent", agent = %config.name);
    let stop = async {
        let _ = stop.await;
    };
    match tuplelab_agent::serve(config, stop).instrument(span).await {
        Ok(()) => Ok(Exit::Held),
        Err(error) => {
            let exit = match error {
                AgentError::Facts(_) => Exit::Usage,
                AgentError::Spool(_) | AgentError::Refused { .. } => Exit::Failed,
            };
            Err(Stop::new(exit, error.to_string()))
        }
    }
}
