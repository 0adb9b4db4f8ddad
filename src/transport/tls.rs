//! The TLS transport: the server side of the handshake, and the log line about its result.

mod faults;
mod handshake;
mod record;
mod stream;
#[cfg(test)]
mod tests;
mod wire;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use tokio::io;
use tokio_rustls::rustls::{AlertDescription, CommonState, HandshakeKind, ServerConfig};
use tracing::info;

use self::handshake::NoHello;
use self::record::Records;
use self::stream::TlsStream;
use self::wire::Wire;
use super::strays::{LONGEST_METHOD, is_http_request};
use super::{Carried, Carrying, Transport, http_response};
use crate::causes::{self, Peer};
use crate::config::{CertificateFault, Fault};
use crate::connection::costly::in_turn;
use crate::connection::{
    Connection, Counts, End, HandshakeError, Incoming, LogLimit, Refused, Sessions, shows,
};
use crate::facts::TlsSeen;
use crate::faults::Faults;
use crate::net::Stream;
use crate::tls::client_hello::is_grease_name;
use crate::tls::{TlsSettings, describe, negotiated};

/// The TLS transport of a server.
#[derive(Clone)]
pub(crate) struct Tls {
    settings: Arc<TlsSettings>,
    /// Whether HTTP runs over it, which has ALPN protocols of its own.
    is_for_http: bool,
    /// Whether what the handshake shows is wanted as a fact.
    shows_facts: bool,
    log: Arc<LogLimit>,
    counts: Option<Arc<Counts>>,
    sessions: Arc<Sessions>,
    /// What is done wrong on purpose, if anything is.
    faults: Option<Arc<Faults>>,
}

/// What a ClientHello offers.
struct Offer {
    sni: Option<String>,
    alpn: Vec<Vec<u8>>,
}

impl Tls {
    pub(crate) fn new(
        settings: Arc<TlsSettings>,
        is_for_http: bool,
        shows_facts: bool,
        sessions: &Arc<Sessions>,
        faults: Option<Arc<Faults>>,
    ) -> Self {
        let (log, counts) = (Arc::clone(&sessions.log), sessions.counts().cloned());
        let sessions = Arc::clone(sessions);
        Tls { settings, is_for_http, shows_facts, log, counts, sessions, faults }
    }

    /// Counts a failed handshake for metrics, by the alert that `error` brought or asks for.
    fn count_failure(&self, error: &io::Error, is_before_hello: bool) {
        if let Some(counts) = &self.counts {
            counts.tls_failed(causes::alert_name(error, is_before_hello));
        }
    }

    /// The configuration for this client. If any ALPN protocol is accepted, it names the client's
    /// first.
    fn config_for(&self, offer: &Offer) -> Arc<ServerConfig> {
        let configs = self.settings.current();
        if self.is_for_http {
            return configs.http_alpn;
        }
        match offer.alpn.iter().find(|name| !is_grease_name(name)) {
            Some(first) if self.settings.accepts_any_alpn() => {
                let mut config = ServerConfig::clone(&configs.any_alpn);
                config.alpn_protocols = vec![first.clone()];
                Arc::new(config)
            }
            _ => configs.any_alpn,
        }
    }

    /// Answers a client that speaks plain HTTP.
    fn refuse_http<S: Stream>(&self, wire: Wire<S>) -> Refused {
        let hint = match self.is_for_http {
            true => "This port speaks TLS: https:// and wss:// lead here.",
            false => "This port echoes bytes over TLS. It speaks no HTTP.",
        };
        let reason = "the client sent an HTTP request in plain text".to_owned();
        self.count_failure(&io::ErrorKind::InvalidData.into(), true);
        let (stream, _) = wire.into_parts();
        super::refuse(stream, failed(reason), http_response("400 Bad Request", hint))
    }

    async fn handshake<S: Stream>(
        self,
        mut wire: Wire<S>,
        connection: Connection,
    ) -> Result<Carried<TlsStream<S>>, Refused> {
        let began = Instant::now();
        let hello = match handshake::read_hello(&mut wire).await {
            Ok(hello) => hello,
            Err(why) => {
                self.count_failure(&why.error, true);
                return Err(refuse_hello(wire, why));
            }
        };
        let client = hello.client_hello();
        let offer = Offer {
            sni: client.server_name().map(str::to_owned),
            alpn: client.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect(),
        };
        drop(hello);
        let mut misbehaviour = None;
        if let Some(faults) = &self.faults {
            let (same, known) = self.misbehave(faults, wire, connection, &offer)?;
            (wire, misbehaviour) = (same, Some(known));
        }
        let mut seen = match self.shows_facts {
            // A ClientHello of 64 KiB takes a millisecond.
            true => Some(in_turn(|_| TlsSeen::of_hello(wire.unread())).await),
            false => None,
        };
        let mut config = self.config_for(&offer);
        let fault = misbehaviour.as_ref().and_then(|one| one.plan.certificate());
        if let Some(fault) = fault {
            config = match self.misissue(fault, connection, &offer, &config).await {
                Ok(config) => config,
                Err(error) => return Err(refuse(wire, &error, &offer, Some(fault))),
            };
        }
        let tls = match handshake::accept(&mut wire, config).await {
            Ok(tls) => tls,
            Err(error) => {
                self.count_failure(&error, false);
                return Err(refuse(wire, &error, &offer, fault));
            }
        };
        let client = tls.peer_certificates().and_then(<[_]>::first).map(describe);
        if let Some(counts) = &self.counts {
            let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
            counts.tls_completed(negotiated::version(&tls), resumed);
        }
        if shows!(self.log) {
            log_handshake(connection, &tls, &offer, client.as_deref(), fault, began.elapsed());
        }
        let alpn = tls.alpn_protocol().map(<[u8]>::to_vec);
        if let Some(seen) = &mut seen {
            let resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
            seen.complete(negotiated::names(&tls), alpn.as_deref(), resumed, client.clone());
        }
        let tls_seen = seen.map(Box::new);
        let asked = misbehaviour.map(|one| Box::new(one.asked));
        match Records::take_over(tls) {
            Ok(records) => Ok(Carried {
                stream: TlsStream::new(wire, records),
                client,
                alpn,
                tls: tls_seen,
                asked,
            }),
            Err(error) => Err(refuse(wire, &io::Error::other(error), &offer, fault)),
        }
    }
}

impl<S: Stream> Transport<S> for Tls {
    type Carried = TlsStream<S>;

    fn carry(&self, incoming: Incoming<S>, connection: Connection) -> Carrying<Self::Carried> {
        let tls = self.clone();
        let handshake = async move {
            let mut wire = Wire::new(incoming.stream, incoming.early);
            // A client that says nothing costs its stream, and not the state of a handshake.
            match read_beginning(&mut wire).await {
                Ok(()) if is_http_request(wire.unread()) => Err(tls.refuse_http(wire)),
                Ok(()) => Box::pin(tls.handshake(wire, connection)).await,
                Err(error) => {
                    tls.count_failure(&error, true);
                    Err(refuse_hello(wire, error.into()))
                }
            }
        };
        Carrying::Handshake(handshake.boxed())
    }
}

/// Reads until something has come, and if that may be HTTP, until its first word has.
async fn read_beginning<S: Stream>(wire: &mut Wire<S>) -> io::Result<()> {
    let is_decided = |unread: &[u8]| match unread {
        [] => false,
        [first, ..] => !first.is_ascii_uppercase() || unread.len() >= LONGEST_METHOD,
    };
    while !is_decided(wire.unread()) {
        if poll_fn(|cx| wire.poll_more(cx)).await? == 0 {
            break;
        }
    }
    Ok(())
}

fn failed(reason: String) -> End {
    End::Handshake(HandshakeError::Tls(reason))
}

/// Refuses a client whose first message is not a ClientHello that can be read.
fn refuse_hello<S: Stream>(wire: Wire<S>, why: NoHello) -> Refused {
    let NoHello { error, mut alert } = why;
    // rustls has no alert for some messages that have no place there.
    let missing = causes::alert_before_hello(&error).filter(|_| alert.is_empty());
    let reason = causes::explain_before_hello(&error, missing);
    alert.extend(missing.into_iter().flat_map(fatal_alert));
    let (stream, _) = wire.into_parts();
    super::refuse(stream, failed(reason), alert)
}

/// A record with an alert that is fatal (RFC 8446 sections 5.1 and 6), unprotected.
fn fatal_alert(description: AlertDescription) -> [u8; 7] {
    [0x15, 3, 3, 0, 2, 2, description.into()]
}

/// Sends the alert that is left on the wire, lets the client read it, and closes.
fn refuse<S: Stream>(
    wire: Wire<S>,
    error: &io::Error,
    offer: &Offer,
    fault: Option<CertificateFault>,
) -> Refused {
    let mut reason = causes::explain(error, Peer::Client);
    if let Some(sni) = &offer.sni {
        reason += &format!(" (SNI {sni})");
    }
    if let Some(fault) = fault {
        reason += &format!(" ({} on purpose)", Fault::Certificate(fault));
    }
    let (stream, alert) = wire.into_parts();
    super::refuse(stream, failed(reason), alert)
}

/// Logs what was negotiated, for people who test TLS clients.
fn log_handshake(
    connection: Connection,
    tls: &CommonState,
    offer: &Offer,
    client: Option<&str>,
    fault: Option<CertificateFault>,
    duration: Duration,
) {
    let Connection { protocol, number, peer, .. } = connection;
    let (version, cipher, group) = negotiated::names(tls);
    let alpn = tls.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned());
    let offered: Vec<_> = offer.alpn.iter().map(|name| String::from_utf8_lossy(name)).collect();
    // A ClientHello can hold thousands of names; the log line has to stay short.
    let offered: String = offered.join(",").chars().take(200).collect();
    let handshake = match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        Some(HandshakeKind::FullWithHelloRetryRequest) => "full, after a HelloRetryRequest",
        _ => "full",
    };
    info!(
        %protocol,
        conn = number,
        %peer,
        version,
        cipher,
        group,
        handshake,
        alpn = alpn.as_deref().unwrap_or("none"),
        alpn_offered = if offered.is_empty() { "none" } else { &offered },
        sni = offer.sni.as_deref().unwrap_or("none"),
        client = client.unwrap_or("none"),
        certificate = fault.map(|fault| format!("{} on purpose", fault.name())),
        duration_ms = duration.as_micros() as f64 / 1000.0,
        "TLS established with: {peer}"
    );
}
