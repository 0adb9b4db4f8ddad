//! Accepting on Unix sockets with tokio's own listener, on any system that has them.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net;

use tokio::net::UnixListener;

use crate::net::would_block;

/// A stream that no runtime has registered. A Unix socket's peer has no address that tells anything.
pub(super) type Accepted = (OwnedFd, ());

/// A listening Unix socket that is registered with a runtime.
#[derive(Debug)]
pub(super) struct AcceptSocket(UnixListener);

impl AcceptSocket {
    /// Registers `socket`, which must be non-blocking and listen, with the current runtime.
    pub(super) fn register(socket: OwnedFd) -> io::Result<Self> {
        UnixListener::from_std(socket.into()).map(AcceptSocket)
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        let (stream, _) = self.0.accept().await?;
        Ok((stream.into_std()?.into(), ()))
    }

    /// Deregisters the socket, and accepts until the backlog is empty.
    pub(super) fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<Accepted>> + Send> {
        let listener: net::UnixListener = self.0.into_std()?;
        let accept = move || {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((stream.into(), ()))
        };
        Ok(std::iter::repeat_with(accept).take_while(|accepted| !would_block(accepted)))
    }
}
