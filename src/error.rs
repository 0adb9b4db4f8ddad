//! The errors that stop a start. Each names the flag, and the address or file, that it is about.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::config::Protocol;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is nothing to serve, or a setting is out of range.
    #[error("{0}")]
    Config(String),
    /// A certificate or key file could not be used.
    #[error("{flag} {}: {reason}", path.display())]
    Identity {
        /// The flag that named the file.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The self-signed certificate could not be made.
    #[error("no self-signed certificate could be made: {0}")]
    SelfSigned(String),
    /// The system refused an address.
    #[error("--{protocol} {address}: {}", reason(source))]
    Bind {
        /// The front-end.
        protocol: Protocol,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl StartError {
    /// Whether the configuration is to blame, and not the system that it met.
    pub fn is_config(&self) -> bool {
        !matches!(self, StartError::Bind { .. } | StartError::SelfSigned(_))
    }
}

/// The system's own words, and a hint where they leave people helpless.
fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!("{error}: another program listens there"),
        io::ErrorKind::PermissionDenied => {
            format!("{error}: ports below 1024 usually need privileges")
        }
        io::ErrorKind::AddrNotAvailable => format!("{error}: this machine has no such address"),
        _ => error.to_string(),
    }
}
