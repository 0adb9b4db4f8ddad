//! What a load is asked to do.

use std::num::NonZeroUsize;
use std::time::Duration;

use crate::probe::{ProbeError, ProbeSetting};

/// How long a load takes unless it is asked for a duration or a count.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// How much a load sends, and for how long.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The number of connections, at least 1; over UDP, of flows. 1.
    pub connections: usize,
    /// How many messages each connection has in flight, at least 1. Not used with a
    /// [`rate`](LoadOptions::rate). 1.
    pub in_flight: usize,
    /// How many messages to send over all connections together, at least 1. `None`: until the
    /// duration is over. `None`.
    pub count: Option<u64>,
    /// How long to send, after the [warm-up](LoadOptions::warm_up). `None`: until the count is
    /// reached, and without one 10 seconds. `None`.
    pub duration: Option<Duration>,
    /// How long to send before anything is counted. Neither what is sent in this time nor its replies
    /// are part of the summary; connections that fail in it are. 0.
    pub warm_up: Duration,
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
            count: None,
            duration: None,
            warm_up: Duration::ZERO,
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

    /// Sets [`LoadOptions::count`].
    #[must_use]
    pub fn count(mut self, messages: u64) -> Self {
        self.count = Some(messages);
        self
    }

    /// Sets [`LoadOptions::duration`].
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = Some(duration);
        self
    }

    /// Sets [`LoadOptions::warm_up`].
    #[must_use]
    pub fn warm_up(mut self, warm_up: Duration) -> Self {
        self.warm_up = warm_up;
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

    /// How long the load takes at most, without the warm-up. `None`: until the count is reached.
    pub fn time_limit(&self) -> Option<Duration> {
        self.duration.or(match self.count {
            Some(_) => None,
            None => Some(DEFAULT_DURATION),
        })
    }

    pub(super) fn check(&self) -> Result<(), ProbeError> {
        let refuse = |setting, problem| Err(ProbeError::setting(setting, problem));
        if self.connections == 0 {
            return refuse(ProbeSetting::Connections, "must be at least 1");
        }
        if self.in_flight == 0 {
            return refuse(ProbeSetting::InFlight, "must be at least 1");
        }
        if self.count == Some(0) {
            return refuse(ProbeSetting::Count, "must be at least 1");
        }
        if self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
            return refuse(ProbeSetting::Rate, "must be from 0.001 to 1000000000");
        }
        if let Some(available) = available_descriptors()
            && self.connections as u64 > available
        {
            let problem = format!(
                "{} need as many file descriptors, and the process may open {available} more \
                 (RLIMIT_NOFILE, ulimit -n)",
                self.connections
            );
            return Err(ProbeError::setting(ProbeSetting::Connections, problem));
        }
        Ok(())
    }
}

/// How many connections the process has file descriptors for. `None` if that is not known.
#[cfg(unix)]
fn available_descriptors() -> Option<u64> {
    /// Each thread has an epoll instance, an eventfd and a timer, and a name server has a socket.
    const RESERVED: u64 = 16;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current?;
    // Where there is no such directory, at least the standard streams are open.
    let open = std::fs::read_dir("/dev/fd").map_or(3, |open| open.count() as u64);
    Some(limit.saturating_sub(open + RESERVED))
}

/// Other systems have no such limit.
#[cfg(not(unix))]
fn available_descriptors() -> Option<u64> {
    None
}
