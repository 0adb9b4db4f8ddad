//! What kind of failure it was, for whoever counts failures: a closed set of words.

use std::fmt;
use std::io;

use tokio_rustls::rustls::Error as TlsError;

use crate::causes;

/// What kind of failure kept a probe from its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The name has no address, or the resolver did not answer.
    Resolve,
    /// Nothing listens at the port: a TCP RST, or an ICMP port unreachable.
    Refused,
    /// There is no way to the host or the network.
    Unreachable,
    /// Something took too long: a phase of connecting, or every message of a round.
    Timeout,
    /// The other side reset the connection.
    Reset,
    /// The other side closed the connection.
    Closed,
    /// The server's certificate does not verify.
    Certificate,
    /// Something else is wrong with the TLS handshake.
    Tls,
    /// The server refused to open a WebSocket, or speaks another protocol.
    Upgrade,
    /// A reply differed from what was sent.
    Corrupted,
    /// Anything else, such as a lack of descriptors or of ports.
    Other,
}

impl FailureKind {
    /// The word that metrics and JSON use.
    pub fn name(self) -> &'static str {
        match self {
            FailureKind::Resolve => "resolve",
            FailureKind::Refused => "refused",
            FailureKind::Unreachable => "unreachable",
            FailureKind::Timeout => "timeout",
            FailureKind::Reset => "reset",
            FailureKind::Closed => "closed",
            FailureKind::Certificate => "certificate",
            FailureKind::Tls => "tls",
            FailureKind::Upgrade => "upgrade",
            FailureKind::Corrupted => "corrupted",
            FailureKind::Other => "other",
        }
    }

    /// That of an error of the system, or of TLS.
    pub(super) fn of_io(error: &io::Error) -> Self {
        use io::ErrorKind::{
            BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
            NetworkDown, NetworkUnreachable, TimedOut, UnexpectedEof,
        };
        match causes::tls_error(error) {
            Some(TlsError::InvalidCertificate(_) | TlsError::NoCertificatesPresented) => {
                return FailureKind::Certificate;
            }
            Some(_) => return FailureKind::Tls,
            None => {}
        }
        match error.kind() {
            ConnectionRefused => FailureKind::Refused,
            HostUnreachable | NetworkUnreachable | NetworkDown => FailureKind::Unreachable,
            TimedOut => FailureKind::Timeout,
            ConnectionReset | BrokenPipe => FailureKind::Reset,
            ConnectionAborted | UnexpectedEof => FailureKind::Closed,
            _ => FailureKind::Other,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::causes::said;

    #[test]
    fn an_error_is_of_the_kind_that_its_words_say() {
        for (error, kind) in [
            (ErrorKind::ConnectionRefused.into(), FailureKind::Refused),
            (ErrorKind::HostUnreachable.into(), FailureKind::Unreachable),
            (ErrorKind::TimedOut.into(), FailureKind::Timeout),
            (ErrorKind::BrokenPipe.into(), FailureKind::Reset),
            (ErrorKind::UnexpectedEof.into(), FailureKind::Closed),
            (ErrorKind::AddrNotAvailable.into(), FailureKind::Other),
            (io::Error::other(said("it is unknown")), FailureKind::Certificate),
            (io::Error::other(TlsError::NoApplicationProtocol), FailureKind::Tls),
        ] {
            assert_eq!(FailureKind::of_io(&error), kind, "{error}");
        }
    }
}
