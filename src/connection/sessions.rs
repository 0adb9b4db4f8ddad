//! What all sessions of a server share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{info, warn};

use super::admission::{Admission, Permit};
use super::clock::Clock;
use super::drain::{Drain, Stage};
use super::log_limit::{LogLimit, Throttle};
use super::{Connection, End};
use crate::config::{Limits, Protocol, Timeouts};
use crate::net::Peer;

/// What all sessions of a server share.
///
/// What each wake of a session reads stands here, and is hardly ever written. What accepting and
/// closing write has allocations of its own, so that an echo shares no cache line with them.
#[derive(Debug)]
pub(crate) struct Sessions {
    pub(crate) drain: Arc<Drain>,
    pub(crate) log: Arc<LogLimit>,
    pub(super) timeouts: Timeouts,
    pub(super) clock: Clock,
    admission: Arc<Admission>,
    counters: Box<Counters>,
}

/// What accepting and closing count.
#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    drained: AtomicU64,
    aborted: AtomicU64,
    refused: AtomicU64,
    panicked: AtomicU64,
    refusals: Throttle,
}

/// What became of a server's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Statistics {
    /// Since the drain began: those that got what they were owed, or left by themselves.
    pub(crate) drained: u64,
    /// Since the drain began: those that had to be dropped.
    pub(crate) aborted: u64,
    /// Those that were not admitted.
    pub(crate) refused: u64,
    /// Those that a bug of ours has ended.
    pub(crate) panicked: u64,
}

/// A connection that was let in, with its place.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) connection: Connection,
    pub(super) permit: Permit,
}

impl Sessions {
    /// `max` is used where `limits` has no maximum of all connections.
    pub(crate) fn new(limits: Limits, max: usize, timeouts: Timeouts) -> Self {
        let max = limits.max_connections.unwrap_or(max);
        Sessions {
            drain: Arc::default(),
            log: Arc::new(LogLimit::new()),
            timeouts,
            clock: Clock::new(),
            admission: Arc::new(Admission::new(max, limits.max_connections_per_ip)),
            counters: Box::default(),
        }
    }

    /// Admits a connection, or a stream that is as good as one, unless there are enough.
    pub(crate) fn admit(&self, protocol: Protocol, peer: Peer) -> Option<Admitted> {
        let permit = match self.admission.admit(peer.ip()) {
            Ok(permit) => permit,
            Err(reason) => {
                self.counters.refused.fetch_add(1, Ordering::Relaxed);
                if let Some(connections) = self.counters.refusals.count() {
                    warn!(%protocol, %peer, %reason, connections, "Refused connections");
                }
                return None;
            }
        };
        let number = self.counters.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        if self.log.shows() {
            let (uid, pid) = (peer.uid(), peer.pid());
            info!(%protocol, conn = number, uid, pid, "New connection from: {peer}");
        }
        Some(Admitted { connection: Connection { protocol, number, peer }, permit })
    }

    /// Connections that are admitted.
    pub(crate) fn connections(&self) -> usize {
        self.admission.admitted()
    }

    /// What became of the connections so far.
    pub(crate) fn statistics(&self) -> Statistics {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Statistics {
            drained: read(&self.counters.drained),
            aborted: read(&self.counters.aborted),
            refused: read(&self.counters.refused),
            panicked: read(&self.counters.panicked),
        }
    }

    /// Counts a connection's end. `owes`: it still owed something to its peer.
    pub(super) fn count_end(&self, end: &End, owes: bool) {
        let counter = match end {
            End::Panicked => &self.counters.panicked,
            _ if self.drain.stage() == Stage::Serving => return,
            End::Aborted | End::Stalled => &self.counters.aborted,
            _ if owes => &self.counters.aborted,
            _ => &self.counters.drained,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
