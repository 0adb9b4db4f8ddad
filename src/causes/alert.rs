//! Alerts (RFC 8446 section 6): their names, what the other side means by them, and which one an
//! error asks for.

use std::io;

use tokio_rustls::rustls::{
    AlertDescription, ContentType, Error, PeerIncompatible, PeerMisbehaved,
};

use super::{Peer, tls_error};

/// What a peer usually means by an alert.
pub(super) fn meaning(alert: AlertDescription, peer: Peer) -> String {
    let words = match (alert, peer) {
        (AlertDescription::UnknownCA, _) => "does not trust the certificate's CA",
        (AlertDescription::BadCertificate, Peer::Client) => {
            "does not accept the certificate; perhaps its name does not match"
        }
        (AlertDescription::CertificateUnknown, Peer::Client) => {
            "does not accept the certificate: it is not trusted, or its name does not match"
        }
        (AlertDescription::BadCertificate | AlertDescription::CertificateUnknown, _) => {
            "does not accept the certificate"
        }
        (AlertDescription::CertificateRequired, _) => {
            "requires a certificate of the other side, and got none"
        }
        (AlertDescription::CertificateExpired, _) => {
            return format!("to the {peer} the certificate has expired");
        }
        (AlertDescription::CertificateRevoked, _) => {
            return format!("to the {peer} the certificate is revoked");
        }
        (AlertDescription::UnsupportedCertificate, _) => {
            "does not support this kind of certificate"
        }
        (AlertDescription::AccessDenied, _) => "denies access to this certificate",
        (AlertDescription::ProtocolVersion, Peer::Client) => {
            "supports no TLS version that is allowed here"
        }
        (AlertDescription::ProtocolVersion, Peer::Server) => "supports neither TLS 1.2 nor TLS 1.3",
        (AlertDescription::HandshakeFailure, _) => "found no parameters in common",
        (AlertDescription::InsufficientSecurity, _) => "finds the parameters too weak",
        (AlertDescription::NoApplicationProtocol, Peer::Client) => "wants another ALPN protocol",
        (AlertDescription::NoApplicationProtocol, Peer::Server) => {
            "has none of the ALPN protocols that were offered"
        }
        (AlertDescription::UnrecognisedName, _) => "has no certificate for this server name (SNI)",
        (AlertDescription::UserCanceled, _) => return format!("the {peer}'s user cancelled"),
        (AlertDescription::CloseNotify, _) => "closed the connection",
        (AlertDescription::InternalError, _) => "failed by itself",
        (AlertDescription::DecodeError | AlertDescription::UnexpectedMessage, _) => {
            "could not make sense of what it received"
        }
        (AlertDescription::BadRecordMac | AlertDescription::DecryptError, _) => {
            "could not decrypt or verify what it received"
        }
        _ => "aborted the handshake",
    };
    format!("the {peer} {words}")
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

/// The alert that rustls sends for an error, where we can tell. rustls provides the mapping for
/// certificates and messages; the rest follows RFC 8446 section 6.2.
pub(super) fn alert_for(error: &Error) -> Option<AlertDescription> {
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
        // RFC 6066 section 3, as rustls does.
        Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName) => {
            AlertDescription::IllegalParameter
        }
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
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
pub(crate) fn name(alert: AlertDescription) -> String {
    // What cannot be derived from rustls' names.
    match alert {
        AlertDescription::UnrecognisedName => return "unrecognized_name".to_owned(),
        AlertDescription::UnknownPSKIdentity => return "unknown_psk_identity".to_owned(),
        AlertDescription::EncryptedClientHelloRequired => return "ech_required".to_owned(),
        _ => {}
    }
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
        assert_eq!(name(AlertDescription::UnrecognisedName), "unrecognized_name");
        assert_eq!(name(AlertDescription::UnknownPSKIdentity), "unknown_psk_identity");
        assert_eq!(name(AlertDescription::EncryptedClientHelloRequired), "ech_required");
        assert_eq!(name(AlertDescription::HandshakeFailure), "handshake_failure");
        assert_eq!(name(AlertDescription::BadRecordMac), "bad_record_mac");
        assert_eq!(name(AlertDescription::Unknown(200)), "200");
    }
}
