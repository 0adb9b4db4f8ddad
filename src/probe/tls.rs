//! TLS of a probe: the certificates that it accepts and presents, and the result of the handshake.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::SingleCertAndKey;
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::{ProbeError, ProbeSetting, Target};
use crate::causes::{self, Peer};
use crate::config::{Credentials, Source};
use crate::error::{Credential, CredentialError};
use crate::tls::client_hello::{self, ClientHello};
use crate::tls::trust::{self, Purpose, Trusted};
use crate::tls::{self, Fingerprint, negotiated, pem};

/// How a probe does TLS. The versions are 1.2 and 1.3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// Certificates to trust instead of the system's, PEM or DER: those of CAs, and those of servers
    /// themselves. A directory stands for the files in it that have certificates. `None`: the
    /// system's.
    pub ca: Option<Source>,
    /// The fingerprints of certificates to trust, whatever name, CA and validity they have. If there
    /// are any, no other certificate is trusted, and [`ca`](TlsOptions::ca) has no effect. None.
    pub pins: Vec<Fingerprint>,
    /// Whether to go on with a certificate that does not verify. [`TlsFacts::unverified`] has the
    /// reason. `false`.
    pub insecure: bool,
    /// The name to verify. `None`: the target's host, for a Unix socket `localhost`.
    pub server_name: Option<String>,
    /// The name to ask for. The one to verify.
    pub sni: Sni,
    /// The ALPN protocols to offer (RFC 7301), the preferred one first, each of 1 to 255 bytes. A
    /// WebSocket is opened over HTTP/2 (RFC 8441) if `h2` is selected, and without TLS if `h2` is the
    /// only one. None.
    pub alpn: Vec<String>,
    /// The certificate and key to present if the server asks for one. `None`: no certificate.
    pub client_credentials: Option<Credentials>,
}

/// The name that a client asks for, so that a server with several certificates can choose
/// (SNI, RFC 6066 section 3).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sni {
    /// The name to verify, unless it is an IP address, which cannot be asked for.
    #[default]
    AsVerified,
    /// This DNS name.
    Name(String),
    /// None is sent.
    Omitted,
}

impl TlsOptions {
    /// The defaults.
    pub fn new() -> Self {
        TlsOptions::default()
    }

    /// Sets [`TlsOptions::ca`].
    #[must_use]
    pub fn ca(mut self, ca: impl Into<Source>) -> Self {
        self.ca = Some(ca.into());
        self
    }

    /// Adds to [`TlsOptions::pins`].
    #[must_use]
    pub fn pin(mut self, fingerprint: Fingerprint) -> Self {
        self.pins.push(fingerprint);
        self
    }

    /// Sets [`TlsOptions::sni`].
    #[must_use]
    pub fn sni(mut self, sni: Sni) -> Self {
        self.sni = sni;
        self
    }

    /// Sets [`TlsOptions::insecure`].
    #[must_use]
    pub fn insecure(mut self) -> Self {
        self.insecure = true;
        self
    }

    /// Sets [`TlsOptions::server_name`].
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Adds to [`TlsOptions::alpn`].
    #[must_use]
    pub fn alpn(mut self, protocol: impl Into<String>) -> Self {
        self.alpn.push(protocol.into());
        self
    }

    /// Sets [`TlsOptions::client_credentials`].
    #[must_use]
    pub fn client_credentials(mut self, credentials: Credentials) -> Self {
        self.client_credentials = Some(credentials);
        self
    }
}

/// What a TLS handshake negotiated, and whose certificate the server has.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// The version, for example `TLSv1.3`.
    pub version: String,
    /// The cipher suite, for example `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The key-exchange group, for example `X25519`.
    pub group: String,
    /// The ALPN protocol that the server selected, if any.
    pub alpn: Option<String>,
    /// The subject of the server's certificate.
    pub subject: String,
    /// The fingerprint of the server's certificate. `None` if it sent none.
    pub fingerprint: Option<Fingerprint>,
    /// Whether the certificate is trusted by its fingerprint, see [`TlsOptions::pins`].
    pub is_pinned: bool,
    /// When the server's certificate expires. `None` if the certificate cannot be parsed.
    pub expires: Option<SystemTime>,
    /// Why the certificate did not verify. `None`: it verified.
    pub unverified: Option<String>,
}

/// What is read of certificates and keys, for any number of connections.
#[derive(Debug, Clone)]
pub(super) struct Keyring {
    provider: Arc<CryptoProvider>,
    /// `None` if there is no CA to trust.
    verifier: Option<Arc<WebPkiServerVerifier>>,
    trusted: Arc<Trusted>,
    presented: Option<Arc<SingleCertAndKey>>,
}

impl Keyring {
    /// Reads the files. It may block for the time that this takes.
    pub(super) fn read(options: &TlsOptions) -> Result<Self, ProbeError> {
        let provider = Arc::new(tls::provider());
        let certificates = trusted_certificates(options)?;
        let verifier = web_pki_verifier(options, &certificates, &provider)?;
        let presented = match &options.client_credentials {
            None => None,
            Some(credentials) => Some(tls::certified(credentials, &[], &provider)?),
        };
        Ok(Keyring {
            provider,
            verifier,
            trusted: Arc::new(Trusted::new(certificates, &[])),
            presented: presented.map(|certified| Arc::new(SingleCertAndKey::from(certified))),
        })
    }
}

/// rustls' configuration for one connection. It records whether the server's certificate verified.
pub(super) struct ClientTls {
    pub(super) config: Arc<ClientConfig>,
    /// What rustls takes for the server's name. It asks for this one.
    pub(super) name: ServerName<'static>,
    verifier: Arc<RecordingVerifier>,
}

impl ClientTls {
    /// Reads the files. It may block for the time that this takes.
    pub(super) fn new(target: &Target, options: &TlsOptions) -> Result<ClientTls, ProbeError> {
        // What is wrong with an option is told before what is wrong with a file.
        server_names(target, options)?;
        ClientTls::with(target, options, &Keyring::read(options)?)
    }

    /// Takes what was read before.
    pub(super) fn with(
        target: &Target,
        options: &TlsOptions,
        keyring: &Keyring,
    ) -> Result<ClientTls, ProbeError> {
        let (verified, name) = server_names(target, options)?;
        let Keyring { provider, verifier, trusted, presented } = keyring.clone();
        let verifier = Arc::new(RecordingVerifier {
            name: verified,
            pins: options.pins.clone(),
            inner: verifier,
            trusted,
            algorithms: provider.signature_verification_algorithms,
            insecure: options.insecure,
            unverified: Mutex::new(None),
            rejected: Mutex::new(None),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
        let mut config = match presented {
            None => config.with_no_client_auth(),
            Some(presented) => config.with_client_cert_resolver(presented),
        };
        if let Some(name) = options.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
            let problem = format!("the name '{name}' must have 1 to 255 bytes");
            return Err(ProbeError::setting(ProbeSetting::Alpn, problem));
        }
        config.alpn_protocols = options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config.enable_sni = options.sni != Sni::Omitted;
        Ok(ClientTls { config: Arc::new(config), name, verifier })
    }

    /// When the certificate expires that did not verify. `None` if one did, or none came.
    pub(super) fn rejected(&self) -> Option<SystemTime> {
        *self.verifier.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A `ClientHello` of this configuration. Each has random values of its own.
    pub(super) fn hello(&self) -> Option<ClientHello> {
        let config = Arc::clone(&self.config);
        let mut connection = ClientConnection::new(config, self.name.clone()).ok()?;
        let mut records = Vec::new();
        connection.write_tls(&mut records).ok()?;
        client_hello::parse(&records)
    }

    /// Describes `connection`, which must have been made with this configuration.
    pub(super) fn facts(&self, connection: &ClientConnection) -> TlsFacts {
        let (version, cipher, group) = negotiated::names(connection);
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let (subject, expires) = certificate.map(describe).unwrap_or_default();
        let alpn = connection.alpn_protocol();
        TlsFacts {
            version,
            cipher,
            group,
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            subject,
            expires,
            fingerprint: certificate.map(|certificate| Fingerprint::of(certificate)),
            is_pinned: certificate.is_some_and(|certificate| self.verifier.is_pinned(certificate)),
            unverified: self.verifier.unverified(),
        }
    }
}

/// The name to verify, and the one to ask for.
fn server_names(
    target: &Target,
    options: &TlsOptions,
) -> Result<(ServerName<'static>, ServerName<'static>), ProbeError> {
    let verified = match &options.server_name {
        Some(name) => server_name(ProbeSetting::ServerName, name)?,
        None => server_name(ProbeSetting::Target, target.server_name())?,
    };
    let name = match &options.sni {
        Sni::Name(name) => match server_name(ProbeSetting::Sni, name)? {
            ServerName::IpAddress(_) => {
                let problem = format!("'{name}' is an IP address, and only DNS names are sent");
                return Err(ProbeError::setting(ProbeSetting::Sni, problem));
            }
            name => name,
        },
        Sni::AsVerified | Sni::Omitted => verified.clone(),
    };
    Ok((verified, name))
}

fn server_name(setting: ProbeSetting, name: &str) -> Result<ServerName<'static>, ProbeError> {
    ServerName::try_from(name.to_owned()).map_err(|_| {
        ProbeError::setting(setting, format!("'{name}' is neither a DNS name nor an IP address"))
    })
}

/// The certificates that are trusted, as CAs or by themselves.
fn trusted_certificates(
    options: &TlsOptions,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    match &options.ca {
        _ if !options.pins.is_empty() => Ok(Vec::new()),
        Some(source) => pem::certificates(Credential::ServerCa, source),
        None => Ok(rustls_native_certs::load_native_certs().certs),
    }
}

/// `None` if there is no CA to trust.
fn web_pki_verifier(
    options: &TlsOptions,
    certificates: &[CertificateDer<'static>],
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, ProbeError> {
    let roots = match &options.ca {
        Some(source) if !pem::is_directory(source) => {
            tls::trust_anchors(Credential::ServerCa, source, certificates)?
        }
        // One certificate among many that webpki cannot read is no reason to trust none.
        _ => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().cloned());
            roots
        }
    };
    if roots.is_empty() {
        // `insecure` works without CAs; else the handshake fails and reports that there are none.
        return Ok(None);
    }
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
    Ok(Some(verifier.expect("there are CAs, and no revocation lists that could be invalid")))
}

/// Verifies certificates as rustls does, accepts those that are trusted themselves, and records why
/// one did not verify: with [`TlsOptions::insecure`] the handshake goes on, but the report has the
/// reason.
#[derive(Debug)]
struct RecordingVerifier {
    /// The name to verify, which need not be the one that was asked for.
    name: ServerName<'static>,
    pins: Vec<Fingerprint>,
    inner: Option<Arc<WebPkiServerVerifier>>,
    trusted: Arc<Trusted>,
    algorithms: WebPkiSupportedAlgorithms,
    insecure: bool,
    unverified: Mutex<Option<String>>,
    /// When the certificate expires that did not verify.
    rejected: Mutex<Option<SystemTime>>,
}

impl RecordingVerifier {
    fn unverified(&self) -> Option<String> {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_pinned(&self, certificate: &[u8]) -> bool {
        self.pins.contains(&Fingerprint::of(certificate))
    }

    fn verify_by_pin(&self, certificate: &[u8]) -> Result<ServerCertVerified, rustls::Error> {
        if self.is_pinned(certificate) {
            return Ok(ServerCertVerified::assertion());
        }
        let fingerprint = Fingerprint::of(certificate);
        let pinned = if self.pins.len() == 1 { "the pinned one" } else { "among the pinned ones" };
        Err(causes::said(format!(
            "the server's certificate is not {pinned}; its fingerprint is {fingerprint}"
        )))
    }

    /// Passes on what `verified` says, or records it and goes on.
    fn allowed<T>(
        &self,
        verified: Result<T, rustls::Error>,
        assertion: impl FnOnce() -> T,
    ) -> Result<T, rustls::Error> {
        let error = match verified {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        let mut unverified = self.unverified.lock().unwrap_or_else(PoisonError::into_inner);
        // The first reason is that of the certificate.
        unverified.get_or_insert_with(|| causes::of_certificate(&error, Peer::Server));
        if self.insecure { Ok(assertion()) } else { Err(error) }
    }
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = &self.name;
        let result = match &self.inner {
            _ if !self.pins.is_empty() => self.verify_by_pin(end_entity),
            Some(inner) => {
                inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
            }
            None => Err(causes::said("the system has no CA certificates")),
        };
        let result = result.or_else(|error| {
            self.trusted.verify(end_entity, Purpose::Server(name), now, error)?;
            Ok(ServerCertVerified::assertion())
        });
        if result.is_err() {
            let (_, expires) = describe(end_entity);
            *self.rejected.lock().unwrap_or_else(PoisonError::into_inner) = expires;
        }
        self.allowed(result, ServerCertVerified::assertion)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = trust::verify_tls12(message, cert, dss, &self.algorithms);
        self.allowed(verified, HandshakeSignatureValid::assertion)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let verified = trust::verify_tls13(message, cert, dss, &self.algorithms);
        self.allowed(verified, HandshakeSignatureValid::assertion)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Subject and expiry of a certificate.
fn describe(certificate: &CertificateDer<'_>) -> (String, Option<SystemTime>) {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return ("unreadable".to_owned(), None);
    };
    let expires = u64::try_from(certificate.validity().not_after.timestamp()).ok();
    let expires = expires.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    (certificate.subject().to_string(), expires)
}

/// One line.
impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TlsFacts { version, cipher, group, subject, .. } = self;
        let alpn = self.alpn.as_deref().unwrap_or("none");
        write!(f, "{version}, {cipher}, {group}, ALPN {alpn}; certificate of {subject}")?;
        if let Some(expires) = self.expires {
            write!(f, ", valid until {}", humantime::format_rfc3339_seconds(expires))?;
        }
        match &self.unverified {
            None if self.is_pinned => f.write_str(", trusted by its fingerprint"),
            None => f.write_str(", verified"),
            Some(reason) => write!(f, ", NOT VERIFIED: {reason}"),
        }
    }
}
