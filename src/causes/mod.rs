//! The only place that turns what rustls, webpki, hyper, h2 and the system say into words for people:
//! for the server's log, for a reload, and for a probe. The libraries' own texts name their types; no word of them is shown.

mod alert;
mod certificate;
mod http;
mod protocol;
mod system;
mod websocket;

use std::error;
use std::fmt;
use std::io;
use std::sync::Arc;

use tokio_rustls::rustls::server::VerifierBuilderError;
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, OtherError};

pub(crate) use alert::{alert_before_hello, name as alert_spelled};
pub(crate) use certificate::date;
pub(crate) use http::{http2_code, of_http1, of_http2};
pub(crate) use system::{PORT_UNREACHABLE, of_connect, of_datagram, of_system};
pub(crate) use websocket::of_websocket;

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Client,
    Server,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Peer::Client => "client",
            Peer::Server => "server",
        })
    }
}

/// What a handshake waits for if more is not known.
const EXPECTED: &str = "the expected message";

/// The likely cause of a handshake that failed, and the alert that was sent or received for it, if
/// any.
pub(crate) fn explain(error: &io::Error, peer: Peer) -> String {
    let sent = tls_error(error).and_then(alert::alert_for);
    explain_with(error, peer, sent, EXPECTED)
}

/// Like [`explain`], for a client whose ClientHello has not been accepted. `sent` is the alert that
/// was sent in place of rustls, if any.
pub(crate) fn explain_before_hello(error: &io::Error, sent: Option<AlertDescription>) -> String {
    let sent = sent.or_else(|| tls_error(error).and_then(alert::alert_for));
    explain_with(error, Peer::Client, sent, "a ClientHello")
}

fn explain_with(
    error: &io::Error,
    peer: Peer,
    sent: Option<AlertDescription>,
    expected: &str,
) -> String {
    let Some(tls) = tls_error(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                format!("the {peer} closed the connection during the handshake")
            }
            io::ErrorKind::ConnectionReset => {
                format!("the {peer} reset the connection during the handshake")
            }
            _ => error.to_string(),
        };
    };
    match (tls, sent) {
        (Error::AlertReceived(alert), _) => {
            let name = alert::name(*alert);
            format!("alert received: {name}: {}", alert::meaning(*alert, peer))
        }
        (tls, Some(alert)) => {
            format!("alert sent: {}: {}", alert::name(alert), cause(tls, peer, expected))
        }
        (tls, None) => cause(tls, peer, expected),
    }
}

/// The name of the alert that ended a handshake, received or sent, as RFC 8446 section 6 spells it;
/// `none` if no alert is known. `is_before_hello` says that there was no ClientHello.
pub(crate) fn alert_name(error: &io::Error, is_before_hello: bool) -> String {
    let alert = match tls_error(error) {
        Some(Error::AlertReceived(alert)) => Some(*alert),
        Some(_) if is_before_hello => alert_before_hello(error),
        Some(error) => alert::alert_for(error),
        None => None,
    };
    match alert {
        None => "none".to_owned(),
        // A client can send any number, and must not make new names.
        Some(alert) if alert.as_str().is_none() => "unknown".to_owned(),
        Some(alert) => alert::name(alert),
    }
}

/// rustls' error, unless the connection itself has failed.
pub(crate) fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// Why an established connection to `peer` has failed.
pub(crate) fn of_io(error: &io::Error, peer: Peer) -> String {
    match tls_error(error) {
        Some(_) => explain(error, peer),
        None => system::of_system(error),
    }
}

/// Why the certificate of `peer` does not verify.
pub(crate) fn of_certificate(error: &Error, peer: Peer) -> String {
    cause(error, peer, EXPECTED)
}

/// Why rustls refuses what it was configured with.
pub(crate) fn of_settings(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(_) | Error::InvalidCertRevocationList(_) | Error::Other(_) => {
            cause(error, Peer::Client, EXPECTED)
        }
        _ => "versions, cipher suites and key-exchange groups do not fit together".to_owned(),
    }
}

/// Why no verifier of clients can be made.
pub(crate) fn of_verifier(error: &VerifierBuilderError) -> String {
    match error {
        VerifierBuilderError::NoRootAnchors => "there is no CA certificate".to_owned(),
        VerifierBuilderError::InvalidCrl(error) => {
            format!("the revocation list is unusable: {}", certificate::list_cause(error))
        }
        _ => "the certificates are unusable".to_owned(),
    }
}

/// An error of this server's own, with its words.
pub(crate) fn said(words: impl Into<String>) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Said(words.into())))))
}

#[derive(Debug)]
struct Said(String);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Said {}

/// What was found wrong with what `peer` sent, where `expected` was due.
fn cause(error: &Error, peer: Peer, expected: &str) -> String {
    match error {
        Error::InappropriateMessage { got_type, .. } => {
            let content = protocol::content(*got_type);
            format!("the {peer} sent {content} in place of {expected}")
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            let message = protocol::message(*got_type);
            format!("the {peer} sent a {message} message in place of {expected}")
        }
        Error::InvalidMessage(message) => protocol::invalid(*message, peer),
        Error::PeerMisbehaved(how) => protocol::misbehaved(how, peer),
        Error::PeerIncompatible(how) => protocol::incompatible(how, peer),
        Error::AlertReceived(alert) => {
            let name = alert::name(*alert);
            format!("alert received: {name}: {}", alert::meaning(*alert, peer))
        }
        Error::NoCertificatesPresented => match peer {
            Peer::Client => "a client certificate is required, and the client sent none".to_owned(),
            Peer::Server => "the server sent no certificate".to_owned(),
        },
        Error::NoApplicationProtocol => "no ALPN protocol in common".to_owned(),
        Error::InvalidCertificate(error) => certificate::cause(error, peer),
        Error::InvalidCertRevocationList(error) => format!(
            "the revocation list for the {peer}'s certificate is unusable: {}",
            certificate::list_cause(error)
        ),
        Error::InvalidEncryptedClientHello(_) => "Encrypted Client Hello (ECH) failed".to_owned(),
        Error::DecryptError => format!(
            "what the {peer} sent cannot be decrypted: it was changed on the way, or the keys differ"
        ),
        Error::EncryptError => "a message to send is too large to encrypt".to_owned(),
        Error::PeerSentOversizedRecord => {
            format!("the {peer} sent a record that is larger than TLS allows")
        }
        Error::UnsupportedNameType => {
            "the name to verify is neither a DNS name nor an IP address".to_owned()
        }
        Error::HandshakeNotComplete => "the handshake is not complete".to_owned(),
        Error::FailedToGetCurrentTime => "the system's clock could not be read".to_owned(),
        Error::FailedToGetRandomBytes => "the system gave no random bytes".to_owned(),
        Error::InconsistentKeys(_) => "the private key is not the certificate's".to_owned(),
        Error::BadMaxFragmentSize => "the size of records is out of range".to_owned(),
        Error::Other(other) => own_words(other).unwrap_or("the TLS library failed").to_owned(),
        _ => "the TLS library failed".to_owned(),
    }
}

/// The words of [`said`].
fn own_words(error: &OtherError) -> Option<&str> {
    error.0.downcast_ref::<Said>().map(|said| said.0.as_str())
}

#[cfg(test)]
mod tests;
