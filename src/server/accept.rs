//! The accept loop of every listener. It survives every error: those of a single connection, and a
//! shortage of descriptors or memory.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::placement::Workers;
use crate::config::Protocol;
use crate::connection::{Handshake, Incoming, Member, Session, Sessions, Stage};
use crate::net::{Listener, Peer, Stream};

/// The pauses between attempts while accepting fails: the first, and the longest.
const BACKOFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// A shortage is over once accepting has not failed for this long.
const RECOVERED_AFTER: Duration = Duration::from_secs(5);

/// After this many failed connections in a row, the failure counts as one of accepting itself: a
/// firewall hook or a seccomp filter may refuse every connection, for ever.
const MAX_CONSECUTIVE_FAILURES: u32 = 64;

/// At shutdown, at most this many connections are accepted from the kernel's backlog: new ones may
/// arrive while we empty it.
const MAX_BACKLOG_ACCEPTS: usize = 4096;

/// Accepts the connections of one listener.
pub(super) struct Acceptor<H> {
    pub(super) protocol: Protocol,
    pub(super) handshake: H,
    pub(super) sessions: Arc<Sessions>,
    pub(super) workers: Arc<Workers>,
}

impl<H> Acceptor<H> {
    /// Accepts connections and spawns a session for each, until the server drains. `member` is
    /// dropped last, so that the listener is closed before the drain counts as complete.
    pub(super) async fn run<L>(self, listener: L, member: Member)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        // Locals are dropped in reverse order: the listener goes before the member.
        let _member = member;
        let listener = listener;
        let mut shortage = Shortage::default();
        let mut failures = 0;
        let mut draining = pin!(self.sessions.drain.reached(Stage::Draining));
        while self.sessions.drain.stage() < Stage::Draining {
            let accepted = tokio::select! {
                biased;
                accepted = listener.accept() => accepted,
                () = &mut draining => break,
            };
            let placed = accepted.and_then(|(stream, peer)| {
                shortage.record_success(self.protocol);
                failures = 0;
                self.admit::<L::Stream>(stream, peer)
            });
            match placed {
                Ok(()) => {}
                Err(error) if is_per_connection(&error) && failures < MAX_CONSECUTIVE_FAILURES => {
                    failures += 1;
                    debug!(protocol = %self.protocol, %error, "A connection died before it was accepted");
                }
                Err(error) => shortage.back_off(self.protocol, &error, &self.sessions).await,
            }
        }
        // The kernel has completed these connections, and would reset them when the listener
        // closes.
        let Ok(backlog) = listener.into_backlog() else { return };
        for accepted in backlog.take(MAX_BACKLOG_ACCEPTS) {
            match accepted.and_then(|(stream, peer)| self.admit::<L::Stream>(stream, peer)) {
                Ok(()) => {}
                Err(error) if is_per_connection(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Starts a session for a connection, or closes it if a connection limit is reached.
    ///
    /// # Errors
    /// The stream could not be registered with a runtime.
    fn admit<S>(&self, stream: S::Detached, peer: Peer) -> io::Result<()>
    where
        S: Stream,
        H: Handshake<S>,
    {
        let admitted = match self.handshake.is_proxied() {
            false => self.sessions.admit(self.protocol, peer),
            true => self.sessions.admit_proxied(self.protocol, peer),
        };
        let Some(admitted) = admitted else { return Ok(()) };
        let placed = self.workers.place(&self.sessions, stream, |worker, stream: S| {
            let admitted = admitted.on(worker);
            let opening = self.handshake.begin(Incoming::new(stream), admitted.connection);
            tokio::spawn(Session::of_connection(&self.sessions, admitted, opening));
        });
        placed.inspect_err(
            |error| error!(protocol = %self.protocol, %peer, %error, "Connection closed: no runtime could take it"),
        )
    }
}

/// Whether an error of accept concerns only the connection that it was about to return. Linux
/// reports a connection's pending network errors from accept, and accept(2) says to treat them like
/// EAGAIN.
fn is_per_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkDown, NetworkUnreachable, PermissionDenied, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionReset
            | ConnectionRefused
            | HostUnreachable
            | NetworkUnreachable
            | NetworkDown
            | TimedOut
            | Interrupted
            | PermissionDenied
    )
}

/// An episode in which accepting fails. One success does not end it: while descriptors are scarce,
/// single ones become free in between.
#[derive(Debug, Default)]
struct Shortage {
    /// The last failure, and the pause after it.
    last: Option<(Instant, Duration)>,
}

impl Shortage {
    /// Logs the episode's first failure, and waits, longer each time.
    async fn back_off(&mut self, protocol: Protocol, error: &io::Error, sessions: &Sessions) {
        let pause = match self.last {
            None => {
                warn!(%protocol, %error, "Accepting connections failed; backing off");
                *BACKOFF.start()
            }
            Some((_, pause)) => (pause * 2).min(*BACKOFF.end()),
        };
        tokio::select! {
            () = sessions.drain.reached(Stage::Draining) => {}
            () = tokio::time::sleep(pause) => {}
        }
        self.last = Some((Instant::now(), pause));
    }

    /// Ends the episode, if its last failure is old enough.
    fn record_success(&mut self, protocol: Protocol) {
        if self.last.is_some_and(|(at, _)| at.elapsed() >= RECOVERED_AFTER) {
            self.last = None;
            info!(%protocol, "Accepting connections again");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
