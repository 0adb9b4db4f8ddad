//! What a probe reports while it runs.

use std::time::Duration;

use super::{Connected, Connecting, Echoed, Oddity, Progress, Reply, Summary};

/// Something that happened while a probe ran. Each kind of run documents which events it has.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// How far a load has come in connecting.
    Connecting(Connecting),
    /// The connection is established, TLS and WebSocket handshakes included. Of the connections of a
    /// load, it is one.
    Connected(Box<Connected>),
    /// A message was received.
    Reply(Reply),
    /// A message has not come back within the timeout. It may still come back, late.
    #[non_exhaustive]
    Overdue {
        /// Its sequence number, from 0.
        seq: u64,
    },
    /// The connection failed or was closed, which ends a ping unless it
    /// [reconnects](super::PingOptions::reconnect). Over UDP it does not: the system
    /// refused to send a datagram, or an ICMP error answered one.
    #[non_exhaustive]
    Failed {
        /// The cause, on one line.
        reason: String,
        /// How much of the echo the connection had brought. `None` if none has ended.
        echoed: Option<Echoed>,
    },
    /// The service does something that an echo service does not. It is told at the end of a ping.
    Noticed(Oddity),
    /// The connection is established again after it had failed.
    #[non_exhaustive]
    Reconnected {
        /// How long there was no connection.
        after: Duration,
        /// How many attempts it took.
        attempts: u64,
        /// The new connection.
        connected: Box<Connected>,
    },
    /// The summary so far, for which [`Ping::interim_on`](super::Ping::interim_on) was asked. Messages
    /// in flight count as [unanswered](Summary::unanswered).
    Interim(Box<Summary>),
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
