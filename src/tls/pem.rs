//! PEM (RFC 7468): certificates, private keys, revocation lists, from files or from memory.

use std::borrow::Cow;

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
    let items = rustls_pemfile::read_all(&mut bytes.as_ref()).collect::<Result<Vec<_>, _>>();
    let damage = damage(&bytes);
    match (items, damage) {
        (Ok(items), None) => Ok(items),
        // Comments around the sections may look like damage. What could be read counts.
        (Ok(items), Some(_)) if !items.is_empty() => Ok(items),
        // The reader's own message can quote the invalid line, which may be part of a private key.
        (_, Some(damage)) => {
            Err(CredentialError::new(credential, source, format!("not valid PEM: {damage}")))
        }
        (Err(_), None) => {
            let problem = "not valid PEM: its base64 is not valid, or too long";
            Err(CredentialError::new(credential, source, problem))
        }
    }
}

/// What damage the PEM text has, in words that quote nothing of it, since it may be a private key.
/// `None` if there is none, or none that can be told.
fn damage(text: &[u8]) -> Option<&'static str> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const DASHES: &[u8] = b"-----";
    if text.starts_with(&[0xFF, 0xFE]) || text.starts_with(&[0xFE, 0xFF]) {
        return Some("it is UTF-16, and PEM is ASCII");
    }
    let mut section = None;
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')).map(<[u8]>::trim_ascii_end) {
        let Some(at) = find(line, BEGIN) else {
            match line.strip_prefix(b"-----END ") {
                Some(rest) if section == Some(rest) => section = None,
                Some(_) if section.is_some() => {
                    return Some("its -----BEGIN and -----END lines do not match");
                }
                _ => {}
            }
            continue;
        };
        if section.is_some() {
            break;
        }
        let rest = &line[at + BEGIN.len()..];
        let Some(label) = find(rest, DASHES) else {
            return Some("its -----BEGIN line does not end with five dashes");
        };
        let behind = &rest[label + DASHES.len()..];
        if behind.starts_with(b"\\n") || behind.starts_with(b"\\r") {
            return Some("its line breaks are written as a backslash and a letter");
        }
        if !behind.is_empty() {
            return Some("its line breaks are lost: -----BEGIN … and the base64 are on one line");
        }
        if at > 0 {
            return Some("its -----BEGIN is not at the beginning of a line");
        }
        section = Some(rest);
    }
    match section {
        Some(_) => Some("its -----END line is missing, as in a truncated file"),
        None => None,
    }
}

/// The index at which `part` begins in `whole`.
fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    whole.windows(part.len()).position(|window| window == part)
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
    fn the_kind_of_damage_is_told() {
        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\nBBBB\n-----END PRIVATE KEY-----\n";
        for (damaged, kind) in [
            (key.replace('\n', ""), "its line breaks are lost: -----BEGIN … and the base64 are"),
            (key.replace('\n', " "), "its line breaks are lost"),
            (key.replace('\n', "\\n"), "its line breaks are written as a backslash and a letter"),
            (key.replace("KEY-----\nA", "KEY\nA"), "its -----BEGIN line does not end with five"),
            (key.replace("-----\nA", "----\nA"), "its -----BEGIN line does not end with five"),
            (key.replace("-----BEGIN", "  -----BEGIN"), "its -----BEGIN is not at the beginning"),
            (key[..40].to_owned(), "its -----END line is missing"),
            (key.replace("BBBB\n", "BBBB"), "its -----END line is missing"),
            (key.replace("END PRIVATE", "END RSA PRIVATE"), "-----END lines do not match"),
            (key.replace("AAAA", "A*AA"), "its base64 is not valid"),
            (String::new(), "no PEM private key"),
        ] {
            let error = private_key(&Source::memory(&damaged)).unwrap_err();
            let (shown, debugged) = (error.to_string(), format!("{error:?}"));
            assert!(shown.contains(kind), "{damaged:?}: {shown}");
            for text in [shown, debugged] {
                assert!(!text.contains("AAA") && !text.contains("BBB"), "{damaged:?}: {text}");
            }
        }
        for sound in [key.to_owned(), key.replace('\n', "\r\n"), format!("# a comment\n{key}")] {
            assert!(private_key(&Source::memory(&sound)).is_ok(), "{sound:?}");
        }
    }

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
