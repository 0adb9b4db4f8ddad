//! Where a listener listens, as people write it. Nothing is looked up here: a name is resolved when
//! the server binds.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Address, UnixAddress};

/// Where a listener listens: an address, a name that is looked up when the server binds, or all
/// interfaces.
///
/// | text | |
/// | --- | --- |
/// | `192.0.2.1:8080`, `[2001:db8::1]:8080` | an address |
/// | `[fe80::1%eth0]:8080` | a link-local address of an interface (RFC 4007 section 11) |
/// | `echo.example.com:8080` | those addresses of the name that this machine has |
/// | `:8080`, `*:8080` | all interfaces, IPv6 and IPv4 |
/// | `unix:/run/echo.sock`, `unix:@echo` | a Unix socket |
/// | `systemd`, `systemd:web` | a socket that systemd, say, has bound and handed over |
///
/// ```
/// use echo_server::ListenAddress;
///
/// let address: ListenAddress = ":8080".parse()?;
/// assert_eq!(address, ListenAddress::All { port: 8080 });
/// let error = "localhost".parse::<ListenAddress>().unwrap_err();
/// assert_eq!(error.to_string(), "it has no port; did you mean localhost:8080?");
/// # Ok::<(), echo_server::ListenAddressError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ListenAddress {
    /// An address of this machine, or a Unix socket.
    At(Address),
    /// The addresses of a host name. Those that this machine does not have are skipped; at least one
    /// has to be bound. Also an IPv6 address with the name of its interface, `fe80::1%eth0`.
    Name {
        /// The name.
        host: String,
        /// The port; 0 for any free one.
        port: u16,
    },
    /// Sockets that the process was handed, those of
    /// [`Config::inherited`](crate::Config::inherited): all of the name that have the type which the
    /// protocol needs. Datagram sockets are for UDP, stream sockets for everything else.
    Inherited {
        /// The name (`FileDescriptorName=` in systemd.socket(5)). `None`: the protocol's own name
        /// (`admin` for the admin endpoint), or, if nothing is called so, the only socket of the type.
        name: Option<String>,
    },
    /// All interfaces: the IPv6 wildcard, which accepts IPv4 too, or the IPv4 wildcard on a machine
    /// without IPv6.
    All {
        /// The port; 0 for any free one.
        port: u16,
    },
}

/// Why a text is not a [`ListenAddress`]. It is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ListenAddressError(String);

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        parse(text).map_err(|problem| ListenAddressError(shown(&problem)))
    }
}

/// How an address begins whose sockets are inherited.
const INHERITED: &str = "systemd";

fn parse(text: &str) -> Result<ListenAddress, String> {
    const EXPECTED: &str = "expected IP:PORT, [IPv6]:PORT, NAME:PORT, :PORT, unix:PATH or systemd";
    if text.starts_with(UnixAddress::PREFIX) {
        let address = text.parse::<UnixAddress>().map_err(|error| error.to_string())?;
        return Ok(ListenAddress::At(address.into()));
    }
    match text.strip_prefix(INHERITED) {
        Some("") => return Ok(ListenAddress::Inherited { name: None }),
        Some(":") => return Err("the name of the descriptor is missing after systemd:".to_owned()),
        Some(name) if name.starts_with(':') => {
            return match name[1..].contains(':') {
                true => Err("the name of a descriptor has no colon".to_owned()),
                false => Ok(ListenAddress::Inherited { name: Some(name[1..].to_owned()) }),
            };
        }
        _ => {}
    }
    if let Some((scheme, rest)) = text.split_once("://") {
        let address = rest.split('/').next().unwrap_or(rest);
        return Err(format!("it is a URL; leave out {scheme}:// and write {address}"));
    }
    if text.starts_with('/') {
        return Err(format!("a Unix socket is written unix:{text}"));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Err(without_port(&SocketAddr::new(address, 8080).to_string()));
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => return Err(without_port(&format!("[{host}]:8080"))),
            Some((host, rest)) => (host, rest.strip_prefix(':').ok_or(EXPECTED)?),
            None => return Err(format!("it has a [ without a ]; {EXPECTED}")),
        },
        None => match text.rsplit_once(':') {
            Some((host, _)) if host.matches(':').count() > 1 || host.ends_with(':') => {
                return Err("an IPv6 address needs brackets, as in [::1]:8080".to_owned());
            }
            Some((host, port)) => (host, port),
            None if is_number(text.trim_start_matches(['+', '-'])) => {
                return Err(format!("'{text}' is not a port, which is a number up to 65535"));
            }
            None if text == "*" => return Err(without_port("*:8080")),
            None if is_host_name(text) => return Err(without_port(&format!("{text}:8080"))),
            None => return Err(EXPECTED.to_owned()),
        },
    };
    if port.is_empty() {
        return Err(without_port(&format!("{text}8080")));
    }
    let number = port.parse::<u16>().ok().filter(|_| is_number(port));
    let port = number.ok_or_else(|| match is_number(port) {
        true => format!("'{port}' is not a port: the highest is 65535"),
        false => format!("'{port}' is not a port, which is a number up to 65535"),
    })?;
    if text.starts_with('[') {
        let (address, zone) = host.split_once('%').map_or((host, None), |(a, z)| (a, Some(z)));
        let ip = address.parse::<Ipv6Addr>();
        let ip = ip.map_err(|_| format!("'{address}' is not an IPv6 address"))?;
        return match zone {
            None => Ok(Address::from((ip, port)).into()),
            Some("") => Err("the interface is missing after the %".to_owned()),
            Some(_) => Ok(ListenAddress::Name { host: host.to_owned(), port }),
        };
    }
    match host {
        "" | "*" => Ok(ListenAddress::All { port }),
        host => match host.parse::<IpAddr>() {
            Ok(ip) => Ok(Address::from((ip, port)).into()),
            Err(_) if host.contains(':') => Err(format!("'{host}' is not a host")),
            Err(_) if is_ipv4_like(host) => Err(format!("'{host}' is not an IPv4 address")),
            Err(_) if is_host_name(host) => Ok(ListenAddress::Name { host: host.to_owned(), port }),
            Err(_) => Err(format!("'{host}' is neither an IP address nor a host name")),
        },
    }
}

/// `text` without what would break a line or command a terminal.
fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn without_port(with_port: &str) -> String {
    format!("it has no port; did you mean {with_port}?")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// What has no letter is no name, but resolvers take 127.1 and 0x7f000001 for addresses.
fn is_ipv4_like(text: &str) -> bool {
    let is_part = |part| is_number(part) || part.starts_with("0x");
    text.split('.').all(is_part)
}

/// Resolvers know underscores, too, and names in other scripts.
fn is_host_name(text: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.chars().all(is_part)
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::At(address) => address.fmt(f),
            ListenAddress::Name { host, port } if host.contains(':') => {
                write!(f, "[{host}]:{port}")
            }
            ListenAddress::Name { host, port } => write!(f, "{host}:{port}"),
            ListenAddress::Inherited { name: None } => f.write_str(INHERITED),
            ListenAddress::Inherited { name: Some(name) } => write!(f, "{INHERITED}:{name}"),
            ListenAddress::All { port } => write!(f, "*:{port}"),
        }
    }
}

impl<T: Into<Address>> From<T> for ListenAddress {
    fn from(address: T) -> Self {
        ListenAddress::At(address.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<ListenAddress>().expect_err(text).to_string()
    }

    #[test]
    fn an_address_is_read_as_it_is_written() {
        for text in [
            "127.0.0.1:8080",
            "[::1]:0",
            "[fe80::1%2]:80",
            "[fe80::1%eth0]:80",
            "localhost:80",
            "echo_1.example:65535",
            "*:8080",
            "unix:/run/echo.sock",
            "unix:@echo",
            "systemd",
            "systemd:web",
            "systemd.example:80",
        ] {
            assert_eq!(text.parse::<ListenAddress>().expect(text).to_string(), text);
        }
        assert_eq!(":80".parse(), Ok(ListenAddress::All { port: 80 }));
        let at = |address: &str| ListenAddress::At(Address::Ip(address.parse().unwrap()));
        assert_eq!("127.0.0.1:80".parse(), Ok(at("127.0.0.1:80")));
        assert_eq!("[::1]:80".parse(), Ok(at("[::1]:80")));
    }

    #[test]
    fn whatever_is_wrong_is_said() {
        for (text, said) in [
            ("127.0.0.1", "it has no port; did you mean 127.0.0.1:8080?"),
            ("::1", "it has no port; did you mean [::1]:8080?"),
            ("[::1]", "it has no port; did you mean [::1]:8080?"),
            ("localhost", "it has no port; did you mean localhost:8080?"),
            ("localhost:", "it has no port; did you mean localhost:8080?"),
            ("99999", "'99999' is not a port, which is a number up to 65535"),
            ("-80", "'-80' is not a port, which is a number up to 65535"),
            ("h:+80", "'+80' is not a port, which is a number up to 65535"),
            ("127.0.0.1:80:90", "'127.0.0.1:80' is not a host"),
            ("*", "it has no port; did you mean *:8080?"),
            ("/run/x.sock", "a Unix socket is written unix:/run/x.sock"),
            ("http://h:80/x", "it is a URL; leave out http:// and write h:80"),
            ("localhost:65536", "'65536' is not a port: the highest is 65535"),
            ("a:b", "'b' is not a port, which is a number up to 65535"),
            ("a:-1", "'-1' is not a port, which is a number up to 65535"),
            ("::1:8080:x", "an IPv6 address needs brackets, as in [::1]:8080"),
            ("fe80::1%eth0:8080", "an IPv6 address needs brackets, as in [::1]:8080"),
            ("[fe80::1%]:8080", "the interface is missing after the %"),
            ("[::g]:8080", "'::g' is not an IPv6 address"),
            ("[127.0.0.1]:80", "'127.0.0.1' is not an IPv6 address"),
            ("256.0.0.1:80", "'256.0.0.1' is not an IPv4 address"),
            ("x/y:1", "'x/y' is neither an IP address nor a host name"),
            ("tcp://h:80", "it is a URL; leave out tcp:// and write h:80"),
        ] {
            assert_eq!(error(text), said, "{text}");
        }
        for text in ["[::1", "[::1]80", "", "a b"] {
            assert!(error(text).contains("expected IP:PORT"), "{text}: {}", error(text));
        }
        assert!(error("unix:").contains("unix:/path"), "{}", error("unix:"));
    }
}
