//! The service as its manager sees it: ready, reloading, stopping, how many connections it has, and
//! whether it is alive.

use std::env;
use std::time::Duration;

use echo_server::{Connections, Progress, Server};
use rustix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::notify::Notifier;

/// How often the status is looked at, and so the shortest time between two of them.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// How long a reload or a shutdown waits for a service manager that reads nothing.
const PATIENCE: Duration = Duration::from_millis(200);

/// What a shutdown takes besides the drain: connections are aborted, threads end, the log is
/// written.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// Tells the service manager about this service, if there is one.
#[derive(Debug, Clone)]
pub struct Service {
    notifier: Option<Notifier>,
}

impl Service {
    pub fn from_environment() -> Self {
        Service { notifier: Notifier::from_environment() }
    }

    /// Tells that all listeners are bound. From then on, tasks tell the number of connections
    /// whenever it has changed, and that the service is alive.
    pub fn ready(&self, server: &Server) {
        let Some(notifier) = self.notifier.clone() else { return };
        let (connections, progress) = (server.connections(), server.progress());
        tokio::spawn(async move {
            notifier.tell(&format!("READY=1\nSTATUS={}", status(&connections))).await;
            if let Some(timeout) = watchdog_timeout() {
                tokio::spawn(feed_watchdog(notifier.clone(), progress, timeout));
            }
            keep_status(notifier, connections).await;
        });
    }

    /// Tells that a reload begins. systemd waits for the time to know which of its requests this
    /// answers.
    pub async fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")).await;
    }

    /// Tells that a reload has ended.
    pub async fn reloaded(&self) {
        self.tell("READY=1").await;
    }

    /// Tells that the service stops, and that its connections may take `drain` to end,
    /// with the time in which new ones are still accepted.
    pub async fn stopping(&self, drain: Duration) {
        let longest = drain.saturating_add(AFTER_DRAIN).as_micros();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={longest}\nSTATUS=Draining")).await;
    }

    async fn tell(&self, state: &str) {
        if let Some(notifier) = &self.notifier
            && timeout(PATIENCE, notifier.tell(state)).await.is_err()
        {
            warn!("The service manager does not read what it is told (NOTIFY_SOCKET)");
        }
    }
}

/// A line for `systemctl status`.
fn status(connections: &Connections) -> String {
    format!("{} connections open, {} since the start", connections.open(), connections.opened())
}

async fn keep_status(notifier: Notifier, connections: Connections) {
    let mut told = status(&connections);
    let mut ticks = interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = status(&connections);
        if now != told {
            notifier.tell(&format!("STATUS={now}")).await;
            told = now;
        }
    }
}

/// The time after which the service manager takes a silent service for dead, if it does so for this
/// process.
fn watchdog_timeout() -> Option<Duration> {
    let number = |variable| env::var(variable).ok()?.parse::<u64>().ok();
    let is_ours = match env::var_os("WATCHDOG_PID") {
        None => true,
        Some(_) => number("WATCHDOG_PID") == Some(std::process::id().into()),
    };
    number("WATCHDOG_USEC").filter(|timeout| is_ours && *timeout > 0).map(Duration::from_micros)
}

/// Tells that the service is alive, twice in each `watchdog`, unless a thread that runs sessions is
/// stuck: a service manager would restart this service then.
async fn feed_watchdog(notifier: Notifier, progress: Progress, watchdog: Duration) {
    let mut ticks = interval(watchdog / 2);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match progress.stalled(watchdog / 4).await {
            None => notifier.tell("WATCHDOG=1").await,
            Some(thread) => {
                warn!(thread, "A thread is stuck; the watchdog is not told that all is well");
            }
        }
    }
}
