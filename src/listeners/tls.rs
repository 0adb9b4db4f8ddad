//! TLS over TCP: the handshake, and what it came to.

use std::sync::Arc;

use futures::{Future, FutureExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;
use tracing::info;

use super::{Transport, hang_up};
use crate::config::Protocol;
use crate::echo::{Raw, StreamEcho};
use crate::session::{Door, End, HandshakeError, LogLimit, Opening, Subject};
use crate::tls::negotiated;

/// The door for TLS, and the transport of what runs over it.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    buffer_size: usize,
    log: Arc<LogLimit>,
}

impl Tls {
    pub(crate) fn new(config: Arc<ServerConfig>, buffer_size: usize, log: Arc<LogLimit>) -> Self {
        Tls { acceptor: config.into(), buffer_size, log }
    }
}

impl Door for Tls {
    type Echo = StreamEcho<TlsStream<TcpStream>>;

    fn protocol(&self) -> Protocol {
        Protocol::Tls
    }

    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo> {
        let (carried, buffer_size) = (self.carry(tcp, subject), self.buffer_size);
        async move { Ok(StreamEcho::over(carried.await?, Self::RAW, buffer_size)) }.boxed()
    }
}

impl Transport for Tls {
    type Stream = TlsStream<TcpStream>;

    const RAW: Raw<Self::Stream> = |tls| tls.get_mut().0;

    fn carry(
        &self,
        tcp: TcpStream,
        subject: Subject,
    ) -> impl Future<Output = Result<Self::Stream, End>> + Send + 'static {
        let (acceptor, log) = (self.acceptor.clone(), Arc::clone(&self.log));
        async move {
            match acceptor.accept(tcp).into_fallible().await {
                Ok(stream) => {
                    if log.shows() {
                        log_handshake(subject, stream.get_ref().1);
                    }
                    Ok(stream)
                }
                // rustls has sent its alert; the client is to see it.
                Err((error, tcp)) => {
                    hang_up(tcp, |tcp| tcp).await;
                    Err(End::Handshake(HandshakeError::Tls(error)))
                }
            }
        }
    }
}

/// Says what was negotiated: what people test TLS clients for.
fn log_handshake(subject: Subject, tls: &ServerConnection) {
    let Subject::Connection { protocol, conn, peer } = subject else { return };
    let (version, cipher, group) = negotiated::names(tls);
    let alpn = tls.alpn_protocol().map(|name| String::from_utf8_lossy(name));
    info!(
        %protocol,
        conn,
        version,
        cipher,
        group,
        alpn = alpn.as_deref().unwrap_or("none"),
        sni = tls.server_name().unwrap_or("none"),
        "TLS established with: {peer}"
    );
}
