//! Certificates, private keys and revocation lists, from files or from memory: PEM (RFC 7468), also
//! as Windows' editors and older tools write it, or DER. Nothing in a source is passed over in
//! silence: a revocation list that is not read lets in whom it names.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;

use data_encoding::BASE64;
use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::Reader;
use super::forms::{self, find};
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
    certificates_from(&Reader::default(), credential, source)
}

/// The certificates that `reader` reads from `source`; none at all is an error.
pub(super) fn certificates_from(
    reader: &Reader,
    credential: Credential,
    source: &Source,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    select(reader, credential, source, |item| match item {
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

/// The private keys in `source`; none at all is an error.
pub(super) fn private_keys(
    reader: &Reader,
    source: &Source,
) -> Result<Vec<PrivateKeyDer<'static>>, CredentialError> {
    select(reader, Credential::Key, source, |item| {
        let key: PrivateKeyDer<'static> = match item {
            Item::Pkcs8Key(key) => key.into(),
            Item::Pkcs1Key(key) => key.into(),
            Item::Sec1Key(key) => key.into(),
            _ => return None,
        };
        // Some tools write PKCS#8 under the label of another form.
        Some(forms::private_key(key.secret_der()).unwrap_or(key))
    })
}

/// The certificate revocation lists in `source`; none at all is an error.
pub(super) fn revocation_lists(
    reader: &Reader,
    source: &Source,
) -> Result<Vec<CertificateRevocationListDer<'static>>, CredentialError> {
    select(reader, Credential::Crl, source, |item| match item {
        Item::Crl(list) => Some(list),
        _ => None,
    })
}

/// What `source` holds, among what a server or a probe can use. Empty, too, if it cannot be read.
pub(super) fn holds(reader: &Reader, credential: Credential, source: &Source) -> Vec<Item> {
    reader
        .bytes(credential, source)
        .and_then(|bytes| read(credential, source, &decode(&bytes)))
        .unwrap_or_default()
}

/// What `pick` takes of the things in `source`, at least one.
fn select<T>(
    reader: &Reader,
    credential: Credential,
    source: &Source,
    pick: impl Fn(Item) -> Option<T>,
) -> Result<Vec<T>, CredentialError> {
    let bytes = reader.bytes(credential, source)?;
    let bytes = decode(&bytes);
    let picked: Vec<T> = read(credential, source, &bytes)?.into_iter().filter_map(pick).collect();
    if picked.is_empty() {
        let problem = forms::instead_of(credential, source, &bytes);
        return Err(CredentialError::new(credential, source, problem));
    }
    Ok(picked)
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

/// The usable things in `bytes`, each of them.
fn read(
    credential: Credential,
    source: &Source,
    bytes: &[u8],
) -> Result<Vec<Item>, CredentialError> {
    let refused = |problem: String| CredentialError::new(credential, source, problem);
    if !forms::is_pem(bytes) {
        return forms::read_der(bytes).map_err(|damage| refused(damage.to_owned()));
    }
    let damaged = |damage: &str| refused(format!("not valid PEM: {damage}"));
    let sections = sections(bytes).map_err(damaged)?;
    let mut items = Vec::new();
    for section in &sections {
        if let Some(label) = section.usable_label() {
            items.push(section.item(label).map_err(damaged)?);
        }
    }
    // What else is there matters for lists only: a list that is missed lets somebody in.
    let is_missed = |section: &Section<'_>| !forms::is_no_list(&section.label);
    if credential == Credential::Crl && !items.is_empty() && sections.iter().any(is_missed) {
        let problem = "it holds a section that cannot be read, and may be a revocation list, too";
        return Err(refused(problem.to_owned()));
    }
    Ok(items)
}

const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// A section of PEM text.
struct Section<'a> {
    /// In capitals.
    label: String,
    /// The lines between its -----BEGIN and -----END lines, without headers (RFC 1421).
    lines: Vec<&'a [u8]>,
    /// One of its headers says so.
    is_encrypted: bool,
}

impl Section<'_> {
    /// The label under which the PEM reader knows what is in it, if it can be used.
    fn usable_label(&self) -> Option<&'static str> {
        let label = match &*self.label {
            "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => "CERTIFICATE",
            "X509 CRL" => "X509 CRL",
            "PRIVATE KEY" => "PRIVATE KEY",
            "RSA PRIVATE KEY" => "RSA PRIVATE KEY",
            "EC PRIVATE KEY" => "EC PRIVATE KEY",
            _ => return None,
        };
        (!self.is_encrypted).then_some(label)
    }

    /// What is in it. This is the only function that uses rustls-pemfile, which is now a thin layer
    /// over the PEM reader of rustls-pki-types. That skips what it does not like, so it gets each
    /// section alone. Its messages can quote an invalid line, which may be part of a private key.
    fn item(&self, label: &str) -> Result<Item, &'static str> {
        let mut text = format!("-----BEGIN {label}-----\n").into_bytes();
        for line in &self.lines {
            text.extend_from_slice(line);
            text.push(b'\n');
        }
        text.extend_from_slice(format!("-----END {label}-----\n").as_bytes());
        match rustls_pemfile::read_one_from_slice(&text) {
            Ok(Some((item, _))) => Ok(item),
            _ => Err("its base64 is not valid, or too long"),
        }
    }
}

/// The sections of PEM text, with any text around them. A section that is cut off or that does not
/// begin at the beginning of a line is damage, and so is what only looks like one; a line that is
/// commented out (#) does not count. The words for the damage quote nothing, since the text may be a
/// private key.
fn sections(text: &[u8]) -> Result<Vec<Section<'_>>, &'static str> {
    let mut all = Vec::new();
    let mut current: Option<Section<'_>> = None;
    for line in lines(text) {
        let is_marked = find(line, DASHES).is_some();
        if let Some(section) = &mut current {
            if let Some(rest) = line.strip_prefix(END) {
                let label = find(rest, DASHES).map(|at| (rest[..at].trim_ascii(), &rest[at..]));
                match label {
                    Some((label, behind))
                        if label.eq_ignore_ascii_case(section.label.as_bytes())
                            && find(&behind[DASHES.len()..], DASHES).is_none() =>
                    {
                        all.extend(current.take());
                    }
                    _ => return Err("its -----BEGIN and -----END lines do not match"),
                }
            } else if is_marked {
                return Err(NO_END);
            } else if is_header(line) {
                section.is_encrypted |=
                    line.starts_with(b"Proc-Type:") && find(line, b"ENCRYPTED").is_some();
            } else {
                section.lines.push(line);
            }
            continue;
        }
        if let Some(rest) = line.strip_prefix(BEGIN) {
            current = Some(begin(rest)?);
            continue;
        }
        let trimmed = line.trim_ascii_start();
        if trimmed.starts_with(b"#") {
            continue;
        }
        if let Some(at) = find(line, BEGIN) {
            begin(&line[at + BEGIN.len()..])?;
            return Err("its -----BEGIN is not at the beginning of a line");
        }
        if find(line, END).is_some() {
            return Err("it has an -----END line without a -----BEGIN line before it");
        }
        // A dash that is missing, or that a word processor has made longer.
        let is_dash =
            ["-", "\u{2013}", "\u{2014}"].iter().any(|d| trimmed.starts_with(d.as_bytes()));
        if is_dash && find(trimmed, b"BEGIN ").is_some() {
            return Err("its -----BEGIN line does not begin with five dashes");
        }
        // The first bytes of a certificate or a list in DER.
        if line.contains(&0) || find(line, &[0x30, 0x82]).is_some() {
            return Err("besides PEM it holds what is no text; it may be DER, or UTF-16");
        }
    }
    match current {
        Some(_) => Err(NO_END),
        None => Ok(all),
    }
}

const NO_END: &str = "its -----END line is missing, as in a truncated file";

/// The section that a -----BEGIN line begins. `rest` is the line from its label on.
fn begin(rest: &[u8]) -> Result<Section<'static>, &'static str> {
    let Some(at) = find(rest, DASHES) else {
        return Err("its -----BEGIN line does not end with five dashes");
    };
    let behind = &rest[at + DASHES.len()..];
    if behind.starts_with(b"\\n") || behind.starts_with(b"\\r") {
        return Err("its line breaks are written as a backslash and a letter");
    }
    if !behind.is_empty() {
        return Err("its line breaks are lost: -----BEGIN … and the base64 are on one line");
    }
    let label = String::from_utf8_lossy(rest[..at].trim_ascii()).to_ascii_uppercase();
    Ok(Section { label, lines: Vec::new(), is_encrypted: false })
}

/// The lines without white space at their ends. An -----END line that has a -----BEGIN line behind
/// it is two lines: the files were put one behind the other without a line break between them.
fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| matches!(byte, b'\n' | b'\r')).flat_map(|line| {
        let second = if line.starts_with(END) { find(line, BEGIN) } else { None };
        let (first, second) = line.split_at(second.unwrap_or(line.len()));
        [first, second].map(<[u8]>::trim_ascii_end)
    })
}

/// Whether a line within a section is a header, such as `Proc-Type: 4,ENCRYPTED`.
fn is_header(line: &[u8]) -> bool {
    line.contains(&b':') && line.first().is_some_and(u8::is_ascii_alphabetic)
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

/// Says that the certificate at this place is damaged.
pub(super) fn damaged_certificate(at: usize, of: usize) -> String {
    let which = match of {
        1 => "the certificate".to_owned(),
        _ => format!("certificate {} of it", at + 1),
    };
    format!("{which} cannot be read: it is damaged, or no X.509 certificate")
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

    fn keys(text: impl AsRef<[u8]>) -> Result<Vec<PrivateKeyDer<'static>>, CredentialError> {
        private_keys(&Reader::default(), &Source::memory(text))
    }

    /// A list and a certificate, neither of which can be parsed, which is not for this module.
    const LIST: &str = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn no_section_is_passed_over_in_silence() {
        let glued = LIST.trim_end();
        let commented = LIST.replace('\n', "\n# ");
        for (text, count) in [
            (format!("{glued}{glued}"), 2),
            (format!("{glued} {glued}\r\n{glued}{LIST}"), 4),
            (format!("{LIST}# {commented}\n{LIST}"), 2),
            (format!("  # {commented}\n{LIST}"), 1),
            (format!("{LIST}the next one\n{LIST}"), 2),
            (format!("{glued} # the first\n{LIST}"), 2),
            (format!("{LIST}{CERTIFICATE}"), 1),
            (LIST.replace("BEGIN X509 CRL", "BEGIN X509 CRL ").repeat(2), 2),
            (LIST.to_lowercase().replace("begin", "BEGIN").replace("end", "END"), 1),
        ] {
            let read = revocation_lists(&Reader::default(), &Source::memory(&text));
            assert_eq!(read.unwrap().len(), count, "{text}");
        }
        let not_at_beginning = "not valid PEM: its -----BEGIN is not at the beginning of a line";
        let no_end = "not valid PEM: its -----END line is missing, as in a truncated file";
        let other = "it holds a section that cannot be read, and may be a revocation list, too";
        let binary =
            "not valid PEM: besides PEM it holds what is no text; it may be DER, or UTF-16";
        let cut = &LIST[..LIST.find("-----END").unwrap()];
        let utf16: String = LIST.chars().flat_map(|c| [c, '\0']).collect();
        for (text, said) in [
            (format!("{LIST}  {}", LIST.replace('\n', "\n  ")), not_at_beginning),
            (format!("{LIST}\t{LIST}"), not_at_beginning),
            (format!("{LIST}x{LIST}"), not_at_beginning),
            (format!("{LIST}{cut}{LIST}"), no_end),
            (format!("{cut}{LIST}"), no_end),
            (format!("{LIST}{cut}"), no_end),
            (
                format!("{LIST}{}", &LIST[30..]),
                "not valid PEM: it has an -----END line without a -----BEGIN line before it",
            ),
            (
                format!("{LIST}{}", LIST.replace("-----BEGIN", "----BEGIN")),
                "not valid PEM: its -----BEGIN line does not begin with five dashes",
            ),
            (
                format!("{LIST}{}", LIST.replace("-----BEGIN", "\u{2014}BEGIN")),
                "not valid PEM: its -----BEGIN line does not begin with five dashes",
            ),
            (format!("{LIST}{}", LIST.replace("X509 ", "X.509 ")), other),
            (format!("{LIST}{}", LIST.replace("X509 CRL", "PKCS7")), other),
            (
                format!("{LIST}{}", LIST.replace("AAAA", "AA!A")),
                "not valid PEM: its base64 is not valid, or too long",
            ),
            (format!("{LIST}{utf16}"), binary),
            (format!("{LIST}0\u{82}{LIST}"), not_at_beginning),
        ] {
            let read = revocation_lists(&Reader::default(), &Source::memory(&text));
            assert_eq!(read.unwrap_err().problem, said, "{text}");
        }
        let der = [LIST.as_bytes(), &[0x30, 0x82, 1, 2, 3]].concat();
        let read = revocation_lists(&Reader::default(), &Source::memory(der));
        assert_eq!(read.unwrap_err().problem, binary);
        let glued = CERTIFICATE.trim_end();
        for (text, count) in [(format!("{glued}{CERTIFICATE}"), 2), (format!("{glued}{LIST}"), 1)] {
            let read = certificates(Credential::ClientCa, &Source::memory(&text)).unwrap();
            assert_eq!(read.len(), count, "{text}");
        }
        for text in
            [format!("{CERTIFICATE} {CERTIFICATE}"), format!("{CERTIFICATE}{}", &glued[..40])]
        {
            assert!(certificates(Credential::Chain, &Source::memory(&text)).is_err(), "{text}");
        }
    }

    #[test]
    fn der_is_read_to_its_end() {
        let made = crate::certs::issue(
            &crate::certs::Name::of_this_machine(),
            std::time::SystemTime::now(),
        );
        let made = made.unwrap();
        let der =
            |pem: &str| certificates(Credential::Chain, &Source::memory(pem)).unwrap().remove(0);
        let (one, two) = (der(&made.server.certificate), der(&made.ca.certificate));
        // As `openssl x509 -trustout -addtrust serverAuth -outform DER` has it behind.
        let trust = [0x30, 12, 0x30, 10, 6, 8, 0x2B, 6, 1, 5, 5, 7, 3, 1];
        for (bytes, count) in [
            (one.to_vec(), 1),
            ([&*one, &*two].concat(), 2),
            ([&*one, b"\n"].concat(), 1),
            ([&*one, &trust[..]].concat(), 1),
        ] {
            let read = certificates(Credential::Chain, &Source::memory(bytes)).unwrap();
            assert_eq!(read.len(), count);
        }
        let said = "what is behind the first certificate in it is none: it is damaged or truncated";
        for bytes in [
            [&*one, &two[..two.len() - 1]].concat(),
            [&*one, &two[1..]].concat(),
            [&*one, b"junk"].concat(),
        ] {
            let error = certificates(Credential::Chain, &Source::memory(bytes)).unwrap_err();
            assert_eq!(error.problem, said);
        }
        let error = certificates(Credential::Chain, &Source::memory(&one[..100])).unwrap_err();
        let said = format!("it is DER that is truncated: 100 of {} bytes are there", one.len());
        assert_eq!(error.problem, said);
    }

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
            let error = keys(&damaged).unwrap_err();
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
            assert!(keys(&sound).is_ok(), "{sound:?}");
        }
        let units = |read: fn(u16) -> [u8; 2]| -> Vec<u8> {
            format!("\u{FEFF}{key}").encode_utf16().flat_map(read).collect()
        };
        for utf16 in [units(u16::to_le_bytes), units(u16::to_be_bytes)] {
            assert!(keys(utf16).is_ok());
        }
    }

    #[test]
    fn an_encrypted_key_is_told_and_does_not_hide_what_is_beside_it() {
        let encrypted = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: \
                         AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
        let error = keys(encrypted).unwrap_err();
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
