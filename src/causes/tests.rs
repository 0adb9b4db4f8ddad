//! Whatever rustls says becomes words of this project.

use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertRevocationListError, CertificateError, ContentType, EncryptedClientHelloError,
    ExtendedKeyPurpose, HandshakeType, InconsistentKeys, InvalidMessage, PeerIncompatible,
    PeerMisbehaved,
};

use super::*;

#[test]
fn no_error_shows_a_word_of_the_library() {
    for error in all() {
        let name = format!("{error:?}");
        let variant = innermost(&name);
        for peer in [Peer::Client, Peer::Server] {
            let words = explain(&io::Error::new(io::ErrorKind::InvalidData, error.clone()), peer);
            assert!(!words.is_empty(), "{name}");
            for text in [
                "{",
                "}",
                "[",
                "\"",
                "Context",
                "Other",
                "unexpected error",
                "misbehaved",
                "incompatible",
                "invalid peer certificate",
                "received fatal",
                "received corrupt",
                "keys may not be",
                "0x",
                "\n",
            ] {
                assert!(!words.contains(text), "{text}: {name}: {words}");
            }
            // A name with several capitals is a type's, unless the RFC has it for a message.
            let is_rfcs = |word: &str| {
                (0..=255).any(|kind| HandshakeType::from(kind).as_str() == Some(word))
                    || ["ChangeCipherSpec", "HelloRetryRequest", "cRLSign"].contains(&word)
            };
            for word in words.split(|c: char| !c.is_alphanumeric()) {
                let inner = word.chars().skip(1).filter(|c| c.is_uppercase()).count();
                let has_lower = word.chars().filter(|c| c.is_lowercase()).count() > 1;
                assert!(inner == 0 || !has_lower || is_rfcs(word), "{word}: {name}: {words}");
            }
            assert!(variant.len() < 12 || !words.contains(variant), "{name}: {words}");
        }
    }
}

/// The last name in Rust's text of an error.
fn innermost(name: &str) -> &str {
    let name = name.split([' ', '{']).next().unwrap_or(name);
    name.trim_end_matches(')').rsplit('(').next().unwrap_or(name)
}

#[test]
fn no_error_of_webpki_is_without_a_cause() {
    for error in certificate_errors() {
        let name = format!("{error:?}");
        let words = of_certificate(&Error::InvalidCertificate(error), Peer::Server);
        let is_new = name.contains("SomethingNew");
        assert_eq!(words == "the server's certificate is not valid", is_new, "{name}: {words}");
    }
}

#[test]
fn the_cause_is_told_for_either_side() {
    let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let other = |name: &str| CertificateError::Other(OtherError(Arc::from(Box::from(name))));
    let certificate = Error::InvalidCertificate;
    for (error, peer, said) in [
        (
            Error::PeerMisbehaved(PeerMisbehaved::ServerNameMustContainOneHostName),
            Peer::Client,
            "alert sent: illegal_parameter: the client asked for a server name (SNI) that is no host \
             name; RFC 6066 allows exactly one DNS name",
        ),
        (
            certificate(CertificateError::UnknownIssuer),
            Peer::Server,
            "alert sent: unknown_ca: the server's certificate is not trusted: it is of a CA that is \
             not among the trusted ones, or an intermediate certificate is missing",
        ),
        (
            certificate(CertificateError::ExpiredContext { time: at(100), not_after: at(86400) }),
            Peer::Client,
            "alert sent: certificate_expired: the client certificate has expired: it was valid until \
             1970-01-02T00:00:00Z",
        ),
        (
            certificate(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("a.test").unwrap(),
                presented: vec![
                    "DnsName(\"b.test\")".to_owned(),
                    "IpAddress(127.0.0.1)".to_owned(),
                ],
            }),
            Peer::Server,
            "alert sent: bad_certificate: the server's certificate is not for a.test: it is for \
             b.test, 127.0.0.1",
        ),
        (
            certificate(other("CaUsedAsEndEntity")),
            Peer::Client,
            "alert sent: certificate_unknown: the client certificate is that of a CA, or self-signed; \
             it would have to be among the trusted ones itself",
        ),
        (
            Error::AlertReceived(AlertDescription::CertificateRequired),
            Peer::Server,
            "alert received: certificate_required: the server requires a certificate of the other \
             side, and got none",
        ),
    ] {
        assert_eq!(explain(&io::Error::new(io::ErrorKind::InvalidData, error), peer), said);
    }
    let closed = io::Error::from(io::ErrorKind::UnexpectedEof);
    let said = "the server closed the connection during the handshake";
    assert_eq!(explain(&closed, Peer::Server), said);
}

/// An error of each kind that can be made outside rustls.
fn all() -> Vec<Error> {
    let mut all = vec![
        Error::NoCertificatesPresented,
        Error::UnsupportedNameType,
        Error::DecryptError,
        Error::EncryptError,
        Error::General("text of the library { Debug }".to_owned()),
        Error::FailedToGetCurrentTime,
        Error::FailedToGetRandomBytes,
        Error::HandshakeNotComplete,
        Error::PeerSentOversizedRecord,
        Error::NoApplicationProtocol,
        Error::BadMaxFragmentSize,
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch),
        Error::InconsistentKeys(InconsistentKeys::Unknown),
        Error::InvalidEncryptedClientHello(EncryptedClientHelloError::InvalidConfigList),
        Error::InvalidEncryptedClientHello(EncryptedClientHelloError::NoCompatibleConfig),
        Error::InvalidEncryptedClientHello(EncryptedClientHelloError::SniRequired),
        Error::Other(OtherError(Arc::from(Box::from("SomeError { code: 7 }")))),
        said("words of this server"),
    ];
    for kind in 0..=255 {
        all.push(Error::AlertReceived(AlertDescription::from(kind)));
        all.push(Error::InappropriateMessage {
            expect_types: vec![ContentType::Handshake],
            got_type: ContentType::from(kind),
        });
        all.push(Error::InappropriateHandshakeMessage {
            expect_types: vec![HandshakeType::Finished],
            got_type: HandshakeType::from(kind),
        });
    }
    all.extend(invalid_messages().into_iter().map(Error::InvalidMessage));
    all.extend(misbehaviour().into_iter().map(Error::PeerMisbehaved));
    all.extend(incompatibilities().into_iter().map(Error::PeerIncompatible));
    all.extend(certificate_errors().into_iter().map(Error::InvalidCertificate));
    all.extend(list_errors().into_iter().map(Error::InvalidCertRevocationList));
    all
}

fn invalid_messages() -> Vec<InvalidMessage> {
    vec![
        InvalidMessage::CertificatePayloadTooLarge,
        InvalidMessage::HandshakePayloadTooLarge,
        InvalidMessage::InvalidCcs,
        InvalidMessage::InvalidContentType,
        InvalidMessage::InvalidCertificateStatusType,
        InvalidMessage::InvalidCertRequest,
        InvalidMessage::InvalidDhParams,
        InvalidMessage::InvalidEmptyPayload,
        InvalidMessage::InvalidKeyUpdate,
        InvalidMessage::InvalidServerName,
        InvalidMessage::MessageTooLarge,
        InvalidMessage::MessageTooShort,
        InvalidMessage::MissingData("SomePayload"),
        InvalidMessage::MissingKeyExchange,
        InvalidMessage::NoSignatureSchemes,
        InvalidMessage::TrailingData("SomePayload"),
        InvalidMessage::UnexpectedMessage("SomePayload"),
        InvalidMessage::UnknownProtocolVersion,
        InvalidMessage::UnsupportedCompression,
        InvalidMessage::UnsupportedCurveType,
        InvalidMessage::EmptyTicketValue,
        InvalidMessage::IllegalEmptyList("SomePayload"),
        InvalidMessage::IllegalEmptyValue,
        InvalidMessage::DuplicateExtension(16),
        InvalidMessage::PreSharedKeyIsNotFinalExtension,
        InvalidMessage::UnknownHelloRetryRequestExtension,
        InvalidMessage::UnknownCertificateExtension,
    ]
}

fn misbehaviour() -> Vec<PeerMisbehaved> {
    vec![
        PeerMisbehaved::AttemptedDowngradeToTls12WhenTls13IsSupported,
        PeerMisbehaved::BadCertChainExtensions,
        PeerMisbehaved::CipherSuiteDifferedOnRetry,
        PeerMisbehaved::DisallowedEncryptedExtension,
        PeerMisbehaved::DuplicateClientHelloExtensions,
        PeerMisbehaved::DuplicateEncryptedExtensions,
        PeerMisbehaved::DuplicateHelloRetryRequestExtensions,
        PeerMisbehaved::DuplicateNewSessionTicketExtensions,
        PeerMisbehaved::DuplicateServerHelloExtensions,
        PeerMisbehaved::DuplicateServerNameTypes,
        PeerMisbehaved::EarlyDataAttemptedInSecondClientHello,
        PeerMisbehaved::EarlyDataExtensionWithoutResumption,
        PeerMisbehaved::EarlyDataOfferedWithVariedCipherSuite,
        PeerMisbehaved::EchAcceptanceVariedAfterRetry,
        PeerMisbehaved::HandshakeHashVariedAfterRetry,
        PeerMisbehaved::IllegalHelloRetryRequestWithEmptyCookie,
        PeerMisbehaved::IllegalHelloRetryRequestWithNoChanges,
        PeerMisbehaved::IllegalHelloRetryRequestWithOfferedGroup,
        PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedCipherSuite,
        PeerMisbehaved::IllegalHelloRetryRequestWithUnofferedNamedGroup,
        PeerMisbehaved::IllegalHelloRetryRequestWithUnsupportedVersion,
        PeerMisbehaved::IllegalHelloRetryRequestWithWrongSessionId,
        PeerMisbehaved::IllegalHelloRetryRequestWithInvalidEch,
        PeerMisbehaved::IllegalMiddleboxChangeCipherSpec,
        PeerMisbehaved::IllegalTlsInnerPlaintext,
        PeerMisbehaved::IncorrectBinder,
        PeerMisbehaved::InvalidCertCompression,
        PeerMisbehaved::InvalidMaxEarlyDataSize,
        PeerMisbehaved::InvalidKeyShare,
        PeerMisbehaved::KeyEpochWithPendingFragment,
        PeerMisbehaved::KeyUpdateReceivedInQuicConnection,
        PeerMisbehaved::MessageInterleavedWithHandshakeMessage,
        PeerMisbehaved::MissingBinderInPskExtension,
        PeerMisbehaved::MissingKeyShare,
        PeerMisbehaved::MissingPskExtensionInSecondClientHello,
        PeerMisbehaved::MissingPskModesExtension,
        PeerMisbehaved::MissingQuicTransportParameters,
        PeerMisbehaved::OfferedDuplicateCertificateCompressions,
        PeerMisbehaved::OfferedDuplicateKeyShares,
        PeerMisbehaved::OfferedEarlyDataWithOldProtocolVersion,
        PeerMisbehaved::OfferedEmptyApplicationProtocol,
        PeerMisbehaved::OfferedIncorrectCompressions,
        PeerMisbehaved::PskExtensionMustBeLast,
        PeerMisbehaved::PskExtensionWithMismatchedIdsAndBinders,
        PeerMisbehaved::RefusedToFollowHelloRetryRequest,
        PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage,
        PeerMisbehaved::ResumptionAttemptedWithVariedEms,
        PeerMisbehaved::ResumptionOfferedWithVariedCipherSuite,
        PeerMisbehaved::ResumptionOfferedWithVariedEms,
        PeerMisbehaved::ResumptionOfferedWithIncompatibleCipherSuite,
        PeerMisbehaved::SelectedDifferentCipherSuiteAfterRetry,
        PeerMisbehaved::SelectedInvalidPsk,
        PeerMisbehaved::SelectedTls12UsingTls13VersionExtension,
        PeerMisbehaved::SelectedUnofferedApplicationProtocol,
        PeerMisbehaved::SelectedUnofferedCertCompression,
        PeerMisbehaved::SelectedUnofferedCipherSuite,
        PeerMisbehaved::SelectedUnofferedCompression,
        PeerMisbehaved::SelectedUnofferedKxGroup,
        PeerMisbehaved::SelectedUnofferedPsk,
        PeerMisbehaved::SelectedUnusableCipherSuiteForVersion,
        PeerMisbehaved::ServerEchoedCompatibilitySessionId,
        PeerMisbehaved::ServerHelloMustOfferUncompressedEcPoints,
        PeerMisbehaved::ServerNameDifferedOnRetry,
        PeerMisbehaved::ServerNameMustContainOneHostName,
        PeerMisbehaved::SignedKxWithWrongAlgorithm,
        PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme,
        PeerMisbehaved::TooManyEmptyFragments,
        PeerMisbehaved::TooManyKeyUpdateRequests,
        PeerMisbehaved::TooManyRenegotiationRequests,
        PeerMisbehaved::TooManyWarningAlertsReceived,
        PeerMisbehaved::TooMuchEarlyDataReceived,
        PeerMisbehaved::UnexpectedCleartextExtension,
        PeerMisbehaved::UnsolicitedCertExtension,
        PeerMisbehaved::UnsolicitedEncryptedExtension,
        PeerMisbehaved::UnsolicitedSctList,
        PeerMisbehaved::UnsolicitedServerHelloExtension,
        PeerMisbehaved::WrongGroupForKeyShare,
        PeerMisbehaved::UnsolicitedEchExtension,
    ]
}

fn incompatibilities() -> Vec<PeerIncompatible> {
    vec![
        PeerIncompatible::EcPointsExtensionRequired,
        PeerIncompatible::ExtendedMasterSecretExtensionRequired,
        PeerIncompatible::IncorrectCertificateTypeExtension,
        PeerIncompatible::KeyShareExtensionRequired,
        PeerIncompatible::NamedGroupsExtensionRequired,
        PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon,
        PeerIncompatible::NoCipherSuitesInCommon,
        PeerIncompatible::NoEcPointFormatsInCommon,
        PeerIncompatible::NoKxGroupsInCommon,
        PeerIncompatible::NoSignatureSchemesInCommon,
        PeerIncompatible::NullCompressionRequired,
        PeerIncompatible::ServerDoesNotSupportTls12Or13,
        PeerIncompatible::ServerSentHelloRetryRequestWithUnknownExtension,
        PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        PeerIncompatible::SupportedVersionsExtensionRequired,
        PeerIncompatible::Tls12NotOffered,
        PeerIncompatible::Tls12NotOfferedOrEnabled,
        PeerIncompatible::Tls13RequiredForQuic,
        PeerIncompatible::UncompressedEcPointsRequired,
        PeerIncompatible::UnsolicitedCertificateTypeExtension,
        PeerIncompatible::ServerRejectedEncryptedClientHello(None),
    ]
}

fn certificate_errors() -> Vec<CertificateError> {
    let time = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let mut all = vec![
        CertificateError::BadEncoding,
        CertificateError::Expired,
        CertificateError::ExpiredContext { time, not_after: time },
        CertificateError::NotValidYet,
        CertificateError::NotValidYetContext { time, not_before: time },
        CertificateError::Revoked,
        CertificateError::UnhandledCriticalExtension,
        CertificateError::UnknownIssuer,
        CertificateError::UnknownRevocationStatus,
        CertificateError::ExpiredRevocationList,
        CertificateError::ExpiredRevocationListContext { time, next_update: time },
        CertificateError::BadSignature,
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![1, 2],
            supported_algorithms: Vec::new(),
        },
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![1, 2],
            public_key_algorithm_id: vec![3],
        },
        CertificateError::NotValidForName,
        CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("a.test").unwrap(),
            presented: (0..20).map(|i| format!("DnsName(\"{i}.test\")")).collect(),
        },
        CertificateError::InvalidPurpose,
        CertificateError::InvalidPurposeContext {
            required: ExtendedKeyPurpose::ServerAuth,
            presented: vec![
                ExtendedKeyPurpose::ClientAuth,
                ExtendedKeyPurpose::ServerAuth,
                ExtendedKeyPurpose::Other(vec![1, 2, 3]),
            ],
        },
        CertificateError::InvalidOcspResponse,
        CertificateError::ApplicationVerificationFailure,
    ];
    // The names of webpki's errors that rustls passes on, and one that nobody knows yet.
    for name in [
        "CaUsedAsEndEntity",
        "CertDistrusted",
        "UnsupportedCriticalExtension",
        "UnsupportedCrlIssuingDistributionPoint",
        "UnsupportedRevocationReasonsPartitioning",
        "EmptyEkuExtension",
        "EndEntityUsedAsCa",
        "ExtensionValueInvalid",
        "InvalidNetworkMaskConstraint",
        "InvalidSerialNumber",
        "MalformedDnsIdentifier",
        "MalformedExtensions",
        "MalformedNameConstraint",
        "MaximumNameConstraintComparisonsExceeded",
        "MaximumPathBuildCallsExceeded",
        "MaximumPathDepthExceeded",
        "MaximumSignatureChecksExceeded",
        "NameConstraintViolation",
        "PathLenConstraintViolated",
        "SignatureAlgorithmMismatch",
        "UnsupportedCertVersion",
        "UnsupportedNameType",
        "SomethingNew { at: 7 }",
    ] {
        all.push(CertificateError::Other(OtherError(Arc::from(Box::from(name)))));
    }
    all
}

fn list_errors() -> Vec<CertRevocationListError> {
    vec![
        CertRevocationListError::BadSignature,
        CertRevocationListError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id: vec![1, 2],
            supported_algorithms: Vec::new(),
        },
        CertRevocationListError::UnsupportedSignatureAlgorithmForPublicKeyContext {
            signature_algorithm_id: vec![1, 2],
            public_key_algorithm_id: vec![3],
        },
        CertRevocationListError::InvalidCrlNumber,
        CertRevocationListError::InvalidRevokedCertSerialNumber,
        CertRevocationListError::IssuerInvalidForCrl,
        CertRevocationListError::Other(OtherError(Arc::from(Box::from("SomethingNew { at: 7 }")))),
        CertRevocationListError::ParseError,
        CertRevocationListError::UnsupportedCrlVersion,
        CertRevocationListError::UnsupportedCriticalExtension,
        CertRevocationListError::UnsupportedDeltaCrl,
        CertRevocationListError::UnsupportedIndirectCrl,
        CertRevocationListError::UnsupportedRevocationReason,
    ]
}

#[test]
fn a_client_cannot_make_the_name_of_an_alert() {
    let named = |error: Error, is_before_hello| {
        alert_name(&io::Error::new(io::ErrorKind::InvalidData, error), is_before_hello)
    };
    assert_eq!(named(Error::AlertReceived(AlertDescription::UnknownCA), false), "unknown_ca");
    assert_eq!(named(Error::AlertReceived(AlertDescription::Unknown(201)), false), "unknown");
    assert_eq!(named(Error::NoCertificatesPresented, false), "certificate_required");
    let stray = Error::InappropriateMessage {
        expect_types: vec![ContentType::Handshake],
        got_type: ContentType::ApplicationData,
    };
    assert_eq!(named(stray, true), "unexpected_message");
    assert_eq!(alert_name(&io::ErrorKind::ConnectionReset.into(), true), "none");
}
