//! How a probe connects.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;

use super::proxy::ProxyHeader;
use crate::config::Protocol;
use crate::probe::tls::TlsOptions;
use crate::probe::{Endpoint, ProbeError, ProbeSetting, Target};

/// How a probe connects.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectOptions {
    /// The family of the addresses of a name that are tried. `None`: that of
    /// [`source`](ConnectOptions::source), else both. A Unix socket has none.
    pub family: Option<Family>,
    /// The address to connect to, in place of those that the target's name has. The name is still
    /// the one that TLS asks for and verifies, and that HTTP requests name. A Unix socket has none.
    /// `None`.
    pub address: Option<IpAddr>,
    /// The local address to connect from. `None`: the system's choice. A Unix socket has none.
    pub source: Option<IpAddr>,
    /// The PROXY header to send first on every connection. Not for UDP. `None`.
    pub proxy: Option<ProxyHeader>,
    /// How long all phases of one connection may take together. 10 seconds.
    pub timeout: Duration,
    /// TLS.
    pub tls: TlsOptions,
    /// WebSocket: the subprotocols to offer, the preferred one first. None.
    pub subprotocols: Vec<String>,
    /// WebSocket: further header fields of the request, names and values. A field that the request
    /// has anyway, such as `Host`, gets this value instead. None.
    pub headers: Vec<(String, String)>,
    /// The DSCP of the packets, from 0 to 63 (RFC 2474). Not on Windows, nor for Unix sockets. `None`:
    /// the system's, which is 0.
    pub dscp: Option<u8>,
    /// UDP: whether to set the DF bit, so that a datagram that is larger than the path's MTU is
    /// dropped and not fragmented. Linux only. `false`.
    pub dont_fragment: bool,
    /// How much to ignore of what comes first, for services that greet: bytes of a stream, messages
    /// of WebSocket, datagrams. 0.
    pub skip_first: u64,
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
            address: None,
            source: None,
            proxy: None,
            timeout: Duration::from_secs(10),
            tls: TlsOptions::default(),
            subprotocols: Vec::new(),
            headers: Vec::new(),
            dscp: None,
            dont_fragment: false,
            skip_first: 0,
        }
    }

    /// Sets [`ConnectOptions::family`].
    #[must_use]
    pub fn family(mut self, family: Family) -> Self {
        self.family = Some(family);
        self
    }

    /// Sets [`ConnectOptions::address`].
    #[must_use]
    pub fn address(mut self, address: impl Into<IpAddr>) -> Self {
        self.address = Some(address.into());
        self
    }

    /// Sets [`ConnectOptions::source`].
    #[must_use]
    pub fn source(mut self, source: impl Into<IpAddr>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Sets [`ConnectOptions::proxy`].
    #[must_use]
    pub fn proxy(mut self, header: ProxyHeader) -> Self {
        self.proxy = Some(header);
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

    /// Sets [`ConnectOptions::dscp`].
    #[must_use]
    pub fn dscp(mut self, dscp: u8) -> Self {
        self.dscp = Some(dscp);
        self
    }

    /// Sets [`ConnectOptions::dont_fragment`].
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Sets [`ConnectOptions::skip_first`].
    #[must_use]
    pub fn skip_first(mut self, amount: u64) -> Self {
        self.skip_first = amount;
        self
    }

    pub(in crate::probe) fn check(&self, target: &Target) -> Result<(), ProbeError> {
        let is_plain_http = matches!(&*self.tls.alpn, [only] if only == "h2" || only == "http/1.1");
        if target.protocol() == Protocol::Ws && !self.tls.alpn.is_empty() && !is_plain_http {
            let problem = "without TLS nothing is selected: it is h2 or http/1.1";
            return Err(ProbeError::setting(ProbeSetting::Alpn, problem));
        }
        if matches!(target.endpoint(), Endpoint::Unix(_)) {
            if self.source.is_some() {
                let problem = "a Unix socket is not connected to from an IP address";
                return Err(ProbeError::setting(ProbeSetting::Source, problem));
            }
            if self.family.is_some() {
                let problem = "a Unix socket is neither IPv4 nor IPv6";
                return Err(ProbeError::setting(ProbeSetting::Family, problem));
            }
            if self.dscp.is_some() {
                let problem = "a Unix socket has no packets";
                return Err(ProbeError::setting(ProbeSetting::Dscp, problem));
            }
        }
        if self.dscp.is_some_and(|dscp| dscp > 63) {
            return Err(ProbeError::setting(ProbeSetting::Dscp, "must be from 0 to 63"));
        }
        self.proxy.as_ref().map_or(Ok(()), |proxy| proxy.check(target))
    }

    /// Sets the DSCP of a socket that is going to be connected to `peer`.
    pub(super) fn mark<'s, S>(&self, socket: &'s S, peer: SocketAddr) -> io::Result<()>
    where
        SockRef<'s>: From<&'s S>,
    {
        // The lowest two bits of the field are the ECN, which is the transport's.
        let Some(field) = self.dscp.map(|dscp| u32::from(dscp) << 2) else { return Ok(()) };
        set_traffic_class(&SockRef::from(socket), peer, field)
    }
}

#[cfg(unix)]
fn set_traffic_class(socket: &SockRef<'_>, peer: SocketAddr, field: u32) -> io::Result<()> {
    match peer {
        SocketAddr::V4(_) => socket.set_tos_v4(field),
        SocketAddr::V6(_) => socket.set_tclass_v6(field),
    }
}

#[cfg(not(unix))]
fn set_traffic_class(_: &SockRef<'_>, _: SocketAddr, _: u32) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the DSCP cannot be set on this system"))
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
