//! Certificates with a fault on purpose, for tests of TLS clients. But for the fault they are valid
//! for the name that a client asks for, if it knows the CA.

mod issuer;

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, SecureRandom};
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ProducesTickets, ResolvesServerCert,
};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};

use super::files::Reader;
use crate::certs::{self, Name};
use crate::config::{CertificateFault, Fault, FaultPolicy};
use crate::error::{BoxError, StartError};
use issuer::Issuer;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a certificate is valid.
const VALIDITY: Duration = Duration::from_secs(30 * DAY.as_secs());

/// How many certificates are kept. An RSA key of 4096 bits takes milliseconds to sign one.
const MAX_KEPT: usize = 64;

/// How long a certificate is kept: much less than a day, in which one that is not valid yet would
/// become valid.
const KEPT_FOR: Duration = Duration::from_secs(60 * 60);

/// Makes certificates with faults.
#[derive(Debug)]
pub(super) struct Misissuer {
    /// The CA of [`FaultPolicy::ca`].
    known: Arc<Issuer>,
    unknown: Arc<Issuer>,
    intermediate: Issuer,
    /// The key of all certificates, in the forms of two libraries.
    pair: KeyPair,
    key: Arc<dyn SigningKey>,
    /// The names that every certificate is for, unless that is the fault.
    names: Vec<Name>,
    random: &'static dyn SecureRandom,
    /// The latest is last.
    kept: Mutex<VecDeque<Kept>>,
}

/// A certificate that was made.
#[derive(Debug)]
struct Kept {
    fault: CertificateFault,
    name: Option<Name>,
    made: Instant,
    certified: Arc<CertifiedKey>,
}

impl Misissuer {
    /// Reads the CA, and makes what else is needed; `None` if `policy` has no faults of
    /// certificates.
    pub(super) fn new(
        reader: &Reader,
        policy: &FaultPolicy,
        provider: &CryptoProvider,
    ) -> Result<Option<Self>, StartError> {
        let is_fault = |fault: &Fault| matches!(fault, Fault::Certificate(_));
        if !policy.by_request
            && !policy.groups.iter().any(|group| group.faults.iter().any(is_fault))
        {
            return Ok(None);
        }
        let known = match &policy.ca {
            Some(ca) => Some(Arc::new(Issuer::read(reader, ca, provider)?)),
            None => None,
        };
        Misissuer::with(known, provider)
            .map(Some)
            .map_err(|error| StartError::tls("could not make a CA for faulty certificates", error))
    }

    fn with(known: Option<Arc<Issuer>>, provider: &CryptoProvider) -> Result<Self, BoxError> {
        let unknown = Arc::new(Issuer::make("echo-server CA that nobody knows", provider)?);
        // Nobody sees its certificate, so that it does not matter that the known CA has not signed
        // it, which may not be allowed to sign one for a CA.
        let intermediate = Issuer::make("echo-server intermediate CA", provider)?.alone();
        let pair = KeyPair::generate()?;
        Ok(Misissuer {
            known: known.unwrap_or_else(|| Arc::clone(&unknown)),
            unknown,
            intermediate,
            key: issuer::load(&pair, provider)?,
            pair,
            names: Name::of_this_machine(),
            random: provider.secure_random,
            kept: Mutex::default(),
        })
    }

    /// The configuration `config`, but with a certificate for `name` that has this fault. Clients
    /// always see the certificate, since no session is resumed.
    ///
    /// # Errors
    /// The system's random number generator failed.
    pub(super) fn config(
        &self,
        fault: CertificateFault,
        name: Option<&str>,
        config: &ServerConfig,
    ) -> io::Result<Arc<ServerConfig>> {
        let certified = self
            .certified(fault, name)
            .map_err(|_| io::Error::other("no certificate with a fault could be made"))?;
        let mut config = config.clone();
        config.cert_resolver = Arc::new(Only(certified));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(NoTickets);
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }

    /// A certificate for `name` that has this fault, and its key.
    fn certified(
        &self,
        fault: CertificateFault,
        name: Option<&str>,
    ) -> Result<Arc<CertifiedKey>, BoxError> {
        let name = match fault {
            CertificateFault::WrongName => None,
            // A client may ask for what cannot be in a certificate.
            _ => name.and_then(|name| name.parse().ok()),
        };
        if let Some(certified) = self.kept(fault, name.as_ref()) {
            return Ok(certified);
        }
        let certified = Arc::new(self.make(fault, name.as_ref(), SystemTime::now())?);
        self.keep(Kept { fault, name, made: Instant::now(), certified: Arc::clone(&certified) });
        Ok(certified)
    }

    fn kept(&self, fault: CertificateFault, name: Option<&Name>) -> Option<Arc<CertifiedKey>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |one: &&Kept| {
            one.fault == fault && one.name.as_ref() == name && one.made.elapsed() < KEPT_FOR
        };
        kept.iter().find(is_it).map(|one| Arc::clone(&one.certified))
    }

    /// Keeps a certificate, and as many as there is room for.
    fn keep(&self, one: Kept) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|other| (other.fault, &other.name) != (one.fault, &one.name));
        if kept.len() >= MAX_KEPT {
            kept.pop_front();
        }
        kept.push_back(one);
    }

    fn make(
        &self,
        fault: CertificateFault,
        name: Option<&Name>,
        now: SystemTime,
    ) -> Result<CertifiedKey, BoxError> {
        let names = match fault {
            CertificateFault::WrongName => vec!["wrong-name.invalid".parse()?],
            _ => name.into_iter().chain(&self.names).cloned().collect(),
        };
        let not_before = match fault {
            CertificateFault::Expired => now - DAY - VALIDITY,
            CertificateFault::NotYet => now + DAY,
            // Clocks of clients may be up to a day behind.
            _ => now - DAY,
        };
        let issuer = match fault {
            CertificateFault::Untrusted => &self.unknown,
            CertificateFault::Incomplete => &self.intermediate,
            _ => &*self.known,
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // With a space in it, no client can mistake the subject for a host name.
        let subject = format!("echo-server on purpose: {}", fault.name());
        params.distinguished_name.push(DnType::CommonName, subject);
        params.subject_alt_names = certs::alternative_names(&names);
        params.not_before = not_before.into();
        params.not_after = (not_before + VALIDITY).into();
        // rcgen would derive it from the key, and Firefox refuses two certificates of one issuer
        // that have the same one.
        params.serial_number = Some(self.serial_number()?);
        // This adds CA:FALSE and a subject key identifier, which strict clients require.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let chain = issuer.sign(params, &self.pair)?;
        Ok(CertifiedKey::new(chain, Arc::clone(&self.key)))
    }

    /// A positive number of 16 bytes at random.
    fn serial_number(&self) -> Result<SerialNumber, BoxError> {
        let mut number = [0; 16];
        self.random.fill(&mut number).map_err(|_| "no random number")?;
        number[0] = number[0] & 0x7F | 0x40;
        Ok(number.to_vec().into())
    }
}

/// Has the same certificate for every client.
#[derive(Debug)]
struct Only(Arc<CertifiedKey>);

impl ResolvesServerCert for Only {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

/// Neither makes session tickets nor takes those that were made with a good certificate.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _plain: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _cipher: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests;
