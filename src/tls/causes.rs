//! Explains why a TLS handshake failed, for people who test a client.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ContentType, Error, InvalidMessage, PeerIncompatible,
    PeerMisbehaved,
};

/// The likely cause of a failed handshake, and the alert that was sent or received for it, if any.
pub(crate) fn explain(error: &io::Error) -> String {
    let sent = tls_error(error).and_then(alert_for);
    explain_with(error, sent, "the expected message")
}

/// Like [`explain`], for a client whose ClientHello has not been accepted. `sent` is the alert that
/// was sent in place of rustls, if any.
pub(crate) fn explain_before_hello(error: &io::Error, sent: Option<AlertDescription>) -> String {
    let sent = sent.or_else(|| tls_error(error).and_then(alert_for));
    explain_with(error, sent, "a ClientHello")
}

fn explain_with(error: &io::Error, sent: Option<AlertDescription>, expected: &str) -> String {
    let Some(tls) = tls_error(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client closed the connection during it".to_owned(),
            _ => error.to_string(),
        };
    };
    match (tls, sent) {
        (Error::AlertReceived(alert), _) => {
            format!("alert received: {}: {}", alert_name(*alert), meaning(*alert))
        }
        (tls, Some(alert)) => {
            format!("alert sent: {}: {}", alert_name(alert), cause(tls, expected))
        }
        (tls, None) => cause(tls, expected),
    }
}

/// rustls' error, unless the connection itself has failed.
fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// The alert that RFC 8446 sections 5.1 and 6.2 require for an error in what precedes or makes up
/// the ClientHello. An alert is not answered with an alert.
pub(crate) fn alert_before_hello(error: &io::Error) -> Option<AlertDescription> {
    let error = tls_error(error)?;
    alert_for(error).or(match error {
        // Another record within the ClientHello.
        Error::PeerMisbehaved(_) => Some(AlertDescription::UnexpectedMessage),
        _ => None,
    })
}

/// What the server found wrong, when it needed `expected`.
fn cause(error: &Error, expected: &str) -> String {
    let known = match error {
        Error::InappropriateMessage { got_type, .. } => {
            return format!("the client sent {} in place of {expected}", content_name(*got_type));
        }
        Error::InappropriateHandshakeMessage { got_type, .. } => {
            return format!("the client sent a {got_type:?} message in place of {expected}");
        }
        Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage) => {
            "the client sent another record within a handshake message"
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what came is not TLS, perhaps plain text"
        }
        Error::PeerIncompatible(incompatible) => match incompatible {
            PeerIncompatible::NoCipherSuitesInCommon => {
                "no cipher suite in common, or none for the certificate's kind of key"
            }
            PeerIncompatible::NoKxGroupsInCommon => "no key-exchange group in common",
            PeerIncompatible::NoSignatureSchemesInCommon => {
                "the client accepts no signature scheme of the certificate's key"
            }
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired => "no TLS version in common",
            PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
                "no TLS version in common: the client sends no signature algorithms, as before TLS 1.2"
            }
            _ => return error.to_string(),
        },
        Error::NoCertificatesPresented => {
            "a client certificate is required, and the client sent none"
        }
        Error::NoApplicationProtocol => "no ALPN protocol in common",
        Error::InvalidCertificate(invalid) => match invalid {
            CertificateError::UnknownIssuer => {
                "the client certificate is of a CA that is not among the client CAs"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the client certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the client certificate is not valid yet"
            }
            CertificateError::Revoked => "the client certificate is revoked",
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "the client certificate is not one for clients"
            }
            other if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                "the client certificate is that of a CA, or self-signed"
            }
            other if format!("{other:?}").contains("UnsupportedCertVersion") => {
                "the client certificate has X.509 version 1, which has no extensions"
            }
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    known.to_owned()
}

/// What a record of this type holds.
fn content_name(kind: ContentType) -> String {
    match kind {
        ContentType::ChangeCipherSpec => "a ChangeCipherSpec message".to_owned(),
        ContentType::Alert => "an alert".to_owned(),
        ContentType::Handshake => "a handshake message".to_owned(),
        ContentType::ApplicationData => "application data".to_owned(),
        other => format!("a record of type {}", u8::from(other)),
    }
}

/// What a client usually means by an alert.
fn meaning(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "the client does not trust the certificate's CA",
        AlertDescription::BadCertificate => {
            "the client does not accept the certificate; perhaps its name does not match"
        }
        AlertDescription::CertificateUnknown => {
            "the client does not accept the certificate: it is not trusted, or its name does not match"
        }
        AlertDescription::CertificateExpired => "to the client the certificate has expired",
        AlertDescription::CertificateRevoked => "to the client the certificate is revoked",
        AlertDescription::UnsupportedCertificate => {
            "the client does not support this kind of certificate"
        }
        AlertDescription::ProtocolVersion => {
            "the client supports no TLS version that is allowed here"
        }
        AlertDescription::HandshakeFailure => "the client found no parameters in common",
        AlertDescription::NoApplicationProtocol => "the client wants another ALPN protocol",
        AlertDescription::UserCanceled => "the client's user cancelled",
        AlertDescription::CloseNotify => "the client closed the connection",
        _ => "the client aborted the handshake",
    }
}

/// The alert that rustls sends for an error, where we can tell. rustls provides the mapping for
/// certificates and messages; the rest follows RFC 8446 section 6.2.
fn alert_for(error: &Error) -> Option<AlertDescription> {
    Some(match error {
        Error::InvalidCertificate(error) => error.clone().into(),
        Error::InvalidMessage(error) => (*error).into(),
        Error::NoCertificatesPresented => AlertDescription::CertificateRequired,
        Error::NoApplicationProtocol => AlertDescription::NoApplicationProtocol,
        Error::InappropriateMessage { got_type: ContentType::Alert, .. } => return None,
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            AlertDescription::UnexpectedMessage
        }
        Error::PeerSentOversizedRecord => AlertDescription::RecordOverflow,
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
        ) => AlertDescription::ProtocolVersion,
        Error::PeerIncompatible(PeerIncompatible::NullCompressionRequired) => {
            AlertDescription::IllegalParameter
        }
        Error::PeerIncompatible(_) => AlertDescription::HandshakeFailure,
        _ => return None,
    })
}

/// The name of an alert as RFC 8446 section 6 spells it, or its number.
fn alert_name(alert: AlertDescription) -> String {
    let Some(name) = alert.as_str() else { return format!("{}", u8::from(alert)) };
    let mut spelled = String::new();
    let mut was_lower = false;
    for c in name.chars() {
        if c.is_uppercase() && was_lower {
            spelled.push('_');
        }
        was_lower = c.is_lowercase();
        spelled.extend(c.to_lowercase());
    }
    spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alerts_are_spelled_as_in_the_rfc() {
        assert_eq!(alert_name(AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(alert_name(AlertDescription::HandshakeFailure), "handshake_failure");
        assert_eq!(alert_name(AlertDescription::BadRecordMac), "bad_record_mac");
        assert_eq!(alert_name(AlertDescription::Unknown(200)), "200");
    }
}
