//! What a handshake came to, in the words that people search for.

use tokio_rustls::rustls::CommonState;

/// Version, cipher suite and key-exchange group of a connection whose handshake is done.
///
/// rustls spells the first two as Rust identifiers; these are the names that IANA and OpenSSL use.
pub(crate) fn names(tls: &CommonState) -> (String, String, String) {
    let unknown = || "unknown".to_owned();
    let version = tls.protocol_version().and_then(|version| version.as_str());
    let cipher = tls.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let group = tls.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    (
        version.map_or_else(unknown, |name| name.replace('_', ".")),
        cipher.map_or_else(unknown, |name| name.replace("TLS13_", "TLS_")),
        group.map_or_else(unknown, str::to_owned),
    )
}
