//! What TLS needs before a handshake: certificates with their keys, trusted CAs, and the rustls
//! configurations made from them. All are loaded again when the files change.
//!
//! The handshakes themselves are in `transport/tls.rs`. This module may read files.

mod chain;
mod fingerprint;
mod forms;
mod identity;
mod key_log;
mod keys;
pub(crate) mod negotiated;
pub(crate) mod pem;
mod policy;
mod reload;
pub(crate) mod trust;

use std::cmp::Reverse;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    NoClientAuth, NoServerSessionStorage, ProducesTickets, VerifierBuilderError,
    WebPkiClientVerifier,
};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::causes;
use crate::config::{ClientAuth, Identity, Source, TlsPolicy};
use crate::error::{Credential, CredentialError, Setting, StartError};
use identity::Identities;
use key_log::KeyLogWriter;
use trust::{ClientVerifier, Trusted};

pub use fingerprint::{Fingerprint, FingerprintError};
pub(crate) use identity::{certified, describe};
pub use reload::TlsReloader;
use reload::{FileStamp, stamps};

/// The settings that all TLS listeners of a server share.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    identity: Identity,
    policy: TlsPolicy,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    key_log: Option<Arc<KeyLogWriter>>,
    current: RwLock<ServerConfigs>,
    /// The stamps of the files from which `current` was made. The lock is held during a reload, so
    /// that two reloads never overlap.
    loaded: Mutex<Vec<FileStamp>>,
}

/// The rustls configurations made from one reading of the files.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfigs {
    /// For byte streams: has the configured ALPN protocols. If there are none, the handshake adds
    /// the client's first.
    pub(crate) any_alpn: Arc<ServerConfig>,
    /// For HTTP: has the configured ALPN protocols, or h2 and http/1.1.
    pub(crate) http_alpn: Arc<ServerConfig>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    identities: Arc<Identities>,
}

/// The crypto provider. Its random number generator is seeded here, which takes tens of
/// milliseconds, so that no handshake has to wait for it.
pub(crate) fn provider() -> CryptoProvider {
    use aws_lc_rs::kx_group::{SECP256R1, SECP384R1, X25519, X25519MLKEM768};
    // The post-quantum hybrid comes first, so that every peer that supports it uses it.
    let kx_groups = vec![X25519MLKEM768, X25519, SECP256R1, SECP384R1];
    let provider = CryptoProvider { kx_groups, ..aws_lc_rs::default_provider() };
    // If this fails, so does the first handshake, which reports it.
    let _ = provider.secure_random.fill(&mut [0]);
    provider
}

impl TlsSettings {
    /// Reads or makes all certificates and keys, and checks that they fit together.
    pub(crate) fn new(identity: &Identity, policy: &TlsPolicy) -> Result<Self, StartError> {
        let versions = policy::versions(policy)?;
        let provider = Arc::new(policy::provider_for(policy, &versions)?);
        let key_log = policy.key_log.then(KeyLogWriter::from_environment).transpose()?;
        let key_log = key_log.map(Arc::new);
        let (identity, policy) = (identity.clone(), policy.clone());
        let loaded = stamps(&files(&identity, &policy));
        let identities = Identities::load(&identity, &provider)?;
        let configs = build_configs(identities, &policy, &provider, &versions, key_log.as_ref())?;
        let (current, loaded) = (RwLock::new(configs), Mutex::new(loaded));
        Ok(TlsSettings { identity, policy, provider, versions, key_log, current, loaded })
    }

    /// Logs what the server was told, once it is known that it starts.
    pub(crate) fn announce(&self) {
        if let Some(key_log) = &self.key_log {
            key_log.announce();
        }
        self.current().identities.announce();
    }

    /// The configurations for a handshake that starts now.
    pub(crate) fn current(&self) -> ServerConfigs {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any ALPN protocol is accepted, because none is configured.
    pub(crate) fn accepts_any_alpn(&self) -> bool {
        self.policy.alpn.is_empty()
    }

    /// Reads all files again. If one is unusable, the previous configurations stay in use. It may
    /// block.
    fn reload(&self) -> Result<(), StartError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files());
        let identities = match &self.identity {
            // A client that trusts this self-signed certificate would not trust another one.
            Identity::SelfSigned => self.current().identities,
            files => Identities::load(files, &self.provider)?,
        };
        let (versions, key_log) = (&self.versions, self.key_log.as_ref());
        let configs = build_configs(identities, &self.policy, &self.provider, versions, key_log)?;
        if self.identity != Identity::SelfSigned {
            configs.identities.announce();
        }
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        *loaded = now;
        Ok(())
    }

    /// The files that the settings are read from.
    fn files(&self) -> Vec<PathBuf> {
        files(&self.identity, &self.policy)
    }
}

fn files(identity: &Identity, policy: &TlsPolicy) -> Vec<PathBuf> {
    let lists = policy.client_ca.iter().chain(&policy.crls).filter_map(Source::path);
    identity.paths().chain(lists).map(Path::to_owned).collect()
}

fn build_configs(
    identities: Arc<Identities>,
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    key_log: Option<&Arc<KeyLogWriter>>,
) -> Result<ServerConfigs, StartError> {
    let chain = identities.first_chain().to_vec();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| StartError::setting(Setting::Ciphers, causes::of_settings(&error)))?
        .with_client_cert_verifier(client_verifier(policy, provider)?)
        .with_cert_resolver(Arc::clone(&identities) as _);
    if policy.client_ca.is_some() {
        // A resumed session is not asked for its certificate again, which may have expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = ticketer()?;
    }
    // An explicit list of cipher suites is in order of preference.
    config.ignore_client_order = !policy.ciphers.is_empty();
    // An attacker can replay early data (RFC 8446 section 8), and would get an echo of it.
    config.max_early_data_size = 0;
    if let Some(key_log) = key_log {
        config.key_log = Arc::clone(key_log) as _;
    }
    config.alpn_protocols = policy.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    let mut http = config.clone();
    if policy.alpn.is_empty() {
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    Ok(ServerConfigs { any_alpn: Arc::new(config), http_alpn: Arc::new(http), chain, identities })
}

/// When a revocation list was issued. The verifier's builder refuses lists that cannot be parsed.
fn issue_time(list: &[u8]) -> i64 {
    let list = CertificateRevocationList::from_der(list);
    list.map_or(i64::MIN, |(_, list)| list.last_update().timestamp())
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, StartError> {
    aws_lc_rs::Ticketer::new()
        .map_err(|error| StartError::tls("could not create the session ticket keys", error))
}

/// The verifier that asks clients for a certificate and checks it.
fn client_verifier(
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    let Some(ca) = &policy.client_ca else {
        if policy.client_auth.is_some() {
            return Err(StartError::setting(Setting::ClientAuth, "no client CA is set"));
        }
        if !policy.crls.is_empty() {
            return Err(StartError::setting(Setting::Crls, "no client CA is set"));
        }
        return Ok(Arc::new(NoClientAuth));
    };
    let certificates = pem::certificates(Credential::ClientCa, ca)?;
    let roots = trust_anchors(Credential::ClientCa, ca, &certificates)?;
    let mut crls = Vec::new();
    for list in &policy.crls {
        for der in pem::revocation_lists(list)? {
            check_list(&der, list, provider)?;
            crls.push(der);
        }
    }
    // rustls consults only the first list of a CA, so the newest has to come first.
    crls.sort_by_key(|list| Reverse(issue_time(list)));
    let trusted = Trusted::new(certificates, &crls);
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // A certificate of a CA without a revocation list counts as not revoked.
    let builder = builder.with_crls(crls).allow_unknown_revocation_status();
    let builder = match policy.client_auth.unwrap_or(ClientAuth::Required) {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let inner = builder.build().map_err(|error| unusable(Credential::ClientCa, ca, error))?;
    let algorithms = provider.signature_verification_algorithms;
    Ok(Arc::new(ClientVerifier { inner, trusted, algorithms }))
}

/// The certificates as trust anchors for webpki.
pub(crate) fn trust_anchors(
    credential: Credential,
    source: &Source,
    certificates: &[CertificateDer<'static>],
) -> Result<RootCertStore, CredentialError> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            let which = match certificates.len() {
                1 => "the certificate".to_owned(),
                _ => format!("certificate {} of it", at + 1),
            };
            let problem = format!("{which} cannot be read: it is damaged, or no X.509 certificate");
            let refused = CredentialError::new(credential, source, problem);
            CredentialError { source: Some(error.into()), ..refused }
        })?;
    }
    Ok(roots)
}

/// Checks a list on its own: the verifier's builder would not tell which of them is invalid.
fn check_list(
    list: &CertificateRevocationListDer<'static>,
    source: &Source,
    provider: &Arc<CryptoProvider>,
) -> Result<(), CredentialError> {
    let roots = Arc::new(RootCertStore::empty());
    let builder = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    match builder.with_crls([list.clone()]).build() {
        Err(error @ VerifierBuilderError::InvalidCrl(_)) => {
            Err(unusable(Credential::Crl, source, error))
        }
        // There are no roots, which is another error.
        _ => Ok(()),
    }
}

fn unusable(
    credential: Credential,
    source: &Source,
    error: VerifierBuilderError,
) -> CredentialError {
    let problem = causes::of_verifier(&error);
    let refused = CredentialError::new(credential, source, problem);
    CredentialError { source: Some(error.into()), ..refused }
}
