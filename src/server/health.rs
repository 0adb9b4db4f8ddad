//! Whether a server is ready for clients, and whether its threads make progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often each thread shows that it makes progress.
const BEAT: Duration = Duration::from_secs(1);

/// A thread that has not shown it for this long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// Tells whether a server is ready for clients, and whether its threads make progress. It stays
/// valid when the server has ended.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    readiness: AtomicU8,
    began: Instant,
    /// When each thread last showed progress, in milliseconds since `began`.
    beats: Vec<AtomicU64>,
}

/// Whether a server wants clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// It is bound, and does not serve yet.
    Starting,
    /// It serves.
    Ready,
    /// It shuts down. Clients should go elsewhere, although new connections may still be accepted,
    /// for [`Timeouts::drain_delay`](crate::Timeouts::drain_delay).
    Draining,
}

impl Health {
    /// The health of a server that runs sessions in `runtimes`.
    pub(super) fn new(runtimes: usize) -> Self {
        let beats = (0..runtimes).map(|_| AtomicU64::new(0)).collect();
        let readiness = AtomicU8::new(Readiness::Starting as u8);
        Health { state: Arc::new(State { readiness, began: Instant::now(), beats }) }
    }

    /// Whether the server wants clients.
    pub fn readiness(&self) -> Readiness {
        match self.state.readiness.load(Ordering::Relaxed) {
            0 => Readiness::Starting,
            1 => Readiness::Ready,
            _ => Readiness::Draining,
        }
    }

    /// The number of a thread that has made no progress for five seconds, counted from 1; `None` if
    /// all have made progress, or the server does not serve yet. Threads are counted in the order of
    /// the runtimes of [`Server::bind_over`](crate::Server::bind_over); a runtime with several
    /// threads counts as one.
    ///
    /// A thread that asks this in the runtime that is stuck gets no answer.
    pub fn stuck_thread(&self) -> Option<usize> {
        if self.readiness() == Readiness::Starting {
            return None;
        }
        let now = self.state.began.elapsed();
        let is_stuck = |beat: &AtomicU64| {
            let beat = Duration::from_millis(beat.load(Ordering::Relaxed));
            now.saturating_sub(beat) >= STUCK_AFTER
        };
        self.state.beats.iter().position(is_stuck).map(|at| at + 1)
    }

    pub(super) fn set(&self, readiness: Readiness) {
        self.state.readiness.fetch_max(readiness as u8, Ordering::Relaxed);
    }

    /// Has each of `runtimes` show progress until the set is dropped.
    pub(super) fn start(&self, runtimes: &[&Handle]) -> JoinSet<()> {
        let mut beating = JoinSet::new();
        for (at, runtime) in runtimes.iter().enumerate() {
            let state = Arc::clone(&self.state);
            state.beat(at);
            beating.spawn_on(
                async move {
                    let mut beats = interval(BEAT);
                    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    loop {
                        beats.tick().await;
                        state.beat(at);
                    }
                },
                runtime,
            );
        }
        beating
    }
}

impl State {
    fn beat(&self, at: usize) {
        let now = self.began.elapsed().as_millis() as u64;
        self.beats[at].store(now, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_thread_without_progress_is_stuck_and_recovers() {
        let health = Health::new(2);
        assert_eq!((health.readiness(), health.stuck_thread()), (Readiness::Starting, None));
        health.set(Readiness::Ready);
        health.state.beat(0);
        tokio::time::advance(STUCK_AFTER).await;
        health.state.beat(0);
        assert_eq!(health.stuck_thread(), Some(2));
        let beating = health.start(&[&Handle::current(), &Handle::current()]);
        for _ in 0..20 {
            tokio::time::sleep(BEAT).await;
            assert_eq!(health.stuck_thread(), None);
        }
        drop(beating);
        tokio::time::advance(STUCK_AFTER).await;
        assert_eq!(health.stuck_thread(), Some(1));
    }

    #[test]
    fn a_server_that_drains_is_not_ready_again() {
        let health = Health::new(1);
        health.set(Readiness::Draining);
        health.set(Readiness::Ready);
        assert_eq!(health.readiness(), Readiness::Draining);
    }
}
