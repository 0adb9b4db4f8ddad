//! HAProxy's PROXY protocol, versions 1 and 2: the header that a proxy sends in front of a
//! connection's bytes, to announce the client on whose behalf it has connected. Sections are those
//! of the specification (proxy-protocol.txt of the HAProxy distribution, as of 2026-04-27).
//!
//! [`parse()`] reads a header, `encode` writes one. Neither does any input or output.

mod crc32c;
pub(crate) mod encode;
#[cfg(test)]
mod fuzz;
mod parse;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

pub(crate) use parse::parse;

/// The signature of version 2 (section 2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The length of each address of the family `AF_UNIX`, in bytes (section 2.2).
const UNIX_LENGTH: usize = 108;

/// The longest value of `PP2_TYPE_UNIQUE_ID`, in bytes (section 2.2.5).
pub(crate) const MAX_UNIQUE_ID: usize = 128;

/// The types of TLVs: those of section 2.2, and those of the clouds, which are from the range for
/// applications (section 2.2.8).
pub(crate) mod kind {
    pub(crate) const ALPN: u8 = 0x01;
    pub(crate) const AUTHORITY: u8 = 0x02;
    pub(crate) const CRC32C: u8 = 0x03;
    pub(crate) const NOOP: u8 = 0x04;
    pub(crate) const UNIQUE_ID: u8 = 0x05;
    pub(crate) const SSL: u8 = 0x20;
    pub(crate) const NETNS: u8 = 0x30;
    /// Google Cloud, Private Service Connect: the connection's id, 64 bits in network byte order.
    pub(crate) const GCP: u8 = 0xE0;
    /// Amazon Web Services. The value begins with a subtype.
    pub(crate) const AWS: u8 = 0xEA;
    /// Microsoft Azure. The value begins with a subtype.
    pub(crate) const AZURE: u8 = 0xEE;

    // Those that stand in the value of `SSL` (section 2.2.6).
    pub(crate) const SSL_VERSION: u8 = 0x21;
    pub(crate) const SSL_CN: u8 = 0x22;
    pub(crate) const SSL_CIPHER: u8 = 0x23;
    pub(crate) const SSL_SIG_ALG: u8 = 0x24;
    pub(crate) const SSL_KEY_ALG: u8 = 0x25;
    pub(crate) const SSL_GROUP: u8 = 0x26;
    pub(crate) const SSL_SIG_SCHEME: u8 = 0x27;
    pub(crate) const SSL_CLIENT_CERT: u8 = 0x28;

    /// The subtype of `AWS` whose value is the id of a VPC endpoint, as text.
    pub(crate) const AWS_VPCE_ID: u8 = 0x01;
    /// The subtype of `AZURE` whose value is the link id of a private endpoint: 32 bits, the least
    /// significant byte first.
    pub(crate) const AZURE_LINK_ID: u8 = 0x01;
}

/// A PROXY header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: Version,
    pub(crate) command: Command,
    /// Unspecified if the command is LOCAL.
    pub(crate) addresses: Addresses,
    /// None in version 1, nor if the command is LOCAL.
    pub(crate) tlvs: Tlvs,
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// One line of text (section 2.1).
    One,
    /// Binary (section 2.2).
    Two,
}

/// On whose behalf the sender has connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Its own, as for a health check: the connection's real addresses count.
    Local,
    /// A client's. It is the only command of version 1.
    Proxy,
}

/// What kind of socket the client has connected with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `SOCK_STREAM`: TCP, or a Unix stream socket.
    Stream,
    /// `SOCK_DGRAM`: UDP, or a Unix datagram socket.
    Datagram,
}

/// The addresses that a header announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// None: `UNKNOWN` of version 1; a family or a protocol that is UNSPEC, or LOCAL, of version 2.
    Unspecified,
    /// `AF_INET` or `AF_INET6`. Both addresses are of one family.
    Ip { source: SocketAddr, destination: SocketAddr, transport: Transport },
    /// `AF_UNIX`: the names as in `sun_path` (unix(7)), without the NUL bytes that pad them. A name in
    /// Linux' abstract namespace begins with a NUL byte; an unnamed socket's is empty.
    Unix { source: Vec<u8>, destination: Vec<u8>, transport: Transport },
}

/// What a version 2 header tells besides the addresses: type-length-value vectors. Of several of one
/// type, the first is here, and the rest are among `others`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tlvs {
    /// The application protocol: the name that was selected (RFC 7301).
    pub(crate) alpn: Option<Vec<u8>>,
    /// The host name that the client asked for, as in SNI.
    pub(crate) authority: Option<Vec<u8>>,
    /// Whether there was a checksum. It was right, then.
    pub(crate) crc32c: bool,
    /// An opaque id of the connection, of at most [`MAX_UNIQUE_ID`] bytes.
    pub(crate) unique_id: Option<Vec<u8>>,
    pub(crate) ssl: Option<Ssl>,
    /// The name of the network namespace.
    pub(crate) netns: Option<Vec<u8>>,
    /// The id of the VPC endpoint (AWS).
    pub(crate) aws_vpce_id: Option<Vec<u8>>,
    /// The link id of the private endpoint (Azure).
    pub(crate) azure_link_id: Option<u32>,
    /// The id of the Private Service Connect connection (Google Cloud).
    pub(crate) gcp_psc_id: Option<u64>,
    /// All others, as they came. Padding (`PP2_TYPE_NOOP`) is not among them.
    pub(crate) others: Vec<Tlv>,
}

/// A type-length-value vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tlv {
    pub(crate) kind: u8,
    pub(crate) value: Vec<u8>,
}

/// How the client has connected to the proxy over TLS (section 2.2.6).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ssl {
    /// A bit field, see [`Ssl::CLIENT_SSL`].
    pub(crate) client: u8,
    /// 0 if the client has presented a certificate and that was verified.
    pub(crate) verify: u32,
    /// The TLS version, like `TLSv1.3`.
    pub(crate) version: Option<Vec<u8>>,
    /// The common name of the client's certificate.
    pub(crate) cn: Option<Vec<u8>>,
    pub(crate) cipher: Option<Vec<u8>>,
    /// The algorithm that the proxy's certificate was signed with.
    pub(crate) sig_alg: Option<Vec<u8>>,
    /// The algorithm of the key of the proxy's certificate.
    pub(crate) key_alg: Option<Vec<u8>>,
    /// The group of the key exchange.
    pub(crate) group: Option<Vec<u8>>,
    /// The algorithm that the proxy has signed the handshake with.
    pub(crate) sig_scheme: Option<Vec<u8>>,
    /// The client's certificate, DER.
    pub(crate) client_cert: Option<Vec<u8>>,
}

impl Header {
    /// The client that the header announces, if it is one with an IP address.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        match (self.command, &self.addresses) {
            (Command::Proxy, Addresses::Ip { source, .. }) => Some(*source),
            _ => None,
        }
    }
}

impl Addresses {
    /// The addresses of a client and of what it has connected to. If one is IPv4 and the other IPv6,
    /// an IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2) becomes the IPv4 address that it stands
    /// for, or else the IPv4 address becomes an IPv4-mapped one, since a header has one family.
    pub(crate) fn ip(source: SocketAddr, destination: SocketAddr, transport: Transport) -> Self {
        if source.is_ipv4() == destination.is_ipv4() {
            return Addresses::Ip { source, destination, transport };
        }
        let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port()).into();
        let (source, destination): (SocketAddr, SocketAddr) =
            (canonical(source), canonical(destination));
        if source.is_ipv4() == destination.is_ipv4() {
            return Addresses::Ip { source, destination, transport };
        }
        let (source, destination) = (as_v6(source), as_v6(destination));
        Addresses::Ip { source, destination, transport }
    }
}

/// An IPv4 address as an IPv4-mapped IPv6 address.
fn as_v6(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    (ip, address.port()).into()
}

impl Ssl {
    /// The client has connected over TLS.
    pub(crate) const CLIENT_SSL: u8 = 0x01;
    /// It has presented a certificate on this connection.
    pub(crate) const CLIENT_CERT_CONN: u8 = 0x02;
    /// It has presented a certificate at least once in this TLS session.
    pub(crate) const CLIENT_CERT_SESS: u8 = 0x04;
}
