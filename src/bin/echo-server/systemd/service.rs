//! The service as its manager sees it: ready, reloading, stopping, how many connections it has, and
//! whether it is alive.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use echo_server::{Connections, Progress, Server};
use rustix::time::{ClockId, clock_gettime};
use tokio::task::{AbortHandle, JoinHandle};
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

/// The most that systemd is asked to wait. Its times are 64-bit numbers of microseconds, and the
/// largest one is as good as none.
const LONGEST: u64 = u64::MAX / 2;

/// Tells the service manager about this service, if there is one.
#[derive(Debug, Clone)]
pub struct Service {
    notifier: Option<Notifier>,
    /// The last state that was told, or still has to be. A newer one takes its place.
    telling: Arc<Mutex<Option<AbortHandle>>>,
    is_stopping: Arc<AtomicBool>,
}

impl Service {
    pub fn from_environment() -> Self {
        Service {
            notifier: Notifier::from_environment(),
            telling: Arc::default(),
            is_stopping: Arc::default(),
        }
    }

    /// Tells that all listeners are bound. From then on, tasks tell the number of connections
    /// whenever it has changed, and that the service is alive.
    pub fn ready(&self, server: &Server) {
        let Some(notifier) = self.notifier.clone() else { return };
        let (connections, progress) = (server.connections(), server.progress());
        let told = status(&connections, false);
        self.begin_telling(&notifier, format!("READY=1\nSTATUS={told}"));
        if let Some(timeout) = watchdog_timeout() {
            tokio::spawn(feed_watchdog(notifier.clone(), progress, timeout));
        }
        tokio::spawn(keep_status(notifier, connections, Arc::clone(&self.is_stopping), told));
    }

    /// Tells that a reload begins. systemd waits for the time to know which of its requests this
    /// answers.
    pub async fn reloading(&self) {
        if self.is_stopping.load(Ordering::Relaxed) {
            return;
        }
        let now = clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(format!("RELOADING=1\nMONOTONIC_USEC={microseconds}")).await;
    }

    /// Tells that a reload has ended.
    pub async fn reloaded(&self) {
        // Nothing that is told after STOPPING=1 says that the service is ready.
        if !self.is_stopping.load(Ordering::Relaxed) {
            self.tell("READY=1".to_owned()).await;
        }
    }

    /// Tells that the service stops, and that its connections may take `drain` to end,
    /// with the time in which new ones are still accepted.
    pub async fn stopping(&self, drain: Duration) {
        self.is_stopping.store(true, Ordering::Relaxed);
        let longest = drain.saturating_add(AFTER_DRAIN).as_micros();
        let longest = u64::try_from(longest).unwrap_or(LONGEST).min(LONGEST);
        self.tell(format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={longest}\nSTATUS=Draining")).await;
    }

    /// Tells `state`. If the service manager does not read it soon, it is told in the background:
    /// without the end of a reload, the manager would wait for it.
    async fn tell(&self, state: String) {
        let Some(notifier) = &self.notifier else { return };
        if timeout(PATIENCE, self.begin_telling(notifier, state)).await.is_err() {
            warn!("The service manager does not read what it is told (NOTIFY_SOCKET)");
        }
    }

    /// Begins to tell `state`, instead of an earlier state that still waits.
    fn begin_telling(&self, notifier: &Notifier, state: String) -> JoinHandle<()> {
        let notifier = notifier.clone();
        let mut telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(earlier) = telling.take() {
            earlier.abort();
        }
        let task = tokio::spawn(async move { notifier.tell(&state).await });
        *telling = Some(task.abort_handle());
        task
    }
}

/// A line for `systemctl status`.
fn status(connections: &Connections, is_stopping: bool) -> String {
    let (open, opened) = (connections.open(), connections.opened());
    let noun = if open == 1 { "connection" } else { "connections" };
    let begin = if is_stopping { "Draining: " } else { "" };
    format!("{begin}{open} {noun} open, {opened} since the start")
}

/// Tells the status whenever it has changed since it was `told`.
async fn keep_status(
    notifier: Notifier,
    connections: Connections,
    is_stopping: Arc<AtomicBool>,
    mut told: String,
) {
    let mut ticks = interval(STATUS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = status(&connections, is_stopping.load(Ordering::Relaxed));
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
