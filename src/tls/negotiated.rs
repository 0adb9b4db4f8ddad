//! What a handshake came to, in the words that people search for.

use tokio_rustls::rustls::{CipherSuite, CommonState};

/// Version, cipher suite and key-exchange group of a connection whose handshake is done.
///
/// rustls spells the first two as Rust identifiers; these are the names that IANA and OpenSSL use.
/// Who resumes a session of TLS 1.2 exchanges no key, and has no group.
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

/// A cipher suite's name in IANA's registry.
pub(super) fn suite_name(suite: CipherSuite) -> String {
    suite.as_str().unwrap_or("unknown").replace("TLS13_", "TLS_")
}
