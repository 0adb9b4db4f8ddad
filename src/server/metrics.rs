//! What a server has counted, for whoever asks. Nothing is added up before that.

use std::sync::Arc;
use std::time::Duration;

use crate::config::Protocol;
use crate::connection::{Counts, Reading, Reason, Refusal};
use crate::echo::{Rules, Unanswered};
use crate::faults::Faults;
use crate::protocols::udp::KernelDrops;
use crate::tls::TlsSettings;

/// Reads what a server counts. It stays valid when the server has ended.
///
/// ```
/// use echo_server::{Config, Protocol, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0))).await?;
/// let metrics = server.metrics();
/// // … tokio::spawn(server.run(…))
/// let tcp = &metrics.snapshot().protocols[0];
/// assert_eq!((tcp.open, tcp.received), (0, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Metrics {
    sources: Arc<Sources>,
}

/// Where the counts are.
#[derive(Debug)]
pub(super) struct Sources {
    pub(super) counts: Arc<Counts>,
    /// The protocols that are served, each once.
    pub(super) protocols: Vec<Protocol>,
    pub(super) tls: Option<Arc<TlsSettings>>,
    pub(super) rules: Arc<Rules>,
    /// Of each UDP address.
    pub(super) drops: Vec<Arc<KernelDrops>>,
    pub(super) faults: Option<Arc<Faults>>,
}

/// What a server has counted since it was bound. Counts only grow.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Snapshot {
    /// Of each protocol that is served.
    pub protocols: Vec<ProtocolSnapshot>,
    /// Connections that were accepted and closed at once, by the limit that was reached.
    pub refused: Vec<(&'static str, u64)>,
    /// `None` if no TLS protocol is served.
    pub tls: Option<TlsSnapshot>,
    /// `None` if UDP is not served.
    pub udp: Option<UdpSnapshot>,
    /// Faults that were done on purpose, by protocol and name: those that are configured, and those
    /// that clients have asked for. Corrupt bytes and datagrams count one by one, everything else
    /// for each connection.
    pub faults: Vec<(Protocol, &'static str, u64)>,
}

/// The counts of one protocol.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ProtocolSnapshot {
    /// The protocol.
    pub protocol: Protocol,
    /// Connections that are open now. UDP has none.
    pub open: u64,
    /// Connections that were opened. A WebSocket over HTTP/2 counts as one, and so does the
    /// connection that carries it.
    pub opened: u64,
    /// Connections that were closed, by the reason. Every reason that there is has an entry.
    pub closed: Vec<(&'static str, u64)>,
    /// Bytes of payload received. The echoes of open connections are among them.
    pub received: u64,
    /// Bytes of payload sent.
    pub sent: u64,
    /// WebSocket messages, or datagrams. For byte streams, reads.
    pub messages: u64,
    /// How long TLS handshakes and WebSocket upgrades took, from accept. TCP and UDP have none.
    pub handshakes: Durations,
}

/// A histogram of durations.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Durations {
    /// The number of durations up to each bound in seconds and above the bound before. The last
    /// bound is infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of all durations.
    pub sum: Duration,
}

/// The counts of TLS.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TlsSnapshot {
    /// Completed handshakes, by version (`TLSv1.3`), and whether a session was resumed.
    pub completed: Vec<(&'static str, bool, u64)>,
    /// Failed handshakes, by the name of the alert that was received or sent (RFC 8446 section 6);
    /// `none` if there was none.
    pub failed: Vec<(String, u64)>,
    /// The certificates in use.
    pub certificates: Vec<Expiry>,
    /// Whether the certificates, keys and revocation lists could be used when they were last read.
    pub last_reload_succeeded: bool,
}

/// When a certificate expires.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expiry {
    /// Where it was read from. `None` if the server has made it.
    pub origin: Option<String>,
    /// Seconds since 1970, in UTC.
    pub not_after: i64,
}

/// The counts of UDP.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct UdpSnapshot {
    /// Datagrams that were received and not answered, by the reason. Every reason that there is has
    /// an entry.
    pub unanswered: Vec<(&'static str, u64)>,
    /// Datagrams that the kernel dropped because the receive buffer was full. Only Linux tells.
    pub overflowed: u64,
}

impl Metrics {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Metrics { sources }
    }

    /// Adds up all counts. It takes a look at each open connection, and on Linux reads the kernel's
    /// table of UDP sockets.
    pub fn snapshot(&self) -> Snapshot {
        let Sources { counts, protocols, tls, rules, drops, faults } = &*self.sources;
        let of_faults = |faults: &Arc<Faults>| -> Vec<_> {
            let of = |protocol: &Protocol| faults.counts(*protocol);
            protocols.iter().flat_map(of).collect()
        };
        let faults = faults.as_ref().map(of_faults).unwrap_or_default();
        let protocols: Vec<_> = protocols
            .iter()
            .map(|protocol| ProtocolSnapshot::of(*protocol, &counts.read(*protocol)))
            .collect();
        let refused = Refusal::ALL.map(Refusal::name).into_iter().zip(counts.refused()).collect();
        let is_udp = protocols.iter().any(|counts| counts.protocol == Protocol::Udp);
        let udp = is_udp.then(|| UdpSnapshot {
            unanswered: Unanswered::ALL.map(|why| (why.name(), rules.unanswered(why))).into(),
            overflowed: drops.iter().map(|drops| drops.read()).sum(),
        });
        let tls = tls.as_ref().map(|settings| TlsSnapshot::of(settings, counts));
        Snapshot { protocols, refused, tls, udp, faults }
    }
}

impl ProtocolSnapshot {
    fn of(protocol: Protocol, reading: &Reading) -> Self {
        let Reading { opened, closed, traffic, handshakes } = reading;
        ProtocolSnapshot {
            protocol,
            open: opened - closed.iter().sum::<u64>(),
            opened: *opened,
            closed: Reason::ALL.map(Reason::name).into_iter().zip(*closed).collect(),
            received: traffic.received,
            sent: traffic.sent,
            messages: traffic.messages,
            handshakes: Durations {
                buckets: handshakes.buckets().collect(),
                sum: handshakes.sum(),
            },
        }
    }
}

impl TlsSnapshot {
    fn of(settings: &TlsSettings, counts: &Counts) -> Self {
        let expiries = settings.expiries().into_iter();
        let tls = counts.tls();
        let completed = tls.completed.iter();
        TlsSnapshot {
            completed: completed
                .map(|((version, resumed), count)| (*version, *resumed, *count))
                .collect(),
            failed: tls.failed.iter().map(|(alert, count)| (alert.clone(), *count)).collect(),
            certificates: expiries
                .map(|(origin, not_after)| Expiry { origin, not_after })
                .collect(),
            last_reload_succeeded: settings.last_reload_succeeded(),
        }
    }
}
