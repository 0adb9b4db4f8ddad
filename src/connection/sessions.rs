//! What all sessions of a server share.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tracing::{info, warn};

use super::admission::{Admission, Permit, Refusal};
use super::clock::Clock;
use super::counts::Counts;
use super::drain::{Drain, Stage};
use super::log_limit::{LogLimit, Throttle, shows};
use super::memory::MemoryLimit;
use super::roster::Roster;
use super::{Connection, End};
use crate::config::{Limits, Protocol, Timeouts};
use crate::net::Peer;

/// What all sessions of a server share.
///
/// The fields that each wake of a session reads are hardly ever written. What accepting and closing
/// write has allocations of its own, so that an echo shares no cache line with them.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) drain: Arc<Drain>,
    pub(crate) log: Arc<LogLimit>,
    pub(super) timeouts: Timeouts,
    pub(super) clock: Clock,
    pub(super) memory: Arc<MemoryLimit>,
    admission: Arc<Admission>,
    counters: Box<Counters>,
    /// One for each worker.
    rosters: Box<[Arc<Roster>]>,
    /// `None` if nobody has asked for metrics.
    counts: Option<Arc<Counts>>,
}

/// The counters that accepting and closing write.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    drained: AtomicU64,
    aborted: AtomicU64,
    refused: AtomicU64,
    evicted: AtomicU64,
    panicked: AtomicU64,
    refusals: Throttle,
    evictions: Throttle,
}

/// What became of a server's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Connections that ended since the drain began and got all that they were owed.
    pub(crate) drained: u64,
    /// Connections that ended since the drain began and had to be dropped.
    pub(crate) aborted: u64,
    /// Connections that were not admitted.
    pub(crate) refused: u64,
    /// Connections that were closed because all together held too much memory.
    pub(crate) evicted: u64,
    /// Sessions that a panic has ended.
    pub(crate) panicked: u64,
}

/// An admitted connection, with its permit.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) connection: Connection,
    pub(super) permit: Permit,
    /// The proxy that has announced the client before.
    pub(super) proxy: Option<Peer>,
}

impl Admitted {
    /// Has the session run on `worker`.
    pub(crate) fn on(mut self, worker: u16) -> Self {
        self.connection.worker = worker;
        self
    }
}

impl Sessions {
    /// `max` is the limit on all connections if `limits` has none. Without a limit there, the memory
    /// that they hold is not limited.
    pub(crate) fn new(limits: Limits, max: usize, timeouts: Timeouts, workers: usize) -> Self {
        let clock = Clock::new();
        let max = limits.max_connections.unwrap_or(max);
        let max_buffered = limits.max_buffered.unwrap_or(u64::MAX);
        Sessions {
            drain: Arc::default(),
            log: Arc::new(LogLimit::new()),
            timeouts,
            clock,
            memory: Arc::new(MemoryLimit::new(max_buffered)),
            admission: Arc::new(Admission::new(max, limits.max_connections_per_ip)),
            counters: Box::default(),
            rosters: (0..workers).map(|_| Roster::new(clock)).collect(),
            counts: None,
        }
    }

    /// The same, and what is counted for metrics goes to `counts`.
    pub(crate) fn counting(self, counts: Option<Arc<Counts>>) -> Self {
        Sessions { counts, ..self }
    }

    /// Where to count what is counted for metrics, if anybody has asked.
    pub(crate) fn counts(&self) -> Option<&Arc<Counts>> {
        self.counts.as_ref()
    }

    /// Admits a connection. `None` if a limit is reached.
    pub(crate) fn admit(&self, protocol: Protocol, peer: Peer) -> Option<Admitted> {
        self.admit_from(protocol, peer, None)
    }

    /// Admits an HTTP/2 stream, which counts as a connection. `proxy` has announced its client.
    pub(crate) fn admit_from(
        &self,
        protocol: Protocol,
        peer: Peer,
        proxy: Option<Peer>,
    ) -> Option<Admitted> {
        let admitted = self.admit_for(peer.ip(), protocol, peer)?;
        self.log_new(&admitted.connection, proxy);
        Some(Admitted { proxy, ..admitted })
    }

    /// Admits a connection whose peer is a proxy. For which network it counts is known when the proxy
    /// has announced the client, to [`Sessions::announce`].
    pub(crate) fn admit_proxied(&self, protocol: Protocol, proxy: Peer) -> Option<Admitted> {
        self.admit_for(None, protocol, proxy)
    }

    fn admit_for(&self, ip: Option<IpAddr>, protocol: Protocol, peer: Peer) -> Option<Admitted> {
        let permit = self.admission.admit(ip);
        let permit = permit.inspect_err(|reason| self.refuse(protocol, peer, *reason)).ok()?;
        let number = self.counters.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let connection = Connection { protocol, number, peer, worker: 0 };
        Some(Admitted { connection, permit, proxy: None })
    }

    /// Counts a connection for its client, whom `proxy` has announced.
    ///
    /// # Errors
    /// A limit is reached.
    pub(super) fn announce(
        &self,
        connection: &Connection,
        permit: &mut Permit,
        proxy: Peer,
    ) -> Result<(), Refusal> {
        let Connection { protocol, peer, .. } = *connection;
        permit.count_for(peer.ip()).inspect_err(|reason| self.refuse(protocol, peer, *reason))?;
        self.log_new(connection, Some(proxy));
        Ok(())
    }

    /// How long a connection that stalls on purpose may last: what ends any other in the end.
    pub(crate) fn longest_stall(&self) -> Duration {
        const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
        let Timeouts { idle, lifetime, .. } = self.timeouts;
        [idle, lifetime].into_iter().flatten().min().unwrap_or(FAR)
    }

    /// Counts and logs a connection that is not admitted.
    fn refuse(&self, protocol: Protocol, peer: Peer, reason: Refusal) {
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        if let Some(counts) = &self.counts {
            counts.refuse(reason);
        }
        if let Some(connections) = self.counters.refusals.count() {
            warn!(%protocol, %peer, %reason, connections, "Refused connections");
        }
    }

    fn log_new(&self, connection: &Connection, proxy: Option<Peer>) {
        if shows!(self.log) {
            let Connection { protocol, number, peer, .. } = connection;
            let (uid, pid, proxy) = (peer.uid(), peer.pid(), proxy.map(tracing::field::display));
            info!(%protocol, conn = number, %peer, uid, pid, proxy, "New connection from: {peer}");
        }
    }

    /// The sessions of a worker.
    #[inline]
    pub(crate) fn roster(&self, worker: u16) -> &Arc<Roster> {
        &self.rosters[usize::from(worker)]
    }

    /// Moves the server to `stage`, unless a later one has been reached, and wakes every session.
    pub(crate) fn advance(&self, stage: Stage) {
        self.drain.advance(stage);
        self.rosters.iter().for_each(|roster| roster.wake_all());
    }

    /// The number of admitted connections.
    pub(crate) fn connections(&self) -> usize {
        self.admission.admitted()
    }

    /// The number of connections that were admitted so far.
    pub(crate) fn opened(&self) -> u64 {
        self.counters.accepted.load(Ordering::Relaxed)
    }

    /// The statistics so far.
    pub(crate) fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            drained: read(&self.counters.drained),
            aborted: read(&self.counters.aborted),
            refused: read(&self.counters.refused),
            evicted: read(&self.counters.evicted),
            panicked: read(&self.counters.panicked),
        }
    }

    /// Logs that sessions were evicted, at most one line in a while.
    pub(super) fn report_evicted(&self, evicted: u64) {
        if evicted > 0
            && let Some(times) = self.counters.evictions.count()
        {
            warn!(
                times,
                "The limit on buffered bytes is reached: closing the connections that stalled longest"
            );
        }
    }

    /// Counts a connection's end. `owes` says that its peer has not got everything.
    pub(super) fn count_end(&self, end: &End, owes: bool) {
        if matches!(end, End::Evicted) {
            self.counters.evicted.fetch_add(1, Ordering::Relaxed);
        }
        let counter = match end {
            End::Panicked => &self.counters.panicked,
            _ if self.drain.stage() == Stage::Serving => return,
            End::Aborted | End::Stalled | End::Evicted => &self.counters.aborted,
            _ if owes => &self.counters.aborted,
            _ => &self.counters.drained,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
