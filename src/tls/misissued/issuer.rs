//! A CA that signs certificates.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    PublicKeyData,
};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{Signer, SigningKey};
use tokio_rustls::rustls::{Error, SignatureScheme};
use x509_parser::asn1_rs::{Any, FromBer};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

use crate::config::Credentials;
use crate::error::{BoxError, Credential, CredentialError};
use crate::tls::files::Reader;
use crate::tls::identity;

/// How keys sign certificates, by the names of rustls and of rcgen. Signatures in TLS have the form
/// of those in certificates (RFC 8446 section 4.2.3).
static ALGORITHMS: [(SignatureScheme, &rcgen::SignatureAlgorithm); 5] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
    (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
    (SignatureScheme::ECDSA_NISTP521_SHA512, &rcgen::PKCS_ECDSA_P521_SHA512),
    (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
    (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
];

/// A CA.
#[derive(Debug)]
pub(super) struct Issuer {
    /// Its name, as the DER of its certificate has it.
    name: Vec<u8>,
    /// The identifier of its key, if its certificate has one.
    key_id: Option<Vec<u8>>,
    signer: Box<dyn Signer>,
    algorithm: &'static rcgen::SignatureAlgorithm,
    /// What a server has to send behind a certificate that the CA has signed.
    chain: Vec<CertificateDer<'static>>,
}

impl Issuer {
    /// Reads a CA and its key, and checks that clients will take what it signs.
    pub(super) fn read(
        reader: &Reader,
        credentials: &Credentials,
        provider: &CryptoProvider,
    ) -> Result<Self, CredentialError> {
        let certified = identity::certified_from(reader, credentials, &[], provider)
            .map_err(|error| CredentialError { credential: Credential::FaultCa, ..error })?;
        let (mut chain, key) = (certified.cert, certified.key);
        let ca = chain[0].clone();
        // Clients have the certificate of a root themselves.
        chain.retain(|one| !is_self_issued(one));
        Issuer::new(&ca, key, chain).map_err(|problem| {
            CredentialError::new(Credential::FaultCa, &credentials.chain, problem)
        })
    }

    /// Makes a CA, which sends its certificate along. It has a new key, so that nobody knows it.
    pub(super) fn make(name: &str, provider: &CryptoProvider) -> Result<Self, BoxError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let ca = params.self_signed(&key)?.der().clone();
        let key = load(&key, provider)?;
        Issuer::new(&ca, key, vec![ca.clone()]).map_err(BoxError::from)
    }

    fn new(
        ca: &CertificateDer<'_>,
        key: Arc<dyn SigningKey>,
        chain: Vec<CertificateDer<'static>>,
    ) -> Result<Self, &'static str> {
        let Ok((_, ca)) = X509Certificate::from_der(ca) else { return Err("it is damaged") };
        if !ca.is_ca() {
            return Err("the certificate is not that of a CA: its basicConstraints lack CA:TRUE");
        }
        if ca.key_usage().is_ok_and(|usage| usage.is_some_and(|usage| !usage.value.key_cert_sign()))
        {
            return Err("the CA may not sign certificates: its keyUsage lacks keyCertSign");
        }
        let key_id =
            ca.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
        let mut signers = ALGORITHMS.iter().filter_map(|(scheme, algorithm)| {
            key.choose_scheme(&[*scheme]).map(|signer| (signer, *algorithm))
        });
        let (signer, algorithm) = signers.next().ok_or("its key cannot sign certificates")?;
        Ok(Issuer { name: ca.subject().as_raw().to_vec(), key_id, signer, algorithm, chain })
    }

    /// The CA without anything to send along.
    pub(super) fn alone(self) -> Self {
        Issuer { chain: Vec::new(), ..self }
    }

    /// A certificate for `key`, and behind it what a server has to send along.
    pub(super) fn sign(
        &self,
        mut params: CertificateParams,
        key: &KeyPair,
    ) -> Result<Vec<CertificateDer<'static>>, BoxError> {
        let mut issuer = CertificateParams::default();
        if let Some(id) = &self.key_id {
            issuer.key_identifier_method = KeyIdMethod::PreSpecified(id.clone());
            params.use_authority_key_identifier_extension = true;
        }
        let issuer = rcgen::Issuer::from_params(&issuer, NoSignature(self.algorithm));
        let draft = params.signed_by(key, &issuer)?;
        let certificate = self.finish(draft.der()).ok_or("no certificate was made")??;
        Ok([&[certificate], &self.chain[..]].concat())
    }

    /// Puts the name of the CA into a certificate (RFC 5280 section 4.1) that has another issuer and
    /// no signature, and signs it. rcgen cannot write each name: of several components of one kind,
    /// such as DC=example,DC=com, it keeps one. `None`: it is no certificate.
    fn finish(&self, draft: &[u8]) -> Option<Result<CertificateDer<'static>, Error>> {
        let tbs = Any::from_ber(Any::from_ber(draft).ok()?.1.data).ok()?.1.data;
        let behind = |element: &'_ [u8]| Some(tbs.len() - Any::from_ber(element).ok()?.0.len());
        let serial = behind(tbs)?;
        let algorithm = behind(&tbs[serial..])?;
        let issuer = behind(&tbs[algorithm..])?;
        let validity = behind(&tbs[issuer..])?;
        let signed = sequence(&[&tbs[..issuer], &self.name, &tbs[validity..]]);
        Some(self.signer.sign(&signed).map(|signature| {
            // A BIT STRING has the number of its unused bits first.
            let signature = element(0x03, &[&[0], &signature]);
            sequence(&[&signed, &tbs[algorithm..issuer], &signature]).into()
        }))
    }
}

/// The key of `pair` as rustls signs with it.
pub(super) fn load(
    pair: &KeyPair,
    provider: &CryptoProvider,
) -> Result<Arc<dyn SigningKey>, Error> {
    let key = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
    provider.key_provider.load_private_key(key)
}

fn is_self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate)
        .is_ok_and(|(_, one)| one.subject().as_raw() == one.issuer().as_raw())
}

fn sequence(content: &[&[u8]]) -> Vec<u8> {
    element(0x30, content)
}

/// An element in DER, with its tag and length (X.690 section 8.1).
fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let mut whole = vec![tag];
    match length {
        [] => whole.push(0),
        [short] if *short < 0x80 => whole.push(*short),
        long => {
            whole.push(0x80 | long.len() as u8);
            whole.extend_from_slice(long);
        }
    }
    whole.extend_from_slice(&content);
    whole
}

/// Has rcgen write a certificate without a signature.
struct NoSignature(&'static rcgen::SignatureAlgorithm);

impl PublicKeyData for NoSignature {
    fn der_bytes(&self) -> &[u8] {
        &[]
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.0
    }
}

impl rcgen::SigningKey for NoSignature {
    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}
