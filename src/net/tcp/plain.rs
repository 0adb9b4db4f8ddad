//! TCP with tokio's own types, on any system.

use std::io;
use std::net;
use std::time::Duration;

use socket2::SockRef;

pub(crate) use tokio::net::TcpListener;
use tokio::net::TcpStream;

use crate::net::{Listener, Peer, SocketFacts, Stream, would_block};

impl Stream for TcpStream {
    type Detached = net::TcpStream;

    fn attach(stream: net::TcpStream) -> io::Result<Self> {
        TcpStream::from_std(stream)
    }

    fn reset_on_drop(&self) {
        let _ = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn facts(&self) -> SocketFacts {
        SocketFacts::of_tcp(&self.into())
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(net::TcpStream, Peer)> {
        let (stream, address) = TcpListener::accept(self).await?;
        Ok((stream.into_std()?, Peer::ip_of(address)))
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(net::TcpStream, Peer)>> + Send> {
        let listener = self.into_std()?;
        let accept = move || {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((stream, Peer::ip_of(address)))
        };
        Ok(std::iter::repeat_with(accept).take_while(|accepted| !would_block(accepted)))
    }
}
