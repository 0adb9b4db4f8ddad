//! One connection's life, written once for every protocol: permit, handshake, echo, farewell,
//! deadlines, drain, and the closing log line. It also holds what all connections of a server
//! share.
//!
//! | word | what it means here |
//! | --- | --- |
//! | connection | one peer's byte stream, from accept to close; it has a number and a [`Peer`] |
//! | handshake | what has to happen on a stream before it echoes |
//! | session | the future that drives one [`Echo`], of a connection or of a datagram socket |
//!
//! A protocol brings a [`Handshake`], which turns an accepted stream into an [`Echo`]; everything
//! after that happens here. This module uses the echo core, [`crate::net`]'s peers, PROXY headers as
//! plain data, and tokio; it knows protocols only by the name that the log gives them, and nothing of
//! accepting.

mod admission;
mod clock;
pub(crate) mod costly;
mod counts;
mod drain;
mod end;
mod log_limit;
mod memory;
mod roster;
mod session;
mod sessions;
#[cfg(test)]
mod tests;

use futures::future::BoxFuture;

pub(crate) use admission::Refusal;
pub(crate) use counts::{Counts, Reading};
pub(crate) use drain::{Member, Stage};
pub(crate) use end::{End, HandshakeError, Reason};
pub(crate) use log_limit::{LogLimit, Throttle, shows};
pub(crate) use session::Session;
pub(crate) use sessions::{Admitted, Sessions, Statistics};

use crate::config::Protocol;
use crate::echo::Echo;
use crate::net::Peer;
use crate::proxy_protocol::Header;

/// What a protocol does with an accepted stream `S` before it echoes.
pub(crate) trait Handshake<S>: Send + Sync + 'static {
    /// What the stream becomes.
    type Echo: Echo + Send + 'static;

    /// Begins the handshake. What needs the client is left to the future, which is polled in the
    /// connection's own task, so that neither a silent client nor a bug stalls other connections.
    fn begin(&self, incoming: Incoming<S>, connection: Connection) -> Opening<Self::Echo>;

    /// Whether the peer of the stream is a proxy, which has yet to announce the client.
    fn is_proxied(&self) -> bool {
        false
    }
}

/// A stream at the beginning of its handshake.
#[derive(Debug)]
pub(crate) struct Incoming<S> {
    pub(crate) stream: S,
    /// What was read of the stream already, and comes before the rest of it.
    pub(crate) early: Vec<u8>,
    /// The PROXY header that came before all that.
    pub(crate) proxy: Option<Box<Proxy>>,
}

impl<S> Incoming<S> {
    /// A stream of which nothing has been read.
    pub(crate) fn new(stream: S) -> Self {
        Incoming { stream, early: Vec::new(), proxy: None }
    }
}

/// A proxy, and the header that it has sent for the client.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) peer: Peer,
    pub(crate) header: Header,
}

/// A handshake that has begun.
pub(crate) enum Opening<E> {
    /// There is none.
    Done(Opened<E>),
    /// A proxy announces the client first.
    Announced(BoxFuture<'static, Result<Announced<E>, Refused>>),
    /// It yields a failure as soon as the cause is known, so that nothing that happens during the
    /// farewell hides the cause.
    Handshake(BoxFuture<'static, Result<Opened<E>, Refused>>),
}

/// A connection whose proxy has announced the client.
pub(crate) struct Announced<E> {
    /// The client; the proxy itself if it speaks for nobody else.
    pub(crate) client: Peer,
    /// What comes behind the announcement.
    pub(crate) opening: Opening<E>,
}

/// The result of a successful handshake.
#[derive(Debug)]
pub(crate) struct Opened<E> {
    echo: E,
    /// The identity that the client has proved.
    client: Option<String>,
    /// It echoes nothing itself, but carries connections that do.
    is_carrier: bool,
}

impl<E> Opened<E> {
    pub(crate) fn new(echo: E, client: Option<String>) -> Self {
        Opened { echo, client, is_carrier: false }
    }

    /// A connection that only carries others. Nobody waits for it as for an echo, so that the time
    /// that it took is not counted.
    pub(crate) fn carrier(echo: E, client: Option<String>) -> Self {
        Opened { is_carrier: true, ..Opened::new(echo, client) }
    }
}

/// The result of a failed handshake.
pub(crate) struct Refused {
    end: End,
    /// Sends what the peer is to be told, and closes. It bounds itself.
    farewell: Option<BoxFuture<'static, ()>>,
    /// What is done on purpose to the bytes, in words for the closing line.
    faults: Option<String>,
}

impl Refused {
    pub(crate) fn with_farewell(end: End, farewell: BoxFuture<'static, ()>) -> Self {
        Refused { end, farewell: Some(farewell), faults: None }
    }

    /// The same on a stream with faults on purpose.
    pub(crate) fn on_faulty(self, faults: Option<String>) -> Self {
        Refused { faults, ..self }
    }
}

/// A failure about which the peer is told nothing: the connection broke, or is not ours to close.
impl From<End> for Refused {
    fn from(end: End) -> Self {
        Refused { end, farewell: None, faults: None }
    }
}

impl Connection {
    /// Whether its protocol echoes bytes without framing.
    pub(crate) fn is_bytes(&self) -> bool {
        matches!(self.protocol, Protocol::Tcp | Protocol::Tls)
    }
}

/// What is known of a connection as soon as it is accepted. Each of its log lines has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connection {
    pub(crate) protocol: Protocol,
    /// The connection's number on this server, which ties its log lines together.
    pub(crate) number: u64,
    /// The client. Before a proxy has announced it, the proxy.
    pub(crate) peer: Peer,
    /// The worker that runs its session, and those of its HTTP/2 streams.
    pub(crate) worker: u16,
}
