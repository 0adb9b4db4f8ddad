//! From a target to a connection: name resolution, the connection of the transport, the TLS
//! handshake and the WebSocket upgrade. Each phase is timed; one deadline is for all of them.

mod http2;
mod options;
mod proxy;
mod race;
mod resolve;
mod tcp;
mod udp;
mod unix;
mod websocket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::Request;

pub use options::{ConnectOptions, Family};
pub use proxy::{ProxyHeader, ProxyKind};
pub(super) use resolve::addresses_of;

use super::first_bytes::{FirstBytes, Seen};
use super::link::{ByteStream, Bytes, Link};
use super::tls::{ClientTls, Keyring, TlsFacts};
use super::{Endpoint, FailureKind, ProbeError, Target};
use crate::address::Address;
use crate::config::Protocol;
use crate::pace::later;
use race::Attempts;

/// How long several UDP addresses have to answer before the first of them is taken unheard.
const UDP_ANSWER: Duration = Duration::from_secs(2);

/// An established connection, and how long each phase of establishing it took. A phase that the
/// target does not have is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// The address that was connected to.
    pub peer: Address,
    /// The address that was connected from. `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// Resolving the name. `None` for a Unix socket, and if the address is given
    /// ([`ConnectOptions::address`]).
    pub resolve: Option<Duration>,
    /// Connecting the TCP or Unix socket. `None` for UDP.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// The beginning of an HTTP/2 connection: the settings of both sides.
    pub http2: Option<Duration>,
    /// The WebSocket opening handshake, which over HTTP/2 is an extended CONNECT (RFC 8441).
    pub upgrade: Option<Duration>,
    /// What the TLS handshake negotiated.
    pub tls_facts: Option<TlsFacts>,
    /// The WebSocket subprotocol that the server selected.
    pub subprotocol: Option<String>,
}

impl Connected {
    fn new(peer: Address, local: Option<SocketAddr>) -> Self {
        Connected {
            peer,
            local,
            resolve: None,
            connect: None,
            tls: None,
            http2: None,
            upgrade: None,
            tls_facts: None,
            subprotocol: None,
        }
    }
}

/// Connects to `target`.
pub(super) async fn connect(
    target: &Target,
    options: &ConnectOptions,
) -> Result<(Link, Connected), ProbeError> {
    connect_with(target, options, request(target, options)?, websocket::LARGEST).await
}

/// Connects to `target`. `request` is that of [`request`], for whoever wants to know it. A WebSocket
/// takes messages of up to `largest` bytes.
pub(super) async fn connect_with(
    target: &Target,
    options: &ConnectOptions,
    request: Option<Request>,
    largest: usize,
) -> Result<(Link, Connected), ProbeError> {
    let tls = match target.protocol().is_over_tls() {
        true => Some(ClientTls::new(target, &options.tls)?),
        false => None,
    };
    let (link, connected) = establish(target, options, tls, request, largest).await?;
    Ok((link.skip_first(options.skip_first), connected))
}

/// Connects to `target`, and trusts what was read before: files are not read again for each of many
/// connections.
pub(super) async fn connect_trusting(
    target: &Target,
    options: &ConnectOptions,
    keyring: &Keyring,
) -> Result<(Link, Connected), ProbeError> {
    let tls = match target.protocol().is_over_tls() {
        true => Some(ClientTls::with(target, &options.tls, keyring)?),
        false => None,
    };
    let request = request(target, options)?;
    let (link, connected) = establish(target, options, tls, request, websocket::LARGEST).await?;
    Ok((link.skip_first(options.skip_first), connected))
}

/// The request that opens a WebSocket. `None` for the other protocols.
pub(super) fn request(
    target: &Target,
    options: &ConnectOptions,
) -> Result<Option<Request>, ProbeError> {
    match target.protocol() {
        Protocol::Ws | Protocol::Wss => websocket::request(target, options).map(Some),
        _ => Ok(None),
    }
}

/// `request` as it was sent on a connection, which may be one of HTTP/2.
pub(super) fn as_sent(request: &Request, connected: &Connected) -> Request {
    match connected.http2 {
        Some(_) => http2::extended_connect(request),
        None => request.clone(),
    }
}

/// The PROXY header that was sent first on a connection. Empty: none was.
pub(super) fn proxy_header(options: &ConnectOptions, connected: &Connected) -> Vec<u8> {
    let header = options.proxy.as_ref().map(|proxy| proxy.bytes(connected));
    header.and_then(Result::ok).unwrap_or_default()
}

async fn establish(
    target: &Target,
    options: &ConnectOptions,
    tls: Option<ClientTls>,
    request: Option<Request>,
    largest: usize,
) -> Result<(Link, Connected), ProbeError> {
    // What can be wrong with the options is found before anything is sent.
    options.check(target)?;
    let mut phases = Phases::begin(target, options.timeout);
    let (mut stream, mut connected) = match target.endpoint() {
        Endpoint::Host { name, port } => {
            let resolving = resolve::resolve(target, options, name, *port);
            let addresses =
                phases.run_or(FailureKind::Resolve, "resolving the name", resolving).await?;
            // An address that is given is not looked up.
            let resolved = Some(phases.end()).filter(|_| options.address.is_none());
            if target.protocol() == Protocol::Udp {
                let (link, mut connected) = open_udp(target, options, &addresses).await?;
                connected.resolve = resolved;
                return Ok((link, connected));
            }
            let (stream, mut connected) =
                connect_tcp(target, options, &addresses, phases.deadline).await?;
            connected.resolve = resolved;
            (stream, connected)
        }
        Endpoint::Unix(address) => {
            let connecting = async {
                let stream = unix::connect(address).await;
                stream.map_err(|error| ProbeError::connect_io(target, error))
            };
            let stream = phases.run("connecting", connecting).await?;
            (stream, Connected::new(address.clone().into(), None))
        }
    };
    connected.connect = Some(phases.end());
    if let Some(proxy) = &options.proxy {
        let header = proxy.bytes(&connected)?;
        let sending = async {
            let sent = stream.write_all(&header).await;
            sent.map_err(|error| ProbeError::connect_io(target, error))
        };
        phases.run("sending the PROXY header", sending).await?;
        // It belongs to no phase.
        phases.end();
    }
    if let Some(tls) = tls {
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let (raw, seen) = FirstBytes::new(stream);
        let handshake = async {
            connector.connect(tls.name.clone(), raw).await.map_err(|error| {
                ProbeError::tls(target, error, Some(&seen)).about_certificate(tls.rejected())
            })
        };
        let secured =
            phases.run_heard("the TLS handshake", &seen, "the ClientHello", handshake).await?;
        seen.finish();
        connected.tls = Some(phases.end());
        connected.tls_facts = Some(tls.facts(secured.get_ref().1));
        stream = Box::new(secured);
    }
    let Some(request) = request else {
        let is_over_tls = target.protocol().is_over_tls();
        return Ok((Link::Bytes(Bytes { stream, is_over_tls }), connected));
    };
    let (link, subprotocol) = if speaks_http2(target, options, &connected)? {
        let (stream, seen) = FirstBytes::new(stream);
        let beginning = http2::Http2::begin(target, Box::new(stream), seen.clone());
        let http2 =
            phases.run_heard("the beginning of HTTP/2", &seen, "the preface", beginning).await?;
        connected.http2 = Some(phases.end());
        let upgrading = websocket::upgrade_http2(target, request, largest, http2);
        let upgraded = phases.run("the WebSocket upgrade", upgrading).await?;
        seen.finish();
        upgraded
    } else {
        let (stream, seen) = FirstBytes::new(stream);
        let upgrading = websocket::upgrade(target, request, largest, Box::new(stream), &seen);
        let upgraded =
            phases.run_heard("the WebSocket upgrade", &seen, "the request", upgrading).await?;
        seen.finish();
        upgraded
    };
    connected.upgrade = Some(phases.end());
    connected.subprotocol = subprotocol;
    Ok((link, connected))
}

/// Whether the WebSocket is opened over HTTP/2: over TLS if ALPN has selected it, else if it is the
/// only protocol that is offered (prior knowledge, RFC 9113 section 3.3).
fn speaks_http2(
    target: &Target,
    options: &ConnectOptions,
    connected: &Connected,
) -> Result<bool, ProbeError> {
    let Some(facts) = &connected.tls_facts else { return Ok(options.tls.alpn == ["h2"]) };
    let is_selected = facts.alpn.as_deref() == Some("h2");
    if !is_selected && options.tls.alpn == ["h2"] {
        let problem = "the server selected no ALPN protocol: no HTTP/2";
        return Err(ProbeError::connect(target, FailureKind::Upgrade, problem));
    }
    Ok(is_selected)
}

/// A clock for each phase, and the deadline for all of them.
struct Phases<'a> {
    target: &'a Target,
    began: Instant,
    deadline: Instant,
}

impl Phases<'_> {
    fn begin(target: &Target, timeout: Duration) -> Phases<'_> {
        let began = Instant::now();
        Phases { target, began, deadline: later(began, timeout) }
    }

    /// Does `work`, until the deadline.
    async fn run<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        self.run_or(FailureKind::Timeout, name, work).await
    }

    /// Does `work`, until the deadline, which is a failure of this kind.
    async fn run_or<T>(
        &self,
        kind: FailureKind,
        name: &'static str,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        match timeout_at(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => {
                let problem = format!("{name} took too long");
                Err(ProbeError::connect(self.target, kind, problem))
            }
        }
    }

    /// Does `work`, whose other side is heard in `seen` once this side has said `said`.
    async fn run_heard<T>(
        &self,
        name: &'static str,
        seen: &Seen,
        said: &'static str,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        match timeout_at(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => {
                let silence = seen.silence(self.began, Instant::now(), said);
                let problem = format!("{name} took too long: {silence}");
                Err(ProbeError::connect(self.target, FailureKind::Timeout, problem))
            }
        }
    }

    /// Ends a phase, and returns how long it took.
    fn end(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.began, now)
    }
}

/// Connects to the first of `addresses` that accepts.
async fn connect_tcp(
    target: &Target,
    options: &ConnectOptions,
    addresses: &[SocketAddr],
    deadline: Instant,
) -> Result<(Box<dyn ByteStream>, Connected), ProbeError> {
    let mut attempts = Attempts::default();
    let attempt = async |address| {
        let (stream, local) = tcp::connect(address, options).await?;
        Ok((Box::new(stream) as Box<dyn ByteStream>, Connected::new(address.into(), Some(local))))
    };
    match timeout_at(deadline, attempts.first(addresses, attempt)).await {
        Ok(Some(connected)) => Ok(connected),
        Ok(None) => Err(attempts.into_error(target)),
        Err(_) => {
            let problem = format!("connecting took too long: {attempts}");
            Err(ProbeError::connect(target, FailureKind::Timeout, problem))
        }
    }
}

/// Opens a socket to the only address, or to the first that answers. If none does, the first that
/// does not refuse is taken, and what becomes of the messages is for the probe to find out.
async fn open_udp(
    target: &Target,
    options: &ConnectOptions,
    addresses: &[SocketAddr],
) -> Result<(Link, Connected), ProbeError> {
    let mut attempts = Attempts::default();
    let mut peer = addresses[0];
    if addresses.len() > 1 {
        let attempt = async |address| {
            udp::answers(options, address).await?;
            Ok(address)
        };
        let deadline = Instant::now() + UDP_ANSWER.min(options.timeout);
        peer = match timeout_at(deadline, attempts.first(addresses, attempt)).await {
            Ok(Some(address)) => address,
            Ok(None) => {
                return Err(attempts.into_error(target));
            }
            Err(_) => attempts.first_silent().unwrap_or(peer),
        };
    }
    let opened = udp::open(options, peer).await;
    let (socket, local) = opened.map_err(|error| ProbeError::connect_io(target, error))?;
    Ok((Link::Datagrams(socket.into()), Connected::new(peer.into(), Some(local))))
}
