//! Private keys: what rustls can sign with, and in words what it cannot, and why.

use std::sync::Arc;

use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::sign::SigningKey;
use x509_parser::asn1_rs::{Any, Tag};

use super::forms::{children, elements, file_name, oid};
use crate::config::Source;
use crate::error::{Credential, CredentialError};

/// The key as rustls signs with it.
pub(super) fn load(
    source: &Source,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, CredentialError> {
    let problem = problem(&key, source);
    provider.key_provider.load_private_key(key).map_err(|error| {
        let refused = CredentialError::new(Credential::Key, source, problem);
        CredentialError { source: Some(error.into()), ..refused }
    })
}

/// Why rustls would refuse `key`, with a cure.
fn problem(key: &PrivateKeyDer<'_>, source: &Source) -> String {
    let file = file_name(source);
    let no_such = |kind: &str| {
        format!(
            "it is {kind}; this server takes RSA keys of 2048 to 8192 bits, EC keys on P-256, P-384 \
             and P-521, and Ed25519: make a new key and certificate"
        )
    };
    match Kind::of(key) {
        Some(Kind::Rsa(bits)) if !(2048..=8192).contains(&bits) => {
            no_such(&format!("an RSA key of {bits} bits"))
        }
        Some(Kind::Curve(oid)) if !matches!(&*oid, P256 | P384 | P521) => {
            no_such(&format!("an EC key on {}", curve_name(&oid)))
        }
        Some(Kind::ExplicitCurve(true)) => format!(
            "it is an EC key that spells its curve out; name the curve: \
             openssl ec -in {file} -param_enc named_curve -out {file}.pem"
        ),
        Some(Kind::ExplicitCurve(false)) => no_such("an EC key that spells another curve out"),
        Some(Kind::Other(oid)) => match algorithm_name(&oid) {
            Some(name) => no_such(name),
            None => no_such(&format!("a key of the algorithm {oid}")),
        },
        _ => format!("the key is damaged; its numbers do not fit: openssl pkey -in {file} -check"),
    }
}

const P256: &str = "1.2.840.10045.3.1.7";
const P384: &str = "1.3.132.0.34";
const P521: &str = "1.3.132.0.35";

/// The kind of a private key.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// RSA, and the bits of its modulus.
    Rsa(usize),
    /// An EC key on the curve with this object identifier.
    Curve(String),
    /// An EC key whose curve is given by its parameters, and whether that curve is one of those that
    /// this server takes by name.
    ExplicitCurve(bool),
    /// The object identifier of another algorithm.
    Other(String),
}

impl Kind {
    /// `None` if the key cannot be read.
    fn of(key: &PrivateKeyDer<'_>) -> Option<Kind> {
        match key {
            PrivateKeyDer::Pkcs1(key) => Kind::of_pkcs1(key.secret_pkcs1_der()),
            PrivateKeyDer::Sec1(key) => {
                let parts = children(key.secret_sec1_der())?;
                // The parameters are tagged [0], and may be missing.
                let parameters = parts.iter().find(|any| any.tag() == Tag(0))?;
                Kind::of_parameters(elements(parameters.data)?.first()?)
            }
            PrivateKeyDer::Pkcs8(key) => {
                let parts = children(key.secret_pkcs8_der())?;
                let algorithm = elements(parts.get(1)?.data)?;
                match oid(algorithm.first()?)? {
                    rsa if rsa == "1.2.840.113549.1.1.1" => Kind::of_pkcs1(parts.get(2)?.data),
                    ec if ec == "1.2.840.10045.2.1" => Kind::of_parameters(algorithm.get(1)?),
                    ed25519 if ed25519 == "1.3.101.112" => None,
                    other => Some(Kind::Other(other)),
                }
            }
            _ => None,
        }
    }

    fn of_pkcs1(der: &[u8]) -> Option<Kind> {
        let parts = children(der)?;
        let modulus = parts.get(1)?.data;
        let leading = modulus.iter().position(|byte| *byte != 0)?;
        let modulus = &modulus[leading..];
        Some(Kind::Rsa(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize))
    }

    fn of_parameters(parameters: &Any<'_>) -> Option<Kind> {
        match parameters.tag() {
            Tag::Oid => oid(parameters).map(Kind::Curve),
            Tag::Sequence => Some(Kind::ExplicitCurve(is_taken(parameters) == Some(true))),
            _ => None,
        }
    }
}

/// Whether the parameters of a curve (SEC1 section C.2) have the prime of P-256, P-384 or P-521.
fn is_taken(parameters: &Any<'_>) -> Option<bool> {
    let field = elements(elements(parameters.data)?.get(1)?.data)?;
    let prime = field.get(1)?.data;
    let prime = prime.strip_prefix(&[0]).unwrap_or(prime);
    let ones = prime.iter().take_while(|byte| **byte == 0xFF).count();
    // The primes are 2^256 - 2^224 + …, 2^384 - 2^128 - …, and 2^521 - 1.
    Some(match (prime.len(), ones) {
        (32, 4) => prime[4..8] == [0, 0, 0, 1],
        (48, 31) => prime[31] == 0xFE,
        (66, 0) => prime[0] == 1,
        _ => false,
    })
}

fn curve_name(oid: &str) -> String {
    let known = match oid {
        "1.3.132.0.10" => "secp256k1",
        "1.3.132.0.33" => "P-224",
        "1.2.840.10045.3.1.1" => "P-192",
        "1.3.132.0.31" => "secp192k1",
        "1.3.132.0.32" => "secp224k1",
        "1.3.36.3.3.2.8.1.1.1" => "brainpoolP160r1",
        "1.3.36.3.3.2.8.1.1.2" => "brainpoolP160t1",
        "1.3.36.3.3.2.8.1.1.3" => "brainpoolP192r1",
        "1.3.36.3.3.2.8.1.1.4" => "brainpoolP192t1",
        "1.3.36.3.3.2.8.1.1.5" => "brainpoolP224r1",
        "1.3.36.3.3.2.8.1.1.6" => "brainpoolP224t1",
        "1.3.36.3.3.2.8.1.1.7" => "brainpoolP256r1",
        "1.3.36.3.3.2.8.1.1.8" => "brainpoolP256t1",
        "1.3.36.3.3.2.8.1.1.9" => "brainpoolP320r1",
        "1.3.36.3.3.2.8.1.1.10" => "brainpoolP320t1",
        "1.3.36.3.3.2.8.1.1.11" => "brainpoolP384r1",
        "1.3.36.3.3.2.8.1.1.12" => "brainpoolP384t1",
        "1.3.36.3.3.2.8.1.1.13" => "brainpoolP512r1",
        "1.3.36.3.3.2.8.1.1.14" => "brainpoolP512t1",
        "1.2.156.10197.1.301" => "SM2's curve",
        other => return format!("the curve {other}"),
    };
    known.to_owned()
}

fn algorithm_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "1.2.840.113549.1.1.10" => "an RSA key for PSS signatures only",
        "1.3.101.113" => "an Ed448 key",
        "1.3.101.110" => "an X25519 key, which cannot sign",
        "1.3.101.111" => "an X448 key, which cannot sign",
        "1.2.840.10040.4.1" => "a DSA key",
        "1.2.840.113549.1.3.1" => "a Diffie-Hellman key, which cannot sign",
        _ if oid.starts_with("2.16.840.1.101.3.4.3.") => "a key of a post-quantum signature",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::asn1_rs::FromBer;

    use super::*;

    #[test]
    fn only_the_primes_of_the_curves_taken_are_known() {
        // FieldID of SEC1 section C.2: the kind of the field, and its prime.
        let taken = |prime: &[u8]| {
            let sequence = |content: &[u8]| [&[0x30, content.len() as u8][..], content].concat();
            let number = [&[2, prime.len() as u8][..], prime].concat();
            let field = sequence(&[&[6, 1, 1][..], &number].concat());
            let parameters = sequence(&[&[2, 1, 1][..], &field].concat());
            is_taken(&Any::from_ber(&parameters).unwrap().1)
        };
        let p256 = [&[0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1][..], &[0; 12], &[0xFF; 12]].concat();
        let low = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF];
        let p384 = [&[0][..], &[0xFF; 31], &[0xFE], &low].concat();
        let p521 = [&[1][..], &[0xFF; 65]].concat();
        for prime in [p256, p384, p521] {
            assert_eq!(taken(&prime), Some(true), "{prime:?}");
        }
        let secp256k1 = [&[0][..], &[0xFF; 27], &[0xFE, 0xFF, 0xFF, 0xFC, 0x2F]].concat();
        let brainpool = [&[0, 0xA9, 0xFB][..], &[1; 30]].concat();
        for prime in [secp256k1, brainpool] {
            assert_eq!(taken(&prime), Some(false), "{prime:?}");
        }
    }
}
