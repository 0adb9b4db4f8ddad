//! Makes a private CA, and certificates for a server and a client that it has signed, in memory.
//!
//! This module writes no files and does not depend on the server.

mod name;

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};

pub(crate) use name::alternative_names;
pub use name::{Name, NameError};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const CA_VALIDITY: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// 397 days, the longest that browsers accept. One second less, because the period includes both
/// ends (RFC 5280 section 4.1.2.5).
const LEAF_VALIDITY: Duration = Duration::from_secs(397 * DAY.as_secs() - 1);

/// A CA, and the certificates that it has signed.
pub struct Certificates {
    /// The CA. It may sign certificates for servers and clients, but no further CA.
    pub ca: Pair,
    /// The server's certificate. It needs no chain, since the CA has signed it directly.
    pub server: Pair,
    /// A client certificate, for servers that ask for one.
    pub client: Pair,
}

/// A certificate and its private key, each as PEM (RFC 7468).
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The end of its validity.
    pub expires: SystemTime,
    /// The key: ECDSA P-256 in PKCS#8, not encrypted.
    pub key: String,
}

/// Why no certificates could be made.
#[derive(Debug, thiserror::Error)]
#[error("could not make the certificates: {0}")]
pub struct CertsError(#[from] rcgen::Error);

/// Makes a new CA, and certificates for a server and a client that it signs for `names`. The CA is
/// valid for ten years, the others for 397 days; all are valid from a day before `now`.
///
/// # Errors
/// A key could not be generated, because the system's random number generator failed.
pub fn issue(names: &[Name], now: SystemTime) -> Result<Certificates, CertsError> {
    let mut params = params("echo-server CA", now, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca = pair(&params, &params.self_signed(&key)?, &key);
    let issuer = Issuer::new(params, key);
    // With a space in it, no verifier can mistake the subject for a host name.
    let server =
        leaf("echo-server server", names, ExtendedKeyUsagePurpose::ServerAuth, now, &issuer)?;
    let client =
        leaf("echo-server client", names, ExtendedKeyUsagePurpose::ClientAuth, now, &issuer)?;
    Ok(Certificates { ca, server, client })
}

fn leaf(
    subject: &str,
    names: &[Name],
    purpose: ExtendedKeyUsagePurpose,
    now: SystemTime,
    issuer: &Issuer<'_, KeyPair>,
) -> Result<Pair, CertsError> {
    let mut params = params(subject, now, LEAF_VALIDITY);
    params.subject_alt_names = alternative_names(names);
    // This adds CA:FALSE and a subject key identifier, which strict verifiers require.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(pair(&params, &params.signed_by(&key, issuer)?, &key))
}

/// The parameters that all certificates share. rcgen derives the serial number from a hash of the
/// key, which is new, so the number is random.
fn params(subject: &str, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    // Clocks of verifiers may be up to a day behind.
    let not_before = now - DAY;
    params.not_before = not_before.into();
    params.not_after = (not_before + validity).into();
    params
}

fn pair(params: &CertificateParams, certificate: &Certificate, key: &KeyPair) -> Pair {
    Pair {
        certificate: certificate.pem(),
        expires: params.not_after.into(),
        key: key.serialize_pem(),
    }
}
