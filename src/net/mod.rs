//! Sockets: addresses become listeners, and listeners give streams with their peers, whatever the
//! family. This module knows no protocols but by their names in errors, and no connections.

pub(crate) mod bind;
mod peer;
mod tcp;
#[cfg(unix)]
mod unix;

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

pub(crate) use peer::Peer;
#[cfg(unix)]
pub(crate) use unix::UnixListener;

/// A stream that a listener gave: TCP, or a Unix socket of type SOCK_STREAM.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// The stream outside of any runtime.
    type Detached: Send;

    /// Takes the stream out of its runtime.
    fn detach(self) -> io::Result<Self::Detached>;

    /// Puts a stream into the current runtime.
    fn attach(stream: Self::Detached) -> io::Result<Self>;
}

/// A socket that accepts connections.
pub(crate) trait Listener: Send + Sync + Sized + 'static {
    /// What it accepts.
    type Stream: Stream;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;

    /// Stops listening for new connections as far as the system lets it, and gives those that the
    /// kernel has completed by now. It asks the kernel itself, since the runtime may not know of
    /// them yet. The socket is closed when this is dropped.
    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(Self::Stream, Peer)>> + Send>;
}

/// A listener of whichever family.
#[derive(Debug)]
pub(crate) enum AnyListener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}
