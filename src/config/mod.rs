//! What a server is told to do: plain data with defaults.

mod tls;

use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use tls::{ClientAuth, Credentials, Identity, Source, TlsPolicy, TlsVersion};

use crate::address::Address;

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
    /// All of them.
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

    /// The port it has when none is asked for.
    pub fn default_port(self) -> u16 {
        match self {
            Protocol::Tcp | Protocol::Udp => 8080,
            Protocol::Tls => 8443,
            Protocol::Ws => 8081,
            Protocol::Wss => 8444,
        }
    }

    /// Whether it needs a certificate.
    pub fn is_over_tls(self) -> bool {
        matches!(self, Protocol::Tls | Protocol::Wss)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A listener to start.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Listen {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where. More than one if a name was asked for that has more than one address: each is bound
    /// that this machine has, and one at least has to be.
    pub addresses: Vec<Address>,
}

impl Listen {
    /// `protocol` on one address.
    pub fn new(protocol: Protocol, address: impl Into<Address>) -> Self {
        Listen { protocol, addresses: vec![address.into()] }
    }

    /// `protocol` on those of `addresses` that this machine has, one at least.
    pub fn any_of(protocol: Protocol, addresses: Vec<Address>) -> Self {
        Listen { protocol, addresses }
    }

    /// `protocol` on 127.0.0.1 and its default port.
    pub fn default_for(protocol: Protocol) -> Self {
        Listen::new(protocol, (Ipv4Addr::LOCALHOST, protocol.default_port()))
    }
}

/// Everything that a server is told.
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
    /// The permission bits of the files of Unix sockets, at most `0o777`: connecting takes the
    /// right to write. `None`: what the process's umask leaves of `0o777`.
    pub unix_mode: Option<u32>,
    /// The certificates of the TLS protocols.
    pub identity: Identity,
    /// What the TLS protocols agree to.
    pub tls: TlsPolicy,
    /// Size in bytes of the buffer that each thread echoes byte streams through: the most that a
    /// TCP connection whose peer does not read makes the server hold. TLS holds up to 64 KiB more
    /// of records. At least 1.
    pub buffer_size: usize,
    /// Who may open a WebSocket, and speak what on it.
    pub websocket: WebSocketPolicy,
    /// Which datagrams are answered, and how many.
    pub udp: UdpPolicy,
    /// How many connections there may be.
    pub limits: Limits,
    /// How long anything may take.
    pub timeouts: Timeouts,
}

/// Who may open a WebSocket, and speak what on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebSocketPolicy {
    /// The subprotocols that may be selected: of those that a client offers, the first that is
    /// here. Empty: the first, whatever it is.
    pub subprotocols: Vec<String>,
    /// The origins (RFC 6454 section 6.1, as in `https://example.com`) whose pages may connect; a
    /// page of any other gets 403. Clients that send no Origin are no browsers, and may. Empty:
    /// all.
    pub origins: Vec<String>,
}

/// Which datagrams are answered, and how many.
///
/// Never answered are port 0, what comes from or was sent to a broadcast or multicast address, and
/// what comes from one of the server's own addresses: an answer would be somebody else's trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpPolicy {
    /// The kernel's receive buffer, in bytes, for each of an address's sockets. `None`: 4 MiB, or
    /// as much as the system gives.
    pub recv_buffer: Option<usize>,
    /// Whether source ports below 1024, and 2049, are answered: those of services, with which a
    /// forged datagram could start a loop. `false`.
    pub allow_low_ports: bool,
    /// Replies a second to one IPv4 address or IPv6 /64, and twice as many in one go. `None`: any
    /// number. 1,000.
    pub rate_limit: Option<u32>,
    /// Whether `rate_limit` holds for loopback addresses too. `false`.
    pub rate_limit_loopback: bool,
    /// Replies a second to all together, and twice as many in one go. `None`: any number. `None`.
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

/// How many connections a server has at a time, over all its listeners. At a limit a new
/// connection is accepted and closed at once; the existing ones do not notice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// All connections. `None`: nine tenths of the descriptors that the process may have, or if
    /// that is fewer, 32 less than those, 4 less for each runtime and 1 for each UDP socket.
    pub max_connections: Option<usize>,
    /// Those of one IPv4 address, or of one IPv6 /64 network, which is what one host is given.
    /// `None`: no limit.
    pub max_connections_per_ip: Option<usize>,
}

/// How long a connection may take. Where there is an `Option`, `None` is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// From accept until the TLS handshake and the WebSocket upgrade are done. 10 seconds.
    pub handshake: Option<Duration>,
    /// Without a byte in either direction. 10 minutes.
    pub idle: Option<Duration>,
    /// While bytes are owed and the peer takes none. 60 seconds.
    pub stall: Option<Duration>,
    /// Between pings over WebSocket. A peer that has sent nothing at all from one to the next is
    /// closed. `None`: no pings.
    pub ping: Option<Duration>,
    /// From accept until the end, whatever happens. `None`.
    pub lifetime: Option<Duration>,
    /// For all connections together to take what they are owed once the server shuts down;
    /// those that are left are aborted. 10 seconds.
    pub drain: Duration,
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
        }
    }
}

/// [`Config::buffer_size`], unless set otherwise: 64 KiB.
pub const DEFAULT_BUFFER_SIZE: usize = 64 * 1024;

impl Config {
    /// No listeners yet, and defaults for the rest.
    pub fn new() -> Self {
        Config {
            listeners: Vec::new(),
            unix_mode: None,
            identity: Identity::default(),
            tls: TlsPolicy::default(),
            buffer_size: DEFAULT_BUFFER_SIZE,
            websocket: WebSocketPolicy::default(),
            udp: UdpPolicy::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Adds a listener. Port 0 asks the system for a free one;
    /// [`Server::local_addrs`](crate::Server::local_addrs) tells which.
    #[must_use]
    pub fn listen(mut self, protocol: Protocol, address: impl Into<Address>) -> Self {
        self.listeners.push(Listen::new(protocol, address));
        self
    }

    /// Sets [`Config::unix_mode`].
    #[must_use]
    pub fn unix_mode(mut self, mode: u32) -> Self {
        self.unix_mode = Some(mode);
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
