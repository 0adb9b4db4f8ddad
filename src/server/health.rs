//! Whether a server is ready for clients, and whether its threads make progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often each thread shows that it makes progress.
const BEAT: Duration = Duration::from_secs(1);

/// A thread that has not shown it for this long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(5);

/// The beat of a thread that is not to show progress yet.
const UNBORN: u64 = u64::MAX;

/// Tells whether a server is ready for clients, and whether its threads make progress. It stays
/// valid when the server has ended.
#[derive(Debug, Clone)]
pub struct Health {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    drains: AtomicBool,
    began: Instant,
    /// When each thread last showed progress, in milliseconds since `began`, or [`UNBORN`].
    beats: Vec<AtomicU64>,
}

/// Whether a server wants clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// It listens.
    Ready,
    /// It shuts down. Clients should go elsewhere, although new connections may still be accepted,
    /// for [`Timeouts::drain_delay`](crate::Timeouts::drain_delay).
    Draining,
}

impl Health {
    /// The health of a server that runs sessions in `runtimes`.
    pub(super) fn new(runtimes: usize) -> Self {
        let beats = (0..runtimes).map(|_| AtomicU64::new(UNBORN)).collect();
        let drains = AtomicBool::new(false);
        Health { state: Arc::new(State { drains, began: Instant::now(), beats }) }
    }

    /// Whether the server wants clients.
    pub fn readiness(&self) -> Readiness {
        match self.state.drains.load(Ordering::Relaxed) {
            true => Readiness::Draining,
            false => Readiness::Ready,
        }
    }

    /// The number of a thread that has made no progress for five seconds, counted from 1; `None` if
    /// all have made progress, or the server does not serve yet. Threads are counted in the order of
    /// the runtimes of [`Server::bind_over`](crate::Server::bind_over); a runtime with several
    /// threads counts as one.
    ///
    /// A thread that asks this in the runtime that is stuck gets no answer.
    pub fn stuck_thread(&self) -> Option<usize> {
        let now = self.state.began.elapsed();
        let is_stuck = |beat: &AtomicU64| {
            let beat = Duration::from_millis(beat.load(Ordering::Relaxed));
            // An unborn beat is later than now.
            now.saturating_sub(beat) >= STUCK_AFTER
        };
        self.state.beats.iter().position(is_stuck).map(|at| at + 1)
    }

    /// From now on the server is not ready any more.
    pub(super) fn drain(&self) {
        self.state.drains.store(true, Ordering::Relaxed);
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
        tokio::time::advance(STUCK_AFTER).await;
        assert_eq!(health.stuck_thread(), None, "it does not run yet");
        health.state.beat(0);
        health.state.beat(1);
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
}
