//! What a probe connects to, as a URL.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::http::Uri;
use hyper::http::uri::PathAndQuery;

use crate::address::UnixAddress;
use crate::config::Protocol;

/// An echo service, parsed from its URL.
///
/// | URL | |
/// | --- | --- |
/// | `tcp://HOST:PORT`, `tls://HOST:PORT`, `udp://HOST:PORT` | |
/// | `ws://HOST[:PORT]/PATH`, `wss://HOST[:PORT]/PATH` | ports 80 and 443 by default (RFC 6455 section 3) |
/// | `tcp+unix:///FILE`, `tls+unix:///FILE` | a Unix socket |
/// | `ws+unix:///FILE[:/PATH]`, `wss+unix:///FILE[:/PATH]` | a Unix socket, and the path of the request |
/// | `tcp+unix://@NAME` and so on | a name in Linux' abstract namespace |
///
/// In `FILE` and `NAME`, `%20` stands for a space (RFC 3986 section 2.1). With WebSocket the first
/// `:` ends them, so that theirs is written `%3A`. UDP has no Unix sockets.
///
/// ```
/// use echo_server::probe::{Endpoint, Target};
///
/// let target: Target = "wss://[::1]:8444/chat".parse()?;
/// assert_eq!(*target.endpoint(), Endpoint::Host { name: "::1".to_owned(), port: 8444 });
/// assert_eq!(target.path(), "/chat");
/// let target: Target = "ws+unix:///run/echo.sock:/chat".parse()?;
/// assert_eq!(*target.endpoint(), Endpoint::Unix("unix:/run/echo.sock".parse().unwrap()));
/// assert_eq!(target.path(), "/chat");
/// # Ok::<(), echo_server::probe::TargetError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    protocol: Protocol,
    endpoint: Endpoint,
    path: String,
}

/// Where an echo service listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A port of a host.
    Host {
        /// A name or an IP address, IPv6 without brackets.
        name: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(UnixAddress),
}

/// Why a URL is not a [`Target`]. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' {problem}")]
pub struct TargetError {
    url: String,
    problem: &'static str,
}

impl TargetError {
    /// What is wrong with the URL, without the URL itself.
    pub fn problem(&self) -> &str {
        self.problem
    }
}

/// The server's name where a Unix socket has none.
const LOCALHOST: &str = "localhost";

impl Target {
    /// The protocol that the service speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Where it listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The path and query of the WebSocket request. `/` for the other protocols.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same place with another protocol, as a suggestion.
    pub(super) fn over(&self, protocol: Protocol) -> Target {
        let path = if is_web_socket(protocol) { &*self.path } else { "/" };
        Target { protocol, endpoint: self.endpoint.clone(), path: path.to_owned() }
    }

    /// The name for SNI and certificate verification, unless an option names another.
    pub(super) fn server_name(&self) -> &str {
        match &self.endpoint {
            Endpoint::Host { name, .. } => name,
            Endpoint::Unix(_) => LOCALHOST,
        }
    }

    /// The URL of the WebSocket request. Its authority becomes the Host header field.
    pub(super) fn request_url(&self) -> String {
        let Target { protocol, endpoint, path } = self;
        match endpoint {
            Endpoint::Host { name, port } => {
                format!("{protocol}://{}{path}", Authority { name, port: *port })
            }
            Endpoint::Unix(_) => format!("{protocol}://{LOCALHOST}{path}"),
        }
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Target, TargetError> {
        parse(url).map_err(|problem| TargetError { url: url.to_owned(), problem })
    }
}

fn parse(url: &str) -> Result<Target, &'static str> {
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    match scheme.strip_suffix("+unix") {
        Some(protocol) => {
            unix_target(protocol, rest.strip_prefix("//").ok_or("has no // after its scheme")?)
        }
        None => host_target(url),
    }
}

fn protocol_of(scheme: &str) -> Option<Protocol> {
    Protocol::ALL.iter().copied().find(|protocol| protocol.name() == scheme)
}

fn is_web_socket(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Ws | Protocol::Wss)
}

fn host_target(url: &str) -> Result<Target, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "is not a URL")?;
    let protocol = uri.scheme_str().and_then(protocol_of).ok_or(
        "does not begin with tcp://, tls://, udp://, ws:// or wss://, or for a Unix socket with \
         tcp+unix://, tls+unix://, ws+unix:// or wss+unix://",
    )?;
    let authority = uri.authority().ok_or("names no host")?;
    if authority.as_str().contains('@') {
        return Err("names a user, but echo services have none");
    }
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() {
        return Err("names no host");
    }
    let port = match (authority.port_u16(), protocol) {
        (Some(port), _) => port,
        (None, Protocol::Ws) => 80,
        (None, Protocol::Wss) => 443,
        (None, _) => return Err("names no port"),
    };
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    if !is_web_socket(protocol) && !matches!(path, "" | "/") {
        return Err("has a path, which only ws:// and wss:// have");
    }
    let path = if path.is_empty() { "/" } else { path };
    let endpoint = Endpoint::Host { name: name.to_owned(), port };
    Ok(Target { protocol, endpoint, path: path.to_owned() })
}

/// `rest` is what follows `://`. The form with a request path is that of npm's package `ws`.
fn unix_target(protocol: &str, rest: &str) -> Result<Target, &'static str> {
    let protocol = protocol_of(protocol)
        .ok_or("does not begin with tcp+unix://, tls+unix://, ws+unix:// or wss+unix://")?;
    if protocol == Protocol::Udp {
        return Err("cannot be: UDP runs over IP, not over Unix sockets");
    }
    let (name, path) = match rest.split_once(':') {
        Some((name, path)) if is_web_socket(protocol) => (name, path),
        _ => (rest, "/"),
    };
    if !path.starts_with('/') {
        return Err("has a request path that does not begin with /");
    }
    let path = PathAndQuery::try_from(path).map_err(|_| "has an invalid request path")?;
    if name.contains(['?', '#']) {
        return Err(
            "has a query or a fragment that belongs to no request path; ? and # of a file \
                    are written %3F and %23",
        );
    }
    let name = percent_decode(name).ok_or("has a % without two hexadecimal digits")?;
    if name.contains(&0) {
        return Err("has a NUL byte");
    }
    let address = match name.strip_prefix(b"@") {
        Some(b"") => return Err("names no socket"),
        Some(name) => UnixAddress::Abstract(
            String::from_utf8(name.to_owned()).map_err(|_| "has a name that is not UTF-8")?,
        ),
        None if matches!(name[..], [] | [b'/']) => return Err("names no socket"),
        None if name.starts_with(b"/") => {
            UnixAddress::Path(path_from_bytes(name).ok_or("has a path that is not UTF-8")?)
        }
        None => return Err("names a host; the path of a Unix socket follows three slashes"),
    };
    Ok(Target { protocol, endpoint: Endpoint::Unix(address), path: path.as_str().to_owned() })
}

/// `None` if a percent sign begins no escape (RFC 3986 section 2.1).
fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::new();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                (digit()? << 4 | digit()?) as u8
            }
            byte => byte,
        };
        decoded.push(byte);
    }
    Some(decoded)
}

/// Writes `bytes` so that [`percent_decode`] gives them back, and no byte ends the name.
fn percent_encode(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for &byte in bytes {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => write!(f, "{}", char::from(byte))?,
            b'/' | b'-' | b'.' | b'_' | b'~' | b'+' | b'=' | b',' | b'@' => {
                write!(f, "{}", char::from(byte))?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

#[cfg(unix)]
fn path_from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    Some(OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_from_bytes(bytes: Vec<u8>) -> Option<PathBuf> {
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

fn path_as_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_encoded_bytes()
}

/// `HOST:PORT`, with the brackets of an IPv6 address.
struct Authority<'a> {
    name: &'a str,
    port: u16,
}

impl fmt::Display for Authority<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Authority { name, port } = self;
        if name.contains(':') { write!(f, "[{name}]:{port}") } else { write!(f, "{name}:{port}") }
    }
}

/// The URL.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { protocol, endpoint, path } = self;
        let before_path = match endpoint {
            Endpoint::Host { name, port } => {
                write!(f, "{protocol}://{}", Authority { name, port: *port })?;
                ""
            }
            Endpoint::Unix(address) => {
                write!(f, "{protocol}+unix://")?;
                match address {
                    UnixAddress::Path(path) => percent_encode(path_as_bytes(path), f)?,
                    UnixAddress::Abstract(name) => {
                        f.write_str("@")?;
                        percent_encode(name.as_bytes(), f)?;
                    }
                }
                ":"
            }
        };
        if path == "/" { Ok(()) } else { write!(f, "{before_path}{path}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_of_a_host_is_a_target() {
        for (url, host, port, path, shown) in [
            ("tcp://localhost:8080", "localhost", 8080, "/", "tcp://localhost:8080"),
            ("udp://[::1]:9", "::1", 9, "/", "udp://[::1]:9"),
            ("tls://192.0.2.1:443/", "192.0.2.1", 443, "/", "tls://192.0.2.1:443"),
            ("ws://example.test", "example.test", 80, "/", "ws://example.test:80"),
            ("wss://h.test/a?b=1", "h.test", 443, "/a?b=1", "wss://h.test:443/a?b=1"),
        ] {
            let target: Target = url.parse().unwrap();
            let endpoint = Endpoint::Host { name: host.to_owned(), port };
            assert_eq!((target.endpoint(), target.path()), (&endpoint, path), "{url}");
            assert_eq!(target.to_string(), shown);
            assert_eq!(shown.parse(), Ok(target));
        }
    }

    #[test]
    fn a_url_of_a_unix_socket_is_a_target() {
        for (url, protocol, address, path) in [
            ("tcp+unix:///run/echo.sock", Protocol::Tcp, "unix:/run/echo.sock", "/"),
            ("tls+unix:///run/a:b", Protocol::Tls, "unix:/run/a:b", "/"),
            ("ws+unix:///run/echo.sock", Protocol::Ws, "unix:/run/echo.sock", "/"),
            ("ws+unix:///run/e:/", Protocol::Ws, "unix:/run/e", "/"),
            ("wss+unix:///e:/chat?a=b:c", Protocol::Wss, "unix:/e", "/chat?a=b:c"),
            ("ws+unix:///e%3Af:/chat", Protocol::Ws, "unix:/e:f", "/chat"),
            ("tcp+unix:///a%20b%3f%25", Protocol::Tcp, "unix:/a b?%", "/"),
            ("tcp+unix:///sock%C3%A9", Protocol::Tcp, "unix:/socké", "/"),
            ("tcp+unix:///socké", Protocol::Tcp, "unix:/socké", "/"),
            ("tcp+unix://@echo", Protocol::Tcp, "unix:@echo", "/"),
            ("ws+unix://@echo%20a/b:/chat", Protocol::Ws, "unix:@echo a/b", "/chat"),
            ("tcp+unix:///@echo", Protocol::Tcp, "unix:/@echo", "/"),
        ] {
            let target: Target = url.parse().unwrap();
            let endpoint = Endpoint::Unix(address.parse().unwrap());
            assert_eq!((target.endpoint(), target.path()), (&endpoint, path), "{url}");
            assert_eq!(target.protocol(), protocol);
            assert_eq!(target.to_string().parse(), Ok(target));
        }
    }

    #[test]
    fn a_unix_socket_is_shown_as_it_can_be_written() {
        for url in [
            "tcp+unix:///run/echo.sock",
            "wss+unix:///run/a%20b:/chat?room=1",
            "ws+unix://@echo",
            "tls+unix:///a%3Ab%FF",
        ] {
            #[cfg(not(unix))]
            if url.contains("%FF") {
                continue;
            }
            assert_eq!(url.parse::<Target>().unwrap().to_string(), url);
        }
        let target: Target = "wss+unix:///e:/chat".parse().unwrap();
        assert_eq!(target.server_name(), "localhost");
        assert_eq!(target.request_url(), "wss://localhost/chat");
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for (url, problem) in [
            ("", "is not a URL"),
            ("localhost:80", "does not begin with"),
            ("http://localhost:80", "does not begin with"),
            ("tcp://localhost", "names no port"),
            ("tcp://:80", "names no host"),
            ("tls://h:99999", "names no port"),
            ("tcp://h:1/path", "has a path"),
            ("ws://u:p@h:1/", "names a user"),
            ("udp://h:", "names no port"),
            ("tcp://", "is not a URL"),
            ("tcp//h:1", "is not a URL"),
            ("udp+unix:///run/echo.sock", "UDP runs over IP"),
            ("http+unix:///run/echo.sock", "does not begin with"),
            ("tcp+unix://run/echo.sock", "three slashes"),
            ("tcp+unix://", "names no socket"),
            ("tcp+unix:///", "names no socket"),
            ("ws+unix:///:/chat", "names no socket"),
            ("tcp+unix://@", "names no socket"),
            ("tcp+unix:///a%2", "has a %"),
            ("tcp+unix:///a%+1", "has a %"),
            ("tcp+unix:///a%00", "NUL"),
            ("tcp+unix://@%FF", "UTF-8"),
            ("ws+unix:///a?query", "belongs to no request path"),
            ("ws+unix:///a:chat", "does not begin with /"),
            ("ws+unix:///a:", "does not begin with /"),
            ("ws+unix:///a:/ch at", "invalid request path"),
            ("tcp+unix:/run/echo.sock", "has no //"),
        ] {
            let error = url.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(problem), "{url}: {error}");
        }
    }
}
