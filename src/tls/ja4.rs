//! JA4, the fingerprint of a TLS client, as FoxIO has published it.
//!
//! It is made of what the client offers, without values that a client draws at random (GREASE) and
//! without the order of cipher suites and extensions, which browsers shuffle. Clients that share an
//! implementation and its settings share a fingerprint.

use std::fmt::Write;

use aws_lc_rs::digest;

use super::client_hello::{ClientHello, extension, is_grease, is_grease_name};

/// The fingerprint of a client that speaks TLS over a byte stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ja4 {
    /// What people compare: three parts, the second and third of which are the first 12 hexadecimal
    /// digits of SHA-256.
    pub(crate) hash: String,
    /// The same with the lists that were hashed (`ja4_r`). A hello of 64 KiB makes 160 KiB of it.
    pub(crate) raw: String,
}

/// The fingerprint of a client.
pub(crate) fn fingerprint(hello: &ClientHello) -> Ja4 {
    let ciphers: Vec<u16> = hello.cipher_suites().filter(|suite| !is_grease(*suite)).collect();
    let extensions: Vec<u16> =
        hello.extensions().map(|(kind, _)| kind).filter(|kind| !is_grease(*kind)).collect();
    let first = format!(
        "t{version}{name}{ciphers:02}{extensions:02}{alpn}",
        version = version(hello),
        name = if extensions.contains(&extension::SERVER_NAME) { 'd' } else { 'i' },
        ciphers = ciphers.len().min(99),
        extensions = extensions.len().min(99),
        alpn = alpn(hello),
    );
    let second = list(sorted(ciphers));
    // Both are told by the first part, so that the third is the same whatever a client connects to.
    let is_hashed = |kind: &u16| ![extension::SERVER_NAME, extension::ALPN].contains(kind);
    let mut third = list(sorted(extensions.into_iter().filter(is_hashed).collect()));
    let algorithms = list(hello.signature_algorithms().filter(|value| !is_grease(*value)));
    if !algorithms.is_empty() {
        third.push('_');
        third.push_str(&algorithms);
    }
    Ja4 {
        hash: format!("{first}_{}_{}", shortened_hash(&second), shortened_hash(&third)),
        raw: format!("{first}_{second}_{third}"),
    }
}

/// The highest version that the client offers.
fn version(hello: &ClientHello) -> &'static str {
    let offered = match hello.extension(extension::SUPPORTED_VERSIONS) {
        Some(_) => hello.supported_versions().filter(|version| !is_grease(*version)).max(),
        None => Some(hello.legacy_version()),
    };
    match offered {
        Some(0x0304) => "13",
        Some(0x0303) => "12",
        Some(0x0302) => "11",
        Some(0x0301) => "10",
        Some(0x0300) => "s3",
        Some(0x0002) => "s2",
        Some(0xFEFF) => "d1",
        Some(0xFEFD) => "d2",
        Some(0xFEFC) => "d3",
        _ => "00",
    }
}

/// The first and the last character of the first protocol that is offered, or those of its
/// hexadecimal digits if one of the two is neither a letter nor a digit.
fn alpn(hello: &ClientHello) -> String {
    let name = hello.alpn().find(|name| !is_grease_name(name)).unwrap_or_default();
    let (Some(first), Some(last)) = (name.first(), name.last()) else { return "00".to_owned() };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return [char::from(*first), char::from(*last)].iter().collect();
    }
    format!("{:x}{:x}", first >> 4, last & 0x0F)
}

fn sorted(mut numbers: Vec<u16>) -> Vec<u16> {
    numbers.sort_unstable();
    numbers
}

/// Each as four hexadecimal digits, with commas between them.
fn list(numbers: impl IntoIterator<Item = u16>) -> String {
    let mut list = String::new();
    for number in numbers {
        let comma = if list.is_empty() { "" } else { "," };
        // Writing to a String does not fail.
        let _ = write!(list, "{comma}{number:04x}");
    }
    list
}

/// The first 12 hexadecimal digits of SHA-256. An empty list has zeros in place of a hash that
/// nobody would recognise.
fn shortened_hash(list: &str) -> String {
    if list.is_empty() {
        return "0".repeat(12);
    }
    let hash = digest::digest(&digest::SHA256, list.as_bytes());
    hash.as_ref()[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
pub(super) mod tests;
