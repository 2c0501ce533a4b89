//! The agent's steps of a script: questions to the kernel, and a peer that is no kernel.
//!
//! What lives here: what the kernel says of its sockets (`sockets`), counters and `limits`; what its
//! interfaces see (`capture`, counted by `tally`); a raw peer (`peer`). Below them `packet` (the two kinds of
//! sockets) and `segment` (bytes). What does not: the steps that are a worker's, and the signals to it.
//! Where to start: [`Observers::perform`].

mod capture;
mod limits;
mod packet;
mod peer;
mod segment;
mod sockets;
mod tally;
#[cfg(test)]
mod tests;

use crate::readings::readings;
use capture::Capture;
use nix::errno::Errno;
use peer::Kept;
use tuplelab_domain::sample::Readings;
use tuplelab_domain::script::{Action, Answer};

/// What steps leave behind for later ones: a capture under way, final ACKs kept back. One per trial;
/// all of it is of the network namespace of the threads that call [`Self::perform`].
#[derive(Debug, Default)]
pub struct Observers {
    /// Refused ones too: a later question learns why there is nothing.
    capture: Option<Result<Capture, Errno>>,
    kept: Option<Kept>,
}

impl Observers {
    /// Does a step and waits for its answer; `before` are the counters from the trial's beginning.
    /// Blocks: up to a minute for `wait`, else some seconds. A step that is not asked of this module is
    /// answered with `EUNSUPPORTED`, and so is what cannot be done on this host; detail `why` says why.
    pub fn perform(&mut self, action: &Action, before: &Readings) -> Answer {
        match action {
            Action::Wait(time) => {
                std::thread::sleep(*time);
                Answer::of("ok")
            }
            Action::Sockets(port) => sockets::sockets(*port),
            Action::Capture(port) => {
                // The one before ends first: what it counted is gone, whatever becomes of the next.
                self.capture = None;
                match self.capture.insert(Capture::begin(*port)) {
                    Ok(_) => Answer::of("ok"),
                    Err(errno) => refused(*errno),
                }
            }
            Action::Packets => match &self.capture {
                Some(Ok(capture)) => capture.packets(),
                Some(Err(errno)) => refused(*errno),
                None => refused_because(Errno::EINVAL, "no 'capture' step came before on this host"),
            },
            Action::Counters => {
                let moved = readings().since(before);
                moved.iter().fold(Answer::of("ok"), |answer, (name, by)| answer.detail(name, by))
            }
            Action::Limits => limits::limits(),
            Action::Syn { count, to, from, handshake } => match (from.address(), to.address()) {
                (Some(from), Some(to)) => {
                    let (answer, kept) = peer::syn(*count, from, to, *handshake);
                    if kept.is_some() {
                        self.kept = kept;
                    }
                    answer
                }
                _ => refused_because(Errno::EINVAL, "the step's addresses were not resolved"),
            },
            Action::Ack => match self.kept.take() {
                Some(kept) => kept.finish(),
                None => refused_because(Errno::EINVAL, "no 'syn .. late' step came before on this host"),
            },
            _ => unsupported("this step is not one of the agent's observers"),
        }
    }
}

/// The answer of a call that the kernel refused.
fn refused(errno: Errno) -> Answer {
    let answer = Answer::of(format!("{errno:?}")).detail("why", errno.desc());
    match errno {
        Errno::EPERM | Errno::EACCES => answer.detail(
            "remedy",
            "to see and to make packets the agent needs CAP_NET_RAW: run it in a lab, as root, or after \
             `setcap cap_net_raw+ep` on its program",
        ),
        _ => answer,
    }
}

fn refused_because(errno: Errno, why: &str) -> Answer {
    refused(errno).detail("why", why)
}

fn unsupported(why: &str) -> Answer {
    Answer::of("EUNSUPPORTED").detail("why", why)
}
