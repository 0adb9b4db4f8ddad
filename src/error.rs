//! Why a server cannot start, and why a certificate or key cannot be used, by a server or a probe.
//! The errors name the setting, the address or the file; the command adds the flag.

use std::error::Error;
use std::fmt;
use std::io;

use crate::address::{Address, ListenAddress};
use crate::config::{Protocol, Source};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting is out of range, or conflicts with another.
    #[error("{setting}: {problem}")]
    Setting {
        /// The setting.
        setting: Setting,
        /// What is wrong with it.
        problem: String,
    },
    /// Nothing of a setting can be used with the values of others.
    #[error("{setting}: {problem}; {} allow no other", named(with))]
    Excluded {
        /// The setting.
        setting: Setting,
        /// What would be needed, and what there is.
        problem: String,
        /// The settings that exclude it.
        with: Vec<Setting>,
    },
    /// A setting is for a protocol that no listener speaks.
    #[error("{setting}: no listener speaks {protocol}")]
    NotServed {
        /// The setting.
        setting: Setting,
        /// The protocol.
        protocol: Protocol,
    },
    /// A certificate, a key or a revocation list could not be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The TLS library failed to set something up.
    #[error("TLS cannot be set up: {problem}")]
    Tls {
        /// What could not be set up.
        problem: String,
        /// The error of the TLS library.
        source: BoxError,
    },
    /// The system refused something other than an address.
    #[error("{problem}: {source}")]
    System {
        /// What could not be done.
        problem: String,
        /// The error of the system.
        source: io::Error,
    },
    /// A name has no address, or a protocol cannot listen on an address of this kind.
    #[error("{protocol} on {address}: {problem}")]
    Address {
        /// The protocol to be served there.
        protocol: Protocol,
        /// The address.
        address: ListenAddress,
        /// The reason.
        problem: String,
    },
    /// No listener uses some of the inherited sockets.
    #[error("no listener uses these inherited descriptors: {}", names.join(", "))]
    Surplus {
        /// The names of the descriptors.
        names: Vec<String>,
    },
    /// An inherited descriptor is of no use to any listener.
    #[error("the inherited descriptor '{name}': {problem}")]
    Inherited {
        /// The name of the descriptor.
        name: String,
        /// The reason.
        problem: String,
    },
    /// Two listeners of the configuration want the same address.
    #[error("{protocol} on {address}: {other_protocol} on {other} has it already")]
    Twice {
        /// The protocol to be served there.
        protocol: Protocol,
        /// The address.
        address: Address,
        /// The protocol that was bound first.
        other_protocol: Protocol,
        /// Its address.
        other: Address,
    },
    /// The name of the admin endpoint's address has no address.
    #[error("admin endpoint on {address}: {problem}")]
    AdminAddress {
        /// The address.
        address: ListenAddress,
        /// The reason.
        problem: String,
    },
    /// A listener has the admin endpoint's address.
    #[error("admin endpoint on {address}: {other_protocol} on {other} has it already")]
    AdminTwice {
        /// The address.
        address: Address,
        /// The protocol of the listener.
        other_protocol: Protocol,
        /// Its address.
        other: Address,
    },
    /// The system refused the admin endpoint's address.
    #[error("admin endpoint on {address}: {source}")]
    AdminBind {
        /// The address.
        address: Address,
        /// The error of the system.
        source: io::Error,
    },
    /// The system refused an address.
    #[error("{protocol} on {address}: {source}")]
    Bind {
        /// The protocol to be served there.
        protocol: Protocol,
        /// The address.
        address: Address,
        /// The error of the system.
        source: io::Error,
    },
}

/// The underlying cause of an error.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A setting that can have an invalid value, or conflict with another.
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
    /// [`ProxyPolicy::protocols`](crate::ProxyPolicy::protocols).
    ProxyProtocol,
    /// [`ProxyPolicy::from`](crate::ProxyPolicy::from).
    ProxyFrom,
    /// [`Config::facts`](crate::Config::facts).
    Facts,
    /// [`FaultPolicy::groups`](crate::FaultPolicy::groups).
    Faults,
    /// [`FaultPolicy::by_request`](crate::FaultPolicy::by_request).
    FaultsByRequest,
    /// [`FaultPolicy::ca`](crate::FaultPolicy::ca).
    FaultCa,
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
            Setting::ProxyProtocol => "PROXY protocol",
            Setting::ProxyFrom => "networks of proxies",
            Setting::Facts => "facts",
            Setting::Faults => "faults on purpose",
            Setting::FaultsByRequest => "faults by request",
            Setting::FaultCa => "CA of faulty certificates",
        })
    }
}

/// The settings, with an "and" between them.
fn named(settings: &[Setting]) -> String {
    settings.iter().map(Setting::to_string).collect::<Vec<_>>().join(" and ")
}

impl StartError {
    /// Whether the configuration is at fault, and not the system.
    pub fn is_config(&self) -> bool {
        matches!(
            self,
            StartError::Setting { .. }
                | StartError::NotServed { .. }
                | StartError::Excluded { .. }
                | StartError::Credential(_)
                | StartError::Address { .. }
                | StartError::Surplus { .. }
                | StartError::Inherited { .. }
                | StartError::Twice { .. }
                | StartError::AdminAddress { .. }
                | StartError::AdminTwice { .. }
        )
    }

    pub(crate) fn setting(setting: Setting, problem: impl Into<String>) -> Self {
        StartError::Setting { setting, problem: problem.into() }
    }

    pub(crate) fn tls(problem: &str, source: impl Into<BoxError>) -> Self {
        StartError::Tls { problem: problem.to_owned(), source: source.into() }
    }
}

/// What a [`Source`] is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credential {
    /// The certificate chain of the server, or of a probe.
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
    /// The CA that signs certificates with faults, or its private key.
    FaultCa,
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
            Credential::FaultCa => "CA of faulty certificates",
        })
    }
}

/// Why a certificate, a key or a revocation list could not be used. It never contains key material.
#[derive(Debug, thiserror::Error)]
#[error("{credential} {origin}: {problem}{}", in_words(.cure.as_ref()))]
#[non_exhaustive]
pub struct CredentialError {
    /// What it was used as.
    pub credential: Credential,
    /// Where it came from.
    pub origin: Source,
    /// What is wrong with it.
    pub problem: String,
    /// What helps, if it is another setting.
    pub cure: Option<Cure>,
    /// The underlying error, if there is one.
    pub source: Option<BoxError>,
}

/// The setting that helps where a certificate or a key could not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cure {
    /// [`Credentials::key`](crate::Credentials::key) has to be the source of the private key.
    NameKey,
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cure::NameKey => f.write_str("its key has to be named, too"),
        }
    }
}

/// The cure behind a semicolon.
fn in_words(cure: Option<&Cure>) -> String {
    cure.map_or_else(String::new, |cure| format!("; {cure}"))
}

impl CredentialError {
    pub(crate) fn new(credential: Credential, origin: &Source, problem: impl Into<String>) -> Self {
        CredentialError {
            credential,
            origin: origin.clone(),
            problem: problem.into(),
            cure: None,
            source: None,
        }
    }

    /// An error whose problem is the text of `source`.
    pub(crate) fn caused_by(
        credential: Credential,
        origin: &Source,
        source: impl Into<BoxError>,
    ) -> Self {
        let source = source.into();
        let problem = source.to_string();
        let refused = CredentialError::new(credential, origin, problem);
        CredentialError { source: Some(source), ..refused }
    }
}
