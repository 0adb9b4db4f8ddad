//! The configuration of TLS: certificates, and what may be negotiated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a certificate, a key or a revocation list comes from.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A file. A server reads it again when it changes.
    File(PathBuf),
    /// The bytes themselves.
    Memory(Arc<[u8]>),
}

impl Source {
    /// The file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Source::File(path.into())
    }

    /// These bytes: the text of a PEM file, or DER.
    pub fn memory(bytes: impl AsRef<[u8]>) -> Self {
        Source::Memory(bytes.as_ref().into())
    }

    /// The path, if it is a file.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Source::File(path) => Some(path),
            Source::Memory(_) => None,
        }
    }
}

/// Shown in place of a path that is the text of a PEM file, by somebody's mistake.
const PEM_AS_PATH: &str = "(PEM text in place of a path)";

/// Whether `path` is the text of a PEM file, which may be a private key.
fn is_pem(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().windows(11).any(|window| window == b"-----BEGIN ")
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) if is_pem(path) => f.write_str(PEM_AS_PATH),
            Source::File(path) => path.display().fmt(f),
            Source::Memory(_) => f.write_str("in memory"),
        }
    }
}

/// The bytes may be a private key, so they are not shown.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) if is_pem(path) => {
                f.debug_tuple("File").field(&PEM_AS_PATH).finish()
            }
            Source::File(path) => f.debug_tuple("File").field(path).finish(),
            Source::Memory(bytes) => write!(f, "Memory({} bytes)", bytes.len()),
        }
    }
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Source::File(path)
    }
}

impl From<&Path> for Source {
    fn from(path: &Path) -> Self {
        Source::File(path.to_owned())
    }
}

/// The certificates of the TLS protocols.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// A certificate for localhost, 127.0.0.1, ::1 and the host name, made in memory at start.
    #[default]
    SelfSigned,
    /// Certificates with their keys. The server name that the client sends (SNI) selects the first
    /// certificate with exactly that name, else the first with a matching wildcard, else the first.
    Given(Vec<Credentials>),
}

impl Identity {
    /// The PEM files of one certificate chain and its key.
    pub fn files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Identity::from(Credentials::new(Source::file(chain), Source::file(key)))
    }

    /// One certificate chain and its key, as the text of PEM files.
    ///
    /// ```
    /// use echo_server::{Config, Identity, Protocol, certs};
    ///
    /// let made = certs::issue(&certs::Name::of_this_machine(), std::time::SystemTime::now())?;
    /// let config = Config::new()
    ///     .listen(Protocol::Tls, ([127, 0, 0, 1], 0))
    ///     .identity(Identity::pem(made.server.certificate, made.server.key));
    /// # let _ = config;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        Identity::from(Credentials::new(Source::memory(chain), Source::memory(key)))
    }

    /// The files that the certificates are read from.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let given = match self {
            Identity::SelfSigned => &[][..],
            Identity::Given(given) => given,
        };
        let sources = given.iter().flat_map(|given| {
            [Some(&given.chain), Some(&given.key), given.ocsp.as_ref()].into_iter().flatten()
        });
        sources.filter_map(Source::path)
    }
}

impl From<Credentials> for Identity {
    fn from(credentials: Credentials) -> Self {
        Identity::Given(vec![credentials])
    }
}

/// A certificate chain, its private key, and an OCSP response for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// The certificate chain, PEM or DER. It is sent in order, the holder's own certificate first,
    /// whatever the order here.
    pub chain: Source,
    /// Its private key, PEM or DER: PKCS#8, PKCS#1 or SEC1, not encrypted. It may be the same source
    /// as the chain's.
    pub key: Source,
    /// A DER-encoded OCSP response (RFC 6960) for the server to staple. Clients ignore it.
    pub ocsp: Option<Source>,
}

impl Credentials {
    /// A certificate chain and its key, without an OCSP response.
    pub fn new(chain: impl Into<Source>, key: impl Into<Source>) -> Self {
        Credentials { chain: chain.into(), key: key.into(), ocsp: None }
    }

    /// Adds an OCSP response to staple.
    #[must_use]
    pub fn stapled(mut self, ocsp: impl Into<Source>) -> Self {
        self.ocsp = Some(ocsp.into());
        self
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum TlsVersion {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

/// Whether clients need a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientAuth {
    /// A client is asked for a certificate, and admitted without one.
    Optional,
    /// A client without a certificate is refused.
    Required,
}

/// What the TLS protocols negotiate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsPolicy {
    /// The lowest version. Default: TLS 1.2.
    pub min: TlsVersion,
    /// The highest version. Default: TLS 1.3.
    pub max: TlsVersion,
    /// Cipher suites by their IANA names, the preferred one first. Empty: the defaults
    /// of rustls.
    pub ciphers: Vec<String>,
    /// Key-exchange groups by their IANA names, the preferred one first. Empty: X25519MLKEM768,
    /// x25519, secp256r1, secp384r1.
    pub groups: Vec<String>,
    /// ALPN protocols (RFC 7301), the preferred one first. Empty:
    /// [`Protocol::Tls`](crate::Protocol) accepts the first that the client offers,
    /// [`Protocol::Wss`](crate::Protocol) has h2 and http/1.1.
    pub alpn: Vec<String>,
    /// Certificates of the CAs that may have issued a client's certificate, and certificates of
    /// clients that are trusted themselves, PEM or DER. `None`: clients are not asked for a
    /// certificate.
    pub client_ca: Option<Source>,
    /// Whether clients need a certificate. `None`: required if there is a `client_ca`.
    pub client_auth: Option<ClientAuth>,
    /// Certificate revocation lists of those CAs, PEM or DER.
    pub crls: Vec<Source>,
    /// Whether each connection's secrets are written to the file named by the environment variable
    /// SSLKEYLOGFILE, so that tools can decrypt it. Default: `false`.
    pub key_log: bool,
}

impl Default for TlsPolicy {
    fn default() -> Self {
        TlsPolicy {
            min: TlsVersion::Tls12,
            max: TlsVersion::Tls13,
            ciphers: Vec::new(),
            groups: Vec::new(),
            alpn: Vec::new(),
            client_ca: None,
            client_auth: None,
            crls: Vec::new(),
            key_log: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_shows_none_of_its_bytes() {
        let text = "-----BEGIN PRIVATE KEY-----";
        for source in [Source::memory(text), Source::file(text)] {
            let credentials = Credentials::new(source.clone(), source.clone());
            let shown = format!("{source} {source:?} {credentials:?}");
            assert!(!shown.contains("PRIVATE") && !shown.contains("45"), "{shown}");
        }
    }
}
