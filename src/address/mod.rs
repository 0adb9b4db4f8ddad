//! Socket addresses of every family. They are plain data and exist on every system.

mod cidr;
mod listen;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

pub use cidr::{Cidr, CidrError};
pub use listen::{ListenAddress, ListenAddressError};

/// The address of a socket: an IP address with a port, or the name of a Unix socket.
///
/// ```
/// use echo_server::Address;
///
/// let ip = Address::from(([127, 0, 0, 1], 8080));
/// assert_eq!(ip.to_string(), "127.0.0.1:8080");
/// let unix: Address = "unix:/run/echo.sock".parse::<echo_server::UnixAddress>()?.into();
/// assert_eq!(unix.to_string(), "unix:/run/echo.sock");
/// # Ok::<(), echo_server::UnixAddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// IPv4 or IPv6.
    Ip(SocketAddr),
    /// `AF_UNIX` (unix(7)).
    Unix(UnixAddress),
}

/// The name of a Unix socket. It is written `unix:/path` or `unix:@name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UnixAddress {
    /// A file of type socket.
    Path(PathBuf),
    /// A name in Linux' abstract namespace, without its leading NUL.
    Abstract(String),
}

/// Why a text is not a [`UnixAddress`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected unix:/path, or unix:@name for Linux' abstract namespace, without a NUL byte")]
#[non_exhaustive]
pub struct UnixAddressError;

impl Address {
    /// The IP address and port; `None` for a Unix socket.
    pub fn ip(&self) -> Option<SocketAddr> {
        match self {
            Address::Ip(address) => Some(*address),
            Address::Unix(_) => None,
        }
    }
}

impl Address {
    /// An IPv4-mapped IPv6 address as the IPv4 address that it stands for; any other as it is.
    pub(crate) fn canonical(&self) -> Address {
        match self {
            Address::Ip(SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => (v4, v6.port()).into(),
                None => self.clone(),
            },
            Address::Ip(SocketAddr::V4(_)) | Address::Unix(_) => self.clone(),
        }
    }
}

impl UnixAddress {
    /// The prefix of every Unix address in text form.
    pub const PREFIX: &str = "unix:";
}

impl FromStr for UnixAddress {
    type Err = UnixAddressError;

    fn from_str(text: &str) -> Result<Self, UnixAddressError> {
        let name = text.strip_prefix(UnixAddress::PREFIX).ok_or(UnixAddressError)?;
        match name.strip_prefix('@') {
            _ if name.contains('\0') => Err(UnixAddressError),
            Some("") => Err(UnixAddressError),
            Some(name) => Ok(UnixAddress::Abstract(name.to_owned())),
            None if name.is_empty() => Err(UnixAddressError),
            None => Ok(UnixAddress::Path(name.into())),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnixAddress::Path(path) => write!(f, "unix:{}", path.display()),
            UnixAddress::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Self {
        Address::Unix(address)
    }
}

/// Whatever converts to a `SocketAddr` converts to an [`Address`].
macro_rules! from_ip {
    ($($ip:ty),*) => {$(
        impl From<$ip> for Address {
            fn from(address: $ip) -> Self {
                Address::Ip(address.into())
            }
        }
    )*};
}

from_ip!(
    SocketAddr,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16),
    ([u8; 16], u16)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_address_is_read_as_it_is_written() {
        for text in ["unix:/run/echo.sock", "unix:echo.sock", "unix:./@echo", "unix:@echo"] {
            assert_eq!(text.parse::<UnixAddress>().unwrap().to_string(), text);
        }
        for text in ["", "unix:", "unix:@", "/run/echo.sock", "unix:a\0b", "tcp:/run/echo.sock"] {
            assert_eq!(text.parse::<UnixAddress>(), Err(UnixAddressError), "{text}");
        }
    }
}
