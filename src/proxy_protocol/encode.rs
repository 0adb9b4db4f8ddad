//! Writes headers, as a sender has to. Section 2: all of a header is to be sent at once.

use std::net::{IpAddr, SocketAddr};

use super::crc32c::crc32c;
use super::{Addresses, Command, SIGNATURE, Tlv, Transport, UNIX_LENGTH, kind};

/// A TLV, or all that follows the length field together, is longer than its length field can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header of version 2 has no room for {0} bytes, but for 65535")]
pub(crate) struct TooLong(usize);

/// A header of version 1 (section 2.1). What is not TCP over IP is `UNKNOWN`.
pub(crate) fn version_1(addresses: &Addresses) -> Vec<u8> {
    match addresses {
        Addresses::Ip { source, destination, transport: Transport::Stream } => {
            let keyword = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (source_ip, destination_ip) = (ip_text(source.ip()), ip_text(destination.ip()));
            let (source, destination) = (source.port(), destination.port());
            format!("PROXY {keyword} {source_ip} {destination_ip} {source} {destination}\r\n")
                .into()
        }
        _ => b"PROXY UNKNOWN\r\n".to_vec(),
    }
}

/// Section 2.1 has IPv6 addresses in hexadecimal digits only, whereas the standard library writes the
/// end of an IPv4-mapped one in decimal.
fn ip_text(ip: IpAddr) -> String {
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            let [.., high, low] = v6.segments();
            format!("::ffff:{high:x}:{low:x}")
        }
        ip => ip.to_string(),
    }
}

/// A header of version 2 (section 2.2): the addresses, `tlvs`, and a checksum, which is not to be among
/// them. The names of Unix sockets have at most 108 bytes, of which the rest is cut off.
pub(crate) fn version_2(
    command: Command,
    addresses: &Addresses,
    tlvs: &[Tlv],
) -> Result<Vec<u8>, TooLong> {
    let mut header = SIGNATURE.to_vec();
    header.push(match command {
        Command::Local => 0x20,
        Command::Proxy => 0x21,
    });
    header.push(family_and_protocol(addresses));
    let length_at = header.len();
    header.extend([0, 0]);
    match addresses {
        Addresses::Unspecified => {}
        Addresses::Ip { source, destination, .. } => {
            for address in [source, destination] {
                match address {
                    SocketAddr::V4(v4) => header.extend(v4.ip().octets()),
                    SocketAddr::V6(v6) => header.extend(v6.ip().octets()),
                }
            }
            for address in [source, destination] {
                header.extend(address.port().to_be_bytes());
            }
        }
        Addresses::Unix { source, destination, .. } => {
            for name in [source, destination] {
                let padding = std::iter::repeat(&0);
                header.extend(name.iter().chain(padding).take(UNIX_LENGTH));
            }
        }
    }
    for Tlv { kind, value } in tlvs {
        header.push(*kind);
        header.extend(length_field(value.len())?);
        header.extend(value);
    }
    header.push(kind::CRC32C);
    header.extend([0, 4]);
    let checksum_at = header.len();
    header.extend([0; 4]);
    let length = length_field(header.len() - length_at - 2)?;
    header[length_at..length_at + 2].copy_from_slice(&length);
    let checksum = crc32c(&[&header]);
    header[checksum_at..].copy_from_slice(&checksum.to_be_bytes());
    Ok(header)
}

fn length_field(length: usize) -> Result<[u8; 2], TooLong> {
    u16::try_from(length).map(u16::to_be_bytes).map_err(|_| TooLong(length))
}

fn family_and_protocol(addresses: &Addresses) -> u8 {
    let (family, transport) = match addresses {
        Addresses::Unspecified => return 0,
        Addresses::Ip { source: SocketAddr::V4(_), transport, .. } => (0x10, transport),
        Addresses::Ip { source: SocketAddr::V6(_), transport, .. } => (0x20, transport),
        Addresses::Unix { transport, .. } => (0x30, transport),
    };
    family
        | match transport {
            Transport::Stream => 1,
            Transport::Datagram => 2,
        }
}
