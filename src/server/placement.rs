//! The runtimes that echo, and which of them gets a connection.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, is_rt_shutdown_err};
use tokio::time::Instant;

use crate::net::Stream;

/// A worker whose non-empty queue has not shrunk for this long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(10);

/// The runtimes that echo.
#[derive(Debug)]
pub(super) enum Workers {
    /// The one that accepts: it spreads tasks over its threads by itself, if it has several.
    Here(Handle),
    /// Others, of one thread each. A connection stays where it was put.
    Others(Vec<Worker>),
}

#[derive(Debug)]
pub(super) struct Worker {
    runtime: Handle,
    queue: Mutex<Queue>,
}

/// What was last seen of the tasks that a runtime has not begun with. What is spawned from outside
/// waits in its global queue; one with little to do empties that at once, a busy one bit by bit.
#[derive(Debug, Default)]
struct Queue {
    length: usize,
    /// Since when it has not become shorter.
    unmoved: Option<Instant>,
    /// The runtime has been dropped.
    is_gone: bool,
}

impl Workers {
    /// The runtime that the caller is in.
    pub(super) fn here() -> Self {
        Workers::Here(Handle::current())
    }

    /// These; where there are none, the one that the caller is in.
    pub(super) fn others(runtimes: Vec<Handle>) -> Self {
        if runtimes.is_empty() {
            return Workers::here();
        }
        let worker = |runtime| Worker { runtime, queue: Mutex::default() };
        Workers::Others(runtimes.into_iter().map(worker).collect())
    }

    /// The runtime of each thread that echoes.
    pub(super) fn threads(&self) -> Vec<&Handle> {
        match self {
            Workers::Here(runtime) => vec![runtime; runtime.metrics().num_workers()],
            Workers::Others(workers) => workers.iter().map(|worker| &worker.runtime).collect(),
        }
    }

    /// The descriptors that runtimes other than the caller's have: two of epoll, one to wake it, one
    /// for signals.
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Workers::Here(_) => 0,
            Workers::Others(workers) => 4 * workers.len(),
        }
    }

    /// Panics here, and not at the first connection, if a runtime lacks timers or I/O.
    pub(super) fn check_drivers(&self) {
        for runtime in self.threads() {
            let _there = runtime.enter();
            drop(tokio::time::sleep(Duration::ZERO));
            // A refusal is not about the runtime.
            #[cfg(unix)]
            drop(tokio::net::UnixDatagram::unbound());
        }
    }

    /// Chooses a runtime for a connection, and has it started there: what `start` spawns is
    /// spawned in that runtime.
    ///
    /// # Errors
    /// The system refused to watch the connection, or no runtime is left.
    pub(super) fn place<S: Stream>(&self, stream: S, start: impl FnOnce(S)) -> io::Result<()> {
        let Workers::Others(workers) = self else {
            start(stream);
            return Ok(());
        };
        let stream = stream.detach()?;
        let now = Instant::now();
        let load = |worker: &&Worker| worker.load(now);
        let worker = workers.iter().min_by_key(load).expect("there is one");
        let _there = worker.runtime.enter();
        match S::attach(stream) {
            Ok(stream) => {
                start(stream);
                worker.queue().is_longer(now);
                Ok(())
            }
            Err(error) => {
                // If so, the next one goes to another.
                worker.queue().is_gone |= is_rt_shutdown_err(&error);
                Err(error)
            }
        }
    }
}

impl Worker {
    /// What is compared: whether it is there, how long it has been stuck, how many tasks it has.
    fn load(&self, now: Instant) -> (bool, Duration, usize) {
        let metrics = self.runtime.metrics();
        let mut queue = self.queue();
        queue.is_now(metrics.global_queue_depth(), now);
        let stuck = queue.unmoved.map_or(Duration::ZERO, |since| now - since);
        let stuck = if stuck < STUCK_AFTER { Duration::ZERO } else { stuck };
        (queue.is_gone, stuck, metrics.num_alive_tasks())
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn is_now(&mut self, length: usize, now: Instant) {
        if length == 0 {
            self.unmoved = None;
        } else if length < self.length {
            self.unmoved = Some(now);
        }
        self.length = length;
    }

    /// A task was added.
    fn is_longer(&mut self, now: Instant) {
        self.length += 1;
        self.unmoved.get_or_insert(now);
    }
}
