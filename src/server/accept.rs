//! The accept loop of every listener. Nothing that a peer does, and nothing that the system is short
//! of, ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::placement::Workers;
use crate::config::Protocol;
use crate::connection::{Handshake, Member, Session, Sessions, Stage};
use crate::net::{Listener, Peer};

/// How long to leave the system alone when it gives us no connections.
const BACK_OFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// Accepting has to work for this long before a shortage is over.
const CALM: Duration = Duration::from_secs(5);

/// So many connections may fail one after the other before accepting itself is taken to fail: a
/// firewall hook or a seccomp filter refuses each of them, for ever.
const FAILURES_IN_A_ROW: u32 = 64;

/// At the end, no more connections than this are taken from the kernel's queue: while we do, new
/// ones come.
const LAST_ACCEPTS: usize = 4096;

/// Accepts the connections of one listener.
pub(super) struct Acceptor<H> {
    pub(super) protocol: Protocol,
    pub(super) handshake: H,
    pub(super) sessions: Arc<Sessions>,
    pub(super) workers: Arc<Workers>,
}

impl<H> Acceptor<H> {
    /// Accepts connections and spawns a session for each, until the server drains. The listener is
    /// closed before the server counts itself empty, for `member` is counted in.
    pub(super) async fn run<L>(self, listener: L, member: Member)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        // Dropped after what is declared below.
        let _member = member;
        let listener = listener;
        let mut shortage = Shortage::default();
        let mut failures = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.sessions.drain.reached(Stage::Draining) => break,
                accepted = listener.accept() => accepted,
            };
            let placed = accepted.and_then(|(stream, peer)| {
                shortage.is_over(self.protocol);
                failures = 0;
                self.admit(stream, peer)
            });
            match placed {
                Ok(()) => {}
                Err(error) if is_about_the_peer(&error) && failures < FAILURES_IN_A_ROW => {
                    failures += 1;
                    debug!(protocol = %self.protocol, %error, "A connection died before it was accepted");
                }
                Err(error) => shortage.wait(self.protocol, &error, &self.sessions).await,
            }
        }
        // Those that the kernel has let in by now would be reset when the listener closes.
        let Ok(backlog) = listener.into_backlog() else { return };
        for accepted in backlog.take(LAST_ACCEPTS) {
            match accepted.and_then(|(stream, peer)| self.admit(stream, peer)) {
                Ok(()) => {}
                Err(error) if is_about_the_peer(&error) => {}
                Err(_) => return,
            }
        }
    }

    /// Starts a session for a connection, or closes it if there are enough.
    ///
    /// # Errors
    /// The system could not give it to a runtime.
    fn admit<S>(&self, stream: S, peer: Peer) -> io::Result<()>
    where
        S: crate::net::Stream,
        H: Handshake<S>,
    {
        let Some(admitted) = self.sessions.admit(self.protocol, peer) else { return Ok(()) };
        let placed = self.workers.place(stream, |stream| {
            let opening = self.handshake.begin(stream, admitted.connection);
            tokio::spawn(Session::of_connection(&self.sessions, admitted, opening));
        });
        placed.inspect_err(|error| error!(%peer, %error, "Connection closed: no thread took it"))
    }
}

/// Whether accept failed because of the one connection it was about. Linux hands a connection's
/// pending network errors to accept, and accept(2) says to treat them like "try again".
fn is_about_the_peer(error: &io::Error) -> bool {
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

/// An episode in which the system could not give us connections. It is over when accepting has
/// worked for a while: under pressure, single connections come free in between.
#[derive(Debug, Default)]
struct Shortage {
    /// The last failure, and the pause after it.
    last: Option<(Instant, Duration)>,
}

impl Shortage {
    /// Logs the episode's first failure, and waits, longer each time.
    async fn wait(&mut self, protocol: Protocol, error: &io::Error, sessions: &Sessions) {
        let pause = match self.last {
            None => {
                warn!(%protocol, %error, "Accepting connections failed; backing off");
                *BACK_OFF.start()
            }
            Some((_, pause)) => (pause * 2).min(*BACK_OFF.end()),
        };
        tokio::select! {
            () = sessions.drain.reached(Stage::Draining) => {}
            () = tokio::time::sleep(pause) => {}
        }
        self.last = Some((Instant::now(), pause));
    }

    /// Ends the episode, if there is one and it is old enough.
    fn is_over(&mut self, protocol: Protocol) {
        if self.last.is_some_and(|(at, _)| at.elapsed() >= CALM) {
            self.last = None;
            info!(%protocol, "Accepting connections again");
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
