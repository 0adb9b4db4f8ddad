//! TLS over TCP: the handshake, and what it came to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{Future, FutureExt};
use tokio::io;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio_rustls::server::TlsStream;
use tracing::info;

use crate::config::Protocol;
use crate::connection::{Door, End, HandshakeError, LogLimit, Opened, Opening, Subject};
use crate::echo::{Raw, StreamEcho};
use crate::tls::{TlsSettings, causes, describe, negotiated};
use crate::transport::{Carried, ReadAhead, Transport, hang_up};

/// The door for TLS, and the transport of what runs over it.
#[derive(Clone)]
pub(crate) struct Tls {
    settings: Arc<TlsSettings>,
    /// HTTP runs over it, and has its own ALPN protocols.
    is_for_http: bool,
    buffer_size: usize,
    log: Arc<LogLimit>,
}

/// What a client asked for.
struct Offer {
    sni: Option<String>,
    alpn: Vec<Vec<u8>>,
}

impl Tls {
    pub(crate) fn new(
        settings: Arc<TlsSettings>,
        is_for_http: bool,
        buffer_size: usize,
        log: Arc<LogLimit>,
    ) -> Self {
        Tls { settings, is_for_http, buffer_size, log }
    }

    /// What to shake hands with. A door that takes any ALPN protocol takes the client's first.
    fn config_for(&self, offer: &Offer) -> Arc<ServerConfig> {
        let material = self.settings.current();
        if self.is_for_http {
            return material.http_alpn;
        }
        match offer.alpn.iter().find(|name| !is_grease(name)) {
            Some(first) if self.settings.takes_any_alpn() => {
                let mut config = ServerConfig::clone(&material.any_alpn);
                config.alpn_protocols = vec![first.clone()];
                Arc::new(config)
            }
            _ => material.any_alpn,
        }
    }

    async fn handshake(self, tcp: TcpStream, subject: Subject) -> Result<Carried<Stream>, End> {
        let began = Instant::now();
        let acceptor = LazyConfigAcceptor::new(Acceptor::default(), ReadAhead::new(tcp));
        let mut acceptor = std::pin::pin!(acceptor);
        let hello = match acceptor.as_mut().await {
            Ok(hello) => hello,
            Err(error) => return Err(refuse(acceptor.take_io(), &error, None).await),
        };
        let client = hello.client_hello();
        let offer = Offer {
            sni: client.server_name().map(str::to_owned),
            alpn: client.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
        };
        let config = self.config_for(&offer);
        match hello.into_stream(config).into_fallible().await {
            Ok(stream) => {
                let tls = stream.get_ref().1;
                let client = tls.peer_certificates().and_then(<[_]>::first).map(describe);
                if self.log.shows() {
                    log_handshake(subject, tls, &offer, client.as_deref(), began.elapsed());
                }
                Ok(Carried { stream, client })
            }
            // rustls has sent its alert; the client is to see it.
            Err((error, io)) => Err(refuse(Some(io), &error, Some(&offer)).await),
        }
    }
}

/// Whether a name is one of those that nobody speaks (RFC 8701 section 2): 0A0A, 1A1A and so on.
fn is_grease(name: &[u8]) -> bool {
    matches!(name, [one, other] if one == other && one & 0x0F == 0x0A)
}

/// TLS over a TCP connection that is read ahead.
type Stream = TlsStream<ReadAhead<TcpStream>>;

impl Door for Tls {
    type Echo = StreamEcho<Stream>;

    fn protocol(&self) -> Protocol {
        Protocol::Tls
    }

    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo> {
        let (carried, buffer_size) = (self.carry(tcp, subject), self.buffer_size);
        async move {
            let Carried { stream, client } = carried.await?;
            Ok(Opened::new(StreamEcho::over(stream, Self::RAW, buffer_size), client))
        }
        .boxed()
    }
}

impl Transport for Tls {
    type Stream = Stream;

    const RAW: Raw<Self::Stream> = |tls| tls.get_mut().0;

    fn carry(
        &self,
        tcp: TcpStream,
        subject: Subject,
    ) -> impl Future<Output = Result<Carried<Stream>, End>> + Send + 'static {
        self.clone().handshake(tcp, subject)
    }
}

/// Lets a client read the alert that it was sent, and says what was wrong.
async fn refuse(
    connection: Option<ReadAhead<TcpStream>>,
    error: &io::Error,
    offer: Option<&Offer>,
) -> End {
    if let Some(connection) = connection {
        hang_up(connection, |io| io).await;
    }
    let mut reason = causes::explain(error);
    if let Some(sni) = offer.and_then(|offer| offer.sni.as_deref()) {
        reason += &format!(" (SNI {sni})");
    }
    End::Handshake(HandshakeError::Tls(reason))
}

/// Says what was negotiated: what people test TLS clients for.
fn log_handshake(
    subject: Subject,
    tls: &ServerConnection,
    offer: &Offer,
    client: Option<&str>,
    duration: Duration,
) {
    let Subject::Connection { protocol, conn, peer } = subject else { return };
    let (version, cipher, group) = negotiated::names(tls);
    let alpn = tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let offered: Vec<_> = offer.alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
    // A client may offer as many as fit into its hello.
    let offered: String = offered.join(",").chars().take(200).collect();
    let handshake = match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        Some(HandshakeKind::FullWithHelloRetryRequest) => "full, after a hello retry",
        _ => "full",
    };
    info!(
        %protocol,
        conn,
        version,
        cipher,
        group,
        handshake,
        alpn = alpn.as_deref().unwrap_or("none"),
        alpn_offered = if offered.is_empty() { "none" } else { &offered },
        sni = offer.sni.as_deref().unwrap_or("none"),
        client = client.unwrap_or("none"),
        duration_ms = duration.as_micros() as f64 / 1000.0,
        "TLS established with: {peer}"
    );
}
