//! Sockets of every family: binding addresses, accepting streams, and identifying their peers. This
//! module knows protocols only by the names that its errors mention, and no connections.

pub(crate) mod bind;
mod peer;
mod resolve;
mod tcp;
#[cfg(unix)]
mod unix;

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

pub(crate) use peer::Peer;
pub(crate) use resolve::candidates;
#[cfg(unix)]
pub(crate) use unix::UnixListener;

/// A stream that a listener accepted: TCP, or a Unix socket of type SOCK_STREAM.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sized + 'static {
    /// The stream while no runtime has it registered.
    type Detached: Send;

    /// Waits until there is something to read, or an error to be read.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;

    /// Deregisters the stream from its runtime.
    fn detach(self) -> io::Result<Self::Detached>;

    /// Registers a stream with the current runtime.
    fn attach(stream: Self::Detached) -> io::Result<Self>;
}

/// A socket that accepts connections.
pub(crate) trait Listener: Send + Sync + Sized + 'static {
    /// The type of the accepted streams.
    type Stream: Stream;

    /// Waits for a connection.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;

    /// The connections that the kernel has completed by now, accepted without the runtime, which
    /// may not know of them yet. The name of a Unix socket is removed first. The socket is closed
    /// when the iterator is dropped.
    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(Self::Stream, Peer)>> + Send>;
}

/// A listener of any family.
#[derive(Debug)]
pub(crate) enum AnyListener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}
