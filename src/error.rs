//! The errors that stop a start, and those of certificates and keys, which a probe has too. They
//! name the setting, the address or the file; a command that was told by flags adds the flag.

use std::error::Error;
use std::fmt;
use std::io;

use crate::address::Address;
use crate::config::{Protocol, Source};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range, or does not go with another.
    #[error("{setting}: {problem}")]
    Setting {
        /// Which one.
        setting: Setting,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate, a key or a list could not be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// TLS lacks something that it needs of the system.
    #[error("TLS cannot be set up: {problem}: {source}")]
    Tls {
        /// What there is not.
        problem: String,
        /// What was said.
        source: BoxError,
    },
    /// The system refused something else than an address.
    #[error("{problem}: {source}")]
    System {
        /// What could not be done.
        problem: String,
        /// What the system said.
        source: io::Error,
    },
    /// A protocol cannot listen on an address of this kind.
    #[error("{protocol} on {address}: {problem}")]
    Address {
        /// What was to be spoken there.
        protocol: Protocol,
        /// The address.
        address: Address,
        /// Why not.
        problem: &'static str,
    },
    /// The system refused an address.
    #[error("{protocol} on {address}: {source}")]
    Bind {
        /// What was to be spoken there.
        protocol: Protocol,
        /// The address.
        address: Address,
        /// What the system said.
        source: io::Error,
    },
}

/// An error below one of ours.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A setting that can be wrong by itself, or not go with another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Setting {
    /// [`Config::listeners`](crate::Config::listeners).
    Listeners,
    /// [`Config::buffer_size`](crate::Config::buffer_size).
    BufferSize,
    /// [`Config::unix_mode`](crate::Config::unix_mode).
    UnixMode,
    /// [`TlsPolicy::min`](crate::TlsPolicy::min) and [`max`](crate::TlsPolicy::max).
    TlsVersions,
    /// [`TlsPolicy::ciphers`](crate::TlsPolicy::ciphers).
    Ciphers,
    /// [`TlsPolicy::groups`](crate::TlsPolicy::groups).
    Groups,
    /// [`TlsPolicy::client_auth`](crate::TlsPolicy::client_auth).
    ClientAuth,
    /// [`TlsPolicy::crls`](crate::TlsPolicy::crls).
    Crls,
    /// [`TlsPolicy::key_log`](crate::TlsPolicy::key_log).
    KeyLog,
    /// [`Config::identity`](crate::Config::identity).
    Identity,
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Setting::Listeners => "listeners",
            Setting::BufferSize => "buffer size",
            Setting::UnixMode => "mode of Unix sockets",
            Setting::TlsVersions => "TLS versions",
            Setting::Ciphers => "cipher suites",
            Setting::Groups => "key-exchange groups",
            Setting::ClientAuth => "client authentication",
            Setting::Crls => "revocation lists",
            Setting::KeyLog => "key log",
            Setting::Identity => "certificates",
        })
    }
}

impl StartError {
    /// Whether the configuration is to blame, and not the system that it met.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            StartError::Setting { .. } | StartError::Credential(_) | StartError::Address { .. }
        )
    }

    pub(crate) fn setting(setting: Setting, problem: impl Into<String>) -> Self {
        StartError::Setting { setting, problem: problem.into() }
    }

    pub(crate) fn tls(problem: &str, source: impl Into<BoxError>) -> Self {
        StartError::Tls { problem: problem.to_owned(), source: source.into() }
    }
}

/// What a [`Source`] was to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// A certificate chain of one's own.
    Chain,
    /// The private key of a certificate.
    Key,
    /// An OCSP response.
    Ocsp,
    /// CAs whose client certificates a server accepts.
    ClientCa,
    /// Revocation lists of those CAs.
    Crl,
    /// CAs whose server certificates a probe accepts.
    ServerCa,
}

impl fmt::Display for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Credential::Chain => "certificate",
            Credential::Key => "private key",
            Credential::Ocsp => "OCSP response",
            Credential::ClientCa => "client CA",
            Credential::Crl => "revocation list",
            Credential::ServerCa => "server CA",
        })
    }
}

/// Why a certificate, a key or a list could not be used. It never holds their contents.
#[derive(Debug, thiserror::Error)]
#[error("{credential} {origin}: {problem}")]
#[non_exhaustive]
pub struct CredentialError {
    /// What it was to be.
    pub credential: Credential,
    /// Where it came from.
    pub origin: Source,
    /// What is wrong with it.
    pub problem: String,
    /// The error behind it, if there is one.
    pub source: Option<BoxError>,
}

impl CredentialError {
    pub(crate) fn new(credential: Credential, origin: &Source, problem: impl Into<String>) -> Self {
        CredentialError {
            credential,
            origin: origin.clone(),
            problem: problem.into(),
            source: None,
        }
    }

    /// One whose problem is what `source` says.
    pub(crate) fn caused_by(
        credential: Credential,
        origin: &Source,
        source: impl Into<BoxError>,
    ) -> Self {
        let source = source.into();
        let problem = source.to_string();
        CredentialError { credential, origin: origin.clone(), problem, source: Some(source) }
    }
}
