//! Timestamps of half the size of an `Instant`: each session has several.

use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the server began. They overflow after some five hundred years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn from_nanos(nanos: u64) -> Moment {
        Moment(nanos)
    }

    pub(super) fn to_nanos(self) -> u64 {
        self.0
    }

    /// The moment `duration` later, or the latest one there is.
    pub(super) fn after(self, duration: Duration) -> Moment {
        let nanos = duration.as_secs().saturating_mul(1_000_000_000);
        Moment(self.0.saturating_add(nanos).saturating_add(duration.subsec_nanos().into()))
    }

    /// The moment `duration` earlier, or the first one there is.
    pub(super) fn before(self, duration: Duration) -> Moment {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Moment(self.0.saturating_sub(nanos))
    }
}

/// The origin of all moments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn new() -> Self {
        Clock(Instant::now())
    }

    pub(super) fn now(&self) -> Moment {
        let since = self.0.elapsed();
        Moment(since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos()))
    }

    pub(super) fn at(&self, moment: Moment) -> Instant {
        self.0 + Duration::from_nanos(moment.0)
    }

    pub(super) fn since(&self, moment: Moment) -> Duration {
        self.at(moment).elapsed()
    }
}
