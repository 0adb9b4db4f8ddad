//! Parses the values of flags.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use bytesize::ByteSize;
use echo_server::{Address, UnixAddress};
use hyper::header::HeaderName;

/// The ADDR of a listener flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AddrArg {
    /// An empty environment variable: many launchers cannot unset one.
    Unset,
    /// The flag was given without an address, or with the word `default`.
    Default,
    At(Vec<Address>),
}

impl FromStr for AddrArg {
    type Err = String;

    fn from_str(text: &str) -> Result<AddrArg, String> {
        match text {
            "" => return Ok(AddrArg::Unset),
            "default" => return Ok(AddrArg::Default),
            _ => {}
        }
        if text.starts_with(UnixAddress::PREFIX) {
            let address = text.parse::<UnixAddress>().map_err(|error| error.to_string())?;
            return Ok(AddrArg::At(vec![address.into()]));
        }
        if let Ok(port) = text.parse::<u16>() {
            return Ok(AddrArg::At(vec![(Ipv4Addr::LOCALHOST, port).into()]));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(AddrArg::At(vec![address.into()]));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Err(format!(
                "it has no port; did you mean {}?",
                SocketAddr::new(address, 8080)
            ));
        }
        let expected = "expected IP:PORT, [IPv6]:PORT, NAME:PORT, PORT or unix:PATH";
        let (name, port) = text.rsplit_once(':').ok_or(expected)?;
        let port =
            port.parse::<u16>().map_err(|_| format!("'{port}' is not a port; {expected}"))?;
        if name.is_empty() || name.contains([':', '[', ']', '/']) {
            return Err(expected.to_owned());
        }
        let found = (name, port)
            .to_socket_addrs()
            .map_err(|error| format!("the name '{name}' could not be resolved: {error}"))?;
        let mut addresses = Vec::new();
        for address in found.map(Address::from) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        match addresses.is_empty() {
            false => Ok(AddrArg::At(addresses)),
            true => Err(format!("the name '{name}' has no address")),
        }
    }
}

/// The name of a subprotocol (RFC 6455 section 4.1, RFC 9110 section 5.6.2).
pub(super) fn parse_token(text: &str) -> Result<String, String> {
    // The name of an HTTP field is a token too.
    if HeaderName::from_bytes(text.as_bytes()).is_err() {
        return Err(
            "the name of a subprotocol may have letters, digits and !#$%&'*+-.^_`|~".to_owned()
        );
    }
    Ok(text.to_owned())
}

/// An origin as browsers send it (RFC 6454 section 6.1).
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map(|(_, host)| host);
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ']);
    if text == "null" || host.is_some_and(is_host) {
        return Ok(text.to_owned());
    }
    Err("expected SCHEME://HOST or SCHEME://HOST:PORT, without a path".to_owned())
}

/// An ALPN protocol's name (RFC 7301 section 3.1).
pub(super) fn parse_alpn(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("the name of an ALPN protocol must have 1 to 255 bytes".to_owned())
    }
}

/// A number of bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    text.parse::<ByteSize>()
        .map(|size| size.0)
        .map_err(|_| "expected a size, like 64MiB".to_owned())
}

/// A buffer size in bytes, from 1 byte to 64 MiB.
pub(super) fn parse_buffer_size(text: &str) -> Result<usize, String> {
    const MAX: u64 = ByteSize::mib(64).0;
    let size = text.parse::<ByteSize>().map_err(|_| "expected a size, like 64KiB".to_owned())?;
    match size.0 {
        1..=MAX => Ok(size.0 as usize),
        _ => Err("must be from 1 byte to 64MiB".to_owned()),
    }
}

/// The permission bits of a file, in octal.
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) if text.len() <= 4 => Ok(mode),
        _ => Err("expected permission bits in octal, like 0660".to_owned()),
    }
}
