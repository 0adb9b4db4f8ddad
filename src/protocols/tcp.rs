//! Plain TCP: no handshake, no framing.

use futures::future::ready;
use futures::{Future, FutureExt};
use tokio::net::TcpStream;

use crate::config::Protocol;
use crate::connection::{Door, End, Opened, Opening, Subject};
use crate::echo::{Raw, StreamEcho};
use crate::transport::{Carried, Transport};

/// The door for plain TCP, and the transport of what runs on it.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) buffer_size: usize,
}

impl Door for Tcp {
    type Echo = StreamEcho<TcpStream>;

    fn protocol(&self) -> Protocol {
        Protocol::Tcp
    }

    fn open(&self, tcp: TcpStream, _subject: Subject) -> Opening<Self::Echo> {
        ready(Ok(Opened::new(StreamEcho::new(tcp, self.buffer_size), None))).boxed()
    }
}

impl Transport for Tcp {
    type Stream = TcpStream;

    const RAW: Raw<TcpStream> = |tcp| tcp;

    fn carry(
        &self,
        tcp: TcpStream,
        _subject: Subject,
    ) -> impl Future<Output = Result<Carried<TcpStream>, End>> + Send + 'static {
        ready(Ok(Carried { stream: tcp, client: None }))
    }
}
