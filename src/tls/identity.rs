//! The server's certificate and key: read from PEM files, or made in memory.

use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tracing::info;

use crate::config::Identity;
use crate::error::StartError;
use crate::tls::pem;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A certificate chain, the server's own first, and its key.
pub(super) struct Credentials {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

/// Reads or makes what `identity` asks for, and logs the certificate's fingerprint, which is what
/// people compare when they cannot verify.
pub(super) fn load(identity: &Identity) -> Result<Credentials, StartError> {
    let credentials = match identity {
        Identity::SelfSigned => self_signed(SystemTime::now())?,
        Identity::Files { cert, key } => Credentials {
            chain: pem::certificates("--cert", cert)?,
            key: pem::private_key("--key", key)?,
        },
    };
    let sha256 = fingerprint(&credentials.chain[0]);
    match identity {
        Identity::SelfSigned => info!(%sha256, "Made a self-signed certificate"),
        Identity::Files { cert, .. } => {
            info!(%sha256, "Read the certificate {}", cert.display());
        }
    }
    Ok(credentials)
}

/// What to say of a pair that rustls refuses.
pub(super) fn unusable(identity: &Identity, error: &rustls::Error) -> StartError {
    match identity {
        Identity::SelfSigned => StartError::SelfSigned(error.to_string()),
        Identity::Files { cert, key } => StartError::Identity {
            flag: "--key",
            path: key.clone(),
            reason: match error {
                rustls::Error::InconsistentKeys(_) => {
                    format!("not the key of the certificate in {}", cert.display())
                }
                rustls::Error::InvalidCertificate(error) => {
                    format!("the certificate in {} is not valid: {error}", cert.display())
                }
                other => format!("unusable with {}: {other}", cert.display()),
            },
        },
    }
}

/// A certificate for the names that this machine answers to, valid for a year.
fn self_signed(now: SystemTime) -> Result<Credentials, StartError> {
    let failed = |error: rcgen::Error| StartError::SelfSigned(error.to_string());
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(host_name().filter(|name| name != "localhost"));
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "echo-server self-signed");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // A day of room for clients whose clocks are behind.
    params.not_before = (now - DAY).into();
    params.not_after = (now + 365 * DAY).into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(Credentials {
        chain: vec![certificate.der().clone()],
        key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
    })
}

/// The host's name, if a certificate can carry it.
fn host_name() -> Option<String> {
    let name = gethostname::gethostname().into_string().ok()?;
    let is_dns = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    (!name.is_empty() && name.chars().all(is_dns)).then_some(name)
}

/// SHA-256 in the notation of `openssl x509 -fingerprint -sha256`.
fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = digest::digest(&digest::SHA256, certificate);
    let pairs: Vec<_> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}
