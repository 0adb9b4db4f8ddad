//! The configuration of TLS: certificates, and what may be negotiated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::BASE64;

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

    /// Whether it is a file whose path looks like the content of one. The path is never shown then.
    pub(crate) fn is_content(&self) -> bool {
        self.path().is_some_and(is_content)
    }
}

/// Shown in place of a path that is the content of a file, by somebody's mistake.
const NO_PATH: &str = "(not a path)";

/// Whether `path` is the content of a file, which may be a private key: PEM text, a part of it, or
/// base64. Some of what is only too long for a path cannot be told from it.
fn is_content(path: &Path) -> bool {
    const NAME_MAX: usize = 255;
    const PATH_MAX: usize = 4096;
    let bytes = path.as_os_str().as_encoded_bytes();
    if bytes.len() >= PATH_MAX || bytes.split(|byte| *byte == b'/').any(|x| x.len() > NAME_MAX) {
        return true;
    }
    if bytes.windows(9).any(|window| matches!(window, b"-----BEGI" | b"-----END ")) {
        return true;
    }
    let base64: Vec<u8> =
        bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    // It may be cut off anywhere, so that whole groups of four count.
    let padded = base64.len() / 4 * 4;
    let Ok(decoded) = BASE64.decode(&base64[..padded]) else { return false };
    // Paths have a slash more often than every 16 characters.
    let slashes = base64.iter().filter(|byte| **byte == b'/').count();
    let is_der =
        matches!(decoded[..], [0x30, length, ..] if usize::from(length) + 2 == decoded.len());
    is_der && decoded.len() >= 32 || base64.len() > 100 && slashes * 16 < base64.len()
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) if is_content(path) => f.write_str(NO_PATH),
            Source::File(path) => path.display().fmt(f),
            Source::Memory(_) => f.write_str("in memory"),
        }
    }
}

/// The bytes may be a private key, so they are not shown.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) if is_content(path) => {
                f.debug_tuple("File").field(&NO_PATH).finish()
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
        // A key of Ed25519 is the shortest.
        let der = [&[0x30, 46, 2, 1, 0, 0x30, 5, 6, 3, 43, 101, 112, 4, 34, 4, 32][..], &[7; 32]];
        let short = BASE64.encode(&der.concat());
        let long = BASE64.encode("-----BEGIN PRIVATE KEY-----".repeat(10).as_bytes());
        let body = format!("{short}\n-----END PRIVATE KEY-----");
        let sources =
            [text, &short, &long, &long[..101], &body, &"y-".repeat(200)].map(Source::file);
        for source in [&[Source::memory(text)][..], &sources].concat() {
            let credentials = Credentials::new(source.clone(), source.clone());
            let shown = format!("{source} {source:?} {credentials:?}");
            for part in ["PRIVATE", "45", "MC4C", "LS0t", "y-"] {
                assert!(!shown.contains(part), "{shown}");
            }
        }
        for path in
            ["/etc/tls/a.pem", &"/var/lib/echo".repeat(20), &format!("{}.pem", "a".repeat(200))]
        {
            assert_eq!(Source::file(path).to_string(), *path);
        }
    }
}
