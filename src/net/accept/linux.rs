//! Accepting on Linux. tokio's listeners register each stream with the runtime that accepts; one that
//! lives in another runtime would have to be deregistered there first. Here accept4 returns a
//! non-blocking stream that no runtime has registered.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::net::would_block;

/// A stream that no runtime has registered, and its peer's address.
pub(super) type Accepted = (OwnedFd, Option<SocketAddrAny>);

/// A listening socket that is registered with a runtime.
#[derive(Debug)]
pub(super) struct AcceptSocket(AsyncFd<OwnedFd>);

impl AcceptSocket {
    /// Registers `socket`, which must be non-blocking and listen, with the current runtime.
    pub(super) fn register(socket: OwnedFd) -> io::Result<Self> {
        // `AsyncFd::with_interest` is deprecated because it is unsound for a type that does not keep
        // its descriptor open. `OwnedFd` does, and the replacement is an unsafe function.
        #[expect(deprecated)]
        Ok(AcceptSocket(AsyncFd::with_interest(socket, Interest::READABLE)?))
    }

    /// Waits for a connection.
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        self.0.async_io(Interest::READABLE, accept).await
    }

    /// Deregisters the socket, and accepts until the backlog is empty.
    pub(super) fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<Accepted>> + Send> {
        let socket = self.0.into_inner();
        let accepted = std::iter::repeat_with(move || accept(&socket));
        Ok(accepted.take_while(|accepted| !would_block(accepted)))
    }
}

fn accept(socket: &OwnedFd) -> io::Result<Accepted> {
    Ok(acceptfrom_with(socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?)
}
