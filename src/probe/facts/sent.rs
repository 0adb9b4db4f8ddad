//! What the probe has sent, for comparison with what has arrived.

use std::net::SocketAddr;

use hyper::http::{Request, Version};
use socket2::SockRef;
use tokio::net::UdpSocket;

use crate::address::Address;
use crate::probe::connect::{self, ConnectOptions, Connected};
use crate::probe::link::Link;
use crate::probe::tls::{ClientTls, TlsFacts};
use crate::probe::{Endpoint, ProxyHeader, ProxyKind, Target};
use crate::proxy_protocol::kind;
use crate::tls::ja4;

/// What the probe has sent. Of a Unix socket there are no addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Sent {
    /// Who the server should take for its peer.
    pub(super) peer: Option<SocketAddr>,
    /// Our end of the connection.
    pub(super) local: Option<SocketAddr>,
    /// The PROXY header.
    pub(super) proxy: Option<SentProxy>,
    /// The address that was connected to.
    pub(super) to: Option<SocketAddr>,
    /// What TLS has negotiated at our end.
    pub(super) tls: Option<TlsFacts>,
    pub(super) hello: Option<Hello>,
    pub(super) request: Option<HttpRequest>,
    pub(super) packet: Option<Packet>,
}

/// What the PROXY header told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SentProxy {
    pub(super) version: &'static str,
    pub(super) command: &'static str,
    /// Names and values as the facts have them, of those TLVs that a proxy should not lose.
    pub(super) tlvs: Vec<(&'static str, String)>,
}

/// What the `ClientHello` offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) sni: Option<String>,
    pub(super) alpn: Vec<String>,
    pub(super) ja4: String,
}

/// The request that opened the WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HttpRequest {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) version: &'static str,
    /// Of HTTP/2. That of HTTP/1.1 is a field, Host.
    pub(super) authority: Option<String>,
    pub(super) fields: Vec<(String, String)>,
}

/// The fields of the IP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// The TTL, or the hop limit of IPv6.
    pub(super) ttl: u8,
    pub(super) is_ipv6: bool,
    /// The DSCP and, in the lowest two bits, the ECN. Not known on Windows.
    pub(super) traffic_class: Option<u8>,
}

impl Sent {
    pub(super) fn new(
        target: &Target,
        options: &ConnectOptions,
        connected: &Connected,
        link: &Link,
        request: Option<&Request<()>>,
    ) -> Sent {
        let is_unix = matches!(target.endpoint(), Endpoint::Unix(_));
        Sent {
            peer: expected_peer(options, connected),
            local: connected.local,
            proxy: options.proxy.as_ref().map(proxy),
            to: connected.peer.ip().filter(|_| !is_unix),
            tls: connected.tls_facts.clone(),
            hello: connected.tls_facts.as_ref().and_then(|_| hello(target, options)),
            request: request.map(|request| {
                let request = connect::as_sent(request, connected);
                http_request(&request)
            }),
            packet: match link {
                Link::Datagrams(datagrams) => packet(datagrams.socket(), &connected.peer),
                _ => None,
            },
        }
    }
}

/// Who the server should take for its peer: our end of the connection, unless the probe announces
/// another.
fn expected_peer(options: &ConnectOptions, connected: &Connected) -> Option<SocketAddr> {
    let proxy = options.proxy.as_ref().filter(|proxy| proxy.kind != ProxyKind::Local);
    proxy.and_then(|proxy| proxy.client).or(connected.local)
}

fn proxy(header: &ProxyHeader) -> SentProxy {
    let (version, command) = match header.kind {
        ProxyKind::Version1 => ("1", "proxy"),
        ProxyKind::Version2 => ("2", "proxy"),
        ProxyKind::Local => ("2", "local"),
    };
    // What follows LOCAL is not read (section 2.2).
    let is_read = header.kind != ProxyKind::Local;
    let value_of = |kind| {
        let of_kind = |tlv: &&(u8, Vec<u8>)| is_read && tlv.0 == kind;
        header.tlvs.iter().find(of_kind).map(|(_, value)| value.as_slice())
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let tlvs = [
        ("alpn", value_of(kind::ALPN).map(text)),
        ("authority", value_of(kind::AUTHORITY).map(text)),
        ("unique_id", value_of(kind::UNIQUE_ID).map(hex)),
        ("netns", value_of(kind::NETNS).map(text)),
    ];
    let tlvs = tlvs.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    SentProxy { version, command, tlvs }
}

/// The `ClientHello` of another connection with the same options. It differs from the one that was
/// sent only in what is random.
fn hello(target: &Target, options: &ConnectOptions) -> Option<Hello> {
    let hello = ClientTls::new(target, &options.tls).ok()?.hello()?;
    Some(Hello {
        sni: hello.sni().map(str::to_owned),
        alpn: hello.alpn().map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
        ja4: ja4::fingerprint(&hello).hash,
    })
}

fn http_request(request: &Request<()>) -> HttpRequest {
    let fields = request.headers().iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let is_http2 = request.version() == Version::HTTP_2;
    let authority = request.uri().authority().filter(|_| is_http2);
    HttpRequest {
        method: request.method().to_string(),
        path: request.uri().path_and_query().map_or("/", |path| path.as_str()).to_owned(),
        version: if is_http2 { "HTTP/2" } else { "HTTP/1.1" },
        authority: authority.map(ToString::to_string),
        fields: fields.collect(),
    }
}

/// What the system puts into the headers of our datagrams.
fn packet(socket: &UdpSocket, peer: &Address) -> Option<Packet> {
    let socket = SockRef::from(socket);
    let is_ipv6 = peer.ip()?.is_ipv6();
    let ttl = if is_ipv6 { socket.unicast_hops_v6() } else { socket.ttl_v4() };
    let traffic_class = traffic_class(&socket, is_ipv6).and_then(|class| class.try_into().ok());
    Some(Packet { ttl: ttl.ok()?.try_into().ok()?, is_ipv6, traffic_class })
}

#[cfg(unix)]
fn traffic_class(socket: &SockRef<'_>, is_ipv6: bool) -> Option<u32> {
    if is_ipv6 { socket.tclass_v6() } else { socket.tos_v4() }.ok()
}

#[cfg(not(unix))]
fn traffic_class(_: &SockRef<'_>, _: bool) -> Option<u32> {
    None
}
