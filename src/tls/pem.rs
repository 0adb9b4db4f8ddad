//! PEM files: certificates, private keys, revocation lists.

use std::path::Path;

use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};

use crate::error::StartError;

/// The certificates in `path`, of which there is at least one. `flag` is what named the file.
pub(crate) fn certificates(
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, StartError> {
    let certificates: Vec<_> = read_pem(flag, path)?
        .into_iter()
        .filter_map(|item| match item {
            rustls_pemfile::Item::X509Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(refuse(flag, path, "no PEM certificate in it"));
    }
    Ok(certificates)
}

/// The first private key in `path`. `flag` is what named the file.
pub(crate) fn private_key(
    flag: &'static str,
    path: &Path,
) -> Result<PrivateKeyDer<'static>, StartError> {
    let key = read_pem(flag, path)?.into_iter().find_map(|item| match item {
        rustls_pemfile::Item::Pkcs8Key(key) => Some(key.into()),
        rustls_pemfile::Item::Pkcs1Key(key) => Some(key.into()),
        rustls_pemfile::Item::Sec1Key(key) => Some(key.into()),
        _ => None,
    });
    key.ok_or_else(|| {
        refuse(flag, path, "no PEM private key in it (PKCS#8, PKCS#1 or SEC1, not encrypted)")
    })
}

/// The certificate revocation lists in `path`, of which there is at least one.
pub(crate) fn revocation_lists(
    flag: &'static str,
    path: &Path,
) -> Result<Vec<CertificateRevocationListDer<'static>>, StartError> {
    let lists: Vec<_> = read_pem(flag, path)?
        .into_iter()
        .filter_map(|item| match item {
            rustls_pemfile::Item::Crl(list) => Some(list),
            _ => None,
        })
        .collect();
    if lists.is_empty() {
        return Err(refuse(flag, path, "no PEM certificate revocation list in it"));
    }
    Ok(lists)
}

/// The one place that reads PEM. rustls-pemfile is a shell over the PEM reader of
/// rustls-pki-types by now: whoever replaces it has this function to change.
fn read_pem(flag: &'static str, path: &Path) -> Result<Vec<rustls_pemfile::Item>, StartError> {
    let bytes = std::fs::read(path).map_err(|error| refuse(flag, path, &error.to_string()))?;
    rustls_pemfile::read_all(&mut bytes.as_slice())
        .collect::<Result<_, _>>()
        .map_err(|error| refuse(flag, path, &format!("not valid PEM: {error}")))
}

fn refuse(flag: &'static str, path: &Path, reason: &str) -> StartError {
    StartError::Identity { flag, path: path.to_owned(), reason: reason.to_owned() }
}
