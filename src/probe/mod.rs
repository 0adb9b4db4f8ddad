//! The other end of the wire: a client that says what a path does to messages.
//!
//! [`ping()`] sends messages at an interval and tells of each; [`load()`] sends as many as it can, or as
//! many a second as it is told. Both work on all five protocols and on any echo service, compare
//! each reply with what was sent, byte for byte, and return a [`Summary`].
//!
//! ```
//! use echo_server::probe::{self, DialOptions, Messages, PingOptions, Target};
//! use echo_server::{Config, Protocol, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind(Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0))).await?;
//! let target: Target = format!("tcp://{}", server.local_addrs()[0].address.ip().unwrap()).parse()?;
//! tokio::spawn(server.run(std::future::pending()));
//!
//! let mut options = PingOptions::default();
//! options.count = Some(3);
//! options.interval = std::time::Duration::from_millis(1);
//! let summary = probe::ping(
//!     &target,
//!     &DialOptions::default(),
//!     Messages::default(),
//!     &options,
//!     std::future::pending(),
//!     |_event| {},
//! )
//! .await?;
//! assert_eq!((summary.sent, summary.received), (3, 3));
//! # Ok(())
//! # }
//! ```
//!
//! This room shares the configuration's [`Protocol`] and the TLS room's file
//! readers with the server, and nothing else.

mod dial;
mod exchange;
mod link;
mod load;
mod mtu;
mod pace;
mod payload;
mod ping;
mod summary;
mod target;
mod tracker;
mod trust;

use std::io;

pub use dial::{Connected, DialOptions, Family};
pub use load::{LoadOptions, Progress, load};
pub use mtu::find_mtu;
pub use ping::{PingOptions, ping};
pub use summary::Summary;
pub use target::{Target, TargetError};
pub use tracker::{Reply, Verdict};
pub use trust::{TlsFacts, TlsOptions};

use crate::config::Protocol;
use crate::error::CredentialError;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Messages {
    /// Bytes in a message. 64.
    pub size: usize,
    /// WebSocket: text messages instead of binary ones.
    pub is_text: bool,
}

impl Default for Messages {
    fn default() -> Self {
        Messages { size: 64, is_text: false }
    }
}

impl Messages {
    /// Binary messages of `size` bytes.
    pub fn of(size: usize) -> Self {
        Messages { size, ..Messages::default() }
    }

    /// These, if `target` can carry them.
    fn checked_for(self, target: &Target) -> Result<Self, ProbeError> {
        let usage = |what: String| Err(ProbeError::Usage(what));
        match target.protocol {
            Protocol::Tcp | Protocol::Tls if self.size == 0 => {
                usage("--size 0: a byte stream has no empty messages".to_owned())
            }
            Protocol::Udp if self.size > MAX_PAYLOAD => {
                usage(format!("--size {}: a datagram carries {MAX_PAYLOAD} at most", self.size))
            }
            Protocol::Tcp | Protocol::Tls | Protocol::Udp if self.is_text => {
                usage("--text: only WebSocket has text messages".to_owned())
            }
            _ => Ok(self),
        }
    }
}

/// The largest payload of a datagram over IPv4.
const MAX_PAYLOAD: usize = 65_507;

/// Something that happened during a [`ping()`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The connection stands.
    Connected(Box<Connected>),
    /// A reply has come.
    Reply(Reply),
    /// A message is not back within the timeout.
    Overdue {
        /// Its number.
        seq: u64,
    },
    /// The connection failed or was closed; over UDP, a datagram was refused.
    Failed {
        /// What was said.
        why: String,
    },
}

/// Why a probe has nothing to report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// It was asked for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// A certificate or key of one's own could not be used.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// There is no connection.
    #[error("{0}")]
    Connect(String),
    /// There is a connection, but TLS does not come about on it.
    #[error("{0}")]
    Tls(String),
}

impl ProbeError {
    fn connect(target: &Target, error: &io::Error) -> ProbeError {
        ProbeError::Connect(format!("{target}: {error}"))
    }

    fn tls(target: &Target, error: &io::Error) -> ProbeError {
        ProbeError::Tls(format!("{target}: TLS: {error}"))
    }
}
