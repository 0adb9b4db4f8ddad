//! What TLS needs before the first handshake: certificates with their keys, whom to trust, and
//! rustls' settings made of them; and the same again when the files change.
//!
//! The handshakes themselves are in `transport/tls.rs`. This module may read files.

pub(crate) mod causes;
mod identity;
pub(crate) mod negotiated;
pub(crate) mod pem;
mod policy;
mod reload;

use std::cmp::Reverse;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    NoClientAuth, NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier,
};
use tokio_rustls::rustls::{KeyLogFile, RootCertStore, ServerConfig, SupportedProtocolVersion};
use tracing::warn;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::config::{ClientAuth, Identity, Source, TlsPolicy};
use crate::error::{Credential, CredentialError, Setting, StartError};
use identity::Identities;

pub(crate) use identity::describe;
pub use reload::TlsReloader;
use reload::{FileStamp, stamps};

/// What the TLS front-ends of a server share.
#[derive(Debug)]
pub(crate) struct TlsSettings {
    identity: Identity,
    policy: TlsPolicy,
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    current: RwLock<ServerConfigs>,
    /// What the files were when `current` was made of them. Held while they are read, so that two
    /// who reload do it one after the other.
    loaded: Mutex<Vec<FileStamp>>,
}

/// What was made of the files as they were.
#[derive(Debug, Clone)]
pub(crate) struct ServerConfigs {
    /// Takes any ALPN protocol: none is configured, and the handshake puts the client's in.
    pub(crate) any_alpn: Arc<ServerConfig>,
    /// Takes the protocols of HTTP.
    pub(crate) http_alpn: Arc<ServerConfig>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    identities: Arc<Identities>,
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
            check_key_log()?;
        }
        let (identity, policy) = (identity.clone(), policy.clone());
        let loaded = stamps(&files(&identity, &policy));
        let identities = Identities::load(&identity, &provider)?;
        let configs = make(identities, &policy, &provider, &versions)?;
        let (current, loaded) = (RwLock::new(configs), Mutex::new(loaded));
        Ok(TlsSettings { identity, policy, provider, versions, current, loaded })
    }

    /// What a handshake that begins now is made with.
    pub(crate) fn current(&self) -> ServerConfigs {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether any ALPN protocol is taken, since none was configured.
    pub(crate) fn takes_any_alpn(&self) -> bool {
        self.policy.alpn.is_empty()
    }

    /// Reads all files again. If anything is wrong with them, what there was stays. It may block.
    fn reload(&self) -> Result<(), StartError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files());
        let identities = match &self.identity {
            // Whoever trusts a self-signed certificate trusts this one, and no other.
            Identity::SelfSigned => self.current().identities,
            files => Identities::load(files, &self.provider)?,
        };
        let configs = make(identities, &self.policy, &self.provider, &self.versions)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        *loaded = now;
        Ok(())
    }

    /// The files that it is made of.
    fn files(&self) -> Vec<PathBuf> {
        files(&self.identity, &self.policy)
    }
}

fn files(identity: &Identity, policy: &TlsPolicy) -> Vec<PathBuf> {
    let lists = policy.client_ca.iter().chain(&policy.crls).filter_map(Source::path);
    identity.paths().chain(lists).map(Path::to_owned).collect()
}

/// Whether there is a file that the secrets can be written to: rustls says nothing if not.
fn check_key_log() -> Result<(), StartError> {
    let refuse = |why: &str| Err(StartError::setting(Setting::KeyLog, why));
    let Some(path) = std::env::var_os("SSLKEYLOGFILE").filter(|path| !path.is_empty()) else {
        return refuse("SSLKEYLOGFILE names no file");
    };
    let file = Path::new(&path).display();
    match OpenOptions::new().append(true).create(true).open(&path) {
        Ok(_) => {
            warn!(%file, "The key log lets whoever has its file read every connection");
            Ok(())
        }
        Err(error) => refuse(&format!("SSLKEYLOGFILE {file}: {error}")),
    }
}

fn make(
    identities: Arc<Identities>,
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<ServerConfigs, StartError> {
    let chain = identities.first_chain().to_vec();
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| StartError::setting(Setting::Ciphers, error.to_string()))?
        .with_client_cert_verifier(client_verifier(policy, provider)?)
        .with_cert_resolver(Arc::clone(&identities) as _);
    if policy.client_ca.is_some() {
        // Who resumes a session is not asked for a certificate again, and it may have expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    } else {
        config.ticketer = ticketer()?;
    }
    // Whoever names suites means their order, too.
    config.ignore_client_order = !policy.ciphers.is_empty();
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
    Ok(ServerConfigs { any_alpn: Arc::new(config), http_alpn: Arc::new(http), chain, identities })
}

/// When a revocation list was issued; one that cannot be read is refused elsewhere.
fn issued(list: &[u8]) -> i64 {
    let list = CertificateRevocationList::from_der(list);
    list.map_or(i64::MIN, |(_, list)| list.last_update().timestamp())
}

fn ticketer() -> Result<Arc<dyn ProducesTickets>, StartError> {
    aws_lc_rs::Ticketer::new()
        .map_err(|error| StartError::tls("no session tickets can be made", error))
}

/// Who asks clients for a certificate, and judges it.
fn client_verifier(
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, StartError> {
    let Some(ca) = &policy.client_ca else {
        if policy.client_auth.is_some() {
            return Err(StartError::setting(Setting::ClientAuth, "there is no client CA"));
        }
        if !policy.crls.is_empty() {
            return Err(StartError::setting(Setting::Crls, "there is no client CA"));
        }
        return Ok(Arc::new(NoClientAuth));
    };
    let mut roots = RootCertStore::empty();
    for certificate in pem::certificates(Credential::ClientCa, ca)? {
        roots
            .add(certificate)
            .map_err(|error| CredentialError::caused_by(Credential::ClientCa, ca, error))?;
    }
    let mut crls = Vec::new();
    for list in &policy.crls {
        crls.extend(pem::revocation_lists(list)?);
    }
    // Of several lists of one CA, only the first is looked at.
    crls.sort_by_key(|list| Reverse(issued(list)));
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    // A list says who is revoked. Of those whom no list is about, nothing is known against them.
    let builder = builder.with_crls(crls).allow_unknown_revocation_status();
    let builder = match policy.client_auth.unwrap_or(ClientAuth::Required) {
        ClientAuth::Required => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    let built = builder.build();
    Ok(built.map_err(|error| CredentialError::caused_by(Credential::ClientCa, ca, error))?)
}
