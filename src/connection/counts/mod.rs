//! What is counted for a server's metrics. Nothing is, unless somebody has asked for them.
//!
//! Echoes write to a cache line that only their session owns ([`Live`]). What opening, handshakes
//! and closing write is behind a lock for each protocol, which echoes do not take.

mod histogram;
mod live;

use std::array;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub(crate) use histogram::Histogram;
pub(super) use live::Live;
use live::Sessions;

use super::admission::Refusal;
use super::end::Reason;
use crate::config::Protocol;
use crate::echo::Traffic;

/// The counts of one server.
#[derive(Debug)]
pub(crate) struct Counts {
    protocols: [Mutex<ProtocolCounts>; Protocol::ALL.len()],
    refused: [AtomicU64; Refusal::ALL.len()],
    tls: Mutex<TlsCounts>,
}

/// The counts of one protocol.
#[derive(Debug, Default)]
struct ProtocolCounts {
    sessions: Sessions,
    opened: u64,
    closed: [u64; Reason::ALL.len()],
    /// What the sessions that are over have echoed.
    ended: Traffic,
    handshakes: Histogram,
}

/// The counts of TLS handshakes.
#[derive(Debug, Clone)]
pub(crate) struct TlsCounts {
    /// Completed, by version and whether a session was resumed.
    pub(crate) completed: BTreeMap<(&'static str, bool), u64>,
    /// Failed, by the alert that was sent or received.
    pub(crate) failed: BTreeMap<String, u64>,
}

/// The alerts that failed handshakes commonly end with. Those that only a bug leads to are not here.
/// `none` is the most common one: port scans and health checks connect and leave.
const COMMON_ALERTS: [&str; 16] = [
    "none",
    "unknown",
    "unexpected_message",
    "record_overflow",
    "handshake_failure",
    "bad_certificate",
    "unsupported_certificate",
    "certificate_revoked",
    "certificate_expired",
    "certificate_unknown",
    "illegal_parameter",
    "unknown_ca",
    "decode_error",
    "protocol_version",
    "certificate_required",
    "no_application_protocol",
];

/// What there may well be begins at 0, so that its first increase is seen as one.
impl Default for TlsCounts {
    fn default() -> Self {
        let versions = ["TLSv1.2", "TLSv1.3"];
        let kinds = versions.into_iter().flat_map(|version| [(version, false), (version, true)]);
        TlsCounts {
            completed: kinds.map(|kind| (kind, 0)).collect(),
            failed: COMMON_ALERTS.map(|alert| (alert.to_owned(), 0)).into(),
        }
    }
}

/// A reading of one protocol's counts.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) opened: u64,
    /// In the order of [`Reason::ALL`].
    pub(crate) closed: [u64; Reason::ALL.len()],
    pub(crate) traffic: Traffic,
    pub(crate) handshakes: Histogram,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            protocols: array::from_fn(|_| Mutex::default()),
            refused: Default::default(),
            tls: Mutex::default(),
        }
    }
}

impl Counts {
    /// Counts a session in, which is one of `connection`, or of a datagram socket.
    pub(super) fn begin(&self, connection: Option<Protocol>) -> Arc<Live> {
        let mut counts = self.of(connection.unwrap_or(Protocol::Udp));
        counts.opened += u64::from(connection.is_some());
        counts.sessions.add()
    }

    /// Counts a session out that has echoed `traffic`.
    pub(super) fn end(
        &self,
        connection: Option<Protocol>,
        live: &Live,
        traffic: Traffic,
        reason: Reason,
    ) {
        let mut counts = self.of(connection.unwrap_or(Protocol::Udp));
        counts.sessions.remove(live);
        counts.ended += traffic;
        if connection.is_some() {
            counts.closed[reason as usize] += 1;
        }
    }

    /// Counts a handshake that took `duration`.
    pub(super) fn handshake(&self, protocol: Protocol, duration: Duration) {
        self.of(protocol).handshakes.observe(duration);
    }

    /// Counts a connection that was not admitted.
    pub(super) fn refuse(&self, reason: Refusal) {
        self.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a completed TLS handshake.
    pub(crate) fn tls_completed(&self, version: &'static str, resumed: bool) {
        *self.tls().completed.entry((version, resumed)).or_default() += 1;
    }

    /// Counts a failed TLS handshake, by its alert.
    pub(crate) fn tls_failed(&self, alert: String) {
        *self.tls().failed.entry(alert).or_default() += 1;
    }

    /// Reads the counts of `protocol`. It takes a look at each of its sessions.
    pub(crate) fn read(&self, protocol: Protocol) -> Reading {
        let counts = self.of(protocol);
        let mut traffic = counts.ended;
        traffic += counts.sessions.traffic();
        Reading {
            opened: counts.opened,
            closed: counts.closed,
            traffic,
            handshakes: counts.handshakes.clone(),
        }
    }

    /// How many connections were not admitted, in the order of [`Refusal::ALL`].
    pub(crate) fn refused(&self) -> [u64; Refusal::ALL.len()] {
        array::from_fn(|reason| self.refused[reason].load(Ordering::Relaxed))
    }

    pub(crate) fn tls(&self) -> MutexGuard<'_, TlsCounts> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, protocol: Protocol) -> MutexGuard<'_, ProtocolCounts> {
        self.protocols[protocol as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(bytes: u64) -> Traffic {
        Traffic { received: bytes, sent: bytes, messages: 1 }
    }

    #[test]
    fn a_session_counts_while_it_lives_and_once_when_it_is_over() {
        let counts = Counts::default();
        let sessions: Vec<_> = (0..3).map(|_| counts.begin(Some(Protocol::Tcp))).collect();
        for live in &sessions {
            live.set(traffic(10));
        }
        assert_eq!(counts.read(Protocol::Tcp).traffic.received, 30);
        // Any order.
        for (at, sum) in [(1, 35), (0, 40), (2, 45)] {
            counts.end(Some(Protocol::Tcp), &sessions[at], traffic(15), Reason::EndOfStream);
            assert_eq!(counts.read(Protocol::Tcp).traffic.received, sum);
        }
        let reading = counts.read(Protocol::Tcp);
        assert_eq!((reading.opened, reading.closed[Reason::EndOfStream as usize]), (3, 3));
        assert_eq!(counts.read(Protocol::Tls).opened, 0);
    }

    #[test]
    fn a_datagram_socket_is_no_connection() {
        let counts = Counts::default();
        let live = counts.begin(None);
        live.set(traffic(7));
        let reading = counts.read(Protocol::Udp);
        assert_eq!((reading.opened, reading.traffic), (0, traffic(7)));
        counts.end(None, &live, traffic(8), Reason::ShuttingDown);
        let reading = counts.read(Protocol::Udp);
        assert_eq!((reading.closed.iter().sum::<u64>(), reading.traffic), (0, traffic(8)));
    }
}
