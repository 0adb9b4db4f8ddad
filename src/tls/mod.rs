//! What TLS needs before a handshake: certificates with their keys, trusted CAs, and the rustls
//! configurations made from them. All are loaded again when the files change.
//!
//! The handshakes themselves are in `transport/tls.rs`. This module may read files.

mod chain;
pub(crate) mod client_hello;
mod files;
mod fingerprint;
mod forms;
mod identity;
pub(crate) mod ja4;
mod key_log;
mod keys;
mod misissued;
pub(crate) mod negotiated;
pub(crate) mod pem;
mod policy;
mod reload;
pub(crate) mod trust;

use std::cmp::Reverse;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{
    NoClientAuth, NoServerSessionStorage, ProducesTickets, VerifierBuilderError,
    WebPkiClientVerifier,
};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tracing::warn;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::causes;
use crate::config::{CertificateFault, ClientAuth, FaultPolicy, Identity, Source, TlsPolicy};
use crate::error::{Credential, CredentialError, Setting, StartError};
use files::{Pipes, Reader};
use identity::Identities;
use key_log::KeyLogWriter;
use misissued::Misissuer;
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
    /// What came through pipes. It stays: a pipe cannot be read again.
    pipes: Pipes,
    /// What makes certificates with faults on purpose, if there are any.
    misissuer: Option<Misissuer>,
    /// Whether the last reload failed.
    last_reload_failed: AtomicBool,
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
    /// Revocation lists that should have been replaced by newer ones.
    outdated: Arc<[Outdated]>,
}

/// A revocation list whose next update is due.
#[derive(Debug)]
struct Outdated {
    origin: Source,
    next_update: UnixTime,
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
    pub(crate) fn new(
        identity: &Identity,
        policy: &TlsPolicy,
        faults: &FaultPolicy,
    ) -> Result<Self, StartError> {
        let versions = policy::versions(policy)?;
        let provider = Arc::new(policy::provider_for(policy, &versions)?);
        let key_log = policy.key_log.then(KeyLogWriter::from_environment).transpose()?;
        let key_log = key_log.map(Arc::new);
        let (identity, policy) = (identity.clone(), policy.clone());
        let before = stamps(&files(&identity, &policy));
        let reader = Reader::default();
        let identities = Identities::load(&reader, &identity, &provider)?;
        let configs =
            build_configs(&reader, identities, &policy, &provider, &versions, key_log.as_ref())?;
        let misissuer = Misissuer::new(&reader, faults, &provider)?;
        let pipes = reader.into_pipes();
        let stamps = files(&identity, &policy).into_iter().zip(before);
        let stamps = stamps.filter(|(path, _)| !pipes.contains_key(path));
        let loaded = Mutex::new(stamps.map(|(_, stamp)| stamp).collect());
        let current = RwLock::new(configs);
        Ok(TlsSettings {
            identity,
            policy,
            provider,
            versions,
            key_log,
            current,
            loaded,
            pipes,
            misissuer,
            last_reload_failed: AtomicBool::new(false),
        })
    }

    /// Logs what the server was told, once it is known that it starts.
    pub(crate) fn announce(&self) {
        if let Some(key_log) = &self.key_log {
            key_log.announce();
        }
        let current = self.current();
        current.identities.announce();
        current.warn_of_outdated();
    }

    /// The configurations for a handshake that starts now.
    pub(crate) fn current(&self) -> ServerConfigs {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The configuration `config`, but with a certificate for `name` that has this fault, and
    /// without resumption. To sign it can take milliseconds.
    ///
    /// # Errors
    /// The certificate could not be made.
    pub(crate) fn misissued(
        &self,
        fault: CertificateFault,
        name: Option<&str>,
        config: &ServerConfig,
    ) -> io::Result<Arc<ServerConfig>> {
        let misissuer = self.misissuer.as_ref();
        misissuer.expect("there is one where faults are asked for").config(fault, name, config)
    }

    /// Whether any ALPN protocol is accepted, because none is configured.
    pub(crate) fn accepts_any_alpn(&self) -> bool {
        self.policy.alpn.is_empty()
    }

    /// Where each certificate in use came from, and when it expires, in seconds since 1970.
    pub(crate) fn expiries(&self) -> Vec<(Option<String>, i64)> {
        self.current().identities.expiries()
    }

    /// Whether all was usable when the files were last read.
    pub(crate) fn last_reload_succeeded(&self) -> bool {
        !self.last_reload_failed.load(Ordering::Relaxed)
    }

    /// Reads all files again. If one is unusable, the previous configurations stay in use. It may
    /// block.
    fn reload(&self) -> Result<(), StartError> {
        let reloaded = self.read_again();
        self.last_reload_failed.store(reloaded.is_err(), Ordering::Relaxed);
        reloaded
    }

    fn read_again(&self) -> Result<(), StartError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamps(&self.files());
        let reader = Reader::keeping(&self.pipes);
        let identities = match &self.identity {
            // A client that trusts this self-signed certificate would not trust another one.
            Identity::SelfSigned => self.current().identities,
            files => Identities::load(&reader, files, &self.provider)?,
        };
        let (versions, key_log) = (&self.versions, self.key_log.as_ref());
        let configs =
            build_configs(&reader, identities, &self.policy, &self.provider, versions, key_log)?;
        if self.identity != Identity::SelfSigned {
            configs.identities.announce();
        }
        configs.warn_of_outdated();
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = configs;
        *loaded = now;
        Ok(())
    }

    /// The files that the settings are read from, and can be read from again.
    fn files(&self) -> Vec<PathBuf> {
        let mut files = files(&self.identity, &self.policy);
        files.retain(|path| !self.pipes.contains_key(path));
        files
    }
}

impl ServerConfigs {
    fn warn_of_outdated(&self) {
        for Outdated { origin, next_update } in &*self.outdated {
            warn!(
                next_update = causes::date(*next_update),
                "The revocation list {origin} is outdated: it goes on counting, but lacks whom its CA \
                 has revoked since"
            );
        }
    }
}

fn files(identity: &Identity, policy: &TlsPolicy) -> Vec<PathBuf> {
    let lists = policy.client_ca.iter().chain(&policy.crls).filter_map(Source::path);
    identity.paths().chain(lists).map(Path::to_owned).collect()
}

fn build_configs(
    reader: &Reader,
    identities: Arc<Identities>,
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
    versions: &[&'static SupportedProtocolVersion],
    key_log: Option<&Arc<KeyLogWriter>>,
) -> Result<ServerConfigs, StartError> {
    let chain = identities.first_chain().to_vec();
    let (verifier, outdated) = client_verifier(reader, policy, provider)?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| StartError::setting(Setting::Ciphers, causes::of_settings(&error)))?
        .with_client_cert_verifier(verifier)
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
    // After the handshake the keys go to our own record layer (`transport/tls/record.rs`).
    config.enable_secret_extraction = true;
    if let Some(key_log) = key_log {
        config.key_log = Arc::clone(key_log) as _;
    }
    config.alpn_protocols = policy.alpn.iter().map(|name| name.clone().into_bytes()).collect();
    let mut http = config.clone();
    if policy.alpn.is_empty() {
        http.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    }
    let (any_alpn, http_alpn) = (Arc::new(config), Arc::new(http));
    Ok(ServerConfigs { any_alpn, http_alpn, chain, identities, outdated: outdated.into() })
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
    reader: &Reader,
    policy: &TlsPolicy,
    provider: &Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Vec<Outdated>), StartError> {
    let Some(ca) = &policy.client_ca else {
        if policy.client_auth.is_some() {
            return Err(StartError::setting(Setting::ClientAuth, "no client CA is set"));
        }
        if !policy.crls.is_empty() {
            return Err(StartError::setting(Setting::Crls, "no client CA is set"));
        }
        return Ok((Arc::new(NoClientAuth), Vec::new()));
    };
    let certificates = pem::certificates_from(reader, Credential::ClientCa, ca)?;
    let roots = trust_anchors(Credential::ClientCa, ca, &certificates)?;
    let mut crls = Vec::new();
    for origin in &policy.crls {
        for der in pem::revocation_lists(reader, origin)? {
            check_list(&der, origin, provider)?;
            crls.push((der, origin));
        }
    }
    // rustls consults only the first list of a CA, so the newest has to come first.
    crls.sort_by_key(|(list, _)| Reverse(issue_time(list)));
    let outdated = outdated(&crls, UnixTime::now());
    let crls: Vec<_> = crls.into_iter().map(|(list, _)| list).collect();
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
    Ok((Arc::new(ClientVerifier { inner, trusted, algorithms }), outdated))
}

/// The lists whose next update is due. Of each CA's lists the first counts, which is the newest.
fn outdated(
    crls: &[(CertificateRevocationListDer<'static>, &Source)],
    now: UnixTime,
) -> Vec<Outdated> {
    let mut issuers: Vec<&[u8]> = Vec::new();
    let mut outdated = Vec::new();
    for (list, origin) in crls {
        let Ok((_, list)) = CertificateRevocationList::from_der(list) else { continue };
        let issuer = list.tbs_cert_list.issuer.as_raw();
        if issuers.contains(&issuer) {
            continue;
        }
        issuers.push(issuer);
        let Some(next_update) = list.next_update() else { continue };
        let seconds = u64::try_from(next_update.timestamp()).unwrap_or(0);
        let next_update = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        if next_update < now {
            outdated.push(Outdated { origin: (*origin).clone(), next_update });
        }
    }
    outdated
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
            let problem = pem::damaged_certificate(at, certificates.len());
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
