//! TCP on Linux: a listener whose streams are registered only where they live.

use std::io;
use std::net;

use tokio::net::TcpStream;

use crate::net::accept::{AcceptSocket, Accepted};
use crate::net::{Listener, Peer, Stream};

/// A TCP listener that is registered with a runtime.
#[derive(Debug)]
pub(crate) struct TcpListener(AcceptSocket);

impl TcpListener {
    /// Registers `listener`, which must be non-blocking, with the current runtime.
    pub(crate) fn from_std(listener: net::TcpListener) -> io::Result<Self> {
        AcceptSocket::register(listener.into()).map(TcpListener)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(net::TcpStream, Peer)> {
        self.0.accept().await.and_then(with_peer)
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(net::TcpStream, Peer)>> + Send> {
        Ok(self.0.into_backlog()?.map(|accepted| accepted.and_then(with_peer)))
    }
}

fn with_peer((stream, address): Accepted) -> io::Result<(net::TcpStream, Peer)> {
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), Peer::Ip(address.try_into()?)))
}

impl Stream for TcpStream {
    type Detached = net::TcpStream;

    async fn readable(&self) -> io::Result<()> {
        TcpStream::readable(self).await
    }

    fn attach(stream: net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream)
    }
}
