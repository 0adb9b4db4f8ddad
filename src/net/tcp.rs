//! TCP listeners and their streams.

use std::io;
use std::net;

use tokio::net::{TcpListener, TcpStream};

use super::{Listener, Peer, Stream};

impl Stream for TcpStream {
    type Detached = net::TcpStream;

    async fn readable(&self) -> io::Result<()> {
        // tokio takes a new stream for readable until a call fails with EAGAIN.
        self.peek(&mut [0]).await.map(drop)
    }

    fn detach(self) -> io::Result<net::TcpStream> {
        self.into_std()
    }

    fn attach(stream: net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = TcpListener::accept(self).await?;
        Ok((stream, Peer::Ip(address)))
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(TcpStream, Peer)>> + Send> {
        let listener = self.into_std()?;
        let accept = move || {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((TcpStream::from_std(stream)?, Peer::Ip(address)))
        };
        Ok(std::iter::repeat_with(accept).take_while(|accepted| !would_block(accepted)))
    }
}

/// Whether accept failed with EAGAIN: the backlog is empty.
pub(super) fn would_block<T>(accepted: &io::Result<T>) -> bool {
    matches!(accepted, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}
