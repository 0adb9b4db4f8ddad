//! Whether a server is ready for clients, and whether its threads make progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Progress;

/// A thread that does not run a new task for this long counts as stuck. It is half of what
/// Kubernetes waits for an answer by default.
const PATIENCE: Duration = Duration::from_millis(500);

/// Tells whether a server is ready for clients, and whether its threads make progress. It stays
/// valid when the server has ended.
#[derive(Debug, Clone)]
pub struct Health {
    drains: Arc<AtomicBool>,
    progress: Progress,
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
    pub(super) fn new(progress: Progress) -> Self {
        Health { drains: Arc::default(), progress }
    }

    /// Whether the server wants clients.
    pub fn readiness(&self) -> Readiness {
        match self.drains.load(Ordering::Relaxed) {
            true => Readiness::Draining,
            false => Readiness::Ready,
        }
    }

    /// The number of a thread that does not run a new task within half a second, counted from 1;
    /// `None` as soon as all have run one. Threads are counted in the order of the runtimes of
    /// [`Server::bind_over`](crate::Server::bind_over).
    ///
    /// A thread that asks this in the runtime that is stuck gets no answer.
    ///
    /// # Panics
    /// If called outside a tokio runtime whose timers are enabled.
    pub async fn stuck_thread(&self) -> Option<usize> {
        self.progress.stalled(PATIENCE).await.map(|index| index + 1)
    }

    pub(super) fn progress(&self) -> Progress {
        self.progress.clone()
    }

    /// From now on the server is not ready any more.
    pub(super) fn drain(&self) {
        self.drains.store(true, Ordering::Relaxed);
    }
}
