//! The accept loop of every TCP-based front-end. Nothing that a peer does, and nothing that the
//! system is short of, ends it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::placement::Workers;
use crate::config::Protocol;
use crate::connection::{Door, Member, Session, Sessions, Stage};

/// How long to leave the system alone when it has no descriptor or memory for another connection.
const BACK_OFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// Accepting has to work for this long before a shortage is over.
const CALM: Duration = Duration::from_secs(5);

/// At the end, no more connections than this are taken from the kernel's queue: while we do, new
/// ones come.
const LAST_ACCEPTS: usize = 4096;

/// Accepts connections and spawns a session for each, until the server drains. The listener is
/// closed before the server counts itself empty, for `member` is counted in.
pub(crate) async fn accept_loop<D: Door>(
    listener: TcpListener,
    door: D,
    sessions: Arc<Sessions>,
    workers: Arc<Workers>,
    member: Member,
) {
    // Dropped after what is declared below.
    let _member = member;
    let listener = listener;
    let mut shortage = Shortage::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = sessions.drain.reached(Stage::Draining) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                shortage.is_over(door.protocol());
                if let Err(error) = welcome(tcp, peer, &door, &sessions, &workers) {
                    shortage.wait(door.protocol(), &error, &sessions).await;
                }
            }
            Err(error) if is_about_the_peer(&error) => {
                debug!(protocol = %door.protocol(), %error, "A connection died before it was accepted");
            }
            Err(error) => shortage.wait(door.protocol(), &error, &sessions).await,
        }
    }
    // Those that the kernel has let in by now would be reset when the listener closes. It is the
    // kernel that is asked: the runtime may not know of them yet.
    let Ok(listener) = listener.into_std() else { return };
    for _ in 0..LAST_ACCEPTS {
        match listener.accept() {
            Ok((tcp, peer)) => {
                let tcp = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp));
                if tcp.and_then(|tcp| welcome(tcp, peer, &door, &sessions, &workers)).is_err() {
                    return;
                }
            }
            Err(error) if is_about_the_peer(&error) => {}
            Err(_) => return,
        }
    }
}

/// Starts a session for a connection, or closes it if there are enough.
///
/// # Errors
/// The system could not give it to a runtime.
fn welcome<D: Door>(
    tcp: TcpStream,
    peer: SocketAddr,
    door: &D,
    sessions: &Arc<Sessions>,
    workers: &Workers,
) -> io::Result<()> {
    let Some((subject, permit)) = sessions.admit(door.protocol(), peer) else { return Ok(()) };
    let placed = workers.place(tcp, |tcp| {
        let opening = door.open(tcp, subject);
        tokio::spawn(Session::opening(sessions, subject, permit, opening));
    });
    placed.inspect_err(|error| error!(%peer, %error, "Connection closed: no thread took it"))
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
