//! Explains why a TLS handshake failed, for people who test a client.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible,
};

/// The likely cause of a failed handshake, and the alert that was sent or received for it, if any.
pub(crate) fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client closed the connection during it".to_owned(),
            _ => error.to_string(),
        };
    };
    match tls {
        Error::AlertReceived(alert) => {
            format!("alert received: {}: {}", alert_name(*alert), meaning(*alert))
        }
        tls => match alert_for(tls) {
            Some(alert) => format!("alert sent: {}: {}", alert_name(alert), cause(tls)),
            None => cause(tls),
        },
    }
}

/// What the server found wrong.
fn cause(error: &Error) -> String {
    let known = match error {
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
