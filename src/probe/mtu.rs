//! The search for the largest datagram that comes back with the DF bit set.

use std::time::Duration;

use tokio::sync::oneshot;

use super::messages::MAX_DATAGRAM_PAYLOAD;
use super::{Event, PingOptions, Probe, ProbeError, ProbeSetting, ignore};
use crate::config::Protocol;

/// A payload in bytes that every path carries. Some services do not answer an empty datagram.
const SMALL: usize = 64;

/// How often each size is tried: a datagram can be lost for other reasons than its size.
const TRIES: u64 = 3;

/// How a search for the largest datagram waits.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MtuOptions {
    /// How long to wait for a reply. Each size is tried three times, and there are about 17 sizes.
    /// 2 seconds.
    pub timeout: Duration,
}

impl Default for MtuOptions {
    fn default() -> Self {
        MtuOptions::new()
    }
}

impl MtuOptions {
    /// The defaults.
    pub fn new() -> Self {
        MtuOptions { timeout: Duration::from_secs(2) }
    }

    /// Sets [`MtuOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A search that [`run`](FindMtu::run) starts. [`Probe::find_mtu`] makes one.
///
/// The type parameter is that of [`on_event`](FindMtu::on_event).
#[must_use = "a search does nothing until it is run"]
pub struct FindMtu<OnEvent = fn(Event)> {
    probe: Probe,
    options: MtuOptions,
    on_event: OnEvent,
}

impl FindMtu {
    pub(super) fn new(probe: Probe, options: MtuOptions) -> Self {
        FindMtu { probe, options, on_event: ignore }
    }
}

impl<OnEvent> FindMtu<OnEvent> {
    /// Calls `on_event` with an [`Event::Connected`] once, and an [`Event::SizeTried`] for each size.
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> FindMtu<F> {
        let FindMtu { probe, options, .. } = self;
        FindMtu { probe, options, on_event }
    }
}

impl<OnEvent: FnMut(Event)> FindMtu<OnEvent> {
    /// Searches by bisection, and returns the largest payload in bytes that comes back. `None`: not
    /// even a datagram of 64 bytes does. Dropping the future ends the search.
    ///
    /// The MTU of the path is that payload and the headers: 28 bytes over IPv4, 48 over IPv6.
    ///
    /// # Errors
    /// The target is not UDP, or there is no socket. The DF bit can be set on Linux only.
    pub async fn run(self) -> Result<Option<usize>, ProbeError> {
        let FindMtu { probe, options, mut on_event } = self;
        if probe.target().protocol() != Protocol::Udp {
            let problem =
                format!("only UDP has a largest datagram, and this is {}", probe.target());
            return Err(ProbeError::setting(ProbeSetting::Target, problem));
        }
        let probe = probe.connect(|connect| connect.dont_fragment = true);
        let probe = probe.messages(|messages| messages.is_text = false);
        let mut is_described = false;
        let mut try_size = async |size| {
            let connected = |event| {
                if !std::mem::replace(&mut is_described, true) {
                    on_event(event);
                }
            };
            let came_back =
                comes_back(&probe.clone().size(size), options.timeout, connected).await?;
            on_event(Event::SizeTried { size, came_back });
            Ok::<_, ProbeError>(came_back)
        };
        if !try_size(SMALL).await? {
            return Ok(None);
        }
        // A datagram of `low` bytes comes back, one of `high` does not.
        let (mut low, mut high) = (SMALL, MAX_DATAGRAM_PAYLOAD + 1);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if try_size(middle).await? { low = middle } else { high = middle }
        }
        Ok(Some(low))
    }
}

/// Whether one of a few messages of `probe` comes back. Calls `connected` each time that there is a
/// socket.
async fn comes_back(
    probe: &Probe,
    timeout: Duration,
    mut connected: impl FnMut(Event),
) -> Result<bool, ProbeError> {
    let options = PingOptions::new().count(1).interval(Duration::ZERO).timeout(timeout);
    for _ in 0..TRIES {
        // If our own system refuses to send a datagram of this size (EMSGSIZE), there is nothing
        // to wait for.
        let (refused, refusal) = oneshot::channel::<()>();
        let mut refused = Some(refused);
        let ping =
            probe.ping(options.clone()).until(async { drop(refusal.await) }).on_event(|event| {
                match event {
                    Event::Failed { .. } => drop(refused.take()),
                    Event::Connected(_) => connected(event),
                    _ => {}
                }
            });
        let summary = ping.run().await?;
        if summary.received() > 0 {
            return Ok(true);
        }
        if summary.errors().next().is_some() {
            return Ok(false);
        }
    }
    Ok(false)
}
