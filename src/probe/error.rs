//! The errors that leave a probe without a summary.

use std::fmt;
use std::io;
use std::time::SystemTime;

use super::first_bytes::Seen;
use super::{FailureKind, Target};
use crate::causes::{self, Peer};
use crate::error::{BoxError, CredentialError};

/// Why a probe has no result. Its text is one line.
///
/// What goes wrong once a connection is established is not an error but a result: it is counted in
/// the [`Summary`](super::Summary). The exception is TLS, where a TLS 1.3 server refuses a client's
/// certificate only after the client's handshake has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// An option is out of range, or does not apply to the target.
    #[error("{setting}: {problem}")]
    #[non_exhaustive]
    Setting {
        /// The option.
        setting: ProbeSetting,
        /// What is wrong with it.
        problem: String,
    },
    /// A certificate or a key could not be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The target could not be connected to, or the WebSocket upgrade failed.
    #[error("{target}: {problem}")]
    #[non_exhaustive]
    Connect {
        /// What was to be connected to.
        target: Box<Target>,
        /// What kind of failure it was.
        kind: FailureKind,
        /// What failed, with the text of the source.
        problem: String,
        /// The error behind it, if there is one. A timeout has none.
        source: Option<BoxError>,
    },
    /// The TLS handshake failed.
    #[error("{target}: TLS: {problem}")]
    #[non_exhaustive]
    Tls {
        /// What was connected to.
        target: Box<Target>,
        /// What kind of failure it was.
        kind: FailureKind,
        /// When the server's certificate expires, if that is what did not verify.
        expires: Option<SystemTime>,
        /// What failed.
        problem: String,
        /// The error behind it, if there is one.
        source: Option<BoxError>,
    },
}

/// An option of a probe that can be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeSetting {
    /// The [`Target`].
    Target,
    /// [`Messages::size`](super::Messages::size).
    Size,
    /// [`Messages::data`](super::Messages::data).
    Data,
    /// [`Messages::is_text`](super::Messages::is_text).
    Text,
    /// [`Messages::line_ending`](super::Messages::line_ending).
    Lines,
    /// [`ConnectOptions::family`](super::ConnectOptions::family).
    Family,
    /// [`ConnectOptions::source`](super::ConnectOptions::source).
    Source,
    /// [`ConnectOptions::dscp`](super::ConnectOptions::dscp).
    Dscp,
    /// [`ConnectOptions::proxy`](super::ConnectOptions::proxy).
    ProxyHeader,
    /// [`ProxyHeader::client`](super::ProxyHeader::client).
    ProxyClient,
    /// [`ProxyHeader::tlvs`](super::ProxyHeader::tlvs).
    ProxyTlvs,
    /// [`ConnectOptions::subprotocols`](super::ConnectOptions::subprotocols).
    Subprotocols,
    /// [`ConnectOptions::headers`](super::ConnectOptions::headers).
    Headers,
    /// [`TlsOptions::server_name`](super::TlsOptions::server_name).
    ServerName,
    /// [`TlsOptions::sni`](super::TlsOptions::sni).
    Sni,
    /// [`TlsOptions::alpn`](super::TlsOptions::alpn).
    Alpn,
    /// [`LoadOptions::connections`](super::LoadOptions::connections).
    Connections,
    /// [`LoadOptions::in_flight`](super::LoadOptions::in_flight).
    InFlight,
    /// [`LoadOptions::count`](super::LoadOptions::count).
    Count,
    /// [`LoadOptions::rate`](super::LoadOptions::rate).
    Rate,
}

impl fmt::Display for ProbeSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProbeSetting::Target => "target",
            ProbeSetting::Size => "message size",
            ProbeSetting::Data => "message data",
            ProbeSetting::Text => "text messages",
            ProbeSetting::Lines => "lines",
            ProbeSetting::Family => "address family",
            ProbeSetting::Source => "source address",
            ProbeSetting::Dscp => "DSCP",
            ProbeSetting::ProxyHeader => "PROXY header",
            ProbeSetting::ProxyClient => "PROXY header's client",
            ProbeSetting::ProxyTlvs => "PROXY header's TLVs",
            ProbeSetting::Subprotocols => "subprotocols",
            ProbeSetting::Headers => "header fields",
            ProbeSetting::ServerName => "TLS server name",
            ProbeSetting::Sni => "SNI",
            ProbeSetting::Alpn => "ALPN protocols",
            ProbeSetting::Connections => "connections",
            ProbeSetting::InFlight => "messages in flight",
            ProbeSetting::Count => "number of messages",
            ProbeSetting::Rate => "rate",
        })
    }
}

impl ProbeError {
    /// What kind of failure it was. `None` if nothing was tried: an option or a file is wrong.
    pub fn kind(&self) -> Option<FailureKind> {
        match self {
            ProbeError::Connect { kind, .. } | ProbeError::Tls { kind, .. } => Some(*kind),
            _ => None,
        }
    }

    pub(super) fn setting(setting: ProbeSetting, problem: impl Into<String>) -> Self {
        ProbeError::Setting { setting, problem: problem.into() }
    }

    /// A failure to connect that no other error caused.
    pub(super) fn connect(target: &Target, kind: FailureKind, problem: impl Into<String>) -> Self {
        ProbeError::Connect {
            target: Box::new(target.clone()),
            kind,
            problem: problem.into(),
            source: None,
        }
    }

    /// A failure to connect because of `source`; `problem` includes its text.
    pub(super) fn connect_caused_by(
        target: &Target,
        kind: FailureKind,
        problem: impl Into<String>,
        source: impl Into<BoxError>,
    ) -> Self {
        ProbeError::Connect {
            target: Box::new(target.clone()),
            kind,
            problem: problem.into(),
            source: Some(source.into()),
        }
    }

    /// It was stopped before it was connected.
    pub(super) fn interrupted(target: &Target) -> Self {
        ProbeError::connect(target, FailureKind::Other, "interrupted")
    }

    pub(super) fn connect_io(target: &Target, source: io::Error) -> Self {
        let kind = FailureKind::of_io(&source);
        ProbeError::connect_caused_by(target, kind, causes::of_connect(&source), source)
    }

    /// Nothing listens at a UDP port, as an ICMP error says.
    pub(super) fn port_unreachable(target: &Target, source: Option<io::Error>) -> Self {
        ProbeError::Connect {
            target: Box::new(target.clone()),
            kind: FailureKind::Refused,
            problem: causes::PORT_UNREACHABLE.to_owned(),
            source: source.map(Into::into),
        }
    }

    /// A failure of TLS. `seen` is what the other side has sent in a handshake that failed.
    pub(super) fn tls(target: &Target, source: io::Error, seen: Option<&Seen>) -> Self {
        let explained = || {
            let explained = causes::explain(&source, Peer::Server);
            match seen.filter(|_| causes::tls_error(&source).is_none()) {
                Some(seen) => format!("{explained}, {}", seen.end()),
                None => explained,
            }
        };
        ProbeError::Tls {
            target: Box::new(target.clone()),
            kind: FailureKind::of_io(&source),
            expires: None,
            problem: seen.and_then(|seen| seen.in_place_of_tls(target)).unwrap_or_else(explained),
            source: Some(source.into()),
        }
    }

    /// The same with when the certificate expires that did not verify.
    pub(super) fn about_certificate(mut self, not_after: Option<SystemTime>) -> Self {
        if let ProbeError::Tls { expires, .. } = &mut self {
            *expires = not_after;
        }
        self
    }

    pub(super) fn no_thread(target: &Target, source: io::Error) -> Self {
        let problem = format!("the system has no thread for the load: {source}");
        ProbeError::connect_caused_by(target, FailureKind::Other, problem, source)
    }

    pub(super) fn no_timer(target: &Target, source: io::Error) -> Self {
        let problem = format!("the system has no timer for the connection: {source}");
        ProbeError::connect_caused_by(target, FailureKind::Other, problem, source)
    }
}
