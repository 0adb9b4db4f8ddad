//! A private CA with a certificate for a server and one for a client, made in memory.
//!
//! This room touches no file, and knows no server: whoever wants files writes them.

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
/// 397 days, which is what browsers accept. Both ends count (RFC 5280 section 4.1.2.5).
const LEAF_VALIDITY: Duration = Duration::from_secs(397 * DAY.as_secs() - 1);

/// A CA, and what it has signed.
pub struct Certificates {
    /// The CA. It may sign for servers and clients, but no further CA.
    pub ca: Pair,
    /// A server's. Its certificate is the whole chain: whoever trusts the CA has the rest.
    pub server: Pair,
    /// A client's, for servers that ask for one.
    pub client: Pair,
}

/// A certificate and its private key, each as PEM (RFC 7468).
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Until when it is valid.
    pub expires: SystemTime,
    /// The key: ECDSA P-256 in PKCS#8, not encrypted.
    pub key: String,
}

/// Why no certificates could be made.
#[derive(Debug, thiserror::Error)]
#[error("no certificates could be made: {0}")]
pub struct CertsError(#[from] rcgen::Error);

/// Makes a new CA that is valid for ten years, and has it sign a server's and a client's
/// certificate, each for `names` and for 397 days. All are valid from a day before `now`.
///
/// # Errors
/// The system has no randomness for a key.
pub fn issue(names: &[Name], now: SystemTime) -> Result<Certificates, CertsError> {
    let mut params = params("echo-server CA", now, CA_VALIDITY);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let ca = pair(&params, &params.self_signed(&key)?, &key);
    let issuer = Issuer::new(params, key);
    // A subject with a space is no host name, so that nobody takes it for one.
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
    // It says CA:FALSE, and has a subject key identifier, which strict verifiers ask for.
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    Ok(pair(&params, &params.signed_by(&key, issuer)?, &key))
}

/// What all have in common. The serial number is left to rcgen, which takes 159 bits of a hash of
/// the key: as random as the key, which is new.
fn params(subject: &str, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject);
    // A day of room for verifiers whose clocks are behind.
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
