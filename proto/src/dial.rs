//! How agents and people reach a controller: over TCP, or over a Unix socket.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// Where a controller is: `http://host:port` or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Over TCP.
    Tcp(String),
    /// Over a Unix socket.
    Unix(PathBuf),
}

/// A text that is no controller's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no controller's address: write it as in \"http://127.0.0.1:7600\" or \"unix:/run/tuplelab.sock\""
)]
pub struct BadAddress(String);

impl FromStr for Address {
    type Err = BadAddress;
    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let authority = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
        match authority {
            Some(authority) if !authority.is_empty() && Endpoint::from_shared(text.to_owned()).is_ok() => {
                Ok(Self::Tcp(format!("http://{authority}")))
            }
            _ => Err(BadAddress(text.to_owned())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(url) => f.write_str(url),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Opens a channel, from the given local address if there is one.
///
/// # Errors
/// The controller cannot be reached within five seconds.
pub async fn dial(address: &Address, from: Option<IpAddr>) -> Result<Channel, tonic::transport::Error> {
    match address {
        Address::Tcp(url) => set(Endpoint::from_shared(url.clone())?).local_address(from).connect().await,
        Address::Unix(path) => {
            let path = path.clone();
            let connect = tower::service_fn(move |_| {
                let path = path.clone();
                async move {
                    let stream = tokio::net::UnixStream::connect(path).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
                }
            });
            // The URI is only the name that HTTP/2 wants; the connector decides where it goes.
            set(Endpoint::from_static("http://controller.local")).connect_with_connector(connect).await
        }
    }
}

/// Pings find a peer that is gone, or stopped, which TCP alone does not; also while nothing is said.
fn set(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(Duration::from_secs(5))
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_url_without_a_path_or_a_unix_socket() {
        assert_eq!("http://127.0.0.1:7600/".parse(), Ok(Address::Tcp("http://127.0.0.1:7600".into())));
        assert_eq!("unix:/run/x.sock".parse(), Ok(Address::Unix("/run/x.sock".into())));
        for bad in ["", "unix:", "127.0.0.1:7600", "https://x", "http://", "http://a b"] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?} was taken");
        }
    }
}
