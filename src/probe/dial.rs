//! From a target to a connection, one timed phase after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::{HeaderName, HeaderValue, header};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::link::{ByteStream, Link};
use super::pace::later;
use super::trust::{TlsFacts, TlsOptions, Trust};
use super::{ProbeError, Target};
use crate::config::Protocol;

/// How a probe connects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DialOptions {
    /// Only addresses of this family.
    pub family: Option<Family>,
    /// The local address to connect from.
    pub source: Option<IpAddr>,
    /// For all phases together. 10 seconds.
    pub timeout: Duration,
    /// TLS.
    pub tls: TlsOptions,
    /// WebSocket: offers of `Sec-WebSocket-Protocol`, the preferred first.
    pub subprotocols: Vec<String>,
    /// WebSocket: further header fields of the request.
    pub headers: Vec<(String, String)>,
    /// UDP: set the DF bit, so that a datagram larger than the path's MTU is lost and not
    /// fragmented. Linux only.
    pub dont_fragment: bool,
}

impl Default for DialOptions {
    fn default() -> Self {
        DialOptions {
            family: None,
            source: None,
            timeout: Duration::from_secs(10),
            tls: TlsOptions::default(),
            subprotocols: Vec::new(),
            headers: Vec::new(),
            dont_fragment: false,
        }
    }
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What connecting came to, and how long each phase took. A phase that the protocol does not have
/// is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// The address that was connected to.
    pub peer: SocketAddr,
    /// The address that was connected from.
    pub local: SocketAddr,
    /// The look-up of the name.
    pub resolve: Duration,
    /// TCP's handshake. UDP has none.
    pub connect: Option<Duration>,
    /// TLS' handshake.
    pub tls: Option<Duration>,
    /// WebSocket's opening handshake.
    pub upgrade: Option<Duration>,
    /// What TLS negotiated.
    pub tls_facts: Option<TlsFacts>,
    /// The WebSocket subprotocol that the server selected.
    pub subprotocol: Option<String>,
}

/// Connects.
pub(super) async fn dial(
    target: &Target,
    options: &DialOptions,
) -> Result<(Link, Connected), ProbeError> {
    // Before the clock starts: files are read, and randomness is gathered.
    let trust = target.protocol.is_over_tls().then(|| Trust::new(&options.tls)).transpose()?;
    let deadline = later(Instant::now(), options.timeout);
    let mut phase = Phase { started: Instant::now(), deadline };
    let addresses = phase.within("name resolution", resolve(target, options)).await?;
    let resolve = phase.next();
    if target.protocol == Protocol::Udp {
        return dial_udp(target, options, &addresses, resolve).await;
    }
    let tcp = phase.within("connecting", connect(target, options, &addresses)).await?;
    let mut connected = Connected {
        peer: tcp.peer_addr().map_err(|error| ProbeError::connect(target, &error))?,
        local: tcp.local_addr().map_err(|error| ProbeError::connect(target, &error))?,
        resolve,
        connect: Some(phase.next()),
        tls: None,
        upgrade: None,
        tls_facts: None,
        subprotocol: None,
    };
    let mut stream: Box<dyn ByteStream> = Box::new(tcp);
    if let Some(trust) = trust {
        let name = options.tls.server_name.as_deref().unwrap_or(&target.host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| ProbeError::Usage(format!("'{name}' is no name for a TLS server")))?;
        let connector = TlsConnector::from(Arc::clone(&trust.config));
        let handshake = async {
            connector.connect(name, stream).await.map_err(|error| ProbeError::tls(target, &error))
        };
        let secured = phase.within("the TLS handshake", handshake).await?;
        connected.tls = Some(phase.next());
        connected.tls_facts = Some(trust.facts(secured.get_ref().1));
        stream = Box::new(secured);
    }
    if !matches!(target.protocol, Protocol::Ws | Protocol::Wss) {
        return Ok((Link::Bytes(stream), connected));
    }
    let (link, subprotocol) =
        phase.within("the WebSocket upgrade", upgrade(target, options, stream)).await?;
    connected.upgrade = Some(phase.next());
    connected.subprotocol = subprotocol;
    Ok((link, connected))
}

/// The phase under way, and the deadline for all of them.
struct Phase {
    started: Instant,
    deadline: Instant,
}

impl Phase {
    async fn within<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, ProbeError>>,
    ) -> Result<T, ProbeError> {
        match timeout_at(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(ProbeError::Connect(format!("{name} took too long"))),
        }
    }

    /// Ends the phase, and tells how long it took.
    fn next(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.started, now)
    }
}

async fn resolve(target: &Target, options: &DialOptions) -> Result<Vec<SocketAddr>, ProbeError> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port))
        .await
        .map_err(|error| ProbeError::Connect(format!("{} was not found: {error}", target.host)))?;
    let addresses: Vec<_> = found
        .filter(|address| match (options.family, options.source) {
            (Some(Family::V4), _) => address.is_ipv4(),
            (Some(Family::V6), _) => address.is_ipv6(),
            (None, Some(source)) => address.is_ipv4() == source.is_ipv4(),
            (None, None) => true,
        })
        .collect();
    if addresses.is_empty() {
        return Err(ProbeError::Connect(format!(
            "{} has no address of the family that is asked for",
            target.host
        )));
    }
    Ok(addresses)
}

/// The first address that answers.
async fn connect(
    target: &Target,
    options: &DialOptions,
    addresses: &[SocketAddr],
) -> Result<TcpStream, ProbeError> {
    let mut failure = None;
    for &address in addresses {
        match connect_to(address, options.source).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = Some(error),
        }
    }
    Err(ProbeError::connect(target, &failure.expect("there is an address at least")))
}

async fn connect_to(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn dial_udp(
    target: &Target,
    options: &DialOptions,
    addresses: &[SocketAddr],
    resolve: Duration,
) -> Result<(Link, Connected), ProbeError> {
    let peer = addresses[0];
    let any = if peer.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let open = async {
        let socket = UdpSocket::bind((options.source.unwrap_or(any), 0)).await?;
        if options.dont_fragment {
            set_dont_fragment(&socket, peer)?;
        }
        // Only what comes from the address that was asked is an answer.
        socket.connect(peer).await?;
        let local = socket.local_addr()?;
        Ok((socket, local))
    };
    let (socket, local) = open.await.map_err(|error| ProbeError::connect(target, &error))?;
    let connected = Connected {
        peer,
        local,
        resolve,
        connect: None,
        tls: None,
        upgrade: None,
        tls_facts: None,
        subprotocol: None,
    };
    Ok((Link::Datagrams(socket), connected))
}

/// Sets DF, and leaves what the kernel believes of the path's MTU aside: a probe finds out.
#[cfg(target_os = "linux")]
fn set_dont_fragment(socket: &UdpSocket, peer: SocketAddr) -> io::Result<()> {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    match peer {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_dont_fragment(_socket: &UdpSocket, _peer: SocketAddr) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the DF bit can be set on Linux only"))
}

async fn upgrade(
    target: &Target,
    options: &DialOptions,
    stream: Box<dyn ByteStream>,
) -> Result<(Link, Option<String>), ProbeError> {
    let mut request = target
        .to_string()
        .into_client_request()
        .map_err(|error| ProbeError::Usage(error.to_string()))?;
    let fields = request.headers_mut();
    if !options.subprotocols.is_empty() {
        let offer = HeaderValue::from_str(&options.subprotocols.join(", ")).map_err(|_| {
            ProbeError::Usage(format!("--subprotocol {}: not a token", options.subprotocols[0]))
        })?;
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, offer);
    }
    for (name, value) in &options.headers {
        let usage = |what| ProbeError::Usage(format!("--header '{name}: {value}': {what}"));
        let name = HeaderName::try_from(name.as_str()).map_err(|_| usage("no field name"))?;
        fields.append(name, HeaderValue::from_str(value).map_err(|_| usage("no field value"))?);
    }
    // What comes back is what was sent, so there is nothing to limit.
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(None)
        .max_frame_size(None);
    let (socket, response) =
        client_async_with_config(request, stream, Some(config)).await.map_err(|error| {
            ProbeError::Connect(match error {
                Error::Http(response) => {
                    format!("{target} answered {} instead of upgrading", response.status())
                }
                other => format!("{target}: the WebSocket upgrade failed: {other}"),
            })
        })?;
    let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let subprotocol = subprotocol.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    Ok((Link::Messages(Box::new(socket)), subprotocol))
}
