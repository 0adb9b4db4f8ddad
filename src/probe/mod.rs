//! A client that measures what a path, and the echo service at its end, do to messages.
//!
//! ```
//! use echo_server::probe::{PingOptions, Probe};
//! # use echo_server::{Config, Protocol, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let server = Server::bind(Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0))).await?;
//! # let url = format!("tcp://{}", server.local_addrs()[0].address.ip().unwrap());
//! # tokio::spawn(server.run(std::future::pending()));
//! let summary = Probe::new(url.parse()?).ping(PingOptions::new().count(3)).run().await?;
//! assert!(summary.is_clean(), "{summary}");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Probe`] is a [`Target`], how to connect to it, and what to send. [`Probe::ping`] sends one
//! message an interval and reports each reply; [`Probe::load`] keeps many connections busy;
//! [`Probe::find_mtu`] searches for the largest datagram. All of them work with any echo service,
//! over all protocols of [`Protocol`](crate::Protocol) and over Unix sockets, and compare each
//! reply with what was sent, byte for byte.
//!
//! A [`Watch`] does rounds for ever, on any number of targets.
//!
//! [`Probe::facts`] asks a server that tells it what it saw of a connection: addresses, TLS, header
//! fields. It compares that with what was sent.
//!
//! This module uses the crate's configuration types, addresses, errors and TLS settings. It knows
//! nothing of the server.

mod connect;
mod datagrams;
mod ending;
mod error;
mod event;
mod exchange;
mod facts;
mod failure;
mod first_bytes;
mod link;
mod load;
mod messages;
mod mtu;
mod payload;
mod ping;
mod stranger;
mod summary;
mod target;
mod tls;
mod tracker;
mod watch;

pub use connect::{ConnectOptions, Connected, Family, ProxyHeader, ProxyKind};
pub use ending::{Echoed, Ending};
pub use error::{ProbeError, ProbeSetting};
pub use event::Event;

pub use facts::{Arrival, AskFacts, Change, ChangeKind, EchoCheck, Facts, FactsOptions, NoFacts};
pub use failure::FailureKind;
pub use load::{Connecting, Load, LoadOptions, Progress};
pub use messages::{LineEnding, Messages};
pub use mtu::{FindMtu, MtuOptions};
pub use ping::{Ping, PingOptions};
pub use stranger::Oddity;
pub use summary::{Bucket, Phase, Summary, Times};
pub use target::{Endpoint, Target, TargetError};
pub use tls::{Sni, TlsFacts, TlsOptions};
pub use tracker::{Difference, Reply, Verdict};
pub use watch::{
    Board, Lately, RoundTrips, Series, Tally, TargetFileError, Watch, WatchError, WatchEvent,
    WatchOptions, Watcher,
};

/// An echo service, how to connect to it, and what to send to it. It can be run any number of
/// times.
///
/// ```
/// use std::time::Duration;
///
/// use echo_server::Source;
/// use echo_server::probe::{PingOptions, Probe, Target};
///
/// # fn example(ca: &str, target: Target) {
/// let probe = Probe::new(target)
///     .connect(|connect| connect.tls.ca = Some(Source::memory(ca)))
///     .messages(|messages| messages.size = 1400);
/// let ping = probe.ping(PingOptions::new().interval(Duration::from_millis(100)));
/// # drop(ping);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    target: Target,
    connect: ConnectOptions,
    messages: Messages,
}

impl Probe {
    /// A probe of `target` with the defaults of [`ConnectOptions`] and [`Messages`].
    pub fn new(target: Target) -> Self {
        Probe { target, connect: ConnectOptions::default(), messages: Messages::default() }
    }

    /// Changes how to connect.
    #[must_use]
    pub fn connect(mut self, change: impl FnOnce(&mut ConnectOptions)) -> Self {
        change(&mut self.connect);
        self
    }

    /// Changes what is sent.
    #[must_use]
    pub fn messages(mut self, change: impl FnOnce(&mut Messages)) -> Self {
        change(&mut self.messages);
        self
    }

    /// Sets [`Messages::size`], in bytes.
    #[must_use]
    pub fn size(self, bytes: usize) -> Self {
        self.messages(|messages| messages.size = bytes)
    }

    /// How many bytes a message has.
    pub fn message_size(&self) -> usize {
        self.messages.bytes()
    }

    /// The echo service.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Prepares to send one message an interval on one connection.
    pub fn ping(&self, options: PingOptions) -> Ping {
        Ping::new(self.clone(), options)
    }

    /// Prepares to send as many messages as the service answers, or on a schedule, on many
    /// connections.
    pub fn load(&self, options: LoadOptions) -> Load {
        Load::new(self.clone(), options)
    }

    /// Prepares to search for the largest datagram that comes back unfragmented. It needs a UDP
    /// target, and Linux. [`Messages`] has no effect.
    pub fn find_mtu(&self, options: MtuOptions) -> FindMtu {
        FindMtu::new(self.clone(), options)
    }

    /// Prepares to ask what the server saw, and to compare it with what was sent. It needs a server
    /// that tells its facts.
    ///
    /// ```no_run
    /// use echo_server::probe::{ChangeKind, FactsOptions, Probe};
    ///
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let probe = Probe::new("tls://balancer.test:443".parse()?);
    /// let arrival = probe.facts(FactsOptions::new()).run().await?;
    /// let facts = arrival.facts?;
    /// assert_eq!(facts.text("/tls/sni"), Some("balancer.test"));
    /// assert!(!arrival.differences.iter().any(|change| change.kind == ChangeKind::Source));
    /// # Ok(())
    /// # }
    /// ```
    pub fn facts(&self, options: FactsOptions) -> AskFacts {
        AskFacts::new(self.clone(), options)
    }
}

/// Ignores an event: the default of `on_event`.
fn ignore(_event: Event) {}
