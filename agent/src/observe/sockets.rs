//! The kernel's sockets with one port, by state.

use super::refused_because;
use crate::diag::{DiagError, End, Family, PortFilter, Record, States, dump, whole};
use crate::netlink::NetlinkError;
use nix::errno::Errno;
use tuplelab_domain::sample::TcpState;
use tuplelab_domain::script::Answer;

/// What one or several dumps counted.
#[derive(Debug, Default)]
struct Count {
    /// By the kernel's number.
    states: [u64; 16],
    established_local: u64,
    established_remote: u64,
    listeners: u64,
    queued: u64,
    backlog: u64,
}

impl Count {
    fn add(&mut self, port: u16, record: &Record) {
        let Some(state) = record.state else { return };
        if let Some(count) = self.states.get_mut(state as usize) {
            *count += 1;
        }
        let local = record.local.port() == port;
        match state {
            TcpState::Established if local => self.established_local += 1,
            TcpState::Established => self.established_remote += 1,
            TcpState::Listen if local => {
                self.listeners += 1;
                self.queued += u64::from(record.receive_queue);
                self.backlog += u64::from(record.send_queue);
            }
            _ => {}
        }
    }

    fn answer(self) -> Answer {
        let of = |state: TcpState| self.states.get(state as usize).copied().unwrap_or(0);
        let all = TcpState::ALL.into_iter();
        let answer = all.fold(Answer::of("ok"), |answer, state| answer.detail(state.name(), of(state)));
        answer
            .value(of(TcpState::Established))
            .detail("established_local", self.established_local)
            .detail("established_remote", self.established_remote)
            .detail("listeners", self.listeners)
            .detail("queued", self.queued)
            .detail("backlog", self.backlog)
    }
}

/// Counts the sockets of the calling thread's namespace that have this port at either end, each once.
///
/// Every state has a detail, 0 included. The value is ESTABLISHED sockets: where both ends live in one
/// namespace that is two for each connection, and `established_local` and `established_remote` tell
/// them apart. `queued` and `backlog` are the sums over all listeners on the port. A connection that
/// waits to be accepted is ESTABLISHED like any other.
pub fn sockets(port: u16) -> Answer {
    let counted = whole(|| {
        let mut count = Count::default();
        for family in Family::ALL {
            for end in [End::Local, End::Remote] {
                let filter = PortFilter { end, low: port, high: port };
                dump(family, States::all(), Some(filter), |record| {
                    // Those with the port at both ends are in both dumps.
                    if end == End::Local || record.local.port() != port {
                        count.add(port, record);
                    }
                })?;
            }
        }
        Ok(count)
    });
    match counted {
        Ok(count) => count.answer(),
        Err(error) => {
            let errno = match &error {
                DiagError::Netlink(NetlinkError::Refused(errno)) => *errno,
                DiagError::Netlink(NetlinkError::Socket { source, .. }) => {
                    source.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
                }
                DiagError::Netlink(_) => Errno::EIO,
                DiagError::Torn(_) => Errno::EAGAIN,
            };
            refused_because(errno, &error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{connect, listen};

    #[test]
    fn a_listeners_queue_is_counted_and_so_are_both_ends_of_its_connections() {
        let listener = listen("127.66.60.1:0");
        let server = listener.local_addr().expect("bound");
        let _held: Vec<_> = (0..3).map(|_| connect("127.66.60.2:0", server)).collect();
        let answer = sockets(server.port());
        let of = |name| answer.number(name).expect("a number");
        assert_eq!((answer.outcome.as_str(), answer.value), ("ok", Some(6)));
        assert_eq!((of("established_local"), of("established_remote"), of("established")), (3, 3, 6));
        assert_eq!((of("listeners"), of("listen"), of("queued"), of("syn_sent")), (1, 1, 3, 0));
        assert!(of("backlog") > 0);
        drop(listener.accept().expect("accepted"));
        assert_eq!(sockets(server.port()).number("queued"), Some(2));
    }

    #[test]
    fn a_socket_with_the_port_at_both_ends_is_counted_once() {
        let listener = listen("127.66.61.1:0");
        let server = listener.local_addr().expect("bound");
        let _client = connect(&format!("127.66.61.2:{}", server.port()), server);
        let answer = sockets(server.port());
        assert_eq!((answer.value, answer.number("established_local")), (Some(2), Some(2)));
    }

    #[test]
    fn ipv6_sockets_are_counted_too() {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            return eprintln!("left out: this host has no ::1");
        };
        let server = listener.local_addr().expect("bound");
        let _held = connect("[::1]:0", server);
        let answer = sockets(server.port());
        assert_eq!((answer.value, answer.number("queued")), (Some(2), Some(1)));
    }
}
