//! The accept loop of every TCP-based front-end. Nothing that a peer does, and nothing that the
//! system is short of, ends it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, info, warn};

use super::{Door, Session, Sessions, Stage, Subject};

/// How long to leave the system alone when it has no descriptor or memory for another connection.
const BACK_OFF: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(1);

/// Accepts connections and spawns a session for each, until the server drains.
pub(crate) async fn accept_loop<D: Door>(listener: TcpListener, door: D, sessions: Arc<Sessions>) {
    let mut shortage = Shortage::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = sessions.drain.reached(Stage::Draining) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((tcp, peer)) => {
                shortage.is_over(door.protocol());
                welcome(tcp, peer, &door, &sessions);
            }
            Err(error) if is_about_the_peer(&error) => {
                debug!(protocol = %door.protocol(), %error, "A connection died before it was accepted");
            }
            Err(error) => shortage.wait(door.protocol(), &error, &sessions).await,
        }
    }
}

fn welcome<D: Door>(
    tcp: TcpStream,
    peer: std::net::SocketAddr,
    door: &D,
    sessions: &Arc<Sessions>,
) {
    let protocol = door.protocol();
    let subject = Subject::Connection { protocol, conn: sessions.next_conn(), peer };
    if let Subject::Connection { conn, .. } = subject {
        info!(%protocol, conn, "New connection from: {peer}");
    }
    // Without it an echo waits in Nagle's algorithm for an acknowledgement that the peer delays.
    if let Err(error) = tcp.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY could not be set");
    }
    let opening = door.open(tcp, subject);
    tokio::spawn(Session::opening(sessions, subject, opening));
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

/// An episode in which the system could not give us connections.
#[derive(Debug, Default)]
struct Shortage {
    pause: Option<Duration>,
}

impl Shortage {
    /// Logs the episode's first failure and waits, longer each time.
    async fn wait(
        &mut self,
        protocol: crate::config::Protocol,
        error: &io::Error,
        sessions: &Sessions,
    ) {
        let pause = match self.pause {
            None => {
                warn!(%protocol, %error, "Accepting connections failed; backing off");
                *BACK_OFF.start()
            }
            Some(pause) => (pause * 2).min(*BACK_OFF.end()),
        };
        self.pause = Some(pause);
        tokio::select! {
            () = sessions.drain.reached(Stage::Draining) => {}
            () = tokio::time::sleep(pause) => {}
        }
    }

    fn is_over(&mut self, protocol: crate::config::Protocol) {
        if self.pause.take().is_some() {
            info!(%protocol, "Accepting connections again");
        }
    }
}
