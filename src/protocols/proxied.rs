//! A PROXY header in front of any protocol: HAProxy's specification, versions 1 and 2. It is required
//! where it is asked for, and never guessed.

use std::future::poll_fn;
use std::sync::Arc;

use futures::FutureExt;
use tracing::field::display;
use tracing::info;

use crate::address::Cidr;
use crate::connection::{
    Announced, Connection, End, Handshake, HandshakeError, Incoming, LogLimit, Opening, Proxy,
    Refused, shows,
};
use crate::echo::EchoError;
use crate::net::{Peer, Stream};
use crate::proxy_protocol::{self, Addresses, Header, Version};
use crate::transport::poll_append;

/// The protocol `inner`, behind a PROXY header.
pub(crate) struct Proxied<H> {
    inner: Arc<H>,
    /// The addresses that may send a header. Empty: all.
    from: Arc<[Cidr]>,
    log: Arc<LogLimit>,
}

impl<H> Proxied<H> {
    pub(crate) fn new(inner: H, from: Arc<[Cidr]>, log: Arc<LogLimit>) -> Self {
        Proxied { inner: Arc::new(inner), from, log }
    }

    /// Whether `peer` may say who its client is. Who may connect to a Unix socket is for the
    /// permissions of its file to say.
    fn trusts(&self, peer: Peer) -> bool {
        let is_listed = |ip| self.from.iter().any(|network| network.contains(ip));
        self.from.is_empty() || peer.ip().is_none_or(is_listed)
    }
}

impl<S: Stream, H: Handshake<S>> Handshake<S> for Proxied<H> {
    type Echo = H::Echo;

    fn begin(&self, incoming: Incoming<S>, connection: Connection) -> Opening<Self::Echo> {
        let is_trusted = self.trusts(connection.peer);
        let (inner, log) = (Arc::clone(&self.inner), Arc::clone(&self.log));
        let announcing = async move {
            if !is_trusted {
                return Err(refused("this address may not send one (--proxy-from)".to_owned()));
            }
            let Incoming { mut stream, early, .. } = incoming;
            let (header, early) = read(&mut stream, early).await?;
            let client = header.client().map_or(connection.peer, Peer::ip_of);
            if shows!(log) {
                log_header(&connection, client, &header);
            }
            let proxy = Some(Box::new(Proxy { peer: connection.peer, header }));
            let connection = Connection { peer: client, ..connection };
            let opening = inner.begin(Incoming { stream, early, proxy }, connection);
            Ok(Announced { client, opening })
        };
        Opening::Announced(announcing.boxed())
    }

    fn is_proxied(&self) -> bool {
        true
    }
}

/// Logs what the header says, if it announces a client.
fn log_header(connection: &Connection, client: Peer, header: &Header) {
    if header.client().is_none() {
        return;
    }
    let Connection { protocol, number, peer, .. } = connection;
    let version = match header.version {
        Version::One => 1,
        Version::Two => 2,
    };
    let destination = match &header.addresses {
        Addresses::Ip { destination, .. } => Some(display(*destination)),
        _ => None,
    };
    let tlvs = &header.tlvs;
    // Each can be as long as the header; the log line has to stay short.
    let text = |value: &Option<Vec<u8>>| {
        let value = value.as_ref().map(|value| String::from_utf8_lossy(value));
        value.map(|value| value.chars().take(200).collect::<String>())
    };
    let ssl = tlvs.ssl.as_ref();
    let (tls, cn) = (ssl.and_then(|ssl| text(&ssl.version)), ssl.and_then(|ssl| text(&ssl.cn)));
    info!(
        %protocol,
        conn = number,
        %peer,
        version,
        destination,
        authority = text(&tlvs.authority),
        alpn = text(&tlvs.alpn),
        tls,
        cn,
        "PROXY header for: {client}"
    );
}

/// Reads the header from `stream`, of which `read` was read before, and returns what was read behind
/// it, too.
async fn read<S: Stream>(stream: &mut S, mut read: Vec<u8>) -> Result<(Header, Vec<u8>), Refused> {
    loop {
        match proxy_protocol::parse(&read) {
            Ok(Some((header, length))) => {
                read.drain(..length);
                return Ok((header, read));
            }
            Ok(None) => {}
            Err(error) => return Err(refused(error.to_string())),
        }
        match poll_fn(|cx| poll_append(stream, cx, &mut read)).await {
            Ok(0) if read.is_empty() => return Err(refused("the client sent nothing".to_owned())),
            Ok(0) => return Err(refused("the stream ended within it".to_owned())),
            Ok(_) => {}
            Err(error) => return Err(End::Failed(EchoError::Read(error)).into()),
        }
    }
}

/// The end of a connection without a header that can be used. The peer is told nothing: it is a
/// proxy, or none that we know.
fn refused(why: String) -> Refused {
    End::Handshake(HandshakeError::Proxy(why)).into()
}
