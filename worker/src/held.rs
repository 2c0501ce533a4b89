//! What an accepting lane holds: four bytes a connection. Where a plan moves held connections they are
//! kept under watch, and found again by their number.

use crate::net::Net;
use nix::errno::Errno;

/// Held connections.
pub(crate) enum Held<S> {
    /// Nobody looks at them before they are closed.
    Still(Vec<S>),
    /// By their key, which is small: the lane's descriptor.
    Watched(Vec<Option<S>>, usize),
}

impl<S> Held<S> {
    /// Room for so many, reserved once; the pages become memory as connections fill them.
    pub fn new(room: usize, watched: bool) -> Self {
        match watched {
            false => Self::Still(Vec::with_capacity(room)),
            true => Self::Watched(Vec::with_capacity(room), 0),
        }
    }

    /// How many are watched; of others nobody needs to know.
    pub fn watched(&self) -> usize {
        match self {
            Self::Still(_) => 0,
            Self::Watched(_, count) => *count,
        }
    }

    /// Takes one in. Where it cannot be watched it closes.
    pub fn push<N: Net<Socket = S>>(&mut self, net: &N, socket: S) -> Result<(), Errno> {
        match self {
            Self::Still(all) => all.push(socket),
            Self::Watched(by_key, count) => {
                net.keep(&socket)?;
                let key = net.key(&socket);
                if by_key.len() <= key {
                    by_key.resize_with(key + 1, || None);
                }
                if let Some(place) = by_key.get_mut(key) {
                    *place = Some(socket);
                    *count += 1;
                }
            }
        }
        Ok(())
    }

    /// The one of that key.
    pub fn get(&self, key: usize) -> Option<&S> {
        match self {
            Self::Still(_) => None,
            Self::Watched(by_key, _) => by_key.get(key)?.as_ref(),
        }
    }

    /// Lets one go.
    pub fn remove(&mut self, key: usize) -> Option<S> {
        let Self::Watched(by_key, count) = self else { return None };
        let socket = by_key.get_mut(key)?.take()?;
        *count -= 1;
        Some(socket)
    }
}
