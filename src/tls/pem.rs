//! PEM (RFC 7468): certificates, private keys, revocation lists, from files or from memory.

use std::borrow::Cow;
use std::io;

use data_encoding::BASE64;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};

use crate::config::Source;
use crate::error::{Credential, CredentialError};

/// The certificates in `source`; none at all is an error.
pub(crate) fn certificates(
    credential: Credential,
    source: &Source,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let items = read_pem(credential, source)?.into_iter();
    let certificates: Vec<_> = items
        .filter_map(|item| match item {
            rustls_pemfile::Item::X509Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(CredentialError::new(credential, source, "no PEM certificate in it"));
    }
    Ok(certificates)
}

/// The first private key in `source`.
pub(crate) fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let key = read_pem(Credential::Key, source)?.into_iter().find_map(|item| match item {
        rustls_pemfile::Item::Pkcs8Key(key) => Some(key.into()),
        rustls_pemfile::Item::Pkcs1Key(key) => Some(key.into()),
        rustls_pemfile::Item::Sec1Key(key) => Some(key.into()),
        _ => None,
    });
    key.ok_or_else(|| {
        let problem = "no PEM private key in it (PKCS#8, PKCS#1 or SEC1, not encrypted)";
        CredentialError::new(Credential::Key, source, problem)
    })
}

/// The certificate revocation lists in `source`; none at all is an error.
pub(crate) fn revocation_lists(
    source: &Source,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
    let items = read_pem(Credential::Crl, source)?.into_iter();
    let lists: Vec<_> = items
        .filter_map(|item| match item {
            rustls_pemfile::Item::Crl(list) => Some(list),
            _ => None,
        })
        .collect();
    if lists.is_empty() {
        let problem = "no PEM certificate revocation list in it";
        return Err(CredentialError::new(Credential::Crl, source, problem));
    }
    Ok(lists)
}

/// The content of `source`.
pub(crate) fn bytes(
    credential: Credential,
    source: &Source,
) -> Result<Cow<'_, [u8]>, CredentialError> {
    match source {
        Source::Memory(bytes) => Ok(Cow::Borrowed(bytes)),
        Source::File(path) => std::fs::read(path)
            .map(Cow::Owned)
            .map_err(|error| CredentialError::caused_by(credential, source, error)),
    }
}

/// The only function that reads PEM. rustls-pemfile is now a thin layer over the PEM reader of
/// rustls-pki-types; only this function would have to change to drop it.
fn read_pem(
    credential: Credential,
    source: &Source,
) -> Result<Vec<rustls_pemfile::Item>, CredentialError> {
    let bytes = bytes(credential, source)?;
    let items = rustls_pemfile::read_all(&mut bytes.as_ref()).collect::<Result<_, io::Error>>();
    // The reader's own message can quote the invalid line, which may be part of a private key.
    items.map_err(|_| CredentialError::new(credential, source, "not valid PEM"))
}

/// A certificate as PEM: base64 in lines of 64 characters (RFC 7468 section 2).
pub(crate) fn encode_certificate(der: &[u8]) -> String {
    let base64 = BASE64.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in base64.as_bytes().chunks(64) {
        pem.extend(line.iter().copied().map(char::from));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        for length in [1, 47, 48, 49, 1000] {
            let der: Vec<u8> = (0..length).map(|i| i as u8).collect();
            let pem = encode_certificate(&der);
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            let read = certificates(Credential::Chain, &Source::memory(pem)).unwrap();
            assert_eq!(read, [CertificateDer::from(der)]);
        }
    }
}
