//! What TLS needs before the first handshake: certificates with their keys, whom to trust, and
//! rustls' settings made of them; and the same again when the files change.
//!
//! The handshakes themselves are in `listeners/tls.rs`. This room may read files.

pub(crate) mod causes;
mod identity;
pub(crate) mod negotiated;
pub(crate) mod pem;
mod policy;
mod read_ahead;
mod reload;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, ProducesTickets, WebPkiClientVerifier};
use tokio_rustls::rustls::{KeyLogFile, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tracing::warn;

use crate::config::{ClientAuth, Identity, TlsPolicy};
use crate::error::StartError;
use identity::Identities;

pub(crate) use identity::describe;
pub(crate) use read_ahead::ReadAhead;
pub use reload::TlsReloader;

/// What the TLS front-ends of a server share.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    identity: Identity,
    policy: TlsPolicy,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    current: RwLock<Material>,
}

/// What was made of the files as they were.
#[derive(Debug, Clone)]
pub(crate) struct Material {
    /// Takes any ALPN protocol: none is configured, and the handshake puts the client's in.
    pub(crate) any_alpn: Arc<ServerConfig>,
    /// Takes the protocols of HTTP.
    pub(crate) http_alpn: Arc<ServerConfig>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// The cryptography, ready to use: it gathers its first randomness now, which takes tens of
/// milliseconds, and not in somebody's handshake.
pub(crate) fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    // The hybrid with post-quantum security first: a peer that knows it gets it.
    let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    // If there is no randomness, the first handshake fails, and says so.
    let _ = provider.secure_random.fill(&mut [0]);
    provider
}

impl TlsSettings {
    /// Reads or makes everything, and checks that it fits together.
    pub(crate) fn new(identity: &Identity, policy: &TlsPolicy) -> Result<Self, StartError> {
        let provider = Arc::new(policy::provider_for(policy)?);
        let versions = policy::versions(policy)?;
        if policy.key_log {
            let file = std::env::var_os("SSLKEYLOGFILE");
            warn!(?file, "--key-log: whoever has this file can read every connection");
        }
        let (identity, policy) = (identity.clone(), policy.clone());
        let material = make(&identity, &policy, &provider, &versions)?;
        let current = RwLock::new(material);
        Ok(TlsSettings { identity, policy, provider, versions, current })
    }

    /// What a handshake that begins now is made with.
    pub(crate) fn current(&self) -> Material {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any ALPN protocol is taken, since none was configured.
    pub(crate) fn takes_any_alpn(&self) -> bool {
        self.policy.alpn.is_empty()
    }

    /// Reads all files again. If anything is wrong with them, what there was stays.
    fn reload(&self) -> Result<(), StartError> {
        let material = make(&self.identity, &self.policy, &self.provider, &self.versions)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = material;
        Ok(())
    }

    /// The files that it is made of.
    fn files(&self) -> Vec<PathBuf> {
        let TlsPolicy { client_ca, crls, .. } = &self.policy;
        self.identity.files_read().chain(client_ca).chain(crls).cloned().collect()
    }
}

fn make(
    identity: &Identity,
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Material, StartError> {
    let identities = Identities::load(identity, provider)?;
    let chain = identities.first_chain().to_vec();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| StartError::Config(format!("--tls-ciphers, --tls-groups: {error}")))?
        .with_client_cert_verifier(client_verifier(policy, provider)?)
        .with_cert_resolver(Arc::new(identities));
    // New tickets with new files: a session must not outlive the trust that it was made with.
    config.ticketer = ticketer()?;
    // Early data can be replayed by whoever has recorded it; an echo of it would be, too.
    config.max_early_data_size = 0;
    if policy.key_log {
        config.key_log = Arc::new(KeyLogFile::new());
    }
    config.alpn_protocols = policy.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    let mut http = config.clone();
    if policy.alpn.is_empty() {
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(Material { any_alpn: Arc::new(config), http_alpn: Arc::new(http), chain })
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, StartError> {
    aws_lc_rs::Ticketer::new()
        .map_err(|error| StartError::Config(format!("no session tickets can be made: {error}")))
}

/// Who asks clients for a certificate, and judges it.
fn client_verifier(
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    let Some(path) = &policy.client_ca else {
        if policy.client_auth.is_some() {
            return Err(StartError::Config("--client-auth needs --client-ca".to_owned()));
        }
        if !policy.crls.is_empty() {
            return Err(StartError::Config("--crl needs --client-ca".to_owned()));
        }
        return Ok(Arc::new(NoClientAuth));
    };
    let unusable = |error: &dyn std::fmt::Display| StartError::Identity {
        flag: "--client-ca",
        path: path.clone(),
        reason: error.to_string(),
    };
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates("--client-ca", path)? {
        roots.add(certificate).map_err(|error| unusable(&error))?;
    }
    let mut crls = Vec::new();
    for path in &policy.crls {
        crls.extend(pem::revocation_lists("--crl", path)?);
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // A list says who is revoked. Of those whom no list is about, nothing is known against them.
    let builder = builder.with_crls(crls).allow_unknown_revocation_status();
    let builder = match policy.client_auth.unwrap_or(ClientAuth::Required) {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| unusable(&error))
}
