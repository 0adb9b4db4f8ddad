//! The negotiated parameters of a TLS connection, by their usual names.

use tokio_rustls::rustls::{CipherSuite, CommonState, ProtocolVersion};

/// Version, cipher suite and key-exchange group of a connection whose handshake is done.
///
/// rustls spells the first two as Rust identifiers; these are the names that IANA and OpenSSL use.
/// The group is `none` for a resumed TLS 1.2 session, which exchanges no key.
pub(crate) fn names(tls: &CommonState) -> (String, String, String) {
    let version = tls.protocol_version().and_then(|version| version.as_str());
    let cipher = tls.negotiated_cipher_suite().map(|suite| suite_name(suite.suite()));
    let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    (
        version.map_or_else(|| "unknown".to_owned(), |name| name.replace('_', ".")),
        cipher.unwrap_or_else(|| "unknown".to_owned()),
        group.unwrap_or("none").to_owned(),
    )
}

/// The version of a connection whose handshake is done, as OpenSSL names it.
pub(crate) fn version(tls: &CommonState) -> &'static str {
    match tls.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        // rustls speaks no other.
        _ => "unknown",
    }
}

/// The name of a cipher suite in IANA's registry.
pub(super) fn suite_name(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or("unknown").replace("TLS13_", "TLS_")
}
