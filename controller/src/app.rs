//! The controller as a whole: opens the store, starts its parts, serves, and shuts down in order.

use crate::conductor::Conductor;
use crate::decision::interrupt;
use crate::hub::Hub;
use crate::patience::Patience;
use crate::queue::Queue;
use crate::rpc::{AgentsService, LabService};
use crate::store::{Store, StoreError};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tracing::{info, warn};
use tuplelab_proto::v1::agents_server::AgentsServer;
use tuplelab_proto::v1::lab_server::LabServer;

/// What a controller is told when it is started.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Where it listens, if over TCP.
    pub listen: Option<SocketAddr>,
    /// Whether it may listen on an address that others can reach, though nothing is encrypted and
    /// nobody is asked who they are.
    pub insecure: bool,
    /// A Unix socket to listen on as well (made with mode 0600).
    pub unix: Option<PathBuf>,
    /// The database.
    pub db: PathBuf,
    /// How long agents may be silent.
    pub patience: Patience,
    /// The version to tell agents.
    pub version: String,
}

/// Why a controller cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Others could reach it.
    #[error(
        "refusing to listen on {0}: whoever reaches it could run load from every agent, and nothing is encrypted; \
         listen on a loopback address, or say --insecure on a network that is yours alone"
    )]
    Exposed(SocketAddr),
    /// Neither an address nor a socket.
    #[error("nothing to listen on: give --listen, --unix or both")]
    Nowhere,
    /// A place to listen on cannot be had.
    #[error("failed to listen on {place}: {source}; stop the program that has it, or choose another one")]
    Listen {
        /// Which.
        place: String,
        /// Why.
        source: std::io::Error,
    },
    /// The server ended.
    #[error("failed to serve: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// The largest message that is taken from anybody, in bytes.
const LARGEST_MESSAGE: usize = 4 << 20;
/// How long streams may take to end at a shutdown, before they are cut (hyper waits for ever).
const DRAIN: Duration = Duration::from_secs(2);
/// How long the database may take to be closed.
const CLOSE: Duration = Duration::from_secs(5);

/// What becomes of a run that is under way when a controller stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It is interrupted.
    ForGood,
    /// The next controller on this database takes it up again, within a lease.
    ForNow,
}

/// Serves until `stop` is done. `ready` is told the TCP address once it listens.
///
/// # Errors
/// See [`ControllerError`].
pub async fn serve(
    config: ControllerConfig,
    ready: impl FnOnce(Option<SocketAddr>),
    stop: impl Future<Output = Ending>,
) -> Result<(), ControllerError> {
    if let Some(listen) = config.listen.filter(|listen| !listen.ip().is_loopback() && !config.insecure) {
        return Err(ControllerError::Exposed(listen));
    }
    if config.listen.is_none() && config.unix.is_none() {
        return Err(ControllerError::Nowhere);
    }
    let store = Store::open(&config.db).await?;
    let tcp = match config.listen {
        Some(address) => Some(
            TcpListener::bind(address)
                .await
                .map_err(|source| ControllerError::Listen { place: address.to_string(), source })?,
        ),
        None => None,
    };
    let unix = config.unix.as_ref().map(listen_on_socket).transpose()?;
    let (hub, heard) = Hub::new(config.patience);
    let queue = Queue::default();
    let conductor = Conductor::new(store.clone(), hub.clone(), queue.clone(), heard);
    conductor.take_up().await?;
    let watching = tokio::spawn(hub.clone().watch_over());
    let working = tokio::spawn(conductor.work());

    let routes = routes(&store, &hub, &queue, &config.version).await;
    let (draining, ended) = tokio::sync::watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let address = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
    if let Some(tcp) = tcp {
        let incoming = TcpListenerStream::new(tcp);
        let server = server().add_routes(routes.clone());
        servers.spawn(server.serve_with_incoming_shutdown(incoming, until(ended.clone())));
    }
    if let Some(unix) = unix {
        let incoming = UnixListenerStream::new(unix);
        servers.spawn(server().add_routes(routes).serve_with_incoming_shutdown(incoming, until(ended)));
    }
    info!(listen = ?address, unix = ?config.unix, db = %config.db.display(), "ready");
    ready(address);

    let (ending, served) = tokio::select! {
        ending = stop => (ending, Ok(())),
        Some(served) = servers.join_next() => (Ending::ForNow, served.unwrap_or(Ok(()))),
    };
    // Agents see their streams end and close what they hold when their lease does.
    draining.send_replace(true);
    let drain = async { while servers.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drain).await;
    working.abort();
    watching.abort();
    let _ = working.await;
    // A database that is only read from now on says how its last run ended, too.
    if ending == Ending::ForGood
        && let Err(error) = interrupt(&store).await
    {
        warn!(%error, "the run that was under way could not be ended");
    }
    // A reader that does not come to its end holds nobody up: the file is whole without it.
    let _ = tokio::time::timeout(CLOSE, store.close()).await;
    if let Some(path) = &config.unix {
        let _ = std::fs::remove_file(path);
    }
    served.map_err(Into::into)
}

async fn until(mut ended: tokio::sync::watch::Receiver<bool>) {
    let _ = ended.wait_for(|ended| *ended).await;
}

/// Pings find agents that are gone or stopped; limits keep one peer from taking all there is.
fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(5)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .max_concurrent_streams(64)
}

async fn routes(store: &Store, hub: &Hub, queue: &Queue, version: &str) -> Routes {
    let agents = AgentsServer::new(AgentsService::new(hub.clone(), version.to_owned()));
    let lab = LabServer::new(LabService::new(store.clone(), hub.clone(), queue.clone()));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<AgentsServer<AgentsService>>().await;
    reporter.set_serving::<LabServer<LabService>>().await;
    let mut builder: RoutesBuilder = Routes::builder();
    builder
        .add_service(agents.max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(lab.max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(health);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(tuplelab_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    match reflection {
        Ok(reflection) => drop(builder.add_service(reflection)),
        Err(error) => tracing::warn!(%error, "reflection is not served"),
    }
    builder.routes()
}

/// Listens on a Unix socket that only its owner may use. A socket that nobody answers on is a
/// leftover and replaced; one that somebody answers on, or another kind of file, is left alone.
fn listen_on_socket(path: &PathBuf) -> Result<UnixListener, ControllerError> {
    let listen = |source| ControllerError::Listen { place: format!("unix:{}", path.display()), source };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(listen(std::io::Error::from(std::io::ErrorKind::AddrInUse)));
    }
    let leftover = std::fs::symlink_metadata(path)
        .is_ok_and(|file| std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()));
    if leftover {
        std::fs::remove_file(path).map_err(listen)?;
    }
    let listener = UnixListener::bind(path).map_err(listen)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
    Ok(listener)
}
