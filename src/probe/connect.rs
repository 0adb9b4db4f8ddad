//! From a target to a connection: name resolution, the connection of the transport, the TLS
//! handshake and the WebSocket upgrade. Each phase is timed; one deadline is for all of them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::link::{ByteStream, Link};
use super::pace::later;
use super::tls::{ClientTls, TlsFacts, TlsOptions};
use super::{Endpoint, ProbeError, ProbeSetting, Target};
use crate::address::{Address, UnixAddress};
use crate::config::Protocol;

/// How a probe connects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The family of the addresses of a name that are tried. `None`: that of
    /// [`source`](ConnectOptions::source), else both. A Unix socket has none.
    pub family: Option<Family>,
    /// The local address to connect from. `None`: the system's choice. A Unix socket has none.
    pub source: Option<IpAddr>,
    /// How long all phases of one connection may take together. 10 seconds.
    pub timeout: Duration,
    /// TLS.
    pub tls: TlsOptions,
    /// WebSocket: the subprotocols to offer, the preferred one first. None.
    pub subprotocols: Vec<String>,
    /// WebSocket: further header fields of the request, names and values. A field that the request
    /// has anyway, such as `Host`, gets this value instead. None.
    pub headers: Vec<(String, String)>,
    /// UDP: whether to set the DF bit, so that a datagram that is larger than the path's MTU is
    /// dropped and not fragmented. Linux only. `false`.
    pub dont_fragment: bool,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        ConnectOptions::new()
    }
}

impl ConnectOptions {
    /// The defaults.
    pub fn new() -> Self {
        ConnectOptions {
            family: None,
            source: None,
            timeout: Duration::from_secs(10),
            tls: TlsOptions::default(),
            subprotocols: Vec::new(),
            headers: Vec::new(),
            dont_fragment: false,
        }
    }

    /// Sets [`ConnectOptions::family`].
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Sets [`ConnectOptions::source`].
    #[must_use]
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets [`ConnectOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Changes [`ConnectOptions::tls`].
    #[must_use]
    pub fn tls(mut self, change: impl FnOnce(&mut TlsOptions)) -> Self {
        change(&mut self.tls);
        self
    }

    /// Adds to [`ConnectOptions::subprotocols`].
    #[must_use]
    pub fn subprotocol(mut self, name: impl Into<String>) -> Self {
        self.subprotocols.push(name.into());
        self
    }

    /// Adds to [`ConnectOptions::headers`].
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets [`ConnectOptions::dont_fragment`].
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    fn check(&self, target: &Target) -> Result<(), ProbeError> {
        if matches!(target.endpoint(), Endpoint::Unix(_)) {
            if self.source.is_some() {
                let problem = "a Unix socket is not connected to from an IP address";
                return Err(ProbeError::setting(ProbeSetting::Source, problem));
            }
            if self.family.is_some() {
                let problem = "a Unix socket is neither IPv4 nor IPv6";
                return Err(ProbeError::setting(ProbeSetting::Family, problem));
            }
        }
        Ok(())
    }
}

/// A family of IP addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An established connection, and how long each phase of establishing it took. A phase that the
/// target does not have is `None`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connected {
    /// The address that was connected to.
    pub peer: Address,
    /// The address that was connected from. `None` for a Unix socket.
    pub local: Option<SocketAddr>,
    /// Resolving the name. `None` for a Unix socket.
    pub resolve: Option<Duration>,
    /// Connecting the TCP or Unix socket. `None` for UDP.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// The WebSocket opening handshake.
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
    options.check(target)?;
    // What can be wrong with the options is found before anything is sent, and the files are read
    // before the first phase is timed.
    let tls = match target.protocol().is_over_tls() {
        true => Some((ClientTls::new(&options.tls)?, server_name(target, &options.tls)?)),
        false => None,
    };
    let request = match target.protocol() {
        Protocol::Ws | Protocol::Wss => Some(request(target, options)?),
        _ => None,
    };
    let mut phases = Phases::begin(target, options.timeout);
    let (mut stream, mut connected) = match target.endpoint() {
        Endpoint::Host { name, port } => {
            let resolving = resolve(target, options, name, *port);
            let addresses = phases.run("resolving the name", resolving).await?;
            let resolved = phases.end();
            if target.protocol() == Protocol::Udp {
                let (link, mut connected) = open_udp(options, addresses[0])
                    .await
                    .map_err(|error| ProbeError::connect_io(target, error))?;
                connected.resolve = Some(resolved);
                return Ok((link, connected));
            }
            let connecting = connect_tcp(target, options, &addresses);
            let (stream, mut connected) = phases.run("connecting", connecting).await?;
            connected.resolve = Some(resolved);
            (stream, connected)
        }
        Endpoint::Unix(address) => {
            let connecting = async {
                let stream = connect_unix(address).await;
                stream.map_err(|error| ProbeError::connect_io(target, error))
            };
            let stream = phases.run("connecting", connecting).await?;
            (stream, Connected::new(address.clone().into(), None))
        }
    };
    connected.connect = Some(phases.end());
    if let Some((tls, name)) = tls {
        let connector = TlsConnector::from(Arc::clone(&tls.config));
        let handshake = async {
            connector.connect(name, stream).await.map_err(|error| ProbeError::tls(target, error))
        };
        let secured = phases.run("the TLS handshake", handshake).await?;
        connected.tls = Some(phases.end());
        connected.tls_facts = Some(tls.facts(secured.get_ref().1));
        stream = Box::new(secured);
    }
    let Some(request) = request else { return Ok((Link::Bytes(stream), connected)) };
    let upgrading = upgrade(target, request, stream);
    let (link, subprotocol) = phases.run("the WebSocket upgrade", upgrading).await?;
    connected.upgrade = Some(phases.end());
    connected.subprotocol = subprotocol;
    Ok((link, connected))
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
        match timeout_at(self.deadline, work).await {
            Ok(result) => result,
            Err(_) => Err(ProbeError::connect(self.target, format!("{name} took too long"))),
        }
    }

    /// Ends a phase, and returns how long it took.
    fn end(&mut self) -> Duration {
        let now = Instant::now();
        now - std::mem::replace(&mut self.began, now)
    }
}

fn server_name(target: &Target, tls: &TlsOptions) -> Result<ServerName<'static>, ProbeError> {
    let (setting, name) = match &tls.server_name {
        Some(name) => (ProbeSetting::ServerName, name.as_str()),
        None => (ProbeSetting::Target, target.server_name()),
    };
    ServerName::try_from(name.to_owned()).map_err(|_| {
        ProbeError::setting(setting, format!("'{name}' is neither a DNS name nor an IP address"))
    })
}

/// The addresses of `name` that `options` admit, at least one.
async fn resolve(
    target: &Target,
    options: &ConnectOptions,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, ProbeError> {
    let found = tokio::net::lookup_host((name, port)).await.map_err(|error| {
        let problem = format!("the name {name} was not resolved: {error}");
        ProbeError::connect_caused_by(target, problem, error)
    })?;
    let family = options.family.or(options.source.map(|source| match source {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }));
    let addresses: Vec<_> = found
        .filter(|address| match family {
            None => true,
            Some(Family::V4) => address.is_ipv4(),
            Some(Family::V6) => address.is_ipv6(),
        })
        .collect();
    match (addresses.is_empty(), family) {
        (false, _) => Ok(addresses),
        (true, None) => Err(ProbeError::connect(target, format!("{name} has no address"))),
        (true, Some(family)) => {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            Err(ProbeError::connect(target, format!("{name} has no {family} address")))
        }
    }
}

/// Connects to the first of `addresses` that accepts; if none does, the error is the last one's.
async fn connect_tcp(
    target: &Target,
    options: &ConnectOptions,
    addresses: &[SocketAddr],
) -> Result<(Box<dyn ByteStream>, Connected), ProbeError> {
    let mut failure = None;
    for &address in addresses {
        match connect_to(address, options.source).await {
            Ok((stream, local)) => {
                return Ok((Box::new(stream), Connected::new(address.into(), Some(local))));
            }
            Err(error) => failure = Some(error),
        }
    }
    Err(ProbeError::connect_io(target, failure.expect("there is at least one address")))
}

async fn connect_to(
    address: SocketAddr,
    source: Option<IpAddr>,
) -> io::Result<(TcpStream, SocketAddr)> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    Ok((stream, local))
}

#[cfg(unix)]
async fn connect_unix(address: &UnixAddress) -> io::Result<Box<dyn ByteStream>> {
    use std::path::Path;

    use tokio::net::UnixStream;

    /// How long to wait before a listener with a full backlog is tried again.
    const RETRY: Duration = Duration::from_millis(5);

    let abstract_name;
    let path = match address {
        UnixAddress::Path(path) => path.as_path(),
        UnixAddress::Abstract(_) if !cfg!(any(target_os = "linux", target_os = "android")) => {
            let problem = "only Linux has abstract Unix sockets";
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        // tokio takes a leading NUL for the abstract namespace, as the kernel does.
        UnixAddress::Abstract(name) => {
            abstract_name = format!("\0{name}");
            Path::new(&abstract_name)
        }
    };
    loop {
        match UnixStream::connect(path).await {
            // A listener whose backlog is full answers a non-blocking connect with EAGAIN
            // (connect(2)), and nothing reports when it has room again. TCP would send another SYN.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(RETRY).await;
            }
            connected => return Ok(Box::new(connected?)),
        }
    }
}

#[cfg(not(unix))]
#[expect(clippy::unused_async, reason = "it is async where there are Unix sockets")]
async fn connect_unix(_address: &UnixAddress) -> io::Result<Box<dyn ByteStream>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}

async fn open_udp(options: &ConnectOptions, peer: SocketAddr) -> io::Result<(Link, Connected)> {
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((options.source.unwrap_or(any), 0)).await?;
    if options.dont_fragment {
        set_dont_fragment(&socket, peer)?;
    }
    // A connected socket receives only what its peer sends.
    socket.connect(peer).await?;
    let local = socket.local_addr()?;
    Ok((Link::Datagrams(socket.into()), Connected::new(peer.into(), Some(local))))
}

/// Sets the DF bit. `PROBE` (ip(7), IP_MTU_DISCOVER) ignores the path MTU that the kernel has
/// learned, so that each size is really sent.
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

/// The WebSocket request, with the subprotocols and header fields of `options`.
fn request(target: &Target, options: &ConnectOptions) -> Result<Request, ProbeError> {
    let mut request = target
        .request_url()
        .into_client_request()
        .map_err(|error| ProbeError::setting(ProbeSetting::Target, error.to_string()))?;
    let fields = request.headers_mut();
    if !options.subprotocols.is_empty() {
        if let Some(name) =
            options.subprotocols.iter().find(|name| HeaderValue::from_str(name).is_err())
        {
            let problem = format!("'{name}' is not a token");
            return Err(ProbeError::setting(ProbeSetting::Subprotocols, problem));
        }
        let offer = HeaderValue::from_str(&options.subprotocols.join(", "));
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, offer.expect("each part is a valid value"));
    }
    let mut further = HeaderMap::new();
    for (name, value) in &options.headers {
        let refuse = |what| {
            let problem = format!("'{name}: {value}' has an invalid {what}");
            ProbeError::setting(ProbeSetting::Headers, problem)
        };
        let name = HeaderName::try_from(name.as_str()).map_err(|_| refuse("name"))?;
        further.append(name, HeaderValue::from_str(value).map_err(|_| refuse("value"))?);
    }
    // Replaces the values of names that are there.
    fields.extend(further);
    Ok(request)
}

async fn upgrade(
    target: &Target,
    request: Request,
    stream: Box<dyn ByteStream>,
) -> Result<(Link, Option<String>), ProbeError> {
    // An echo is as large as its message, so the sizes need no limit.
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(None)
        .max_frame_size(None);
    let (socket, response) =
        client_async_with_config(request, stream, Some(config)).await.map_err(|error| {
            let problem = match &error {
                Error::Http(response) => {
                    format!("the server answered {} instead of upgrading", response.status())
                }
                other => format!("the WebSocket upgrade failed: {other}"),
            };
            ProbeError::connect_caused_by(target, problem, error)
        })?;
    let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let subprotocol = subprotocol.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    Ok((Link::Messages(Box::new(socket)), subprotocol))
}
