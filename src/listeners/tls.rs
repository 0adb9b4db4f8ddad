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
use crate::echo::StreamEcho;
use crate::session::{Door, End, HandshakeError, Opening, Subject};

/// The door for TLS, and the transport of what runs over it.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    buffer_size: usize,
}

impl Tls {
    pub(crate) fn new(config: Arc<ServerConfig>, buffer_size: usize) -> Self {
        Tls { acceptor: config.into(), buffer_size }
    }
}

impl Door for Tls {
    type Echo = StreamEcho<TlsStream<TcpStream>>;

    fn protocol(&self) -> Protocol {
        Protocol::Tls
    }

    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo> {
        let (carried, buffer_size) = (self.carry(tcp, subject), self.buffer_size);
        async move { Ok(StreamEcho::new(carried.await?, buffer_size)) }.boxed()
    }
}

impl Transport for Tls {
    type Stream = TlsStream<TcpStream>;

    fn carry(
        &self,
        tcp: TcpStream,
        subject: Subject,
    ) -> impl Future<Output = Result<Self::Stream, End>> + Send + 'static {
        let acceptor = self.acceptor.clone();
        async move {
            match acceptor.accept(tcp).into_fallible().await {
                Ok(stream) => {
                    log_handshake(subject, stream.get_ref().1);
                    Ok(stream)
                }
                // rustls has sent its alert; the client is to see it.
                Err((error, tcp)) => {
                    hang_up(tcp).await;
                    Err(End::Handshake(HandshakeError::Tls(error)))
                }
            }
        }
    }
}

/// Says what was negotiated: what people test TLS clients for.
fn log_handshake(subject: Subject, tls: &ServerConnection) {
    let Subject::Connection { protocol, conn, peer } = subject else { return };
    // rustls spells versions and TLS 1.3 suites as Rust identifiers; people search for the names
    // that IANA and OpenSSL use.
    let version = tls.protocol_version().and_then(|version| version.as_str());
    let version = version.map(|name| name.replace('_', "."));
    let cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let cipher = cipher.map(|name| name.replace("TLS13_", "TLS_"));
    let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
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
