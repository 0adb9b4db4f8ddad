//! The PROXY header that a probe sends first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Connected;
use crate::address::Address;
use crate::config::Protocol;
use crate::probe::{ProbeError, ProbeSetting, Target};
use crate::proxy_protocol::encode::{self, TooLong};
use crate::proxy_protocol::{Addresses, Command, MAX_UNIQUE_ID, Tlv, Transport, kind};

/// A header of HAProxy's PROXY protocol, which announces a client to the server. A probe sends it as
/// soon as it has connected, before TLS, in a write of its own.
///
/// The destination that it announces is the address that the probe has connected to. If that is IPv4
/// and the client IPv6, or the other way round, the IPv4 address of the two is announced as an
/// IPv4-mapped IPv6 address, since a header has one family. A Unix socket has no address that fits:
/// the destination is then the unspecified address of the client's family, with port 0.
///
/// ```
/// use echo_server::probe::{Probe, ProxyHeader, Target};
///
/// # fn example(target: Target) {
/// let header = ProxyHeader::version_2().client(([192, 0, 2, 1], 61000)).tlv(0x02, "example.com");
/// let probe = Probe::new(target).connect(|connect| connect.proxy = Some(header));
/// # drop(probe);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProxyHeader {
    /// Its version, or that it announces nobody.
    pub kind: ProxyKind,
    /// The client to announce. `None`: the address that the probe has connected from; over a Unix
    /// socket, that the client is unknown (`UNKNOWN`, or `AF_UNSPEC`). With [`ProxyKind::Local`] it has
    /// to be `None`.
    pub client: Option<SocketAddr>,
    /// Types and values of TLVs (section 2.2 of the specification), in this order. Not in version 1.
    /// Behind them follows a checksum (CRC32C), which is why 0x03 is not among them.
    pub tlvs: Vec<(u8, Vec<u8>)>,
}

/// The kinds of PROXY headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProxyKind {
    /// Version 1: a line of text.
    Version1,
    /// Version 2, binary, with the command PROXY.
    Version2,
    /// Version 2 with the command LOCAL: the sender has connected on its own behalf, as for a health
    /// check, and announces no client.
    Local,
}

impl ProxyHeader {
    /// A header of version 1.
    pub fn version_1() -> Self {
        ProxyHeader::new(ProxyKind::Version1)
    }

    /// A header of version 2.
    pub fn version_2() -> Self {
        ProxyHeader::new(ProxyKind::Version2)
    }

    /// A header of version 2 with the command LOCAL.
    pub fn local() -> Self {
        ProxyHeader::new(ProxyKind::Local)
    }

    /// A header of this kind, without TLVs.
    pub fn new(kind: ProxyKind) -> Self {
        ProxyHeader { kind, client: None, tlvs: Vec::new() }
    }

    /// Sets [`ProxyHeader::client`].
    #[must_use]
    pub fn client(mut self, client: impl Into<SocketAddr>) -> Self {
        self.client = Some(client.into());
        self
    }

    /// Adds to [`ProxyHeader::tlvs`].
    #[must_use]
    pub fn tlv(mut self, kind: u8, value: impl Into<Vec<u8>>) -> Self {
        self.tlvs.push((kind, value.into()));
        self
    }

    pub(super) fn check(&self, target: &Target) -> Result<(), ProbeError> {
        if target.protocol() == Protocol::Udp {
            let problem = "a PROXY header stands in front of a stream of bytes, and UDP has none";
            return Err(ProbeError::setting(ProbeSetting::ProxyHeader, problem));
        }
        if self.kind == ProxyKind::Local && self.client.is_some() {
            let problem = "LOCAL announces no client";
            return Err(ProbeError::setting(ProbeSetting::ProxyClient, problem));
        }
        let of_tlvs = |problem: String| Err(ProbeError::setting(ProbeSetting::ProxyTlvs, problem));
        if self.kind == ProxyKind::Version1 && !self.tlvs.is_empty() {
            return of_tlvs("version 1 has no TLVs".to_owned());
        }
        for (kind, value) in &self.tlvs {
            if *kind == kind::CRC32C {
                return of_tlvs("0x03 is the checksum, which is always sent".to_owned());
            }
            if *kind == kind::UNIQUE_ID && value.len() > MAX_UNIQUE_ID {
                let length = value.len();
                return of_tlvs(format!(
                    "a unique id has at most {MAX_UNIQUE_ID} bytes, and this one {length}"
                ));
            }
        }
        // Whether it is too long does not depend on the connection: these addresses are the longest.
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
        match self.write(&Addresses::ip(any, any, Transport::Stream)) {
            Ok(_) => Ok(()),
            Err(error) => of_tlvs(error.to_string()),
        }
    }

    /// The header for a connection.
    pub(super) fn bytes(&self, connected: &Connected) -> Result<Vec<u8>, ProbeError> {
        let addresses = match (self.kind, self.client.or(connected.local)) {
            (ProxyKind::Local, _) | (_, None) => Addresses::Unspecified,
            (_, Some(client)) => {
                let destination = match (&connected.peer, client.ip()) {
                    (Address::Ip(peer), _) => *peer,
                    (Address::Unix(_), IpAddr::V4(_)) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                    (Address::Unix(_), IpAddr::V6(_)) => (Ipv6Addr::UNSPECIFIED, 0).into(),
                };
                Addresses::ip(client, destination, Transport::Stream)
            }
        };
        self.write(&addresses)
            .map_err(|error| ProbeError::setting(ProbeSetting::ProxyTlvs, error.to_string()))
    }

    fn write(&self, addresses: &Addresses) -> Result<Vec<u8>, TooLong> {
        let command = match self.kind {
            ProxyKind::Version1 => return Ok(encode::version_1(addresses)),
            ProxyKind::Version2 => Command::Proxy,
            ProxyKind::Local => Command::Local,
        };
        let tlvs = self.tlvs.iter();
        let tlvs: Vec<_> =
            tlvs.map(|(kind, value)| Tlv { kind: *kind, value: value.clone() }).collect();
        encode::version_2(command, addresses, &tlvs)
    }
}
