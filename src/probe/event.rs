//! What a probe reports while it runs.

use super::{Connected, Oddity, Progress, Reply};

/// Something that happened while a probe ran. Each kind of run documents which events it has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The connection is established, TLS and WebSocket handshakes included.
    Connected(Box<Connected>),
    /// A message was received.
    Reply(Reply),
    /// A message has not come back within the timeout. It may still come back, late.
    #[non_exhaustive]
    Overdue {
        /// Its sequence number, from 0.
        seq: u64,
    },
    /// The connection failed or was closed, which ends a ping. Over UDP it does not: the system
    /// refused to send a datagram, or an ICMP error answered one.
    #[non_exhaustive]
    Failed {
        /// The cause, on one line.
        reason: String,
    },
    /// The service does something that an echo service does not. It is told at the end of a ping.
    Noticed(Oddity),
    /// How far a load has come.
    Progress(Progress),
    /// A size was tried in the search for the largest datagram.
    #[non_exhaustive]
    SizeTried {
        /// The payload in bytes.
        size: usize,
        /// Whether it came back.
        came_back: bool,
    },
}
