//! What a probe is pointed at.

use std::fmt;
use std::str::FromStr;

use hyper::http::Uri;

use crate::config::Protocol;

/// An echo service: `tcp://HOST:PORT`, `tls://HOST:PORT`, `udp://HOST:PORT`,
/// `ws://HOST[:PORT]/PATH` or `wss://HOST[:PORT]/PATH`. Only the last two have default ports, 80 and
/// 443 (RFC 6455 section 3).
///
/// ```
/// use echo_server::probe::Target;
///
/// let target: Target = "wss://[::1]:8444/".parse()?;
/// assert_eq!((target.host.as_str(), target.port), ("::1", 8444));
/// # Ok::<(), echo_server::probe::TargetError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Target {
    /// What it speaks.
    pub protocol: Protocol,
    /// A name or an address, IPv6 without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
    /// For WebSocket the path and query of the request, else `/`.
    pub path: String,
}

/// Why something is not a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{url}' {reason}")]
pub struct TargetError {
    url: String,
    reason: &'static str,
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(url: &str) -> Result<Target, TargetError> {
        let refuse = |reason| TargetError { url: url.to_owned(), reason };
        let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
        let protocol = match uri.scheme_str() {
            Some("tcp") => Protocol::Tcp,
            Some("tls") => Protocol::Tls,
            Some("udp") => Protocol::Udp,
            Some("ws") => Protocol::Ws,
            Some("wss") => Protocol::Wss,
            _ => return Err(refuse("does not begin with tcp://, tls://, udp://, ws:// or wss://")),
        };
        let authority = uri.authority().ok_or_else(|| refuse("names no host"))?;
        if authority.as_str().contains('@') {
            return Err(refuse("names a user, and an echo knows none"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(refuse("names no host"));
        }
        let port = match (authority.port_u16(), protocol) {
            (Some(port), _) => port,
            (None, Protocol::Ws) => 80,
            (None, Protocol::Wss) => 443,
            (None, _) => return Err(refuse("names no port")),
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let is_web_socket = matches!(protocol, Protocol::Ws | Protocol::Wss);
        if !is_web_socket && !matches!(path, "" | "/") {
            return Err(refuse("has a path, which only ws:// and wss:// have"));
        }
        let path = if path.is_empty() { "/" } else { path };
        Ok(Target { protocol, host: host.to_owned(), port, path: path.to_owned() })
    }
}

impl Target {
    /// `HOST:PORT`, with the brackets that an IPv6 address needs.
    pub(crate) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.protocol, self.authority())?;
        if self.path == "/" { Ok(()) } else { f.write_str(&self.path) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_target() {
        for (url, host, port, path) in [
            ("tcp://localhost:8080", "localhost", 8080, "/"),
            ("udp://[::1]:9", "::1", 9, "/"),
            ("tls://192.0.2.1:443/", "192.0.2.1", 443, "/"),
            ("ws://example.test", "example.test", 80, "/"),
            ("wss://example.test/chat?room=1", "example.test", 443, "/chat?room=1"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!((&*target.host, target.port, &*target.path), (host, port, path), "{url}");
        }
    }

    #[test]
    fn what_is_not() {
        for url in [
            "",
            "localhost:80",
            "http://localhost:80",
            "tcp://localhost",
            "tcp://:80",
            "tls://h:99999",
            "tcp://h:1/path",
            "ws://u:p@h:1/",
            "udp://h:",
            "tcp://",
            "tcp//h:1",
        ] {
            assert!(url.parse::<Target>().is_err(), "{url}");
        }
    }
}
