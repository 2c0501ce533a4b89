//! What this host offers, read from its kernel: the numbers that every prediction stands on.

mod addresses;
mod bound;
mod cgroup;
mod conntrack;
mod limits;
mod place;
mod routes;
mod selector;

pub use addresses::AddressError;
use addresses::Offer;
pub use bound::BoundError;
pub(crate) use conntrack::active as active_conntrack;
pub use limits::LimitError;
pub use selector::{AddressSelector, BadSelector};

use crate::sysctls;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use tuplelab_domain::capacity::facts::HostFacts;

/// Why this host's facts are not known.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// No address, or one that this host does not have.
    #[error(transparent)]
    Addresses(#[from] AddressError),
    /// Which sockets hold ports is not known.
    #[error(transparent)]
    Bound(#[from] BoundError),
    /// A limit could not be read.
    #[error(transparent)]
    Limit(#[from] LimitError),
}

/// Reads the facts of this host: of the calling thread's network namespace. `offered` names the
/// addresses for data; none means every global address but `control`, which the control connection
/// leaves from.
pub fn host_facts(
    offered: &[AddressSelector],
    control: Option<IpAddr>,
    may_set_sysctls: bool,
) -> Result<HostFacts, FactsError> {
    let Offer { addresses, networks } = addresses::offered(offered, control)?;
    Ok(HostFacts {
        kernel: read("/proc/sys/kernel/osrelease")?,
        boot_id: read("/proc/sys/kernel/random/boot_id")?,
        network_namespace: namespace("/proc/thread-self/ns/net")?,
        cpus: limits::cpus(),
        memory_available: limits::memory_available()?,
        open_files: limits::open_files()?,
        bound: bound::sockets(&addresses)?,
        conntrack_available: conntrack::available(bound::connections()?),
        // After those: its probe opens a connection, and closes it without a trace in TCP.
        conntrack: conntrack::active(),
        addresses,
        networks,
        sysctls: sysctls::read(),
        may_set_sysctls,
        place: place::own(),
    })
}

/// A file of `/proc`, trimmed.
fn read(path: &'static str) -> Result<String, LimitError> {
    let text = std::fs::read_to_string(path).map_err(|source| LimitError::Unreadable { path, source })?;
    Ok(text.trim().to_owned())
}

/// The inode that names a namespace.
fn namespace(path: &'static str) -> Result<u64, LimitError> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = |path: &Path| -> io::Result<u64> { Ok(std::fs::metadata(path)?.ino()) };
    metadata(Path::new(path)).map_err(|source| LimitError::Unreadable { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_facts_are_those_that_its_kernel_shows() {
        let offered = ["127.66.40.1", "127.66.40.2"].map(|text| text.parse().expect("an address"));
        let facts = host_facts(&offered, None, true).expect("read");
        assert_eq!(
            facts.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.66.40.1", "127.66.40.2"]
        );
        assert_eq!(facts.networks, ["127.0.0.0/8".parse().expect("a network")]);
        assert_eq!(facts.boot_id.len(), 36);
        assert!(facts.kernel.contains('.') && facts.network_namespace > 0 && facts.cpus > 0);
        assert!(facts.memory_available > 0 && facts.open_files.per_table > 0 && facts.open_files.threads > 0);
        assert!(facts.open_files.system > 0 && facts.open_files.allocated > 0 && facts.may_set_sysctls);
        assert!(facts.sysctls.values().all(|value| !value.contains(['\t', '\n'])), "{:?}", facts.sysctls);
        assert!(!facts.port_range().is_empty() && facts.somaxconn() > 0);
    }
}
