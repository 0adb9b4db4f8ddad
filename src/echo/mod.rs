//! The echo core, which every protocol shares.
//!
//! An implementation of [`Echo`] moves bytes, one bounded poll step at a time. Its driver, the
//! session, owns deadlines, accounting and the decision to close. This module knows bytes, frames
//! and datagrams. It knows no flags, no certificates and no HTTP, and depends on nothing else in
//! the crate.
//!
//! Why a step and not a handler (`on_data(&[u8])`): for an echo the handler is the identity. What
//! is hard is backpressure, half-close, flushing, fairness and counting. With a step each
//! implementation states them once, in its own terms, and the driver stays the same.
//!
//! Two words of this module: bytes are *owed* while they are to be sent and the peer has not taken
//! them; a *farewell* is what a protocol sends last (a Close frame, close_notify, a FIN).

mod datagrams;
mod frames;
mod framing;
mod scratch;
mod stream;
#[cfg(test)]
mod tests;
mod turn;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use datagrams::LARGEST as MAX_DATAGRAM;
pub use datagrams::{
    Answerable, AnsweringEcho, Answers, Asked, DatagramEcho, DetouringEcho, Reply, Rules,
    Unanswered, Way,
};
pub use frames::Frames;
pub use stream::{Carrier, LowerStream, StreamEcho};
pub(crate) use turn::yield_turn;

/// An endpoint that sends back what it receives.
pub trait Echo: Unpin {
    /// How long a peer may take to close its side, once everything has been sent to it, farewell
    /// included.
    const LINGER: Duration;

    /// Whether [`heartbeat`](Echo::heartbeat) does anything.
    const PINGS: bool = false;

    /// Moves at most one bounded batch: first what is owed to the peer, then new input.
    ///
    /// `Pending` means that nothing more can be done now, that wakers are registered, and that no
    /// buffer is held unless [`owes`](Echo::owes) says so. While something is owed, nothing is
    /// read, so the peer feels its own backpressure.
    ///
    /// # Errors
    /// An error is final. The only call that makes sense afterwards is
    /// [`poll_close`](Echo::poll_close), and only if [`EchoError::allows_farewell`] says so.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>>;

    /// Sends what is still owed and then the farewell. After that it reads until the peer has
    /// closed too: on unread bytes the kernel would answer with a reset, which destroys what is
    /// still in flight.
    ///
    /// It does not end by itself if the peer never closes: the driver bounds it.
    ///
    /// # Errors
    /// The connection broke before the farewell was complete.
    fn poll_close(&mut self, cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>>;

    /// Has the next step send a ping. To be called at intervals. Returns `false` if nothing has come
    /// from the peer since the last call, provided that a ping was sent, or that none could be sent
    /// because the peer has not finished what it had begun to send.
    fn heartbeat(&mut self) -> bool {
        true
    }

    /// What has gone through so far.
    fn traffic(&self) -> Traffic;

    /// Whether the peer has yet to take something: an echo, or a farewell that has begun.
    fn owes(&self) -> bool;

    /// Whether it holds memory beyond what it holds while it is idle: what it [`owes`](Echo::owes),
    /// or input whose rest is to come.
    fn holds(&self) -> bool {
        self.owes()
    }

    /// An upper bound of that memory, in bytes.
    fn held(&mut self) -> usize {
        0
    }

    /// What is done on purpose to the bytes.
    fn injected(&self) -> Option<Injected> {
        None
    }

    /// How many bytes have moved, protocol overhead included. A connection is idle if nothing moves
    /// on it. It is stalled if it [`owes`](Echo::owes) and nothing moves out, whatever its peer
    /// sends.
    fn moved(&self) -> Moved;
}

/// The outcome of one [`Echo::poll_step`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something moved; there may be more.
    Moved,
    /// The same, or nothing moved, but the step took so much CPU time that the task should yield now.
    Costly,
    /// The peer sent its last byte, and everything owed has been delivered.
    Ended(PeerEnd),
}

/// How a peer ended its side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEnd {
    /// A FIN, or over TLS a close_notify.
    EndOfStream,
    /// A FIN without the protocol's own farewell: over TLS a close_notify (RFC 8446 section 6.1),
    /// over WebSocket a Close frame. The input may be incomplete.
    Truncated,
    /// A WebSocket Close frame (RFC 6455 section 5.5.1), with its code if it had one.
    Close(Option<u16>),
}

/// Why the driver closes, for protocols that can tell their peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goodbye {
    /// The peer ended first, or broke the protocol: answer in kind.
    Answer,
    /// The server is going away (WebSocket: 1001).
    GoingAway,
}

/// What has gone through one echo.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Payload bytes received.
    pub received: u64,
    /// Payload bytes handed to the layer below to send.
    pub sent: u64,
    /// WebSocket messages or datagrams. A byte stream has no messages; here it counts the batches
    /// that were read.
    pub messages: u64,
}

impl std::ops::AddAssign for Traffic {
    fn add_assign(&mut self, other: Traffic) {
        self.received += other.received;
        self.sent += other.sent;
        self.messages += other.messages;
    }
}

/// Bytes that have moved, by direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// From the peer.
    pub inward: u64,
    /// To the peer.
    pub outward: u64,
}

/// Why an echo could not go on.
#[derive(Debug, thiserror::Error)]
pub enum EchoError {
    /// Receiving failed.
    #[error("read failed: {0}")]
    Read(#[source] io::Error),
    /// Sending failed.
    #[error("write failed: {0}")]
    Write(#[source] io::Error),
    /// The peer is there, but takes nothing of what it is owed.
    #[error("stall timeout: {0}")]
    Unresponsive(&'static str),
    /// The peer violated the protocol. The answer is a Close frame with this code (RFC 6455
    /// section 7.4.1).
    #[error("protocol violation, closed with {code}: {detail}")]
    Protocol {
        /// The close code for the peer.
        code: u16,
        /// What was wrong, for the log.
        detail: &'static str,
    },
}

/// What is done on purpose to the bytes of a connection, in words for its closing line.
#[derive(Debug)]
pub struct Injected {
    /// The faults.
    pub faults: String,
    /// How they have ended the connection, if they have.
    pub end: Option<String>,
}

impl EchoError {
    /// Whether a farewell can still be sent after this error: the peer violated a protocol, and the
    /// connection below it is intact. In the case of TLS the farewell includes rustls' alert.
    pub fn allows_farewell(&self) -> bool {
        match self {
            EchoError::Protocol { .. } | EchoError::Unresponsive(_) => true,
            EchoError::Read(error) => error.kind() == io::ErrorKind::InvalidData,
            EchoError::Write(_) => false,
        }
    }
}
