//! One connection's life, written once for every protocol: accept, permit, handshake, echo,
//! farewell, deadlines, drain, and the closing log line.
//!
//! A front-end brings a [`Door`], which turns an accepted TCP connection into an
//! [`Echo`]; everything after that happens here. This room may use the echo core and tokio; it
//! knows protocols only by the name that the log gives them.

pub(crate) mod admission;
mod clock;
pub(crate) mod deadline;
mod drain;
mod end;
mod log_limit;
mod session;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tracing::{info, warn};

pub(crate) use drain::{Drain, Member, Stage};
pub(crate) use end::{End, HandshakeError};
pub(crate) use log_limit::{LogLimit, Throttle};
pub(crate) use session::Session;

use crate::config::{Protocol, Timeouts};
use crate::echo::Echo;
use admission::{Admission, Permit};
use clock::Clock;

/// What makes an echo of an accepted TCP connection: a front-end.
pub(crate) trait Door: Send + Sync + 'static {
    /// What it makes.
    type Echo: Echo + Send + 'static;

    /// What it speaks.
    fn protocol(&self) -> Protocol;

    /// Does the protocol's handshake. Nothing is to happen before the first poll, which is in the
    /// connection's own task, so that neither a silent client nor a bug stalls anybody else.
    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo>;
}

/// A handshake under way.
pub(crate) type Opening<E> = BoxFuture<'static, Result<Opened<E>, End>>;

/// What a handshake came to.
#[derive(Debug)]
pub(crate) struct Opened<E> {
    echo: E,
    /// Who the client has proved to be. Boxed twice, for few have, and every session has the place.
    #[expect(clippy::box_collection, reason = "a third of the size where it is None")]
    client: Option<Box<String>>,
}

impl<E> Opened<E> {
    pub(crate) fn new(echo: E, client: Option<String>) -> Self {
        Opened { echo, client: client.map(Box::new) }
    }
}

/// Whom a session is about, as the log names it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject {
    /// One connection.
    Connection {
        protocol: Protocol,
        /// Counts the server's connections, to tie together the lines of one.
        conn: u64,
        peer: SocketAddr,
    },
    /// A socket whose peers come and go with each datagram. It has no deadlines.
    Socket,
}

/// What all sessions of a server share.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) drain: Arc<Drain>,
    pub(crate) log: Arc<LogLimit>,
    admission: Arc<Admission>,
    timeouts: Timeouts,
    clock: Clock,
    refusals: Throttle,
    accepted: AtomicU64,
    tally: Tally,
}

/// How connections ended.
#[derive(Debug, Default)]
struct Tally {
    drained: AtomicU64,
    aborted: AtomicU64,
    panicked: AtomicU64,
    refused: AtomicU64,
}

impl Sessions {
    pub(crate) fn new(max: usize, max_per_network: Option<usize>, timeouts: Timeouts) -> Self {
        Sessions {
            drain: Arc::default(),
            log: Arc::new(LogLimit::new()),
            admission: Arc::new(Admission::new(max, max_per_network)),
            timeouts,
            clock: Clock::new(),
            refusals: Throttle::default(),
            accepted: AtomicU64::new(0),
            tally: Tally::default(),
        }
    }

    /// Lets a connection in, or a stream that is as good as one, unless there are enough.
    pub(crate) fn admit(&self, protocol: Protocol, peer: SocketAddr) -> Option<(Subject, Permit)> {
        let permit = match self.admission.admit(peer.ip()) {
            Ok(permit) => permit,
            Err(reason) => {
                self.tally.refused.fetch_add(1, Ordering::Relaxed);
                if let Some(connections) = self.refusals.count() {
                    warn!(%protocol, %peer, %reason, connections, "Refused connections");
                }
                return None;
            }
        };
        let conn = self.next_conn();
        if self.log.shows() {
            info!(%protocol, conn, "New connection from: {peer}");
        }
        Some((Subject::Connection { protocol, conn, peer }, permit))
    }

    /// Connections that are in.
    pub(crate) fn connections(&self) -> usize {
        self.admission.admitted()
    }

    /// Since the drain began: connections that left, and those that had to be dropped.
    pub(crate) fn drained_and_aborted(&self) -> (u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.tally.drained), read(&self.tally.aborted))
    }

    /// Connections that a bug of ours has ended.
    pub(crate) fn panicked(&self) -> u64 {
        self.tally.panicked.load(Ordering::Relaxed)
    }

    fn next_conn(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Connections that were not let in.
    pub(crate) fn refused(&self) -> u64 {
        self.tally.refused.load(Ordering::Relaxed)
    }

    /// Counts a connection's end. `owes`: it still owed something to its peer.
    fn count(&self, end: &End, owes: bool) {
        let counter = match end {
            End::Panicked => &self.tally.panicked,
            _ if self.drain.stage() == Stage::Serving => return,
            End::Aborted | End::Stalled => &self.tally.aborted,
            _ if owes => &self.tally.aborted,
            _ => &self.tally.drained,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
