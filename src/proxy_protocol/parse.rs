//! The parser of headers, versions 1 and 2. It is strict: what does not match the specification is an
//! error, as early as a byte shows it.
//!
//! It is our own, since each of the crates that there are for it (ppp 2.3, proxy-header 0.1,
//! proxy-protocol 0.5, proxy-protocol-rs 0.8) takes what has to be refused: all of them the port
//! `+443`, and the first three a wrong checksum. The fourth, which is the most complete, takes
//! addresses in a LOCAL header for TLVs, and has twelve bytes come before it compares more than the
//! first with the signature.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::crc32c::crc32c;
use super::{
    Addresses, Command, Header, MAX_UNIQUE_ID, SIGNATURE, Ssl, Tlv, Tlvs, Transport, UNIX_LENGTH,
    Version, kind,
};

/// The longest version 1 header, in bytes, with its CRLF (section 2.1).
const MAX_LINE: usize = 107;

/// Signature, version and command, family and protocol, length (section 2.2).
pub(super) const FIXED_LENGTH: usize = 16;

/// The longest block of a version 2 header that is taken, in bytes. The length field could say 65,535,
/// but a header is meant to fit into one TCP segment, and this is memory for anybody who connects. So
/// with `FIXED_LENGTH + MAX_BLOCK` bytes, [`parse`] has decided.
pub(super) const MAX_BLOCK: usize = 4096;

/// What is wrong with a header. The text is the end of a sentence about the header, and has nothing
/// in it that the sender could choose but numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// `position` counts from 1.
    #[error("its byte {position} is 0x{byte:02x}, which is in neither version's signature there")]
    Signature { position: usize, byte: u8 },

    #[error("\"PROXY \" is followed by none of TCP4, TCP6 and UNKNOWN")]
    Keyword,
    #[error("it is longer than {MAX_LINE} bytes, and no version 1 header may be")]
    LineTooLong,
    #[error("its line has a single CR or LF, and has to end with CRLF")]
    LineEnding,
    #[error("its line does not have two addresses and two ports, each behind exactly one space")]
    Fields,
    #[error(
        "its {0} address is no IPv4 address as TCP4 has it: four numbers without leading zeros"
    )]
    Ipv4(End),
    #[error("its {0} address is no IPv6 address as TCP6 has it")]
    Ipv6(End),
    #[error("its {0} port is not a number from 0 to 65535 without leading zeros")]
    Port(End),

    #[error("the signature of version 2 is followed by version {0}")]
    Version(u8),
    #[error("its command is 0x{0:x}, and only 0 (LOCAL) and 1 (PROXY) are assigned")]
    Command(u8),
    #[error(
        "its address family is 0x{0:x}, and only 0 to 3 (UNSPEC, INET, INET6, UNIX) are assigned"
    )]
    Family(u8),
    #[error(
        "its transport protocol is 0x{0:x}, and only 0 to 2 (UNSPEC, STREAM, DGRAM) are assigned"
    )]
    Protocol(u8),
    #[error("its length field says {0} bytes, and this server takes {MAX_BLOCK} at most")]
    BlockTooLong(usize),
    #[error("its length field says {found} bytes, and its addresses alone have {needed}")]
    AddressesCut { needed: usize, found: usize },
    #[error("a TLV reaches beyond its end")]
    TlvCut,
    #[error("the checksum (CRC32C) is wrong")]
    Checksum,
    #[error("the checksum (CRC32C) has {0} bytes, and has to have 4")]
    ChecksumLength(usize),
    #[error("it has more than one checksum (CRC32C)")]
    ChecksumTwice,
    #[error("its unique id has {0} bytes, and may have {MAX_UNIQUE_ID}")]
    UniqueId(usize),
    #[error("its TLV about SSL has {0} bytes, and has to have 5 at least")]
    SslCut(usize),
    #[error("a TLV within the one about SSL reaches beyond its end")]
    SslTlvCut,
}

/// Which of the two addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            End::Source => "source",
            End::Destination => "destination",
        })
    }
}

/// Parses the header that `bytes` begin with. Returns it and how many bytes it has; `None` if it is
/// valid so far, but incomplete. What is said of some bytes stays true if more follow.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_version_1(bytes),
        Some(_) => parse_version_2(bytes),
    }
}

/// Whether the whole of `signature` is there; an error if the bytes differ from it.
fn has_signature(bytes: &[u8], signature: &[u8]) -> Result<bool, HeaderError> {
    match bytes.iter().zip(signature).position(|(byte, expected)| byte != expected) {
        Some(at) => Err(HeaderError::Signature { position: at + 1, byte: bytes[at] }),
        None => Ok(bytes.len() >= signature.len()),
    }
}

// Version 1: section 2.1.

fn parse_version_1(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    const PROXY: &[u8] = b"PROXY ";
    if !has_signature(bytes, PROXY)? {
        return Ok(None);
    }
    let bytes = &bytes[..bytes.len().min(MAX_LINE)];
    let behind = &bytes[PROXY.len()..];
    let keywords = [&b"TCP4 "[..], b"TCP6 ", b"UNKNOWN"];
    let begins = |keyword: &&[u8]| keyword.iter().zip(behind).all(|(byte, other)| byte == other);
    let keyword = *keywords.iter().find(|keyword| begins(keyword)).ok_or(HeaderError::Keyword)?;
    if behind.len() < keyword.len() {
        return Ok(None);
    }
    let behind = &behind[keyword.len()..];
    let end = match keyword {
        b"UNKNOWN" => end_of_unknown(behind)?,
        _ => end_of_line(behind)?,
    };
    let Some(end) = end else {
        let is_too_long = bytes.len() == MAX_LINE;
        return if is_too_long { Err(HeaderError::LineTooLong) } else { Ok(None) };
    };
    let addresses = match keyword {
        b"TCP4 " => tcp_addresses::<Ipv4Addr>(&behind[..end], HeaderError::Ipv4)?,
        b"TCP6 " => tcp_addresses::<Ipv6Addr>(&behind[..end], HeaderError::Ipv6)?,
        _ => Addresses::Unspecified,
    };
    let length = PROXY.len() + keyword.len() + end + b"\r\n".len();
    let (version, command, tlvs) = (Version::One, Command::Proxy, Tlvs::default());
    Ok(Some((Header { version, command, addresses, tlvs }, length)))
}

/// Where the CRLF is that ends a line of TCP4 or TCP6. It is the first CR or LF of the line, or the
/// line is invalid.
fn end_of_line(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return Ok(None);
    };
    match &bytes[end..] {
        [b'\r', b'\n', ..] => Ok(Some(end)),
        [b'\r'] => Ok(None),
        _ => Err(HeaderError::LineEnding),
    }
}

/// Where the CRLF is that ends a line of UNKNOWN. Everything before it is ignored, CR and LF as well,
/// but it has to be separated from the keyword.
fn end_of_unknown(bytes: &[u8]) -> Result<Option<usize>, HeaderError> {
    match bytes {
        [] | [b'\r'] | [b'\r', b'\n', ..] | [b' ', ..] => {}
        _ => return Err(HeaderError::Keyword),
    }
    Ok(bytes.windows(2).position(|pair| pair == b"\r\n"))
}

/// The four fields of a TCP4 or TCP6 line.
fn tcp_addresses<Ip>(
    fields: &[u8],
    error: impl Fn(End) -> HeaderError,
) -> Result<Addresses, HeaderError>
where
    Ip: FromStr + Into<std::net::IpAddr>,
{
    let fields: Vec<&[u8]> = fields.split(|byte| *byte == b' ').collect();
    let [source, destination, source_port, destination_port] = fields[..] else {
        return Err(HeaderError::Fields);
    };
    let ip = |field: &[u8], end| -> Result<Ip, HeaderError> {
        let text = std::str::from_utf8(field).map_err(|_| error(end))?;
        text.parse().map_err(|_| error(end))
    };
    let (source, destination) = (ip(source, End::Source)?, ip(destination, End::Destination)?);
    let source = SocketAddr::new(source.into(), port(source_port, End::Source)?);
    let destination =
        SocketAddr::new(destination.into(), port(destination_port, End::Destination)?);
    Ok(Addresses::Ip { source, destination, transport: Transport::Stream })
}

fn port(field: &[u8], end: End) -> Result<u16, HeaderError> {
    // The standard library's parser takes a sign and leading zeros.
    let is_canonical = match field {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let text = std::str::from_utf8(field).ok().filter(|_| is_canonical);
    text.and_then(|text| text.parse().ok()).ok_or(HeaderError::Port(end))
}

// Version 2: section 2.2.

fn parse_version_2(bytes: &[u8]) -> Result<Option<(Header, usize)>, HeaderError> {
    if !has_signature(bytes, &SIGNATURE)? {
        return Ok(None);
    }
    let rest = &bytes[SIGNATURE.len()..];
    let Some(version_and_command) = rest.first() else { return Ok(None) };
    let command = match (version_and_command >> 4, version_and_command & 0x0F) {
        (2, 0) => Command::Local,
        (2, 1) => Command::Proxy,
        (2, other) => return Err(HeaderError::Command(other)),
        (other, _) => return Err(HeaderError::Version(other)),
    };
    let Some(family_and_protocol) = rest.get(1) else { return Ok(None) };
    let layout = match command {
        // "discard the protocol block including the family which is ignored"
        Command::Local => Layout::Ignored,
        Command::Proxy => Layout::new(*family_and_protocol)?,
    };
    let Some(length) = rest[2..].first_chunk() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length > MAX_BLOCK {
        return Err(HeaderError::BlockTooLong(length));
    }
    let needed = layout.address_length();
    if length < needed {
        return Err(HeaderError::AddressesCut { needed, found: length });
    }
    let length = FIXED_LENGTH + length;
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let (addresses, behind) = header[FIXED_LENGTH..].split_at(needed);
    let (addresses, tlvs) = match layout {
        Layout::Ignored => (Addresses::Unspecified, Tlvs::default()),
        // A sender may have put addresses here, of whatever family, and they are to be ignored. So
        // what are no TLVs, or not the right ones, is no fault.
        Layout::Unspecified => {
            (Addresses::Unspecified, parse_tlvs(header, behind).unwrap_or_default())
        }
        Layout::Ipv4(transport) => {
            (ip_addresses::<4>(addresses, transport), parse_tlvs(header, behind)?)
        }
        Layout::Ipv6(transport) => {
            (ip_addresses::<16>(addresses, transport), parse_tlvs(header, behind)?)
        }
        Layout::Unix(transport) => {
            let (source, destination) = addresses.split_at(UNIX_LENGTH);
            let (source, destination) = (unix_name(source), unix_name(destination));
            (Addresses::Unix { source, destination, transport }, parse_tlvs(header, behind)?)
        }
    };
    Ok(Some((Header { version: Version::Two, command, addresses, tlvs }, length)))
}

/// What the block of a version 2 header begins with.
#[derive(Debug, Clone, Copy)]
enum Layout {
    /// Something that nobody looks at.
    Ignored,
    /// Nothing: family and protocol are UNSPEC.
    Unspecified,
    Ipv4(Transport),
    Ipv6(Transport),
    Unix(Transport),
}

impl Layout {
    fn new(family_and_protocol: u8) -> Result<Layout, HeaderError> {
        let transport = match family_and_protocol & 0x0F {
            0 => None,
            1 => Some(Transport::Stream),
            2 => Some(Transport::Datagram),
            other => return Err(HeaderError::Protocol(other)),
        };
        Ok(match (family_and_protocol >> 4, transport) {
            (0, None) => Layout::Unspecified,
            // One of the two is UNSPEC, and so it is not known how long the addresses are.
            (0, Some(_)) | (1..=3, None) => Layout::Ignored,
            (1, Some(transport)) => Layout::Ipv4(transport),
            (2, Some(transport)) => Layout::Ipv6(transport),
            (3, Some(transport)) => Layout::Unix(transport),
            (other, _) => return Err(HeaderError::Family(other)),
        })
    }

    /// How many bytes the addresses have.
    fn address_length(self) -> usize {
        match self {
            Layout::Ignored | Layout::Unspecified => 0,
            Layout::Ipv4(_) => 2 * (4 + 2),
            Layout::Ipv6(_) => 2 * (16 + 2),
            Layout::Unix(_) => 2 * UNIX_LENGTH,
        }
    }
}

/// Two addresses of `N` bytes, and two ports.
fn ip_addresses<const N: usize>(bytes: &[u8], transport: Transport) -> Addresses
where
    std::net::IpAddr: From<[u8; N]>,
{
    let (ips, ports) = bytes.split_at(2 * N);
    let ip = |at: usize| {
        let mut octets = [0; N];
        octets.copy_from_slice(&ips[at..at + N]);
        octets.into()
    };
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    let (source, destination) = (SocketAddr::new(ip(0), port(0)), SocketAddr::new(ip(N), port(2)));
    Addresses::Ip { source, destination, transport }
}

/// The name in a `sun_path`: a path up to its NUL byte, or if it begins with one, a name of the
/// abstract namespace. That may have NUL bytes in it, but its length is not told, so those at the end
/// count as padding.
fn unix_name(bytes: &[u8]) -> Vec<u8> {
    let length = match bytes.first() {
        Some(0) => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1),
        _ => bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()),
    };
    bytes[..length].to_owned()
}

/// Splits a block into the types and values of TLVs.
fn split(mut block: &[u8]) -> Result<Vec<(u8, &[u8])>, HeaderError> {
    let mut tlvs = Vec::new();
    while !block.is_empty() {
        let ([kind, high, low], rest) = block.split_first_chunk().ok_or(HeaderError::TlvCut)?;
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, rest) = rest.split_at_checked(length).ok_or(HeaderError::TlvCut)?;
        tlvs.push((*kind, value));
        block = rest;
    }
    Ok(tlvs)
}

/// Parses the TLVs of `block`, with which `header` ends.
fn parse_tlvs(header: &[u8], block: &[u8]) -> Result<Tlvs, HeaderError> {
    let split = split(block)?;
    // The checksum comes first: of a damaged header, nothing else is worth telling.
    let mut tlvs = Tlvs { crc32c: verify(header, block, &split)?, ..Tlvs::default() };
    for (kind, value) in split {
        match (kind, value) {
            (kind::CRC32C | kind::NOOP, _) => {}
            (kind::UNIQUE_ID, value) if value.len() > MAX_UNIQUE_ID => {
                return Err(HeaderError::UniqueId(value.len()));
            }
            (kind::SSL, value) if tlvs.ssl.is_none() => tlvs.ssl = Some(parse_ssl(value)?),
            (kind::ALPN, value) if tlvs.alpn.is_none() => tlvs.alpn = Some(value.to_owned()),
            (kind::AUTHORITY, value) if tlvs.authority.is_none() => {
                tlvs.authority = Some(value.to_owned());
            }
            (kind::UNIQUE_ID, value) if tlvs.unique_id.is_none() => {
                tlvs.unique_id = Some(value.to_owned());
            }
            (kind::NETNS, value) if tlvs.netns.is_none() => tlvs.netns = Some(value.to_owned()),
            (kind::AWS, [kind::AWS_VPCE_ID, id @ ..]) if tlvs.aws_vpce_id.is_none() => {
                tlvs.aws_vpce_id = Some(id.to_owned());
            }
            (kind::AZURE, &[kind::AZURE_LINK_ID, a, b, c, d]) if tlvs.azure_link_id.is_none() => {
                tlvs.azure_link_id = Some(u32::from_le_bytes([a, b, c, d]));
            }
            (kind::GCP, &[a, b, c, d, e, f, g, h]) if tlvs.gcp_psc_id.is_none() => {
                tlvs.gcp_psc_id = Some(u64::from_be_bytes([a, b, c, d, e, f, g, h]));
            }
            (kind, value) => tlvs.others.push(Tlv { kind, value: value.to_owned() }),
        }
    }
    Ok(tlvs)
}

/// Verifies the checksum, which is that of the header with zeros in its place (section 2.2.3).
/// Returns whether there is one.
fn verify(header: &[u8], block: &[u8], tlvs: &[(u8, &[u8])]) -> Result<bool, HeaderError> {
    let mut checksum = None;
    let mut at = header.len() - block.len();
    for (kind, value) in tlvs {
        at += 3;
        if *kind == kind::CRC32C {
            let value =
                (*value).try_into().map_err(|_| HeaderError::ChecksumLength(value.len()))?;
            if checksum.replace((at, u32::from_be_bytes(value))).is_some() {
                return Err(HeaderError::ChecksumTwice);
            }
        }
        at += value.len();
    }
    let Some((at, expected)) = checksum else { return Ok(false) };
    match crc32c(&[&header[..at], &[0; 4], &header[at + 4..]]) == expected {
        true => Ok(true),
        false => Err(HeaderError::Checksum),
    }
}

/// Parses the value of `PP2_TYPE_SSL` (section 2.2.6). TLVs within it that are unknown are ignored.
fn parse_ssl(value: &[u8]) -> Result<Ssl, HeaderError> {
    let (&[client, a, b, c, d], block) =
        value.split_first_chunk().ok_or(HeaderError::SslCut(value.len()))?;
    let mut ssl = Ssl { client, verify: u32::from_be_bytes([a, b, c, d]), ..Ssl::default() };
    for (kind, value) in split(block).map_err(|_| HeaderError::SslTlvCut)? {
        let field = match kind {
            kind::SSL_VERSION => &mut ssl.version,
            kind::SSL_CN => &mut ssl.cn,
            kind::SSL_CIPHER => &mut ssl.cipher,
            kind::SSL_SIG_ALG => &mut ssl.sig_alg,
            kind::SSL_KEY_ALG => &mut ssl.key_alg,
            kind::SSL_GROUP => &mut ssl.group,
            kind::SSL_SIG_SCHEME => &mut ssl.sig_scheme,
            kind::SSL_CLIENT_CERT => &mut ssl.client_cert,
            _ => continue,
        };
        field.get_or_insert_with(|| value.to_owned());
    }
    Ok(ssl)
}
