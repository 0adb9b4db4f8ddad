//! Why connections end. An end is a value with a reason and a log level, and not an error to
//! handle.

use std::fmt;

use hyper::StatusCode;

use super::admission::Refusal;
use crate::causes::{self, Peer};
use crate::echo::{EchoError, PeerEnd};

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer ended it, and got all that it was owed.
    Peer(PeerEnd),
    /// The transport failed, or the peer violated the protocol.
    Failed(EchoError),
    /// It has ended in a way that was asked for. The text says how.
    OnPurpose(String),
    /// The handshake failed.
    Handshake(HandshakeError),
    /// A proxy has announced a client that a limit refuses.
    NotAdmitted(Refusal),
    /// An HTTP request that asked for no WebSocket was answered.
    Answered(u16),
    /// The PROXY header, TLS and the WebSocket upgrade took too long.
    HandshakeTimeout,
    /// Nothing moved for too long.
    Idle,
    /// The peer did not answer a ping.
    Unanswered,
    /// The peer took nothing of what it was owed for too long.
    Stalled,
    /// All connections together held more memory than they may, and this one had been stalled
    /// longest.
    Evicted,
    /// The connection reached the maximum lifetime.
    Lifetime,
    /// The server drained.
    GoingAway,
    /// The server dropped it before the farewell was sent.
    Aborted,
    /// The session panicked: a bug of this server.
    Panicked,
}

/// Why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("PROXY header refused: {0}")]
    Proxy(String),
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("no valid HTTP request: {0}")]
    Http(String),
}

impl End {
    /// The end of an HTTP request whose response is a fault.
    pub(crate) fn answered_on_purpose(status: StatusCode) -> Self {
        End::OnPurpose(format!("HTTP request answered with {} on purpose", status.as_u16()))
    }

    /// Whether the server decided to close, and has a farewell to send.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, End::GoingAway | End::Idle | End::Lifetime | End::Unanswered)
    }

    /// Whether the server is to blame, and its operator should look into it. What peers do is
    /// logged at info: on the internet, warnings about it would fill the log.
    pub(crate) fn is_our_fault(&self) -> bool {
        matches!(self, End::Panicked)
    }
}

/// Why a connection is over, without the particulars: what metrics count by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Reason {
    EndOfStream,
    Truncated,
    CloseFrame,
    ReadFailed,
    WriteFailed,
    ProtocolViolation,
    OnPurpose,
    ProxyHeaderRefused,
    TlsHandshakeFailed,
    HttpRequestFailed,
    HttpAnswered,
    NotAdmitted,
    HandshakeTimeout,
    IdleTimeout,
    PingTimeout,
    StallTimeout,
    Evicted,
    MaxLifetime,
    ShuttingDown,
    Aborted,
    Panicked,
}

impl Reason {
    /// All of them, in their order.
    pub(crate) const ALL: [Reason; 21] = [
        Reason::EndOfStream,
        Reason::Truncated,
        Reason::CloseFrame,
        Reason::ReadFailed,
        Reason::WriteFailed,
        Reason::ProtocolViolation,
        Reason::OnPurpose,
        Reason::ProxyHeaderRefused,
        Reason::TlsHandshakeFailed,
        Reason::HttpRequestFailed,
        Reason::HttpAnswered,
        Reason::NotAdmitted,
        Reason::HandshakeTimeout,
        Reason::IdleTimeout,
        Reason::PingTimeout,
        Reason::StallTimeout,
        Reason::Evicted,
        Reason::MaxLifetime,
        Reason::ShuttingDown,
        Reason::Aborted,
        Reason::Panicked,
    ];

    /// Its name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::EndOfStream => "end_of_stream",
            Reason::Truncated => "truncated",
            Reason::CloseFrame => "close_frame",
            Reason::ReadFailed => "read_failed",
            Reason::WriteFailed => "write_failed",
            Reason::ProtocolViolation => "protocol_violation",
            Reason::OnPurpose => "on_purpose",
            Reason::ProxyHeaderRefused => "proxy_header_refused",
            Reason::TlsHandshakeFailed => "tls_handshake_failed",
            Reason::HttpRequestFailed => "http_request_failed",
            Reason::HttpAnswered => "http_answered",
            Reason::NotAdmitted => "not_admitted",
            Reason::HandshakeTimeout => "handshake_timeout",
            Reason::IdleTimeout => "idle_timeout",
            Reason::PingTimeout => "ping_timeout",
            Reason::StallTimeout => "stall_timeout",
            Reason::Evicted => "evicted",
            Reason::MaxLifetime => "max_lifetime",
            Reason::ShuttingDown => "shutting_down",
            Reason::Aborted => "aborted",
            Reason::Panicked => "panicked",
        }
    }
}

impl From<&End> for Reason {
    fn from(end: &End) -> Reason {
        match end {
            End::Peer(PeerEnd::EndOfStream) => Reason::EndOfStream,
            End::Peer(PeerEnd::Truncated) => Reason::Truncated,
            End::Peer(PeerEnd::Close(_)) => Reason::CloseFrame,
            End::Failed(EchoError::Read(_)) => Reason::ReadFailed,
            End::Failed(EchoError::Write(_)) => Reason::WriteFailed,
            End::Failed(EchoError::Protocol { .. }) => Reason::ProtocolViolation,
            End::OnPurpose(_) => Reason::OnPurpose,
            End::Handshake(HandshakeError::Proxy(_)) => Reason::ProxyHeaderRefused,
            End::Handshake(HandshakeError::Tls(_)) => Reason::TlsHandshakeFailed,
            End::Handshake(HandshakeError::Http(_)) => Reason::HttpRequestFailed,
            End::Answered(_) => Reason::HttpAnswered,
            End::NotAdmitted(_) => Reason::NotAdmitted,
            End::HandshakeTimeout => Reason::HandshakeTimeout,
            End::Idle => Reason::IdleTimeout,
            End::Unanswered => Reason::PingTimeout,
            End::Stalled | End::Failed(EchoError::Unresponsive(_)) => Reason::StallTimeout,
            End::Evicted => Reason::Evicted,
            End::Lifetime => Reason::MaxLifetime,
            End::GoingAway => Reason::ShuttingDown,
            End::Aborted => Reason::Aborted,
            End::Panicked => Reason::Panicked,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Peer(PeerEnd::EndOfStream) => f.write_str("end of stream"),
            End::Peer(PeerEnd::Truncated) => {
                f.write_str("truncated: the peer closed TCP without the protocol's own farewell")
            }
            End::Peer(PeerEnd::Close(Some(code))) => write!(f, "closed by the peer with {code}"),
            End::Peer(PeerEnd::Close(None)) => f.write_str("closed by the peer"),
            End::Failed(EchoError::Read(error)) => {
                write!(f, "read failed: {}", causes::of_io(error, Peer::Client))
            }
            End::Failed(EchoError::Write(error)) => {
                write!(f, "write failed: {}", causes::of_io(error, Peer::Client))
            }
            End::Failed(error) => error.fmt(f),
            End::OnPurpose(how) => f.write_str(how),
            End::Handshake(error) => error.fmt(f),
            End::NotAdmitted(reason) => write!(f, "refused: {reason}"),
            End::Answered(status) => write!(f, "HTTP request answered with {status}"),
            End::HandshakeTimeout => f.write_str("handshake timeout"),
            End::Idle => f.write_str("idle timeout"),
            End::Unanswered => f.write_str("ping timeout: the peer was asked and sent nothing"),
            End::Stalled => f.write_str("stall timeout: the peer took nothing of what it was owed"),
            End::Evicted => f.write_str(
                "evicted: the limit on buffered bytes is reached, and this peer stalled longest",
            ),
            End::Lifetime => f.write_str("maximum lifetime reached"),
            End::GoingAway => f.write_str("the server is shutting down"),
            End::Aborted => f.write_str("aborted by the server's shutdown"),
            End::Panicked => f.write_str("a bug: the connection's task panicked"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio_rustls::rustls;

    use super::*;

    #[test]
    fn each_reason_is_at_its_place() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{}", reason.name());
        }
    }

    #[test]
    fn tls_fails_in_words_after_the_handshake_too() {
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert_eq!(
            End::Failed(EchoError::Read(error)).to_string(),
            "read failed: what the client sent cannot be decrypted: it was changed on the way, or \
             the keys differ"
        );
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(End::Failed(EchoError::Write(error)).to_string(), "write failed: broken pipe");
    }
}
