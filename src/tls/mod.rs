//! What TLS needs before the first handshake: a certificate with its key, and rustls' settings.
//!
//! The handshakes themselves are in `listeners/tls.rs`. This room may read files.

mod identity;
pub(crate) mod negotiated;
pub(crate) mod pem;

use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::Identity;
use crate::error::StartError;

/// What the TLS front-ends of a server share.
#[derive(Debug, Clone)]
pub(crate) struct TlsSettings {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

impl TlsSettings {
    /// The settings, with these protocols for ALPN (RFC 7301), the preferred one first.
    pub(crate) fn offering(&self, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let mut config = ServerConfig::clone(&self.config);
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        Arc::new(config)
    }
}

/// The cryptography, ready to use: it gathers its first randomness now, which takes tens of
/// milliseconds, and not in somebody's handshake.
pub(crate) fn provider() -> CryptoProvider {
    let provider = aws_lc_rs::default_provider();
    // If there is no randomness, the first handshake fails, and says so.
    let _ = provider.secure_random.fill(&mut [0]);
    provider
}

/// Reads or makes the certificate, and checks that its key belongs to it.
pub(crate) fn settings(identity: &Identity) -> Result<TlsSettings, StartError> {
    let credentials = identity::load(identity)?;
    let chain = credentials.chain.clone();
    let config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_single_cert(credentials.chain, credentials.key)
        .map_err(|error| identity::unusable(identity, &error))?;
    Ok(TlsSettings { config: Arc::new(config), chain })
}
