//! Why a certificate does not verify, and why a revocation list cannot be used.

use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertRevocationListError, CertificateError, ExtendedKeyPurpose};

use super::{Peer, own_words};

/// How many names of a certificate are shown.
const NAMES: usize = 10;

/// Why the certificate of `peer` does not verify.
pub(super) fn cause(error: &CertificateError, peer: Peer) -> String {
    let certificate = match peer {
        Peer::Client => "the client certificate",
        Peer::Server => "the server's certificate",
    };
    let problem = match error {
        CertificateError::UnknownIssuer => match peer {
            Peer::Client => "is of a CA that is not among the client CAs",
            Peer::Server => {
                "is not trusted: it is of a CA that is not among the trusted ones, or an \
                 intermediate certificate is missing"
            }
        },
        CertificateError::Expired => "has expired",
        CertificateError::ExpiredContext { not_after, .. } => {
            return format!("{certificate} has expired: it was valid until {}", date(*not_after));
        }
        CertificateError::NotValidYet => "is not valid yet",
        CertificateError::NotValidYetContext { not_before, .. } => {
            return format!("{certificate} is not valid yet: it begins {}", date(*not_before));
        }
        CertificateError::Revoked => "is revoked",
        CertificateError::InvalidPurpose => match peer {
            Peer::Client => "is not one for clients",
            Peer::Server => "is not one for servers",
        },
        CertificateError::InvalidPurposeContext { presented, .. } => {
            let not = match peer {
                Peer::Client => "is not one for clients",
                Peer::Server => "is not one for servers",
            };
            return format!("{certificate} {not}{}", purposes(presented));
        }
        CertificateError::NotValidForName => "is not for the name that was asked for",
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = match presented.is_empty() {
                true => "it has no subject alternative name".to_owned(),
                false => format!("it is for {}", names(presented)),
            };
            return format!("{certificate} is not for {}: {names}", expected.to_str());
        }
        CertificateError::BadEncoding => "is malformed",
        CertificateError::BadSignature => {
            "has a signature that does not verify, or is of an RSA key of less than 2048 bits"
        }
        CertificateError::UnhandledCriticalExtension => {
            "has an extension that is critical and not supported"
        }
        CertificateError::UnknownRevocationStatus => "may be revoked: no list tells",
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "may be revoked: the revocation list of its CA has expired"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => {
            "is signed with an algorithm that is not supported, such as SHA-1"
        }
        CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "has a signature or a key of a kind that is not supported"
        }
        CertificateError::InvalidOcspResponse => "came with an OCSP response that is invalid",
        CertificateError::ApplicationVerificationFailure => "is refused by this program",
        CertificateError::Other(other) => match own_words(other) {
            Some(words) => return words.to_owned(),
            None => of_webpki(&other.to_string()),
        },
        _ => "is not valid",
    };
    format!("{certificate} {problem}")
}

/// For errors of webpki that rustls has no kind for. Their only public form is their name.
fn of_webpki(name: &str) -> &'static str {
    match name {
        "CaUsedAsEndEntity" => {
            "is that of a CA, or self-signed; it would have to be among the trusted ones itself"
        }
        "UnsupportedCertVersion" => {
            "has X.509 version 1, which has no extensions; it would have to be among the trusted \
             ones itself"
        }
        "EndEntityUsedAsCa" => "is issued by a certificate that is not one of a CA",
        "UnsupportedCriticalExtension" => "has an extension that is critical and not supported",
        "UnsupportedNameType" => "has, or its CA allows, a name of a kind that is not supported",
        "MalformedNameConstraint" | "InvalidNetworkMaskConstraint" => {
            "is of a CA whose name constraints are malformed"
        }
        "CertDistrusted" => "has a key that is distrusted",
        "UnsupportedCrlIssuingDistributionPoint" | "UnsupportedRevocationReasonsPartitioning" => {
            "may be revoked: the revocation list of its CA has a form that is not supported"
        }
        "PathLenConstraintViolated" => "has more CAs above it than one of them allows",
        "NameConstraintViolation" => "has a name that its CA must not certify",
        "EmptyEkuExtension" => "has an extended key usage without a purpose",
        "InvalidSerialNumber" => "has a serial number that is negative or too long",
        "SignatureAlgorithmMismatch" => "names two different signature algorithms",
        "MalformedExtensions" | "ExtensionValueInvalid" => "has a malformed extension",
        "MalformedDnsIdentifier" => "has a malformed DNS name",
        "MaximumPathBuildCallsExceeded"
        | "MaximumPathDepthExceeded"
        | "MaximumSignatureChecksExceeded"
        | "MaximumNameConstraintComparisonsExceeded" => {
            "has too many certificates above it to be verified"
        }
        _ => "is not valid",
    }
}

/// Why a certificate revocation list cannot be used.
pub(super) fn list_cause(error: &CertRevocationListError) -> &'static str {
    match error {
        CertRevocationListError::BadSignature => {
            "its signature does not verify with the key of its CA"
        }
        CertRevocationListError::UnsupportedSignatureAlgorithmContext { .. }
        | CertRevocationListError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "it is signed with an algorithm that is not supported"
        }
        CertRevocationListError::InvalidCrlNumber => "its number is malformed or too long",
        CertRevocationListError::InvalidRevokedCertSerialNumber => {
            "it has a serial number that is malformed"
        }
        CertRevocationListError::IssuerInvalidForCrl => {
            "its CA's certificate is not for signing revocation lists (key usage cRLSign)"
        }
        CertRevocationListError::ParseError => "it is damaged",
        CertRevocationListError::UnsupportedCrlVersion => {
            "it has version 1; version 2 is needed, which openssl makes with crl_extensions or \
             crlnumber in its configuration"
        }
        CertRevocationListError::UnsupportedCriticalExtension => {
            "it has an extension that is critical and not supported"
        }
        CertRevocationListError::UnsupportedDeltaCrl => {
            "it has only the changes since another list (a delta CRL); a whole list is needed"
        }
        CertRevocationListError::UnsupportedIndirectCrl => {
            "it is an indirect CRL, with certificates of several CAs"
        }
        CertRevocationListError::UnsupportedRevocationReason => {
            "it has a reason of revocation that is not known"
        }
        _ => "it has a form that is not supported",
    }
}

/// The date as logs have it.
pub(crate) fn date(time: UnixTime) -> String {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs())) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string(),
        None => "long after".to_owned(),
    }
}

/// The names, as many as fit on a line. webpki gives them as Rust prints them.
fn names(presented: &[String]) -> String {
    let name = |name: &String| -> String {
        let inner = name.split_once("(\"").and_then(|(_, rest)| rest.strip_suffix("\")"));
        let inner = inner.or_else(|| name.split_once('(').and_then(|(_, x)| x.strip_suffix(')')));
        let shown = inner.unwrap_or(name).chars().filter(|c| !c.is_control()).take(100);
        shown.collect()
    };
    let mut shown: Vec<String> = presented.iter().take(NAMES).map(name).collect();
    if presented.len() > NAMES {
        shown.push(format!("{} more", presented.len() - NAMES));
    }
    shown.join(", ")
}

/// What the certificate is for, behind a comma, if it says so.
fn purposes(presented: &[ExtendedKeyPurpose]) -> String {
    let name = |purpose: &ExtendedKeyPurpose| match purpose {
        ExtendedKeyPurpose::ClientAuth => "clients".to_owned(),
        ExtendedKeyPurpose::ServerAuth => "servers".to_owned(),
        ExtendedKeyPurpose::Other(oid) => {
            oid.iter().map(ToString::to_string).collect::<Vec<_>>().join(".")
        }
    };
    match presented.is_empty() {
        true => String::new(),
        false => {
            let all: Vec<_> = presented.iter().take(NAMES).map(name).collect();
            format!(", but for {}", all.join(", "))
        }
    }
}
