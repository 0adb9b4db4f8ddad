//! The shared echo core: what every door has in common.
//!
//! A transport that can echo implements [`Echo`], one bounded poll step at a time; whoever drives
//! it owns deadlines, accounting and the goodbye. This room knows bytes, frames and datagrams. It
//! knows no flags, no certificates and no HTTP, and depends on nothing else in the crate.
//!
//! Why a step and not a handler (`on_data(&[u8])`): for an echo the handler is the identity. What
//! is hard is backpressure, half-close, flushing, fairness and counting, and a step lets each
//! transport state them once, in its own terms, while the driver stays the same.

mod datagrams;
mod frames;
mod framing;
mod scratch;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::task::{Context, Poll};
use std::time::Duration;

pub(crate) use datagrams::LARGEST as MAX_DATAGRAM;
pub use datagrams::{Answerable, DatagramEcho, Rules, Unanswered};
pub use frames::Frames;
pub use stream::{StreamEcho, Underlying};

/// A transport that sends back what it receives.
pub trait Echo: Unpin {
    /// How long a peer that has been sent everything, farewell included, has to close too.
    const LINGER: Duration;

    /// Whether [`heartbeat`](Echo::heartbeat) does anything.
    const PINGS: bool = false;

    /// Moves at most one bounded batch: what is owed to the peer first, then new input.
    ///
    /// `Pending` means that nothing more can be done now, that wakers are registered, and that no
    /// buffer is held beyond what [`owes`](Echo::owes) admits to. While the transport owes and the
    /// peer does not take, nothing is read: backpressure is the peer's own.
    ///
    /// # Errors
    /// An error is final. The only call that makes sense afterwards is
    /// [`poll_close`](Echo::poll_close), and only if [`EchoError::leaves_a_goodbye`] says so.
    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>>;

    /// Sends what is still owed, then the transport's farewell (FIN, close_notify, a Close frame),
    /// then reads until the peer has closed too, so that the kernel never answers unread bytes
    /// with a reset that would destroy what is still in flight.
    ///
    /// It does not end by itself if the peer never closes: the driver bounds it.
    ///
    /// # Errors
    /// The connection broke before the farewell was complete.
    fn poll_close(&mut self, cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>>;

    /// Asks the peer, in the next step, whether it is there. To be called at intervals; `false`:
    /// it was asked before, and nothing has come from it since.
    fn heartbeat(&mut self) -> bool {
        true
    }

    /// What has gone through so far.
    fn traffic(&self) -> Traffic;

    /// Whether something waits for the peer to take it: an echo, or a farewell that has begun.
    fn owes(&self) -> bool;

    /// How many bytes have moved, protocol overhead included. A connection on which nothing moves
    /// is idle; one that [`owes`](Echo::owes) and on which nothing moves out is stalled, whatever
    /// its peer sends.
    fn moved(&self) -> Moved;
}

/// What one [`Echo::poll_step`] came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Something moved; there may be more.
    Moved,
    /// The same, and it took much computing: others should have a turn now.
    Toiled,
    /// The peer sent its last byte, and everything owed has been delivered.
    Ended(PeerEnd),
}

/// How a peer ended its side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerEnd {
    /// A FIN, or over TLS a close_notify.
    EndOfStream,
    /// A FIN without the protocol's own farewell, over TLS a close_notify (RFC 8446 section 6.1),
    /// over WebSocket a Close frame: what came may have been cut.
    Truncated,
    /// A WebSocket Close frame (RFC 6455 section 5.5.1), with its code if it had one.
    Close(Option<u16>),
}

/// Why the driver closes, for transports that can tell their peer.
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
    /// Payload bytes handed to the transport to send.
    pub sent: u64,
    /// WebSocket messages or datagrams; on a byte stream, which has no messages, the batches that
    /// were read.
    pub messages: u64,
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
    /// The peer broke the protocol, and is to be told with this WebSocket close code
    /// (RFC 6455 section 7.4.1).
    #[error("protocol violation, closed with {code}: {detail}")]
    Protocol {
        /// The close code for the peer.
        code: u16,
        /// What was wrong, for the log.
        detail: &'static str,
    },
}

impl EchoError {
    /// Whether the transport can still carry a farewell after this error: the peer broke a
    /// protocol, and the connection below it is whole. rustls has an alert to send then.
    pub fn leaves_a_goodbye(&self) -> bool {
        match self {
            EchoError::Protocol { .. } | EchoError::Unresponsive(_) => true,
            EchoError::Read(error) => error.kind() == io::ErrorKind::InvalidData,
            EchoError::Write(_) => false,
        }
    }
}
