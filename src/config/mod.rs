//! The configuration of a server: plain data with defaults.

mod faults;
mod inherited;
mod tls;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use faults::{
    CertificateFault, Fault, FaultError, FaultGroup, FaultPolicy, HandshakeFault, Probability,
    UpgradeFault, When,
};
pub(crate) use faults::{fault, is_fault};
pub use inherited::Inherited;
#[cfg(target_os = "linux")]
pub(crate) use inherited::{Descriptor, State};
pub use tls::{ClientAuth, Credentials, Identity, Source, TlsPolicy, TlsVersion};

use crate::address::{Cidr, ListenAddress};

/// A protocol that the server echoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Plain TCP.
    Tcp,
    /// TLS 1.2 and 1.3 over TCP.
    Tls,
    /// UDP datagrams.
    Udp,
    /// WebSocket (RFC 6455).
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Protocol {
    /// All protocols.
    pub const ALL: &[Protocol] =
        &[Protocol::Tcp, Protocol::Tls, Protocol::Udp, Protocol::Ws, Protocol::Wss];

    /// The name that flags and log lines use.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Tls => "tls",
            Protocol::Udp => "udp",
            Protocol::Ws => "ws",
            Protocol::Wss => "wss",
        }
    }

    /// The port that it listens on by default.
    pub fn default_port(self) -> u16 {
        match self {
            Protocol::Tcp | Protocol::Udp => 8080,
            Protocol::Tls => 8443,
            Protocol::Ws => 8081,
            Protocol::Wss => 8444,
        }
    }

    /// Whether it runs over TLS, and so needs a certificate.
    pub fn is_over_tls(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Wss)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A protocol, and where to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listen {
    /// The protocol.
    pub protocol: Protocol,
    /// Where.
    pub address: ListenAddress,
}

impl Listen {
    /// `protocol` at `address`.
    pub fn new(protocol: Protocol, address: impl Into<ListenAddress>) -> Self {
        Listen { protocol, address: address.into() }
    }

    /// `protocol` on 127.0.0.1 and its default port.
    pub fn default_for(protocol: Protocol) -> Self {
        Listen::new(protocol, (Ipv4Addr::LOCALHOST, protocol.default_port()))
    }
}

/// The configuration of a server.
///
/// ```
/// use echo_server::{Config, Protocol};
///
/// let config = Config::new()
///     .listen(Protocol::Tcp, ([127, 0, 0, 1], 0))
///     .listen(Protocol::Udp, ([127, 0, 0, 1], 0));
/// assert_eq!(config.listeners.len(), 2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Config {
    /// The listeners, in the order in which they are bound.
    pub listeners: Vec<Listen>,
    /// The permission bits of Unix socket files, at most `0o777`. A client needs write permission
    /// to connect. `None`: `0o777` less the process's umask.
    pub unix_mode: Option<u32>,
    /// The sockets for listeners at [`ListenAddress::Inherited`].
    /// [`Server::check_inherited`](crate::Server::check_inherited) finds those that are left over.
    pub inherited: Inherited,
    /// The certificates of the TLS protocols.
    pub identity: Identity,
    /// What the TLS protocols negotiate.
    pub tls: TlsPolicy,
    /// Size in bytes of the buffer that each thread uses to echo byte streams, at least 1. It is
    /// also the most that the server holds for a TCP connection whose peer does not read. A TLS
    /// connection holds up to 64 KiB of records in addition.
    pub buffer_size: usize,
    /// Who may open a WebSocket, and with which subprotocols.
    pub websocket: WebSocketPolicy,
    /// Which datagrams are answered, and at which rate.
    pub udp: UdpPolicy,
    /// Where proxies announce the clients.
    pub proxy: ProxyPolicy,
    /// The protocols that tell each client what the server saw of it, which can include secrets in
    /// header fields. None.
    pub facts: Vec<Protocol>,
    /// How the server misbehaves on purpose.
    pub faults: FaultPolicy,
    /// How many connections may be open at a time.
    pub limits: Limits,
    /// How long the stages of a connection may take.
    pub timeouts: Timeouts,
}

/// Who may open a WebSocket, and with which subprotocols.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSocketPolicy {
    /// The allowed subprotocols. The server selects the first one that the client offers and that
    /// is in this list. Empty: all are allowed.
    pub subprotocols: Vec<String>,
    /// The origins whose pages may connect (RFC 6454 section 6.1), such as `https://example.com`. A
    /// page of any other origin gets 403. A client that sends no Origin field is not a browser, and
    /// may connect. `https://*.example.com` stands for all subdomains of example.com, though not for
    /// example.com itself. Empty: all origins may connect.
    pub origins: Vec<String>,
}

/// Where connections come from proxies, which announce their clients by a PROXY header (HAProxy's
/// specification, versions 1 and 2). The log, the limits per address and the facts are about the
/// announced client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyPolicy {
    /// The protocols on whose listeners each connection has to begin with a PROXY header. It cannot
    /// be UDP. None.
    pub protocols: Vec<Protocol>,
    /// The networks of the proxies; a connection from elsewhere is closed. Empty: all, which only
    /// listeners on loopback addresses and Unix sockets may have, since a header can announce any
    /// address. Unix sockets have no network, and are not restricted.
    pub from: Vec<Cidr>,
}

/// Which datagrams are answered, and at which rate.
///
/// Datagrams are never answered if they come from port 0, from a broadcast, multicast or
/// unspecified address, or from one of the server's own addresses, or if they were sent to a
/// broadcast or multicast address: a forged source could turn the answers on others, or start a
/// loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpPolicy {
    /// The kernel's receive buffer (SO_RCVBUF) of each socket, in bytes. `None`: 4 MiB, or as much
    /// as the system allows.
    pub recv_buffer: Option<usize>,
    /// Whether source ports below 1024, and 2049 (NFS), are answered. They belong to services, with
    /// which a forged datagram could start a loop. Default: `false`.
    pub allow_low_ports: bool,
    /// Replies per second to one IPv4 address or IPv6 /64; a burst may have twice as many. `None`:
    /// no limit. Default: 1,000.
    pub rate_limit: Option<u32>,
    /// Whether `rate_limit` applies to loopback addresses too. Default: `false`.
    pub rate_limit_loopback: bool,
    /// Replies per second to all peers together; a burst may have twice as many. `None`: no limit.
    /// Default: `None`.
    pub total_rate_limit: Option<u32>,
}

impl Default for UdpPolicy {
    fn default() -> Self {
        UdpPolicy {
            recv_buffer: None,
            allow_low_ports: false,
            rate_limit: Some(1000),
            rate_limit_loopback: false,
            total_rate_limit: None,
        }
    }
}

/// How many connections a server may have at a time, over all its listeners, and how much memory may
/// be held for them. Beyond a limit on their number, a new connection is accepted and closed at once;
/// existing ones are not affected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections in total. `None`: the process's limit on descriptors, less the larger of a tenth
    /// of it, and 32 plus 4 for each runtime of [`Server::bind_over`](crate::Server::bind_over)
    /// plus 1 for each UDP socket.
    pub max_connections: Option<usize>,
    /// Connections from one IPv4 address, or from one IPv6 /64 network, since a single host usually
    /// has a whole /64. `None`: no limit.
    pub max_connections_per_ip: Option<usize>,
    /// Bytes that the server holds in memory for all connections together: echoes that their peers
    /// have not taken, and messages whose rest is to come. Beyond it, connections are closed, those
    /// first that have been stalled longest. `None`: a quarter of the machine's memory or of the
    /// control group's limit, whichever is less; 1 GiB on systems other than Linux. `u64::MAX`: no
    /// limit.
    pub max_buffered: Option<u64>,
}

/// How long the stages of a connection may take. `None` means no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From accept until the PROXY header, the TLS handshake and the WebSocket upgrade are done.
    /// Default: 10 seconds.
    pub handshake: Option<Duration>,
    /// Without a byte in either direction. Default: 10 minutes.
    pub idle: Option<Duration>,
    /// While part of the echo is unsent and the peer reads nothing. Default: 60 seconds.
    pub stall: Option<Duration>,
    /// The interval between WebSocket pings. A peer that sends nothing between two of them is
    /// closed. `None`: no pings, the default.
    pub ping: Option<Duration>,
    /// From accept to close, whatever happens. Default: `None`.
    pub lifetime: Option<Duration>,
    /// From the start of a drain until all connections have received the rest of their echoes
    /// and closed. Connections that are left are aborted. Default: 10 seconds.
    pub drain: Duration,
    /// From the start of a shutdown until the drain begins. Meanwhile the server says that it is not
    /// [ready](crate::Readiness), and accepts connections as before, so that balancers have time to
    /// send new clients elsewhere. Default: 0.
    pub drain_delay: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            handshake: Some(Duration::from_secs(10)),
            idle: Some(Duration::from_secs(10 * 60)),
            stall: Some(Duration::from_secs(60)),
            ping: None,
            lifetime: None,
            drain: Duration::from_secs(10),
            drain_delay: Duration::ZERO,
        }
    }
}

/// The default of [`Config::buffer_size`]: 64 KiB.
pub const DEFAULT_BUFFER_SIZE: usize = 64 * 1024;

impl Config {
    /// A configuration without listeners, with defaults for the rest.
    pub fn new() -> Self {
        Config {
            listeners: Vec::new(),
            unix_mode: None,
            inherited: Inherited::default(),
            identity: Identity::default(),
            tls: TlsPolicy::default(),
            buffer_size: DEFAULT_BUFFER_SIZE,
            websocket: WebSocketPolicy::default(),
            udp: UdpPolicy::default(),
            proxy: ProxyPolicy::default(),
            facts: Vec::new(),
            faults: FaultPolicy::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Adds a listener. With port 0 the system chooses a free port, which
    /// [`Server::local_addrs`](crate::Server::local_addrs) returns.
    #[must_use]
    pub fn listen(mut self, protocol: Protocol, address: impl Into<ListenAddress>) -> Self {
        self.listeners.push(Listen::new(protocol, address));
        self
    }

    /// Sets [`Config::unix_mode`].
    #[must_use]
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode);
        self
    }

    /// Sets [`Config::inherited`].
    #[must_use]
    pub fn inherited(mut self, inherited: Inherited) -> Self {
        self.inherited = inherited;
        self
    }

    /// Sets the certificates of the TLS protocols.
    #[must_use]
    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// Changes [`Config::tls`].
    #[must_use]
    pub fn tls(mut self, change: impl FnOnce(&mut TlsPolicy)) -> Self {
        change(&mut self.tls);
        self
    }

    /// Sets [`Config::buffer_size`].
    #[must_use]
    pub fn buffer_size(mut self, bytes: usize) -> Self {
        self.buffer_size = bytes;
        self
    }

    /// Changes [`Config::websocket`].
    #[must_use]
    pub fn websocket(mut self, change: impl FnOnce(&mut WebSocketPolicy)) -> Self {
        change(&mut self.websocket);
        self
    }

    /// Changes [`Config::udp`].
    #[must_use]
    pub fn udp(mut self, change: impl FnOnce(&mut UdpPolicy)) -> Self {
        change(&mut self.udp);
        self
    }

    /// Changes [`Config::proxy`].
    #[must_use]
    pub fn proxy(mut self, change: impl FnOnce(&mut ProxyPolicy)) -> Self {
        change(&mut self.proxy);
        self
    }

    /// Sets [`Config::facts`]. Over UDP the facts are the answer to a datagram that begins with
    /// `ECHO-FACTS?`, if they are not longer than it; everything else is echoed.
    ///
    /// ```
    /// # use std::net::UdpSocket;
    /// use echo_server::{Config, Protocol, blocking};
    ///
    /// let config = Config::new().listen(Protocol::Udp, ([127, 0, 0, 1], 0)).facts([Protocol::Udp]);
    /// let server = blocking::TestServer::with(config)?;
    ///
    /// let client = UdpSocket::bind("127.0.0.1:0")?;
    /// let mut datagram = [0; 400];
    /// datagram[..11].copy_from_slice(b"ECHO-FACTS?");
    /// client.send_to(&datagram, server.addr(Protocol::Udp))?;
    /// let (length, _) = client.recv_from(&mut datagram)?;
    /// assert!(datagram[..length].starts_with(br#"{"echo_facts":1,"protocol":"udp","#));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn facts(mut self, protocols: impl IntoIterator<Item = Protocol>) -> Self {
        self.facts = protocols.into_iter().collect();
        self
    }

    /// Adds faults on purpose to [`Config::faults`].
    ///
    /// ```
    /// # use std::io::{ErrorKind, Read, Write};
    /// # use std::net::TcpStream;
    /// use echo_server::{Config, Fault, FaultGroup, Protocol, When, blocking};
    ///
    /// let reset = FaultGroup::on(Protocol::Tcp).with(Fault::Reset(When::Bytes(3)));
    /// let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0)).fault(reset);
    /// let server = blocking::TestServer::with(config)?;
    ///
    /// let mut client = TcpStream::connect(server.addr(Protocol::Tcp))?;
    /// client.write_all(b"hello")?;
    /// let mut echo = Vec::new();
    /// let error = client.read_to_end(&mut echo).unwrap_err();
    /// assert_eq!((echo.as_slice(), error.kind()), (&b"hel"[..], ErrorKind::ConnectionReset));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fault(mut self, group: FaultGroup) -> Self {
        self.faults.groups.push(group);
        self
    }

    /// Changes [`Config::faults`].
    #[must_use]
    pub fn faults(mut self, change: impl FnOnce(&mut FaultPolicy)) -> Self {
        change(&mut self.faults);
        self
    }

    /// Changes [`Config::limits`].
    #[must_use]
    pub fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }

    /// Changes [`Config::timeouts`].
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use echo_server::Config;
    /// let config = Config::new().timeouts(|timeouts| timeouts.idle = Some(Duration::from_secs(5)));
    /// # assert_eq!(config.timeouts.idle, Some(Duration::from_secs(5)));
    /// ```
    #[must_use]
    pub fn timeouts(mut self, change: impl FnOnce(&mut Timeouts)) -> Self {
        change(&mut self.timeouts);
        self
    }
}

impl Default for Config {
    fn default() -> Self {
        Config::new()
    }
}
