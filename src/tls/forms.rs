//! Recognizes what a file holds, for files that hold something else than they should, or the right
//! thing in another form: DER, PKCS#12, encrypted keys and so on. The words quote nothing of a file.

use data_encoding::BASE64;
use rustls_pemfile::Item;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use x509_parser::asn1_rs::{Any, FromBer, Oid, Tag};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{CertificateRevocationList, FromDer, X509Certificate};
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::config::Source;
use crate::error::Credential;

/// What a file can hold in place of what was expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Empty,
    Pkcs12,
    Pkcs7,
    Keystore,
    EncryptedKey,
    OpenSshKey,
    PuttyKey,
    DsaKey,
    Key,
    Certificate,
    Request,
    PublicKey,
    List,
    Parameters,
    EcParameters,
    /// Base64 of a whole PEM file.
    Base64OfPem,
    /// Base64 of DER, without the lines around it.
    BareBase64,
}

/// What is wrong with `bytes`, which hold nothing of the kind that is used as `wanted`.
pub(super) fn instead_of(wanted: Credential, source: &Source, bytes: &[u8]) -> String {
    let noun = noun(wanted);
    let file = file_name(source);
    let der = if is_pem(bytes) { "" } else { "-inform DER " };
    let Some(form) = recognize(source, bytes) else {
        return match der_length(bytes) {
            Some(length) if length > bytes.len() => {
                format!("it is DER that is truncated: {} of {length} bytes are there", bytes.len())
            }
            Some(length) if length == bytes.len() => {
                format!("it is DER, but no {noun}, or a damaged one")
            }
            _ if wanted == Credential::Ocsp => format!("no {noun} in it, which would be DER"),
            _ => format!("no {noun} in it, neither as PEM nor as DER"),
        };
    };
    match form {
        Form::Empty => "it is empty".to_owned(),
        Form::Pkcs12 => format!(
            "it is PKCS#12 (.pfx, .p12); convert it to PEM, which holds certificate and key: \
             openssl pkcs12 -in {file} -nodes -out {file}.pem (with -legacy, too, if openssl 3 says \
             that an algorithm is unsupported)"
        ),
        Form::Pkcs7 => format!(
            "it is PKCS#7 (.p7b), which holds certificates; convert it to PEM: \
             openssl pkcs7 {der}-in {file} -print_certs -out {file}.pem"
        ),
        Form::Keystore => format!(
            "it is a Java keystore; convert it to PKCS#12 and that to PEM: keytool -importkeystore \
             -srckeystore {file} -destkeystore {file}.p12 -deststoretype PKCS12"
        ),
        Form::EncryptedKey => format!(
            "the private key is encrypted; decrypt it: openssl pkey {der}-in {file} -out plain.pem"
        ),
        // ssh-keygen leaves Ed25519 keys in their form, and says that it has saved them.
        Form::OpenSshKey | Form::PuttyKey if is_ssh_ed25519(bytes) => {
            "it is an Ed25519 key in a form of SSH, from which neither ssh-keygen nor puttygen \
             converts it; make a new key: openssl genpkey -algorithm ed25519"
                .to_owned()
        }
        Form::OpenSshKey => format!(
            "it is a private key in OpenSSH's own form; convert a copy of it: \
             ssh-keygen -p -m PKCS8 -f {file}"
        ),
        Form::PuttyKey => format!(
            "it is a private key in PuTTY's own form; convert it: \
             puttygen {file} -O private-openssh -o {file}.pem"
        ),
        Form::DsaKey => {
            "it is a DSA key, which TLS 1.3 no longer has; RSA, EC and Ed25519 keys are taken"
                .to_owned()
        }
        Form::Key => format!("it holds a private key, and no {noun}"),
        Form::Certificate => format!("it holds a certificate, and no {noun}"),
        Form::Request => {
            let cure = match wanted {
                Credential::Key => {
                    "; the key is in a file of its own, made with the request or before"
                }
                Credential::Chain => "; a CA makes a certificate of it",
                _ => "",
            };
            format!("it holds a certificate signing request (CSR), and no {noun}{cure}")
        }
        Form::PublicKey => format!("it holds a public key, and no {noun}"),
        Form::List => format!("it holds a certificate revocation list (CRL), and no {noun}"),
        Form::Parameters => format!("it holds Diffie-Hellman or DSA parameters, and no {noun}"),
        Form::EcParameters => format!("it holds the parameters of an EC key, and no {noun}"),
        Form::Base64OfPem => format!(
            "it is PEM that was encoded once more, in base64, as in Kubernetes' secrets; decode it: \
             base64 -d {file}"
        ),
        Form::BareBase64 => {
            "it is base64 without the lines -----BEGIN …----- and -----END …----- around it"
                .to_owned()
        }
    }
}

/// What the file should hold.
pub(super) fn noun(wanted: Credential) -> &'static str {
    match wanted {
        Credential::Key => "private key",
        Credential::Crl => "certificate revocation list",
        Credential::Ocsp => "OCSP response",
        _ => "certificate",
    }
}

/// The file as it is written in a command; a path that a shell would not take as it is does not
/// appear.
pub(super) fn file_name(source: &Source) -> String {
    let is_plain =
        |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | '@' | ':');
    let path = source.path().and_then(|path| path.to_str());
    match path.filter(|path| path.chars().all(is_plain) && !path.starts_with('-')) {
        Some(path) => path.to_owned(),
        None => "FILE".to_owned(),
    }
}

pub(super) fn is_pem(bytes: &[u8]) -> bool {
    find(bytes, b"-----BEGIN ").is_some()
}

/// The index at which `part` begins in `whole`.
pub(super) fn find(whole: &[u8], part: &[u8]) -> Option<usize> {
    let first = *part.first()?;
    let mut from = 0;
    loop {
        from += whole.get(from..)?.iter().position(|byte| *byte == first)?;
        if whole[from..].starts_with(part) {
            return Some(from);
        }
        from += 1;
    }
}

/// Whether `bytes` hold a certificate, and no key in any form.
pub(super) fn is_certificate(source: &Source, bytes: &[u8]) -> bool {
    recognize(source, bytes) == Some(Form::Certificate)
}

/// Whether it is certain that there is no revocation list under this label, except one that is read.
pub(super) fn is_no_list(label: &str) -> bool {
    !matches!(form_of_label(label), None | Some(Form::Pkcs7))
}

/// Whether `bytes` are an OCSP response (RFC 6960 section 4.2.1), as far as its outside tells.
pub(super) fn is_ocsp_response(bytes: &[u8]) -> bool {
    let Some(parts) = children(bytes) else { return false };
    let is_basic = |any: &Any<'_>| -> Option<bool> {
        let [bytes] = &elements(any.data)?[..] else { return None };
        let [kind, response] = &elements(bytes.data)?[..] else { return None };
        Some(oid(kind)?.starts_with("1.3.6.1.5.5.7.48.1.") && response.tag() == Tag::OctetString)
    };
    match &parts[..] {
        // Successful, and the only status that has more to say.
        [status, response] => {
            status.tag() == Tag::Enumerated
                && status.data == [0]
                && response.tag() == Tag(0)
                && is_basic(response) == Some(true)
        }
        [status] => status.tag() == Tag::Enumerated && matches!(status.data, [1 | 2 | 3 | 5 | 6]),
        _ => false,
    }
}

/// Whether an SSH key of a form of its own is one of Ed25519.
fn is_ssh_ed25519(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"ssh-ed25519";
    let body: Vec<u8> = bytes
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.starts_with(b"-"))
        .flat_map(<[u8]>::trim_ascii)
        .copied()
        .collect();
    // The public key is in the beginning. PuTTY has the name in its first line.
    let head = &bytes[..bytes.len().min(100)];
    find(head, NAME).is_some()
        || BASE64.decode(&body).is_ok_and(|decoded| find(&decoded, NAME).is_some())
}

/// How many bytes the SEQUENCE has that `bytes` begin with, if they look like DER. Shorter ones
/// than 128 bytes do not count, since text may begin in the same way.
fn der_length(bytes: &[u8]) -> Option<usize> {
    let (0x30, rest) = bytes.split_first().map(|(first, rest)| (*first, rest))? else {
        return None;
    };
    let (count, rest) = rest.split_first()?;
    let count = usize::from(count.checked_sub(0x80)?);
    if !(1..=4).contains(&count) || rest.len() < count {
        return None;
    }
    let length = rest[..count].iter().fold(0, |length, byte| (length << 8) | usize::from(*byte));
    length.checked_add(2 + count)
}

/// Whether a private key that can be read is among `items`.
pub(super) fn has_key(items: &[Item]) -> bool {
    items
        .iter()
        .any(|item| matches!(item, Item::Pkcs8Key(_) | Item::Pkcs1Key(_) | Item::Sec1Key(_)))
}

pub(super) fn has_certificate(items: &[Item]) -> bool {
    items.iter().any(|item| matches!(item, Item::X509Certificate(_)))
}

/// What DER holds that a server or a probe can use: certificates one after the other, revocation
/// lists, or a private key. Empty: nothing of these. An error if something follows that is damaged.
pub(super) fn read_der(bytes: &[u8]) -> Result<Vec<Item>, &'static str> {
    let bytes = match der_length(bytes) {
        // An editor may have added a line break.
        Some(length) if bytes.get(length..).is_some_and(|rest| rest.trim_ascii().is_empty()) => {
            &bytes[..length]
        }
        _ => bytes,
    };
    let mut items = Vec::new();
    let mut rest = bytes;
    while let Ok((behind, _)) = X509Certificate::from_der(rest) {
        let certificate = rest[..rest.len() - behind.len()].to_vec();
        items.push(Item::X509Certificate(certificate.into()));
        rest = behind;
    }
    match items.len() {
        0 => {}
        _ if rest.trim_ascii().is_empty() || is_trust(rest) => return Ok(items),
        1 => {
            return Err("what is behind the first certificate in it is none: it is damaged or \
                        truncated");
        }
        _ => {
            return Err(
                "what is behind the certificates in it is none: it is damaged or truncated",
            );
        }
    }
    while let Ok((behind, _)) = CertificateRevocationList::from_der(rest) {
        items.push(Item::Crl(rest[..rest.len() - behind.len()].to_vec().into()));
        rest = behind;
    }
    match items.len() {
        0 => Ok(private_key(bytes).map(key_item).into_iter().collect()),
        _ if rest.trim_ascii().is_empty() => Ok(items),
        _ => Err("what is behind a revocation list in it is none: it is damaged or truncated"),
    }
}

/// Whether `der` is what openssl puts behind a TRUSTED CERTIFICATE: purposes, a name, a key's hash.
fn is_trust(der: &[u8]) -> bool {
    let is_part = |part: &Any<'_>| match part.tag() {
        Tag::Sequence | Tag(0) => elements(part.data)
            .is_some_and(|purposes| purposes.iter().all(|purpose| purpose.tag() == Tag::Oid)),
        tag => matches!(tag, Tag::Utf8String | Tag::OctetString),
    };
    children(der).is_some_and(|parts| parts.iter().all(is_part))
}

fn key_item(key: PrivateKeyDer<'static>) -> Item {
    match key {
        PrivateKeyDer::Pkcs1(key) => Item::Pkcs1Key(key),
        PrivateKeyDer::Sec1(key) => Item::Sec1Key(key),
        PrivateKeyDer::Pkcs8(key) => Item::Pkcs8Key(key),
        _ => unreachable!("`private_key` makes only these"),
    }
}

/// The private key that `der` is, by its structure: PKCS#1 (RFC 8017 appendix A.1.2), SEC1 (RFC
/// 5915 section 3) or PKCS#8 (RFC 5958 section 2).
pub(super) fn private_key(der: &[u8]) -> Option<PrivateKeyDer<'static>> {
    let parts = children(der)?;
    let tags: Vec<Tag> = parts.iter().map(Any::tag).collect();
    match tags[..] {
        [Tag::Integer, Tag::Sequence, Tag::OctetString, ..] => {
            Some(PrivateKeyDer::Pkcs8(der.to_vec().into()))
        }
        [Tag::Integer, Tag::OctetString, ..] => Some(PrivateKeyDer::Sec1(der.to_vec().into())),
        // A version and eight numbers; a DSA key has a version and five.
        [Tag::Integer, ..]
            if tags.len() >= 9 && tags[..9].iter().all(|tag| *tag == Tag::Integer) =>
        {
            Some(PrivateKeyDer::Pkcs1(der.to_vec().into()))
        }
        _ => None,
    }
}

/// The elements of a SEQUENCE that is all of `der`.
pub(super) fn children(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (rest, sequence) = Any::from_ber(der).ok()?;
    (rest.is_empty() && sequence.tag() == Tag::Sequence).then_some(())?;
    elements(sequence.data)
}

/// The elements that `content` is made of.
pub(super) fn elements(mut content: &[u8]) -> Option<Vec<Any<'_>>> {
    let mut all = Vec::new();
    while !content.is_empty() {
        let (rest, any) = Any::from_ber(content).ok()?;
        all.push(any);
        content = rest;
    }
    Some(all)
}

/// The object identifier that `any` is, in dotted form.
pub(super) fn oid(any: &Any<'_>) -> Option<String> {
    (any.tag() == Tag::Oid).then(|| Oid::new(any.data.into()).to_id_string())
}

fn recognize(source: &Source, bytes: &[u8]) -> Option<Form> {
    if bytes.trim_ascii().is_empty() {
        return Some(Form::Empty);
    }
    if is_pem(bytes) {
        return recognize_pem(bytes);
    }
    recognize_der(bytes).or_else(|| recognize_text(bytes)).or_else(|| {
        // The encoding of PKCS#12 and PKCS#7 need not be definite.
        let extension = source.path()?.extension()?.to_str()?.to_ascii_lowercase();
        match &*extension {
            "p12" | "pfx" if bytes.starts_with(&[0x30]) => Some(Form::Pkcs12),
            "p7b" | "p7c" if bytes.starts_with(&[0x30]) => Some(Form::Pkcs7),
            _ => None,
        }
    })
}

/// By the label of the first section that has one of these.
fn recognize_pem(text: &[u8]) -> Option<Form> {
    let text = String::from_utf8_lossy(text);
    let labels: Vec<&str> = text
        .split("-----BEGIN ")
        .skip(1)
        .filter_map(|rest| rest.split_once("-----").map(|(label, _)| label))
        .collect();
    let has = |form: Form| labels.iter().any(|label| form_of_label(label) == Some(form));
    if text.contains("Proc-Type: 4,ENCRYPTED") {
        return Some(Form::EncryptedKey);
    }
    [
        Form::EncryptedKey,
        Form::OpenSshKey,
        Form::DsaKey,
        Form::Key,
        Form::Certificate,
        Form::Pkcs7,
        Form::Request,
        Form::PublicKey,
        Form::List,
        Form::Parameters,
        Form::EcParameters,
    ]
    .into_iter()
    .find(|form| has(*form))
}

fn form_of_label(label: &str) -> Option<Form> {
    Some(match label {
        "ENCRYPTED PRIVATE KEY" => Form::EncryptedKey,
        "OPENSSH PRIVATE KEY" => Form::OpenSshKey,
        "DSA PRIVATE KEY" => Form::DsaKey,
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Form::Key,
        "CERTIFICATE" | "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => Form::Certificate,
        "PKCS7" | "CMS" | "PKCS #7 SIGNED DATA" => Form::Pkcs7,
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => Form::Request,
        "PUBLIC KEY" | "RSA PUBLIC KEY" => Form::PublicKey,
        "X509 CRL" => Form::List,
        "DH PARAMETERS" | "X9.42 DH PARAMETERS" | "DSA PARAMETERS" => Form::Parameters,
        "EC PARAMETERS" => Form::EcParameters,
        _ => return None,
    })
}

fn recognize_der(bytes: &[u8]) -> Option<Form> {
    if bytes.starts_with(&[0xFE, 0xED, 0xFE, 0xED]) {
        return Some(Form::Keystore);
    }
    if let Some(item) = read_der(bytes).ok().as_deref().and_then(<[Item]>::first) {
        return match item {
            Item::X509Certificate(_) => Some(Form::Certificate),
            Item::Crl(_) => Some(Form::List),
            _ => Some(Form::Key),
        };
    }
    if X509CertificationRequest::from_der(bytes).is_ok() {
        return Some(Form::Request);
    }
    if SubjectPublicKeyInfo::from_der(bytes).is_ok_and(|(rest, _)| rest.is_empty()) {
        return Some(Form::PublicKey);
    }
    let parts = children(bytes)?;
    let first = parts.first()?;
    let inner = |at: usize| {
        let any = parts.get(at).filter(|any| any.tag() == Tag::Sequence)?;
        elements(any.data)?.first().and_then(oid)
    };
    let is_pkcs7 = |oid: String| oid.starts_with("1.2.840.113549.1.7.");
    match first.tag() {
        Tag::Oid if oid(first).is_some_and(is_pkcs7) => Some(Form::Pkcs7),
        Tag::Integer if first.data == [3] && inner(1).is_some_and(is_pkcs7) => Some(Form::Pkcs12),
        // PKCS#8's EncryptedPrivateKeyInfo (RFC 5958 section 3) with an algorithm of PKCS#5 or
        // PKCS#12.
        Tag::Sequence => inner(0)
            .is_some_and(|oid| {
                oid.starts_with("1.2.840.113549.1.5.") || oid.starts_with("1.2.840.113549.1.12.1.")
            })
            .then_some(Form::EncryptedKey),
        _ => None,
    }
}

fn recognize_text(bytes: &[u8]) -> Option<Form> {
    if bytes.starts_with(b"PuTTY-User-Key-File") {
        return Some(Form::PuttyKey);
    }
    if bytes.starts_with(b"ssh-") || bytes.starts_with(b"ecdsa-sha2-") {
        return Some(Form::PublicKey);
    }
    let base64: Vec<u8> =
        bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let decoded = BASE64.decode(&base64).ok()?;
    match is_pem(&decoded) {
        true => Some(Form::Base64OfPem),
        false => recognize_der(&decoded).map(|_| Form::BareBase64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_holds_instead_is_named() {
        let section =
            |label: &str| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for (content, said) in [
            (" \n".to_owned(), "it is empty"),
            ("hello".to_owned(), "no certificate in it, neither as PEM nor as DER"),
            (section("NONSENSE"), "no certificate in it, neither as PEM nor as DER"),
            (section("PRIVATE KEY"), "it holds a private key, and no certificate"),
            (section("PUBLIC KEY"), "it holds a public key, and no certificate"),
            (
                section("X509 CRL"),
                "it holds a certificate revocation list (CRL), and no certificate",
            ),
            (
                section("DH PARAMETERS"),
                "it holds Diffie-Hellman or DSA parameters, and no certificate",
            ),
            (section("EC PARAMETERS"), "it holds the parameters of an EC key, and no certificate"),
            (
                section("NEW CERTIFICATE REQUEST"),
                "it holds a certificate signing request (CSR), and no certificate; a CA makes a \
                 certificate of it",
            ),
            (
                section("PKCS7"),
                "it is PKCS#7 (.p7b), which holds certificates; convert it to PEM: \
                 openssl pkcs7 -in FILE -print_certs -out FILE.pem",
            ),
            (
                section("ENCRYPTED PRIVATE KEY"),
                "the private key is encrypted; decrypt it: openssl pkey -in FILE -out plain.pem",
            ),
            (
                section("OPENSSH PRIVATE KEY"),
                "it is a private key in OpenSSH's own form; convert a copy of it: ssh-keygen -p -m \
                 PKCS8 -f FILE",
            ),
            (
                section("OPENSSH PRIVATE KEY")
                    .replace("AAAA", &BASE64.encode(b"openssh-key-v1\0 ssh-ed25519 x")),
                "it is an Ed25519 key in a form of SSH, from which neither ssh-keygen nor puttygen \
                 converts it; make a new key: openssl genpkey -algorithm ed25519",
            ),
            (
                "PuTTY-User-Key-File-3: ssh-ed25519\n".to_owned(),
                "it is an Ed25519 key in a form of SSH, from which neither ssh-keygen nor puttygen \
                 converts it; make a new key: openssl genpkey -algorithm ed25519",
            ),
            (
                BASE64.encode(section("CERTIFICATE").as_bytes()),
                "it is PEM that was encoded once more, in base64, as in Kubernetes' secrets; decode \
                 it: base64 -d FILE",
            ),
        ] {
            let source = Source::memory(&content);
            assert_eq!(instead_of(Credential::Chain, &source, content.as_bytes()), said);
        }
    }

    #[test]
    fn a_command_names_only_paths_that_a_shell_takes_as_they_are() {
        for (path, shown) in [
            ("/etc/tls/a.pem", "/etc/tls/a.pem"),
            ("it's mine.pem", "FILE"),
            ("$HOME/a.pem", "FILE"),
            ("-rf", "FILE"),
        ] {
            assert_eq!(file_name(&Source::file(path)), shown);
        }
        assert_eq!(file_name(&Source::memory("")), "FILE");
    }
}
