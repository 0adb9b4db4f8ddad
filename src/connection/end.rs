//! Why connections end. An end is a value with a reason and a log level, and not an error to
//! handle.

use std::fmt;

use crate::causes::{self, Peer};
use crate::echo::{EchoError, PeerEnd};

/// Why a connection is over.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer ended it, and got all that it was owed.
    Peer(PeerEnd),
    /// The transport failed, or the peer violated the protocol.
    Failed(EchoError),
    /// The handshake failed.
    Handshake(HandshakeError),
    /// An HTTP request that asked for no WebSocket was answered.
    Answered(u16),
    /// TLS or the WebSocket upgrade took too long.
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
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("no valid HTTP request: {0}")]
    Http(String),
}

impl End {
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
            End::Handshake(error) => error.fmt(f),
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
