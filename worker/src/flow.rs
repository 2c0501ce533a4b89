//! A flow from its first byte to its answer, at either end: pure, so that each way of failing can be
//! tried without a network.
//!
//! ```text
//! client   Flow:      Sending --16 bytes sent--> Awaiting --the same 16 came back--> established
//!          where no answer is asked for:  Sending --0 bytes sent--> established
//! server   Greeting:  16 bytes came, the first 8 are this trial's --> echo them --> established
//! ```
//! A connection counts only once the other end's *application* has answered: a stopped server's
//! kernel still completes handshakes. Where a plan asks for handshakes only, a send of nothing tells how
//! `connect` ended, as any first send does (`tcp_sendmsg_locked`, net/ipv4/tcp.c): EAGAIN until it has.

use crate::net::Nanos;
use nix::errno::Errno;
use tuplelab_domain::sample::Call;

/// What a client sends first on each connection, and a server echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token(pub [u8; Token::LENGTH]);

impl Token {
    /// Eight bytes that name the trial, eight that name the flow in it.
    pub const LENGTH: usize = 16;

    pub fn new(trial: u64, flow: u64) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes[..8].copy_from_slice(&trial.to_be_bytes());
        bytes[8..].copy_from_slice(&flow.to_be_bytes());
        Self(bytes)
    }
}

/// Why a call failed: the kernel's reason, or ours where the kernel gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Kernel(Errno),
    /// The peer closed before it answered.
    Eof,
    /// The time for an answer was up.
    NoAnswer,
    /// Another token came back.
    WrongAnswer,
}

impl Cause {
    /// As in `tuplelab_domain::sample::Failure`.
    pub fn name(self) -> String {
        match self {
            Self::Kernel(errno) => format!("{errno:?}"),
            Self::Eof => "EOF".into(),
            Self::NoAnswer => "NO_ANSWER".into(),
            Self::WrongAnswer => "WRONG_ANSWER".into(),
        }
    }
}

/// What happened on a flow's socket.
#[derive(Debug)]
pub(crate) enum Event<'a> {
    /// A send was tried: so many bytes went.
    Sent(Result<usize, Errno>),
    /// A receive was tried: these bytes came.
    Received(Result<&'a [u8], Errno>),
}

/// What is to be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Something moved: try the next call at once.
    Again,
    /// Nothing moved: try again when the socket is ready, or the deadline is there.
    Wait,
    /// The other end's application has answered.
    Established,
    /// It will not: close it and count this.
    Failed(Call, Cause),
}

/// An active opener's flow, from `connect` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow {
    token: Token,
    deadline: Nanos,
    answered: bool,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The handshake may still be under way; so many bytes of the token have gone.
    Sending(usize),
    /// So many bytes of the echo have come.
    Awaiting(usize),
}

impl Flow {
    /// A flow whose `connect` was just called, and whether it is to be answered.
    pub fn begin(token: Token, deadline: Nanos, answered: bool) -> Self {
        Self { token, deadline, answered, stage: Stage::Sending(0) }
    }

    /// The rest of the token that is still to be sent; `None` once the echo is awaited.
    pub fn unsent(&self) -> Option<&[u8]> {
        match self.stage {
            Stage::Sending(_) if !self.answered => Some(&[]),
            Stage::Sending(sent) => Some(&self.token.0[sent..]),
            Stage::Awaiting(_) => None,
        }
    }

    /// When it has failed if it was not answered.
    pub fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// The one function that changes a flow.
    pub fn on(self, event: Event<'_>, now: Nanos) -> (Self, Step) {
        let at = |stage, step| (Self { stage, ..self }, step);
        match (self.stage, event) {
            // A reset is that of a connection: a handshake that is refused says ECONNREFUSED
            // (tcp_reset, net/ipv4/tcp_input.c). So this one was over, too.
            (Stage::Sending(_), Event::Sent(Ok(_) | Err(Errno::ECONNRESET | Errno::EPIPE)))
                if !self.answered =>
            {
                (self, Step::Established)
            }
            (Stage::Sending(sent), Event::Sent(Ok(more))) => match sent + more {
                all if all >= Token::LENGTH => at(Stage::Awaiting(0), Step::Again),
                part => at(Stage::Sending(part), Step::Again),
            },
            (Stage::Sending(_), Event::Sent(Err(Errno::EAGAIN))) if now >= self.deadline => {
                (self, Step::Failed(Call::Connect, Cause::Kernel(Errno::ETIMEDOUT)))
            }
            // A reset after the handshake is `send`'s own error; what else the first send tells
            // (refused, unreachable, timed out) is how the handshake ended.
            (Stage::Sending(_), Event::Sent(Err(errno @ (Errno::ECONNRESET | Errno::EPIPE)))) => {
                (self, Step::Failed(Call::Send, Cause::Kernel(errno)))
            }
            (Stage::Sending(0), Event::Sent(Err(errno))) if !again(errno) => {
                (self, Step::Failed(Call::Connect, Cause::Kernel(errno)))
            }
            (Stage::Sending(_), Event::Sent(Err(errno))) if !again(errno) => {
                (self, Step::Failed(Call::Send, Cause::Kernel(errno)))
            }
            (Stage::Awaiting(_), Event::Received(Ok([]))) => (self, Step::Failed(Call::Receive, Cause::Eof)),
            (Stage::Awaiting(got), Event::Received(Ok(bytes))) => {
                let all = got + bytes.len();
                match self.token.0.get(got..all) {
                    Some(expected) if expected != bytes => {
                        (self, Step::Failed(Call::Receive, Cause::WrongAnswer))
                    }
                    None => (self, Step::Failed(Call::Receive, Cause::WrongAnswer)),
                    Some(_) if all == Token::LENGTH => at(Stage::Awaiting(all), Step::Established),
                    Some(_) => at(Stage::Awaiting(all), Step::Again),
                }
            }
            (Stage::Awaiting(_), Event::Received(Err(errno))) if !again(errno) => {
                (self, Step::Failed(Call::Receive, Cause::Kernel(errno)))
            }
            (Stage::Awaiting(_), Event::Received(Err(_))) if now >= self.deadline => {
                (self, Step::Failed(Call::Receive, Cause::NoAnswer))
            }
            // EAGAIN and EINTR, and answers to calls that this stage does not make.
            (_, Event::Sent(_) | Event::Received(_)) => (self, Step::Wait),
        }
    }
}

/// What is to be done about an accepted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Part of a token came: receive more.
    Again,
    /// Nothing came yet.
    Wait,
    /// This trial's token: send it back; then the flow is established.
    Echo(Token),
    /// No token, or not this trial's: close it.
    Stranger,
    /// Close it and count this.
    Failed(Call, Cause),
}

/// A passive opener's flow, from `accept` to its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    token: [u8; Token::LENGTH],
    got: usize,
    deadline: Nanos,
}

impl Greeting {
    /// A connection just accepted, whose token must have come by `deadline`.
    pub fn begin(deadline: Nanos) -> Self {
        Self { token: [0; Token::LENGTH], got: 0, deadline }
    }

    /// How many bytes are still to come.
    pub fn missing(&self) -> usize {
        Token::LENGTH - self.got
    }

    /// When it is a stranger if it has not sent its token.
    pub fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// The one function that changes a greeting; `trial` is what the first half must be.
    pub fn on(mut self, received: Result<&[u8], Errno>, trial: u64, now: Nanos) -> (Self, Reply) {
        match received {
            Ok([]) => (self, Reply::Failed(Call::Receive, Cause::Eof)),
            Ok(bytes) => {
                let part = &mut self.token[self.got..];
                let length = bytes.len().min(part.len());
                part[..length].copy_from_slice(&bytes[..length]);
                self.got += length;
                match self.missing() {
                    0 if self.token[..8] == trial.to_be_bytes() => (self, Reply::Echo(Token(self.token))),
                    0 => (self, Reply::Stranger),
                    _ => (self, Reply::Again),
                }
            }
            Err(errno) if !again(errno) => (self, Reply::Failed(Call::Receive, Cause::Kernel(errno))),
            Err(_) if now >= self.deadline => (self, Reply::Stranger),
            Err(_) => (self, Reply::Wait),
        }
    }
}

fn again(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EINTR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOKEN: Token = Token([7; Token::LENGTH]);

    fn after(events: &[Event<'_>], now: Nanos) -> Step {
        let mut flow = Flow::begin(TOKEN, 1_000, true);
        let mut step = Step::Wait;
        for event in events {
            let again = match event {
                Event::Sent(result) => Event::Sent(*result),
                Event::Received(result) => Event::Received(*result),
            };
            (flow, step) = flow.on(again, now);
        }
        step
    }

    #[test]
    fn a_flow_is_established_when_its_own_token_comes_back() {
        assert_eq!(after(&[Event::Sent(Ok(16))], 0), Step::Again);
        assert_eq!(after(&[Event::Sent(Ok(16)), Event::Received(Ok(&TOKEN.0))], 0), Step::Established);
        let other = after(&[Event::Sent(Ok(16)), Event::Received(Ok(&[8; 16]))], 0);
        assert_eq!(other, Step::Failed(Call::Receive, Cause::WrongAnswer));
        let longer = after(&[Event::Sent(Ok(16)), Event::Received(Ok(&[7; 17]))], 0);
        assert_eq!(longer, Step::Failed(Call::Receive, Cause::WrongAnswer));
    }

    #[test]
    fn a_deadline_tells_a_handshake_that_never_ended_from_an_answer_that_never_came() {
        let again = || Event::Sent(Err(Errno::EAGAIN));
        assert_eq!(after(&[again()], 999), Step::Wait);
        assert_eq!(after(&[again()], 1_000), Step::Failed(Call::Connect, Cause::Kernel(Errno::ETIMEDOUT)));
        let silent = after(&[Event::Sent(Ok(16)), Event::Received(Err(Errno::EAGAIN))], 1_000);
        assert_eq!(silent, Step::Failed(Call::Receive, Cause::NoAnswer));
    }

    #[test]
    fn a_failure_names_the_call_that_it_belongs_to() {
        let refused = after(&[Event::Sent(Err(Errno::ECONNREFUSED))], 0);
        assert_eq!(refused, Step::Failed(Call::Connect, Cause::Kernel(Errno::ECONNREFUSED)));
        let reset = after(&[Event::Sent(Err(Errno::ECONNRESET))], 0);
        assert_eq!(reset, Step::Failed(Call::Send, Cause::Kernel(Errno::ECONNRESET)));
        let later = after(&[Event::Sent(Ok(16)), Event::Received(Err(Errno::ECONNRESET))], 0);
        assert_eq!(later, Step::Failed(Call::Receive, Cause::Kernel(Errno::ECONNRESET)));
        let closed = after(&[Event::Sent(Ok(16)), Event::Received(Ok(&[]))], 0);
        assert_eq!(closed, Step::Failed(Call::Receive, Cause::Eof));
        assert_eq!(Cause::Kernel(Errno::EADDRNOTAVAIL).name(), "EADDRNOTAVAIL");
    }

    #[test]
    fn where_no_answer_is_asked_for_the_end_of_the_handshake_is_enough() {
        let flow = Flow::begin(TOKEN, 1_000, false);
        assert_eq!(flow.unsent(), Some(&[][..]), "nothing is sent");
        let step = |sent, now| flow.on(Event::Sent(sent), now).1;
        assert_eq!(step(Ok(0), 0), Step::Established);
        assert_eq!(step(Err(Errno::ECONNRESET), 0), Step::Established, "it was closed since");
        assert_eq!(step(Err(Errno::EAGAIN), 999), Step::Wait);
        let failed = |errno| Step::Failed(Call::Connect, Cause::Kernel(errno));
        assert_eq!(step(Err(Errno::EAGAIN), 1_000), failed(Errno::ETIMEDOUT));
        assert_eq!(step(Err(Errno::ECONNREFUSED), 0), failed(Errno::ECONNREFUSED));
    }

    #[test]
    fn a_greeting_is_echoed_only_with_this_trials_token() {
        let ours = Token::new(5, 9);
        let begin = Greeting::begin(1_000);
        assert_eq!(begin.on(Ok(&ours.0), 5, 0).1, Reply::Echo(ours));
        assert_eq!(begin.on(Ok(&ours.0), 6, 0).1, Reply::Stranger);
        assert_eq!(begin.on(Err(Errno::EAGAIN), 5, 999).1, Reply::Wait);
        assert_eq!(begin.on(Err(Errno::EAGAIN), 5, 1_000).1, Reply::Stranger);
        assert_eq!(begin.on(Ok(&[]), 5, 0).1, Reply::Failed(Call::Receive, Cause::Eof));
    }

    proptest! {
        #[test]
        fn tokens_may_come_in_any_pieces(flow: u64, cut in 1usize..16) {
            let token = Token::new(3, flow);
            let (front, back) = token.0.split_at(cut);
            let (greeting, first) = Greeting::begin(9).on(Ok(front), 3, 0);
            prop_assert_eq!(first, Reply::Again);
            prop_assert_eq!(greeting.on(Ok(back), 3, 0).1, Reply::Echo(token));

            let (flow, _) = Flow::begin(token, 9, true).on(Event::Sent(Ok(cut)), 0);
            prop_assert_eq!(flow.unsent(), Some(back));
            let (flow, _) = flow.on(Event::Sent(Ok(16 - cut)), 0);
            let (flow, first) = flow.on(Event::Received(Ok(front)), 0);
            prop_assert_eq!(first, Step::Again);
            prop_assert_eq!(flow.on(Event::Received(Ok(back)), 0).1, Step::Established);
        }
    }
}
