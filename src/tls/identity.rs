//! The server's certificates and keys: read from PEM and selected by SNI, or self-signed in memory.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::crypto::CryptoProvider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ClientHello, ResolvesServerCert};
use tokio_rustls::rustls::sign::CertifiedKey;
use tracing::info;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certs;
use crate::config::{Credentials, Identity, Source};
use crate::error::{Credential, CredentialError, Cure, Setting, StartError};
use crate::tls::files::Reader;
use crate::tls::{Fingerprint, chain, forms, keys, pem};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

const NO_CERTIFICATE: &str = "could not make a self-signed certificate";

/// The certificates of a server. The server name in the ClientHello (SNI) selects one.
#[derive(Debug)]
pub(super) struct Identities {
    /// Never empty. The first serves clients that send no SNI, or a name that no certificate has.
    all: Vec<(Names, Arc<CertifiedKey>)>,
    /// Where each was read from. Empty if the certificate was made here.
    origins: Vec<Source>,
}

/// The DNS names that a certificate is valid for.
#[derive(Debug, Default)]
struct Names {
    exact: Vec<String>,
    /// What follows the `*` of a wildcard, such as `.example.com`.
    suffixes: Vec<String>,
}

impl Identities {
    /// Reads or makes the certificates of `identity`.
    pub(super) fn load(
        reader: &Reader,
        identity: &Identity,
        provider: &CryptoProvider,
    ) -> Result<Arc<Self>, StartError> {
        let mut all = Vec::new();
        let mut origins = Vec::new();
        match identity {
            Identity::SelfSigned => {
                let (chain, key) = self_signed(SystemTime::now())?;
                let certified = CertifiedKey::from_der(chain, key, provider)
                    .map_err(|error| StartError::tls(NO_CERTIFICATE, error))?;
                all.push((Names::default(), Arc::new(certified)));
            }
            Identity::Given(given) => {
                for credentials in given {
                    all.push(read(reader, credentials, given, provider)?);
                    origins.push(credentials.chain.clone());
                }
            }
        }
        if all.is_empty() {
            return Err(StartError::setting(Setting::Identity, "none is given"));
        }
        Ok(Arc::new(Identities { all, origins }))
    }

    /// Logs the fingerprint of each certificate, which people compare when they cannot verify it.
    pub(super) fn announce(&self) {
        for (at, (_, certified)) in self.all.iter().enumerate() {
            let sha256 = Fingerprint::of(&certified.cert[0]);
            match self.origins.get(at) {
                Some(origin) => info!(%sha256, "Read the certificate {origin}"),
                None => info!(%sha256, "Made a self-signed certificate"),
            }
        }
    }

    /// Where each certificate was read from, and when it expires, in seconds since 1970. The place
    /// of one that was made here is `None`.
    pub(super) fn expiries(&self) -> Vec<(Option<String>, i64)> {
        let expiry = |(at, (_, certified)): (usize, &(Names, Arc<CertifiedKey>))| {
            let (_, certificate) = X509Certificate::from_der(&certified.cert[0]).ok()?;
            let origin = self.origins.get(at).map(Source::to_string);
            Some((origin, certificate.validity().not_after.timestamp()))
        };
        self.all.iter().enumerate().filter_map(expiry).collect()
    }

    pub(super) fn first_chain(&self) -> &[CertificateDer<'static>] {
        &self.all[0].1.cert
    }

    /// The certificate for `name`: the first with exactly this name, else the first with a matching
    /// wildcard, else the first of all.
    fn choose(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let find = |matches: &dyn Fn(&Names) -> bool| {
            self.all.iter().find(|(names, _)| matches(names)).map(|(_, certified)| certified)
        };
        let named = name.map(str::to_ascii_lowercase).and_then(|name| {
            // A wildcard stands for one label (RFC 6125 section 6.4.3).
            let suffix = name.find('.').map(|dot| &name[dot..]);
            find(&|names| names.exact.contains(&name)).or_else(|| {
                find(&|names| names.suffixes.iter().any(|one| Some(one.as_str()) == suffix))
            })
        });
        named.unwrap_or(&self.all[0].1)
    }
}

impl ResolvesServerCert for Identities {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.choose(hello.server_name())))
    }
}

/// Reads a certificate chain and its key, and checks that they match. `all` are those of the server.
fn read(
    reader: &Reader,
    credentials: &Credentials,
    all: &[Credentials],
    provider: &CryptoProvider,
) -> Result<(Names, Arc<CertifiedKey>), CredentialError> {
    let mut certified = certified_from(reader, credentials, all, provider)?;
    let names = Names::of(&certified.cert[0])
        .map_err(|problem| CredentialError::new(Credential::Chain, &credentials.chain, problem))?;
    if let Some(source) = &credentials.ocsp {
        let response = reader.bytes(Credential::Ocsp, source)?;
        if !forms::is_ocsp_response(&response) {
            let problem = forms::instead_of(Credential::Ocsp, source, &response);
            return Err(CredentialError::new(Credential::Ocsp, source, problem));
        }
        certified.ocsp = Some(response.to_vec());
    }
    Ok((names, Arc::new(certified)))
}

/// A certificate chain, put in order, and its key. A certificate of any version of X.509 will do,
/// as it does for openssl; rustls' own constructor would take version 3 only. `all` is where else
/// the key's certificate may be.
pub(crate) fn certified(
    credentials: &Credentials,
    all: &[Credentials],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CredentialError> {
    certified_from(&Reader::default(), credentials, all, provider)
}

pub(super) fn certified_from(
    reader: &Reader,
    credentials: &Credentials,
    all: &[Credentials],
    provider: &CryptoProvider,
) -> Result<CertifiedKey, CredentialError> {
    let Credentials { chain: chain_source, key: key_source, .. } = credentials;
    let chain = chain(reader, credentials)?;
    let keys = private_keys(reader, credentials)?;
    let keys = keys.into_iter().map(|key| keys::load(key_source, key, provider));
    let (keys, refused): (Vec<_>, Vec<_>) = keys.partition(Result::is_ok);
    let keys: Vec<_> = keys.into_iter().flatten().collect();
    let Some(first) = keys.first() else {
        return Err(refused.into_iter().find_map(Result::err).expect("there is a key"));
    };
    let key = keys.iter().find(|key| chain.iter().any(|one| chain::belongs_to(&***key, one)));
    let key = Arc::clone(key.unwrap_or(first));
    let subject = describe(&chain[0]);
    match chain::in_order(chain, &*key) {
        Some(chain) => Ok(CertifiedKey::new(chain, key)),
        None => {
            let mut problem =
                format!("not the key of the certificate in {chain_source} ({subject})");
            let mut others =
                all.iter().map(|other| &other.chain).filter(|one| *one != chain_source);
            let owner = others.find(|other| {
                pem::certificates_from(reader, Credential::Chain, other).is_ok_and(|certificates| {
                    certificates.iter().any(|one| chain::belongs_to(&*key, one))
                })
            });
            if let Some(owner) = owner {
                problem += &format!("; it is the key of {owner}");
            }
            Err(CredentialError::new(Credential::Key, key_source, problem))
        }
    }
}

/// The certificates of a chain, as they are in its source. Each of them is sound as far as its
/// structure tells: what is wrong with one would be blamed on the key otherwise, or be sent to
/// clients.
fn chain(
    reader: &Reader,
    credentials: &Credentials,
) -> Result<Vec<CertificateDer<'static>>, CredentialError> {
    let Credentials { chain: source, key: key_source, .. } = credentials;
    let chain = pem::certificates_from(reader, Credential::Chain, source).map_err(|error| {
        let is_swapped = source != key_source
            && forms::has_key(&pem::holds(reader, Credential::Chain, source))
            && forms::has_certificate(&pem::holds(reader, Credential::Key, key_source));
        match is_swapped {
            true => CredentialError {
                problem: format!("{}; it and {key_source} are swapped", error.problem),
                ..error
            },
            false => error,
        }
    })?;
    let is_damaged = |one: &CertificateDer<'_>| X509Certificate::from_der(one).is_err();
    if let Some(at) = chain.iter().position(is_damaged) {
        let problem = pem::damaged_certificate(at, chain.len());
        return Err(CredentialError::new(Credential::Chain, source, problem));
    }
    Ok(chain)
}

/// The private keys, of which one may be the chain's.
fn private_keys(
    reader: &Reader,
    credentials: &Credentials,
) -> Result<Vec<PrivateKeyDer<'static>>, CredentialError> {
    let Credentials { chain, key: source, .. } = credentials;
    pem::private_keys(reader, source).map_err(|error| match chain == source {
        true => {
            // Whoever has only a certificate there may not know that a key is needed, too.
            let bytes = reader.bytes(Credential::Key, source).unwrap_or_default();
            let cure = forms::is_certificate(source, &bytes).then_some(Cure::NameKey);
            CredentialError { credential: Credential::Chain, cure, ..error }
        }
        false => error,
    })
}

impl Names {
    /// Reads the DNS names from a certificate's subject alternative names.
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|_| "not a valid certificate: it is damaged".to_owned())?;
        let mut names = Names::default();
        let alternatives = certificate.subject_alternative_name().ok().flatten();
        for name in alternatives.iter().flat_map(|names| &names.value.general_names) {
            if let GeneralName::DNSName(name) = name {
                let name = name.to_ascii_lowercase();
                match name.strip_prefix('*') {
                    Some(suffix) => names.suffixes.push(suffix.to_owned()),
                    None => names.exact.push(name),
                }
            }
        }
        Ok(names)
    }
}

/// Names a certificate by its subject, and by the serial number under which its issuer knows it.
pub(crate) fn describe(certificate: &CertificateDer<'_>) -> String {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => {
            // A client chooses its subject's length, and the log line has to stay short.
            let subject = certificate.subject().to_string();
            let subject: String = subject.chars().take(200).flat_map(shown).collect();
            format!("{subject}, serial {}", certificate.raw_serial_as_string())
        }
        Err(_) => format!("unreadable, SHA-256 {}", Fingerprint::of(certificate)),
    }
}

/// A character as it is, or escaped if it would break the line or command a terminal.
fn shown(c: char) -> impl Iterator<Item = char> {
    let is_plain = c.escape_debug().len() == 1 || matches!(c, '"' | '\'' | '\\');
    let escaped = (!is_plain).then(|| c.escape_debug());
    is_plain.then_some(c).into_iter().chain(escaped.into_iter().flatten())
}

/// A certificate chain, the server's own certificate first, and its key.
type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// Makes a certificate for the names of this machine, valid for a year.
fn self_signed(now: SystemTime) -> Result<ChainAndKey, StartError> {
    let failed = |error: rcgen::Error| StartError::tls(NO_CERTIFICATE, error);
    let mut params = CertificateParams::default();
    params.subject_alt_names = certs::alternative_names(&certs::Name::of_this_machine());
    params.distinguished_name.push(DnType::CommonName, "echo-server self-signed");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Clocks of clients may be up to a day behind.
    params.not_before = (now - DAY).into();
    params.not_after = (now + 365 * DAY).into();
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    Ok((vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_asked_for_chooses_the_certificate() {
        let provider = crate::tls::provider();
        let identity = |names: Names| {
            let (chain, key) = self_signed(SystemTime::now()).unwrap();
            (names, Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap()))
        };
        let names = |exact: &[&str], suffixes: &[&str]| Names {
            exact: exact.iter().map(|name| (*name).to_owned()).collect(),
            suffixes: suffixes.iter().map(|name| (*name).to_owned()).collect(),
        };
        let all = vec![
            identity(names(&["first.example"], &[])),
            identity(names(&[], &[".example.com"])),
            identity(names(&["www.example.com"], &[])),
        ];
        let identities = Identities { all, origins: Vec::new() };
        let cases = [
            (None, 0),
            (Some("first.example"), 0),
            (Some("unknown.example"), 0),
            (Some("www.example.com"), 2),
            (Some("WWW.example.COM"), 2),
            (Some("other.example.com"), 1),
            (Some("two.labels.example.com"), 0),
            (Some("example.com"), 0),
        ];
        for (name, expected) in cases {
            let chosen = identities.choose(name);
            assert!(Arc::ptr_eq(chosen, &identities.all[expected].1), "{name:?}");
        }
    }
}
