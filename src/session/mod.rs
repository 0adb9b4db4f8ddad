//! One connection's life, written once for every protocol: accept, handshake, echo, farewell, and
//! the closing log line.
//!
//! A front-end brings a [`Door`], which turns an accepted TCP connection into an
//! [`Echo`]; everything after that happens here. This room may use the echo core and tokio; it
//! knows protocols only by the name that the log gives them.

mod accept;
mod drain;
mod ending;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use futures::Future;
use futures::future::BoxFuture;
use tokio::net::TcpStream;
use tracing::{error, info};

pub(crate) use accept::accept_loop;
pub(crate) use drain::{Drain, Stage};
pub(crate) use ending::{End, HandshakeError};

use crate::config::Protocol;
use crate::echo::{Echo, EchoError, Goodbye, PeerEnd, Step};
use drain::{Member, StageWatch};

/// A session gives its thread back after this many steps in one turn, so that a peer who always
/// has more to say does not starve the others.
const STEPS_PER_TURN: usize = 16;

/// What makes an echo of an accepted TCP connection: a front-end.
pub(crate) trait Door: Send + Sync + 'static {
    /// What it makes.
    type Echo: Echo + Send + 'static;

    /// What it speaks.
    fn protocol(&self) -> Protocol;

    /// Does the protocol's handshake. It is polled in the connection's own task, so that a silent
    /// client stalls nobody else.
    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo>;
}

/// A handshake under way.
pub(crate) type Opening<E> = BoxFuture<'static, Result<E, End>>;

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
    /// A socket whose peers come and go with each datagram.
    Socket { protocol: Protocol, local: SocketAddr },
}

/// What all sessions of a server share.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) drain: Arc<Drain>,
    accepted: AtomicU64,
}

impl Sessions {
    fn next_conn(&self) -> u64 {
        self.accepted.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pin_project_lite::pin_project! {
    /// Drives one echo from its handshake to its closing log line.
    ///
    /// Written by hand and not as an `async fn`, because its size is what an idle connection
    /// costs.
    pub(crate) struct Session<E: Echo> {
        phase: Phase<E>,
        // Set once the session is closing: how it says goodbye, and why.
        goodbye: Option<Goodbye>,
        end: Option<End>,
        #[pin]
        stage: StageWatch,
        subject: Subject,
        began: Instant,
        member: Member,
    }

    impl<E: Echo> PinnedDrop for Session<E> {
        // Here and nowhere else, so that each session has its closing line, however it ended.
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            let end = match this.end.take() {
                Some(end) => end,
                None if std::thread::panicking() => End::Panicked,
                None => End::Aborted,
            };
            log_end(*this.subject, this.phase, *this.began, &end);
        }
    }
}

/// What a session drives.
enum Phase<E> {
    Opening(Opening<E>),
    Open(E),
}

impl<E: Echo> Session<E> {
    /// A session that starts with a handshake.
    pub(crate) fn opening(sessions: &Sessions, subject: Subject, opening: Opening<E>) -> Self {
        Session::new(sessions, subject, Phase::Opening(opening))
    }

    /// A session that can echo right away.
    pub(crate) fn open(sessions: &Sessions, subject: Subject, echo: E) -> Self {
        Session::new(sessions, subject, Phase::Open(echo))
    }

    fn new(sessions: &Sessions, subject: Subject, phase: Phase<E>) -> Self {
        Session {
            phase,
            goodbye: None,
            end: None,
            stage: StageWatch::new(Arc::clone(&sessions.drain)),
            subject,
            began: Instant::now(),
            member: sessions.drain.join(),
        }
    }
}

impl<E: Echo> Future for Session<E> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let stage = this.stage.as_mut().poll_stage(cx);
        if stage == Stage::Aborting {
            *this.end = Some(End::Aborted);
            return Poll::Ready(());
        }
        if let Phase::Opening(opening) = this.phase {
            if stage == Stage::Draining {
                *this.end = Some(End::GoingAway);
                return Poll::Ready(());
            }
            match ready!(opening.as_mut().poll(cx)) {
                Ok(echo) => *this.phase = Phase::Open(echo),
                Err(end) => {
                    *this.end = Some(end);
                    return Poll::Ready(());
                }
            }
        }
        let Phase::Open(echo) = this.phase else { unreachable!("it has just been opened") };
        if this.goodbye.is_none() && stage == Stage::Draining {
            *this.goodbye = Some(Goodbye::GoingAway);
            *this.end = Some(End::GoingAway);
        }
        if this.goodbye.is_none() {
            let (goodbye, end) = match ready!(poll_turn(echo, cx)) {
                Ok(peer) => (Some(Goodbye::Answer), End::Peer(peer)),
                Err(error) => {
                    (error.leaves_a_goodbye().then_some(Goodbye::Answer), End::Failed(error))
                }
            };
            *this.end = Some(end);
            *this.goodbye = goodbye;
        }
        if let Some(goodbye) = *this.goodbye
            && let Err(error) = ready!(echo.poll_close(cx, goodbye))
        {
            // The goodbye broke: the first reason stands, unless it was only that.
            if matches!(this.end, Some(End::GoingAway)) {
                *this.end = Some(End::Failed(error));
            }
        }
        Poll::Ready(())
    }
}

/// Steps until there is nothing to do, the turn is over, or the echo is.
fn poll_turn<E: Echo>(echo: &mut E, cx: &mut Context<'_>) -> Poll<Result<PeerEnd, EchoError>> {
    for _ in 0..STEPS_PER_TURN {
        match ready!(echo.poll_step(cx))? {
            Step::Moved => {}
            Step::Ended(peer) => return Poll::Ready(Ok(peer)),
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

/// The closing line.
fn log_end<E: Echo>(subject: Subject, phase: &Phase<E>, began: Instant, end: &End) {
    let traffic = match phase {
        Phase::Opening(_) => Default::default(),
        Phase::Open(echo) => echo.traffic(),
    };
    let duration_ms = began.elapsed().as_micros() as f64 / 1000.0;
    let (received, sent, messages) = (traffic.received, traffic.sent, traffic.messages);
    // As a string, so that the log quotes it and escapes what a peer may have put into it.
    let reason = end.to_string();
    match subject {
        Subject::Connection { protocol, conn, peer } if end.is_our_fault() => error!(
            %protocol, conn, received, sent, messages, duration_ms, reason,
            "Connection closed: {peer}"
        ),
        Subject::Connection { protocol, conn, peer } => info!(
            %protocol, conn, received, sent, messages, duration_ms, reason,
            "Connection closed: {peer}"
        ),
        Subject::Socket { protocol, local } => info!(
            %protocol, received, sent, messages, duration_ms, reason,
            "Socket closed: {local}"
        ),
    }
}
