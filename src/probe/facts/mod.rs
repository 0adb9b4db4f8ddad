//! What the server saw: asks it for its facts, and compares them with what was sent.
//!
//! A server with facts on a byte stream sends them as its first line, and over WebSocket as its
//! first message. Over UDP it is asked, and answers with no more bytes than the question has.

mod ask;
mod changes;
mod received;
mod sent;

use std::future::{Pending, pending};
use std::io;
use std::pin::pin;
use std::time::Duration;

pub use changes::{Change, ChangeKind};
pub use received::Facts;

use super::exchange::CLOSE_TIMEOUT;
use super::link::Link;
use super::payload::Payloads;
use super::stranger::Bytes;
use super::tracker::Difference;
use super::{Connected, Event, Probe, ProbeError, Target, connect, ignore};
use crate::causes::{self, Peer};
use crate::config::Protocol;
use ask::{Conversation, LONGEST, Stopped};
use sent::Sent;

/// How to ask for facts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FactsOptions {
    /// How long to wait for the facts, and then for an echo. Over UDP the question is asked three
    /// times, each for so long. 2 seconds.
    pub timeout: Duration,
}

impl Default for FactsOptions {
    fn default() -> Self {
        FactsOptions::new()
    }
}

impl FactsOptions {
    /// The defaults.
    pub fn new() -> Self {
        FactsOptions { timeout: Duration::from_secs(2) }
    }

    /// Sets [`FactsOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// What the server saw of one connection, or of one datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrival {
    /// The connection.
    pub connected: Connected,
    /// What the server says, or why it says nothing.
    pub facts: Result<Facts, NoFacts>,
    /// What has arrived otherwise than it was sent. What the server does not mention is not
    /// compared.
    pub differences: Vec<Change>,
    /// Whether a message was echoed afterwards. `None` if there are no facts.
    pub echo: Option<EchoCheck>,
}

/// Why there are no facts. Its text goes on after the name of the server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoFacts {
    /// The server has sent nothing in time.
    #[error("has sent nothing within {}", humantime::format_duration(*.timeout))]
    #[non_exhaustive]
    Silent {
        /// How long it had.
        timeout: Duration,
    },
    /// The server has sent nothing in time. No PROXY header was sent, and it may be waiting for one.
    #[error("has sent nothing within {}", humantime::format_duration(*.timeout))]
    #[non_exhaustive]
    SilentWithoutProxy {
        /// How long it had.
        timeout: Duration,
    },
    /// UDP: the reply is the question itself.
    #[error("echoed the question")]
    Echoed,
    /// The server has closed the connection, in this way.
    #[error("closed the connection: {0}")]
    Closed(String),
    /// The connection has failed.
    #[error("did not send them: {0}")]
    Failed(String),
    /// Something else came first.
    #[error("sent something else first: {}", Bytes(.quoted))]
    #[non_exhaustive]
    Other {
        /// The beginning of it.
        quoted: Vec<u8>,
    },
    /// What came first was empty.
    #[error("sent an empty message first")]
    Empty,
    /// A line that may have been facts has not ended.
    #[error("sent the beginning of facts, and not their end")]
    Unfinished,
    /// They are longer than 256 KiB.
    #[error("sent more than 256 KiB first, which is too long for facts")]
    TooLong,
    /// UDP: a question that is long enough for the reply is no datagram.
    #[error("needs a question of {bytes} bytes, and a datagram carries 65507")]
    #[non_exhaustive]
    Needs {
        /// How long the question would have to be.
        bytes: u64,
    },
    /// UDP: the server wants a longer question again and again.
    #[error("wants a longer question each time, at last one of {bytes} bytes")]
    #[non_exhaustive]
    KeepsGrowing {
        /// How long the next question would have to be.
        bytes: u64,
    },
    /// The question was [stopped](AskFacts::until).
    #[error("had sent none when the question was interrupted")]
    Interrupted,
    /// Their schema has another version.
    #[error("sent facts of version {0}, and this probe knows version 1")]
    Version(u64),
}

/// Whether the server echoes after its facts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum EchoCheck {
    /// A message of so many bytes came back as it was sent.
    Exact(usize),
    /// What came back differs, here. `None` if a WebSocket message has the right bytes, but is text and
    /// not binary or the other way round.
    Different(Option<Difference>),
    /// The PROXY header came back first: the server has not read it, but echoed it.
    ProxyHeader,
    /// It did not come back, because of this.
    Missing(String),
}

/// A question that [`run`](AskFacts::run) asks. [`Probe::facts`] makes one.
///
/// The type parameters are those of [`until`](AskFacts::until) and [`on_event`](AskFacts::on_event).
#[must_use = "a question is not asked until it is run"]
pub struct AskFacts<Stop = Pending<()>, OnEvent = fn(Event)> {
    probe: Probe,
    options: FactsOptions,
    stop: Stop,
    on_event: OnEvent,
}

impl AskFacts {
    pub(super) fn new(probe: Probe, options: FactsOptions) -> Self {
        AskFacts { probe, options, stop: pending(), on_event: ignore }
    }
}

impl<Stop, OnEvent> AskFacts<Stop, OnEvent> {
    /// Gives up when `stop` completes: there are no facts then, because of [`NoFacts::Interrupted`], or
    /// there is no echo.
    pub fn until<F: Future<Output = ()>>(self, stop: F) -> AskFacts<F, OnEvent> {
        let AskFacts { probe, options, on_event, .. } = self;
        AskFacts { probe, options, stop, on_event }
    }

    /// Calls `on_event` with an [`Event::Connected`].
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> AskFacts<Stop, F> {
        let AskFacts { probe, options, stop, .. } = self;
        AskFacts { probe, options, stop, on_event }
    }
}

impl<Stop: Future<Output = ()>, OnEvent: FnMut(Event)> AskFacts<Stop, OnEvent> {
    /// Connects, asks, and has one message of [`Messages`](super::Messages) echoed. Dropping the
    /// future ends it.
    ///
    /// # Errors
    /// An option does not fit the target, or there is no connection, or not yet when it is stopped. That
    /// a server has no facts is no error, but in [`Arrival::facts`].
    pub async fn run(self) -> Result<Arrival, ProbeError> {
        let AskFacts { probe, options, stop, mut on_event } = self;
        let mut stop = pin!(stop);
        let Probe { target, connect, messages } = probe;
        messages.check(&target)?;
        let request = connect::request(&target, &connect)?;
        let payloads = Payloads::new(&messages);
        // An echo is as large as its message, and nothing larger is taken.
        let largest = LONGEST.max(payloads.size());
        let connecting = connect::connect_with(&target, &connect, request.clone(), largest);
        // What catches a signal does so when it is polled, so that it comes first.
        let (mut link, connected) = tokio::select! {
            biased;
            () = &mut stop => return Err(ProbeError::interrupted(&target)),
            connected = connecting => connected?,
        };
        on_event(Event::Connected(Box::new(connected.clone())));
        let mut sent = Sent::new(&target, &connect, &connected, &link, request.as_ref());
        let header = connect::proxy_header(&connect, &connected);
        let mut conversation = Conversation::new(&mut link, options.timeout, &header);
        let facts = tokio::select! {
            biased;
            () = &mut stop => Err(NoFacts::Interrupted.into()),
            facts = conversation.facts() => facts,
        };
        let arrival = match facts {
            Ok(facts) => {
                let echo = tokio::select! {
                    echo = conversation.echo(&payloads) => echo,
                    () = &mut stop => EchoCheck::Missing("it was interrupted".to_owned()),
                };
                if echo == EchoCheck::ProxyHeader {
                    // If the facts have one, it is another's.
                    (sent.peer, sent.proxy) = (sent.local, None);
                }
                let differences = changes::compare(&sent, &facts);
                Arrival { connected, facts: Ok(facts), differences, echo: Some(echo) }
            }
            Err(stopped) => {
                let facts = Err(match no_facts(&target, stopped)? {
                    // With TLS or WebSocket, the server has read what follows a header.
                    NoFacts::Silent { timeout }
                        if target.protocol() == Protocol::Tcp && header.is_empty() =>
                    {
                        NoFacts::SilentWithoutProxy { timeout }
                    }
                    why => why,
                });
                Arrival { connected, facts, differences: Vec::new(), echo: None }
            }
        };
        close(link).await;
        Ok(arrival)
    }
}

/// Why there are no facts, unless that means that there was no connection.
fn no_facts(target: &Target, stopped: Stopped) -> Result<NoFacts, ProbeError> {
    let error = match stopped {
        Stopped::NoFacts(why) => return Ok(why),
        Stopped::Failed(error) => error,
    };
    let is_udp = target.protocol() == Protocol::Udp;
    match error.kind() {
        // A TLS 1.3 server refuses the client's certificate after the client's handshake has ended.
        _ if causes::tls_error(&error).is_some() => Err(ProbeError::tls(target, error, None)),
        io::ErrorKind::ConnectionRefused if is_udp => {
            Err(ProbeError::port_unreachable(target, Some(error)))
        }
        _ if is_udp => Ok(NoFacts::Failed(causes::of_datagram(&error))),
        _ => Ok(NoFacts::Failed(causes::of_io(&error, Peer::Server))),
    }
}

/// Closes the connection. The result does not depend on how it closes.
async fn close(mut link: Link) {
    let closing = std::future::poll_fn(|cx| link.poll_close(cx));
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
}
