//! The runtimes that run sessions, and the choice of one for each connection.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, is_rt_shutdown_err};
use tokio::time::Instant;

use crate::net::Stream;

/// A worker whose non-empty queue has not shrunk for this long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(10);

/// The runtimes that run sessions.
#[derive(Debug)]
pub(super) enum Workers {
    /// The runtime that accepts. If it has several threads, it balances tasks over them itself.
    Current(Handle),
    /// Separate runtimes of one thread each. A connection stays with the one that was chosen.
    Dedicated(Vec<Worker>),
}

#[derive(Debug)]
pub(super) struct Worker {
    runtime: Handle,
    queue: Mutex<Queue>,
}

/// The last observation of a runtime's global queue, where tasks spawned from other threads wait
/// for their first poll. An idle runtime empties it at once, a busy one gradually.
#[derive(Debug, Default)]
struct Queue {
    length: usize,
    /// Since when the queue has not become shorter; `None` if it is empty.
    stalled_since: Option<Instant>,
    /// The runtime has been dropped.
    is_gone: bool,
}

impl Workers {
    /// The caller's runtime.
    pub(super) fn current() -> Self {
        Workers::Current(Handle::current())
    }

    /// `runtimes`, or the caller's runtime if there are none.
    pub(super) fn over(runtimes: Vec<Handle>) -> Self {
        if runtimes.is_empty() {
            return Workers::current();
        }
        let worker = |runtime| Worker { runtime, queue: Mutex::default() };
        Workers::Dedicated(runtimes.into_iter().map(worker).collect())
    }

    /// One handle for each thread that runs sessions.
    pub(super) fn threads(&self) -> Vec<&Handle> {
        match self {
            Workers::Current(runtime) => vec![runtime; runtime.metrics().num_workers()],
            Workers::Dedicated(workers) => workers.iter().map(|worker| &worker.runtime).collect(),
        }
    }

    /// Each runtime that runs sessions, once.
    pub(super) fn runtimes(&self) -> Vec<&Handle> {
        match self {
            Workers::Current(runtime) => vec![runtime],
            Workers::Dedicated(workers) => workers.iter().map(|worker| &worker.runtime).collect(),
        }
    }

    /// The file descriptors of the dedicated runtimes. Each has four: two for epoll, an eventfd,
    /// and one for signals.
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Workers::Current(_) => 0,
            Workers::Dedicated(workers) => 4 * workers.len(),
        }
    }

    /// Panics if a runtime lacks timers or I/O, so that it happens here and not at the first
    /// connection.
    pub(super) fn check_drivers(&self) {
        for runtime in self.threads() {
            let _guard = runtime.enter();
            drop(tokio::time::sleep(Duration::ZERO));
            // This panics without an I/O driver. An error would come from the kernel, and is
            // ignored.
            #[cfg(unix)]
            drop(tokio::net::UnixDatagram::unbound());
        }
    }

    /// Chooses a runtime for a connection, registers the stream with it, and calls `start` in its
    /// context: a task that `start` spawns runs there.
    ///
    /// # Errors
    /// The stream could not be registered with the runtime, or that runtime was dropped.
    pub(super) fn place<S: Stream>(
        &self,
        stream: S::Detached,
        start: impl FnOnce(S),
    ) -> io::Result<()> {
        let Workers::Dedicated(workers) = self else {
            start(S::attach(stream)?);
            return Ok(());
        };
        let now = Instant::now();
        let load = |worker: &&Worker| worker.load(now);
        let worker = workers.iter().min_by_key(load).expect("there is at least one worker");
        let _guard = worker.runtime.enter();
        match S::attach(stream) {
            Ok(stream) => {
                start(stream);
                worker.queue().record_spawn(now);
                Ok(())
            }
            Err(error) => {
                // Later connections then go to another runtime.
                worker.queue().is_gone |= is_rt_shutdown_err(&error);
                Err(error)
            }
        }
    }
}

impl Worker {
    /// The sort key of the choice, smallest first: whether the runtime was dropped, how long it has
    /// been stuck, how many tasks it has.
    fn load(&self, now: Instant) -> (bool, Duration, usize) {
        let metrics = self.runtime.metrics();
        let mut queue = self.queue();
        queue.observe(metrics.global_queue_depth(), now);
        let stuck = queue.stalled_since.map_or(Duration::ZERO, |since| now - since);
        let stuck = if stuck < STUCK_AFTER { Duration::ZERO } else { stuck };
        (queue.is_gone, stuck, metrics.num_alive_tasks())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Records the queue length that the runtime reports now.
    fn observe(&mut self, length: usize, now: Instant) {
        if length == 0 {
            self.stalled_since = None;
        } else if length < self.length {
            self.stalled_since = Some(now);
        }
        self.length = length;
    }

    /// Records that a task was added.
    fn record_spawn(&mut self, now: Instant) {
        self.length += 1;
        self.stalled_since.get_or_insert(now);
    }
}
