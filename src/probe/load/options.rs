//! What a load is asked to do.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::probe::{ProbeError, ProbeSetting};

/// How much a load sends, and for how long.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The number of connections, at least 1; over UDP, of flows. 1.
    pub connections: usize,
    /// How many messages each connection has in flight, at least 1. Not used with a
    /// [`rate`](LoadOptions::rate). 1.
    pub in_flight: usize,
    /// How long to send. 10 seconds.
    pub duration: Duration,
    /// Messages a second over all connections together, from 0.001 to 10⁹. They are sent on a
    /// schedule, whether or not earlier ones have come back. If the connection does not take a
    /// message that is due, its round trip begins when it was due, so that a service that stalls
    /// does not hide it (coordinated omission). If it is the probe that is late, that is counted
    /// by itself, see [`Summary::late_by_percentile`](crate::probe::Summary::late_by_percentile),
    /// and not as the service's. `None`: a connection sends its next message when a reply has
    /// come. `None`.
    pub rate: Option<f64>,
    /// How long to wait for a reply: one that comes later is late, one that does not come is lost.
    /// 2 seconds.
    pub timeout: Duration,
    /// How many threads send and receive; each has a share of the connections. More than one pay
    /// only if the load keeps one busy, and if the service does not need the same cores. 1.
    pub threads: NonZeroUsize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions::new()
    }
}

impl LoadOptions {
    /// The defaults.
    pub fn new() -> Self {
        LoadOptions {
            connections: 1,
            in_flight: 1,
            duration: Duration::from_secs(10),
            rate: None,
            timeout: Duration::from_secs(2),
            threads: NonZeroUsize::MIN,
        }
    }

    /// Sets [`LoadOptions::connections`].
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets [`LoadOptions::in_flight`].
    #[must_use]
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.in_flight = messages;
        self
    }

    /// Sets [`LoadOptions::duration`].
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Sets [`LoadOptions::rate`], in messages a second.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets [`LoadOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets [`LoadOptions::threads`].
    #[must_use]
    pub fn threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }

    pub(super) fn check(&self) -> Result<(), ProbeError> {
        let refuse = |setting, problem| Err(ProbeError::setting(setting, problem));
        if self.connections == 0 {
            return refuse(ProbeSetting::Connections, "must be at least 1");
        }
        if self.in_flight == 0 {
            return refuse(ProbeSetting::InFlight, "must be at least 1");
        }
        if self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
            return refuse(ProbeSetting::Rate, "must be from 0.001 to 1000000000");
        }
        Ok(())
    }
}
