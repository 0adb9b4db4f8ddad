//! What a peer did that TLS does not allow, and what the two sides do not have in common.

use tokio_rustls::rustls::{
    ContentType, HandshakeType, InvalidMessage, PeerIncompatible, PeerMisbehaved,
};

use super::Peer;

/// What a record of this type holds.
pub(super) fn content(kind: ContentType) -> String {
    match kind {
        ContentType::ChangeCipherSpec => "a ChangeCipherSpec message".to_owned(),
        ContentType::Alert => "an alert".to_owned(),
        ContentType::Handshake => "a handshake message".to_owned(),
        ContentType::ApplicationData => "application data".to_owned(),
        other => format!("a record of type {}", u8::from(other)),
    }
}

/// The RFC's name of a handshake message, or its number.
pub(super) fn message(kind: HandshakeType) -> String {
    match kind.as_str() {
        Some(name) => name.to_owned(),
        None => format!("handshake (type {})", u8::from(kind)),
    }
}

/// A message that cannot be read.
pub(super) fn invalid(message: InvalidMessage, peer: Peer) -> String {
    let did = match message {
        InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion => {
            return "what came is not TLS, perhaps plain text".to_owned();
        }
        InvalidMessage::CertificatePayloadTooLarge => {
            "sent certificates of more than 64 KiB together"
        }
        InvalidMessage::HandshakePayloadTooLarge => "sent a handshake message that is too large",
        InvalidMessage::MessageTooLarge => {
            "sent a record that is larger than TLS allows, or does not speak TLS"
        }
        InvalidMessage::InvalidEmptyPayload => "sent an empty record, which TLS does not allow",
        InvalidMessage::InvalidServerName => {
            "sent a server name (SNI) that cannot be read: it has to be a DNS name"
        }
        InvalidMessage::MissingKeyExchange => "offers no key-exchange group",
        InvalidMessage::NoSignatureSchemes => "offers no signature scheme",
        InvalidMessage::UnsupportedCompression => "wants compression, which TLS 1.3 has no more",
        InvalidMessage::UnsupportedCurveType
        | InvalidMessage::UnsupportedKeyExchangeAlgorithm(_)
        | InvalidMessage::InvalidDhParams => "wants a key exchange that is not supported",
        InvalidMessage::DuplicateExtension(number) => {
            return format!("the {peer} sent the TLS extension {number} twice");
        }
        InvalidMessage::PreSharedKeyIsNotFinalExtension => {
            "sent the extension pre_shared_key, and not as the last one"
        }
        InvalidMessage::UnknownHelloRetryRequestExtension
        | InvalidMessage::UnknownCertificateExtension => {
            "sent a TLS extension that has no place there"
        }
        InvalidMessage::InvalidCcs => "sent a malformed ChangeCipherSpec message",
        InvalidMessage::InvalidKeyUpdate => "sent a malformed KeyUpdate message",
        _ => "sent a malformed TLS message",
    };
    format!("the {peer} {did}")
}

/// A breach of the protocol.
pub(super) fn misbehaved(how: &PeerMisbehaved, peer: Peer) -> String {
    let did = match how {
        PeerMisbehaved::ServerNameMustContainOneHostName
        | PeerMisbehaved::DuplicateServerNameTypes => {
            "asked for a server name (SNI) that is no host name; RFC 6066 allows exactly one DNS name"
        }
        PeerMisbehaved::ServerNameDifferedOnRetry => {
            "asked for another server name (SNI) in its second ClientHello"
        }
        PeerMisbehaved::MessageInterleavedWithHandshakeMessage => {
            "sent another record within a handshake message"
        }
        PeerMisbehaved::KeyEpochWithPendingFragment => {
            "sent a part of a handshake message before the keys changed"
        }
        PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported => {
            "was made to use TLS 1.2 although both sides have TLS 1.3: perhaps something on the way \
             changes the handshake"
        }
        PeerMisbehaved::IncorrectBinder | PeerMisbehaved::SelectedInvalidPsk => {
            "resumed a session with a wrong key"
        }
        PeerMisbehaved::ResumptionAttemptedWithVariedEms
        | PeerMisbehaved::ResumptionOfferedWithVariedEms
        | PeerMisbehaved::ResumptionOfferedWithVariedCipherSuite
        | PeerMisbehaved::ResumptionOfferedWithIncompatibleCipherSuite
        | PeerMisbehaved::SelectedUnofferedPsk => {
            "resumed a session in a way that TLS does not allow"
        }
        PeerMisbehaved::EarlyDataAttemptedInSecondClientHello
        | PeerMisbehaved::EarlyDataExtensionWithoutResumption
        | PeerMisbehaved::EarlyDataOfferedWithVariedCipherSuite
        | PeerMisbehaved::OfferedEarlyDataWithOldProtocolVersion
        | PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage
        | PeerMisbehaved::InvalidMaxEarlyDataSize
        | PeerMisbehaved::TooMuchEarlyDataReceived => {
            "sent early data in a way that TLS does not allow"
        }
        PeerMisbehaved::InvalidKeyShare
        | PeerMisbehaved::MissingKeyShare
        | PeerMisbehaved::OfferedDuplicateKeyShares
        | PeerMisbehaved::WrongGroupForKeyShare
        | PeerMisbehaved::SelectedUnofferedKxGroup => "sent a key share that is invalid",
        PeerMisbehaved::RefusedToFollowHelloRetryRequest
        | PeerMisbehaved::HandshakeHashVariedAfterRetry
        | PeerMisbehaved::CipherSuiteDifferedOnRetry
        | PeerMisbehaved::SelectedDifferentCipherSuiteAfterRetry
        | PeerMisbehaved::IllegalHelloRetryRequestWithEmptyCookie
        | PeerMisbehaved::IllegalHelloRetryRequestWithNoChanges
        | PeerMisbehaved::IllegalHelloRetryRequestWithOfferedGroup
        | PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedCipherSuite
        | PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedNamedGroup
        | PeerMisbehaved::IllegalHelloRetryRequestWithUnsupportedVersion
        | PeerMisbehaved::IllegalHelloRetryRequestWithWrongSessionId => {
            "broke the rules of a HelloRetryRequest"
        }
        PeerMisbehaved::SelectedUnofferedApplicationProtocol
        | PeerMisbehaved::OfferedEmptyApplicationProtocol => {
            "named an ALPN protocol that is empty or was not offered"
        }
        PeerMisbehaved::SelectedUnofferedCipherSuite
        | PeerMisbehaved::SelectedUnusableCipherSuiteForVersion => {
            "selected a cipher suite that was not offered"
        }
        PeerMisbehaved::SignedKxWithWrongAlgorithm
        | PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme => {
            "signed with an algorithm that was not offered"
        }
        PeerMisbehaved::TooManyEmptyFragments => "sent too many empty records",
        PeerMisbehaved::TooManyKeyUpdateRequests => "asked too often for new keys",
        PeerMisbehaved::TooManyRenegotiationRequests => "asked too often to renegotiate",
        PeerMisbehaved::TooManyWarningAlertsReceived => "sent too many warnings",
        PeerMisbehaved::UnsolicitedCertExtension
        | PeerMisbehaved::UnsolicitedEncryptedExtension
        | PeerMisbehaved::UnsolicitedSctList
        | PeerMisbehaved::UnsolicitedServerHelloExtension
        | PeerMisbehaved::UnsolicitedEchExtension
        | PeerMisbehaved::UnexpectedCleartextExtension
        | PeerMisbehaved::DisallowedEncryptedExtension => {
            "sent a TLS extension that has no place there"
        }
        PeerMisbehaved::DuplicateClientHelloExtensions
        | PeerMisbehaved::DuplicateEncryptedExtensions
        | PeerMisbehaved::DuplicateHelloRetryRequestExtensions
        | PeerMisbehaved::DuplicateNewSessionTicketExtensions
        | PeerMisbehaved::DuplicateServerHelloExtensions => "sent a TLS extension twice",
        _ => "broke the TLS protocol",
    };
    format!("the {peer} {did}")
}

/// Nothing in common.
pub(super) fn incompatible(how: &PeerIncompatible, peer: Peer) -> String {
    let known = match (how, peer) {
        (PeerIncompatible::NoCipherSuitesInCommon, _) => {
            "no cipher suite in common, or none for the certificate's kind of key"
        }
        (PeerIncompatible::NoKxGroupsInCommon, _) => "no key-exchange group in common",
        (PeerIncompatible::NoSignatureSchemesInCommon, Peer::Client) => {
            "the client accepts no signature scheme of the certificate's key"
        }
        (
            PeerIncompatible::NoSignatureSchemesInCommon
            | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
            _,
        ) => "no signature scheme in common",
        (
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::SupportedVersionsExtensionRequired,
            _,
        ) => "no TLS version in common",
        (PeerIncompatible::SignatureAlgorithmsExtensionRequired, _) => {
            "no TLS version in common: the client sends no signature algorithms, as before TLS 1.2"
        }
        (
            PeerIncompatible::KeyShareExtensionRequired
            | PeerIncompatible::NamedGroupsExtensionRequired,
            _,
        ) => return format!("the {peer} offers no key-exchange group"),
        (
            PeerIncompatible::EcPointsExtensionRequired
            | PeerIncompatible::NoEcPointFormatsInCommon
            | PeerIncompatible::UncompressedEcPointsRequired,
            _,
        ) => return format!("the {peer} does not take uncompressed points of elliptic curves"),
        (PeerIncompatible::ExtendedMasterSecretExtensionRequired, _) => {
            return format!("the {peer} has no extended master secret (RFC 7627)");
        }
        (PeerIncompatible::NullCompressionRequired, _) => {
            return format!("the {peer} insists on compression");
        }
        (
            PeerIncompatible::IncorrectCertificateTypeExtension
            | PeerIncompatible::UnsolicitedCertificateTypeExtension,
            _,
        ) => return format!("the {peer} wants raw public keys in place of certificates"),
        (PeerIncompatible::ServerRejectedEncryptedClientHello(_), _) => {
            "the server has rejected Encrypted Client Hello (ECH)"
        }
        _ => return format!("the {peer} lacks what this side needs of TLS"),
    };
    known.to_owned()
}
