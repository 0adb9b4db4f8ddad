//! Sockets of every family: binding addresses, accepting streams, and identifying their peers. This
//! module knows protocols only by the names that its errors mention, and no connections.

#[cfg(unix)]
#[cfg_attr(target_os = "linux", path = "accept/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "accept/plain.rs")]
mod accept;
pub(crate) mod bind;
#[cfg(target_os = "linux")]
pub(crate) mod inherited;
#[cfg(not(target_os = "linux"))]
#[path = "inherited/none.rs"]
pub(crate) mod inherited;
mod peer;
mod resolve;
#[cfg_attr(target_os = "linux", path = "tcp/linux.rs")]
#[cfg_attr(not(target_os = "linux"), path = "tcp/plain.rs")]
mod tcp;
#[cfg(unix)]
mod unix;

use std::future::Future;
use std::io;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::address::Address;

pub(crate) use peer::Peer;
pub(crate) use resolve::candidates;
pub(crate) use tcp::TcpListener;
#[cfg(unix)]
pub(crate) use unix::UnixListener;

/// A stream that a listener accepted: TCP, or a Unix socket of type SOCK_STREAM.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// The stream as it was accepted: non-blocking, and registered with no runtime.
    type Detached: Send;

    /// Registers a stream with the current runtime, where it stays.
    fn attach(stream: Self::Detached) -> io::Result<Self>;

    /// Whether the kernel has sent all that was written, as far as it tells.
    fn has_sent_all(&self) -> bool {
        true
    }

    /// Has the kernel reset the connection when the stream is dropped. A Unix socket has no reset.
    fn reset_on_drop(&self) {}

    /// Ready when the peer has sent its FIN or a reset, whether what came before has been read or
    /// not. It is to be used only when nothing will be read any more.
    fn poll_peer_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }

    /// What the kernel tells of the connection.
    fn facts(&self) -> SocketFacts {
        SocketFacts::default()
    }
}

/// What the kernel tells of a connection. What it does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SocketFacts {
    /// The address that the client has connected to.
    pub(crate) local: Option<Address>,
    /// The most bytes that a TCP segment to the client may have (RFC 9293 section 3.7.1).
    pub(crate) mss: Option<u32>,
}

impl SocketFacts {
    /// Those of a TCP stream.
    #[cfg(unix)]
    fn of_tcp(socket: &socket2::SockRef<'_>) -> Self {
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        let local = local.map(|address| Address::from(address).canonical());
        SocketFacts { local, mss: socket.tcp_mss().ok() }
    }

    /// Those of a TCP stream.
    #[cfg(not(unix))]
    fn of_tcp(socket: &socket2::SockRef<'_>) -> Self {
        let local = socket.local_addr().ok().and_then(|address| address.as_socket());
        SocketFacts { local: local.map(|address| Address::from(address).canonical()), mss: None }
    }
}

/// What a listener accepts: a stream that is yet to be registered with a runtime, and its peer.
pub(crate) type Accepted<L> = (<<L as Listener>::Stream as Stream>::Detached, Peer);

/// A socket that accepts connections.
pub(crate) trait Listener: Send + Sync + Sized + 'static {
    /// The type of the accepted streams, once they are registered.
    type Stream: Stream;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<Accepted<Self>>> + Send;

    /// The connections that the kernel has completed by now, accepted without the runtime, which
    /// may not know of them yet. The name of a Unix socket is removed first. The socket is closed
    /// when the iterator is dropped.
    fn into_backlog(self) -> io::Result<impl Iterator<Item = io::Result<Accepted<Self>>> + Send>;
}

/// A listener of any family.
#[derive(Debug)]
pub(crate) enum AnyListener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// Whether accept failed with EAGAIN: the backlog is empty.
fn would_block<T>(accepted: &io::Result<T>) -> bool {
    matches!(accepted, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
