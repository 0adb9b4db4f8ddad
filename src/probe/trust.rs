//! TLS for the probe: whom it trusts, and what it saw of the other side.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::ProbeError;
use crate::config::{Credentials, Source};
use crate::error::{Credential, CredentialError};
use crate::tls::{self, negotiated, pem};

/// How a probe does TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsOptions {
    /// PEM certificates of the CAs to trust instead of the system's.
    pub ca: Option<Source>,
    /// Go on when the certificate does not verify. What was wrong is still reported.
    pub insecure: bool,
    /// The name to ask for (SNI) and to verify; the target's host if `None`.
    pub server_name: Option<String>,
    /// The protocols to offer (ALPN), the preferred first.
    pub alpn: Vec<String>,
    /// The certificate to present if the server asks for one.
    pub client_identity: Option<Credentials>,
}

/// What a TLS handshake came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsFacts {
    /// For example `TLSv1.3`.
    pub version: String,
    /// For example `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
    /// The key-exchange group, for example `X25519`.
    pub group: String,
    /// The protocol that the server selected, if any.
    pub alpn: Option<String>,
    /// The subject of the server's certificate.
    pub subject: String,
    /// Until when the server's certificate is valid.
    pub expires: Option<SystemTime>,
    /// Why the certificate did not verify, if it did not.
    pub unverified: Option<String>,
}

/// Settings for one connection, with a place for the verdict on the server's certificate.
pub(super) struct Trust {
    pub(super) config: Arc<ClientConfig>,
    verdict: Arc<Verdict>,
}

impl Trust {
    pub(super) fn new(options: &TlsOptions) -> Result<Trust, ProbeError> {
        let provider = Arc::new(tls::provider());
        let verdict = Arc::new(Verdict {
            inner: verifier(options, &provider)?,
            algorithms: provider.signature_verification_algorithms,
            insecure: options.insecure,
            unverified: Mutex::new(None),
        });
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has suites for TLS 1.2 and 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&verdict) as _);
        let mut config = match &options.client_identity {
            None => config.with_no_client_auth(),
            Some(Credentials { chain, key, .. }) => {
                let certificates = pem::certificates(Credential::Chain, chain)?;
                let private_key = pem::private_key(key)?;
                config
                    .with_client_auth_cert(certificates, private_key)
                    .map_err(|error| CredentialError::caused_by(Credential::Key, key, error))?
            }
        };
        if let Some(name) = options.alpn.iter().find(|name| !(1..=255).contains(&name.len())) {
            return Err(ProbeError::Usage(format!("--alpn '{name}': must be 1 to 255 bytes")));
        }
        config.alpn_protocols = options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Trust { config: Arc::new(config), verdict })
    }

    /// What `connection`, which must have been made with this, came to.
    pub(super) fn facts(&self, connection: &ClientConnection) -> TlsFacts {
        let (version, cipher, group) = negotiated::names(connection);
        let certificate = connection.peer_certificates().and_then(<[_]>::first);
        let (subject, expires) = certificate.map(about).unwrap_or_default();
        let alpn = connection.alpn_protocol();
        TlsFacts {
            version,
            cipher,
            group,
            alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
            subject,
            expires,
            unverified: self.verdict.unverified(),
        }
    }
}

fn verifier(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<WebPkiServerVerifier>>, ProbeError> {
    let mut roots = RootCertStore::empty();
    match &options.ca {
        Some(source) => {
            for certificate in pem::certificates(Credential::ServerCa, source)? {
                roots.add(certificate).map_err(|error| {
                    CredentialError::caused_by(Credential::ServerCa, source, error)
                })?;
            }
        }
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        // A system without certificates trusts nobody; the handshake will say so.
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map(Some)
        .map_err(|error| ProbeError::Usage(format!("--ca: {error}")))
}

/// Verifies as rustls does, and keeps what was wrong even if it is to be overlooked.
#[derive(Debug)]
struct Verdict {
    inner: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    insecure: bool,
    unverified: Mutex<Option<String>>,
}

impl Verdict {
    fn unverified(&self) -> Option<String> {
        self.unverified.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ServerCertVerifier for Verdict {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = match &self.inner {
            Some(inner) => {
                inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(rustls::Error::General("the system has no CA certificates".to_owned())),
        };
        let Err(error) = result else { return result };
        let mut unverified = self.unverified.lock().unwrap_or_else(PoisonError::into_inner);
        *unverified = Some(error.to_string());
        if self.insecure { Ok(ServerCertVerified::assertion()) } else { Err(error) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Subject and expiry of a certificate, as far as it can be read.
fn about(certificate: &CertificateDer<'_>) -> (String, Option<SystemTime>) {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else {
        return ("unreadable".to_owned(), None);
    };
    let expires = u64::try_from(certificate.validity().not_after.timestamp()).ok();
    let expires = expires.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    (certificate.subject().to_string(), expires)
}

impl fmt::Display for TlsFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TlsFacts { version, cipher, group, subject, .. } = self;
        let alpn = self.alpn.as_deref().unwrap_or("none");
        write!(f, "{version}, {cipher}, {group}, ALPN {alpn}; certificate of {subject}")?;
        if let Some(expires) = self.expires {
            write!(f, ", valid until {}", humantime::format_rfc3339_seconds(expires))?;
        }
        match &self.unverified {
            None => f.write_str(", verified"),
            Some(reason) => write!(f, ", NOT VERIFIED: {reason}"),
        }
    }
}
