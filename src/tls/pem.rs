//! Certificates, private keys and revocation lists, from files or from memory: PEM (RFC 7468), also
//! as Windows' editors and older tools write it, or DER.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use data_encoding::BASE64;
use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::forms;
use crate::config::Source;
use crate::error::{Credential, CredentialError};

/// The certificates in `source`; none at all is an error.
pub(crate) fn certificates(
    credential: Credential,
    source: &Source,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    if let Source::File(path) = source
        && credential == Credential::ServerCa
        && path.is_dir()
    {
        return directory(credential, source, path);
    }
    select(credential, source, |item| match item {
        Item::X509Certificate(certificate) => Some(without_trust(certificate)),
        _ => None,
    })
}

/// Whether `source` is a directory of certificates.
pub(crate) fn is_directory(source: &Source) -> bool {
    source.path().is_some_and(Path::is_dir)
}

/// The certificates in the files of a directory, each once. Files without any are ignored.
fn directory(
    credential: Credential,
    source: &Source,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let unreadable = |error| CredentialError::caused_by(credential, source, error);
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        // A link may lead to a file, as those of `openssl rehash` do, or nowhere.
        if file.is_file() {
            let read = certificates(credential, &Source::from(file)).unwrap_or_default();
            found.extend(read.into_iter().map(|certificate| certificate.to_vec()));
        }
    }
    if found.is_empty() {
        return Err(CredentialError::new(credential, source, "no file in it has a certificate"));
    }
    Ok(found.into_iter().map(CertificateDer::from).collect())
}

/// The first private key in `source`.
pub(crate) fn private_key(source: &Source) -> Result<PrivateKeyDer<'static>, CredentialError> {
    let keys = select(Credential::Key, source, |item| {
        let key: PrivateKeyDer<'static> = match item {
            Item::Pkcs8Key(key) => key.into(),
            Item::Pkcs1Key(key) => key.into(),
            Item::Sec1Key(key) => key.into(),
            _ => return None,
        };
        // Some tools write PKCS#8 under the label of another form.
        Some(forms::private_key(key.secret_der()).unwrap_or(key))
    })?;
    Ok(keys.into_iter().next().expect("there is one"))
}

/// The certificate revocation lists in `source`; none at all is an error.
pub(crate) fn revocation_lists(
    source: &Source,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
    select(Credential::Crl, source, |item| match item {
        Item::Crl(list) => Some(list),
        _ => None,
    })
}

/// Whether `source` holds a private key.
pub(super) fn has_key(source: &Source) -> bool {
    bytes(Credential::Chain, source)
        .and_then(|bytes| read(Credential::Chain, source, &decode(&bytes)))
        .is_ok_and(|items| forms::has_key(&items))
}

/// Whether `source` holds a certificate.
pub(super) fn has_certificate(source: &Source) -> bool {
    bytes(Credential::Key, source)
        .and_then(|bytes| read(Credential::Key, source, &decode(&bytes)))
        .is_ok_and(|items| forms::has_certificate(&items))
}

/// What `pick` takes of the things in `source`, at least one.
fn select<T>(
    credential: Credential,
    source: &Source,
    pick: impl Fn(Item) -> Option<T>,
) -> Result<Vec<T>, CredentialError> {
    let bytes = bytes(credential, source)?;
    let bytes = decode(&bytes);
    let picked: Vec<T> = read(credential, source, &bytes)?.into_iter().filter_map(pick).collect();
    if picked.is_empty() {
        let problem = forms::instead_of(credential, source, &bytes);
        return Err(CredentialError::new(credential, source, problem));
    }
    Ok(picked)
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

/// The bytes as ASCII, if a byte order mark says that they are UTF-16 or UTF-8. Marks inside are of
/// files that were put one behind the other.
fn decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    let utf16 = |bytes: &[u8], read: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
        let text: String = char::decode_utf16(units).map(|c| c.unwrap_or('\u{FFFD}')).collect();
        Cow::Owned(text.into_bytes())
    };
    match bytes {
        [0xFF, 0xFE, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xFE, 0xFF, rest @ ..] => utf16(rest, u16::from_be_bytes),
        // DER may have these three bytes anywhere.
        _ if !forms::is_pem(bytes) => Cow::Borrowed(bytes),
        _ => match find(bytes, UTF8_MARK) {
            None => Cow::Borrowed(bytes),
            Some(_) => {
                let mut without = Vec::with_capacity(bytes.len());
                let mut rest = bytes;
                while let Some(at) = find(rest, UTF8_MARK) {
                    without.extend_from_slice(&rest[..at]);
                    rest = &rest[at + UTF8_MARK.len()..];
                }
                without.extend_from_slice(rest);
                Cow::Owned(without)
            }
        },
    }
}

const UTF8_MARK: &[u8] = &[0xEF, 0xBB, 0xBF];

/// The only function that reads PEM. rustls-pemfile is now a thin layer over the PEM reader of
/// rustls-pki-types; only this function would have to change to drop it.
fn read(
    credential: Credential,
    source: &Source,
    bytes: &[u8],
) -> Result<Vec<Item>, CredentialError> {
    if !forms::is_pem(bytes) {
        return Ok(forms::read_der(bytes));
    }
    let text = plain_sections(bytes);
    let items = rustls_pemfile::read_all(&mut text.as_slice()).collect::<Result<Vec<_>, _>>();
    match (items, damage(&text)) {
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

/// The PEM text with the labels that the reader knows, without the headers that RFC 1421 has in
/// sections, and without sections that such a header says are encrypted.
fn plain_sections(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    // Where the current section begins in `plain`, and whether it is encrypted.
    let mut section = None;
    for line in text.split(|byte| matches!(byte, b'\n' | b'\r')) {
        if line.starts_with(b"-----BEGIN ") {
            section = Some((plain.len(), false));
        } else if let Some((_, is_encrypted)) = &mut section
            && line.contains(&b':')
            && line.first().is_some_and(u8::is_ascii_alphabetic)
            && find(line, b"-----").is_none()
        {
            *is_encrypted |= line.starts_with(b"Proc-Type:") && find(line, b"ENCRYPTED").is_some();
            continue;
        }
        plain.extend_from_slice(match line.trim_ascii_end() {
            b"-----BEGIN TRUSTED CERTIFICATE-----" | b"-----BEGIN X509 CERTIFICATE-----" => {
                b"-----BEGIN CERTIFICATE-----"
            }
            b"-----END TRUSTED CERTIFICATE-----" | b"-----END X509 CERTIFICATE-----" => {
                b"-----END CERTIFICATE-----"
            }
            _ => line,
        });
        plain.push(b'\n');
        if line.starts_with(b"-----END ")
            && let Some((begin, true)) = section.take()
        {
            plain.truncate(begin);
        }
    }
    plain
}

/// The certificate without what openssl puts behind it in a TRUSTED CERTIFICATE: the purposes that
/// its owner trusts it for.
fn without_trust(certificate: CertificateDer<'static>) -> CertificateDer<'static> {
    match X509Certificate::from_der(&certificate) {
        Ok((rest, _)) if !rest.is_empty() => {
            certificate[..certificate.len() - rest.len()].to_vec().into()
        }
        _ => certificate,
    }
}

/// What damage the PEM text has, in words that quote nothing of it, since it may be a private key.
/// `None` if there is none, or none that can be told.
fn damage(text: &[u8]) -> Option<&'static str> {
    const BEGIN: &[u8] = b"-----BEGIN ";
    const DASHES: &[u8] = b"-----";
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
            (String::new(), "it is empty"),
        ] {
            let error = private_key(&Source::memory(&damaged)).unwrap_err();
            let (shown, debugged) = (error.to_string(), format!("{error:?}"));
            assert!(shown.contains(kind), "{damaged:?}: {shown}");
            for text in [shown, debugged] {
                assert!(!text.contains("AAA") && !text.contains("BBB"), "{damaged:?}: {text}");
            }
        }
        for sound in [
            key.to_owned(),
            key.replace('\n', "\r\n"),
            key.replace('\n', "\r"),
            format!("# a comment\n{key}"),
            format!("\u{FEFF}{key}"),
            format!("Bag Attributes\n    localKeyID: 01\nKey Attributes: <No Attributes>\n{key}"),
            format!("{key}\u{FEFF}{key}"),
            key.replace("-----\nA", "-----\nComment: mine\n\nA"),
        ] {
            assert!(private_key(&Source::memory(&sound)).is_ok(), "{sound:?}");
        }
        let units = |read: fn(u16) -> [u8; 2]| -> Vec<u8> {
            format!("\u{FEFF}{key}").encode_utf16().flat_map(read).collect()
        };
        for utf16 in [units(u16::to_le_bytes), units(u16::to_be_bytes)] {
            assert!(private_key(&Source::memory(utf16)).is_ok());
        }
    }

    #[test]
    fn an_encrypted_key_is_told_and_does_not_hide_what_is_beside_it() {
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
                         AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let error = private_key(&Source::memory(encrypted)).unwrap_err();
        assert_eq!(
            error.problem,
            "the private key is encrypted; decrypt it: openssl pkey -in FILE -out plain.pem"
        );
        let both = format!("{encrypted}{}", encode_certificate(&[0; 10]));
        assert_eq!(certificates(Credential::Chain, &Source::memory(both)).unwrap().len(), 1);
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
