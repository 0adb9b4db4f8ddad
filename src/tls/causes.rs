//! Why a handshake failed, in words that help whoever tests a client.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, CertificateError, Error, InvalidMessage, PeerIncompatible,
};

/// The likely cause of a failed handshake, and the alert that told of it, if one was sent.
pub(crate) fn explain(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "the client left in the middle of it".to_owned(),
            _ => error.to_string(),
        };
    };
    match tls {
        Error::AlertReceived(alert) => {
            format!("alert received: {}: {}", name(*alert), meant_by(*alert))
        }
        tls => match alert_for(tls) {
            Some(alert) => format!("alert sent: {}: {}", name(alert), cause(tls)),
            None => cause(tls),
        },
    }
}

/// What we found wrong.
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
                "the client takes no signature that the certificate's key can make"
            }
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired => "no TLS version in common",
            PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
                "no TLS version in common: the client names no signature algorithms, as before 1.2"
            }
            _ => return error.to_string(),
        },
        Error::NoCertificatesPresented => "a client certificate is required, and none came",
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
                "the client certificate is a CA's, or self-signed"
            }
            other if format!("{other:?}").contains("UnsupportedCertVersion") => {
                "the client certificate is of X.509 version 1, which has no extensions"
            }
            _ => return error.to_string(),
        },
        _ => return error.to_string(),
    };
    known.to_owned()
}

/// What clients mean by an alert.
fn meant_by(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::UnknownCA => "the client does not trust the certificate's CA",
        AlertDescription::BadCertificate => {
            "the client does not accept the certificate; perhaps it has another name"
        }
        AlertDescription::CertificateUnknown => {
            "the client does not accept the certificate: not trusted, or of another name"
        }
        AlertDescription::CertificateExpired => "the client finds the certificate expired",
        AlertDescription::CertificateRevoked => "the client finds the certificate revoked",
        AlertDescription::UnsupportedCertificate => "the client takes no certificate of this kind",
        AlertDescription::ProtocolVersion => "the client speaks no version that is allowed",
        AlertDescription::HandshakeFailure => "the client found nothing in common",
        AlertDescription::NoApplicationProtocol => "the client wants another ALPN protocol",
        AlertDescription::UserCanceled => "the client's user gave up",
        AlertDescription::CloseNotify => "the client left",
        _ => "the client broke off",
    }
}

/// The alert that rustls sends for an error, where that is certain: it says so for certificates and
/// messages, and the others are as in RFC 8446 section 6.2.
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

/// As RFC 8446 section 6 spells it.
fn name(alert: AlertDescription) -> String {
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
        assert_eq!(name(AlertDescription::UnknownCA), "unknown_ca");
        assert_eq!(name(AlertDescription::HandshakeFailure), "handshake_failure");
        assert_eq!(name(AlertDescription::BadRecordMac), "bad_record_mac");
        assert_eq!(name(AlertDescription::Unknown(200)), "200");
    }
}
