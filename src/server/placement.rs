//! The runtimes that run sessions, and the choice of one for each connection.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, is_rt_shutdown_err};
use tokio::time::Instant;

use crate::connection::Sessions;
use crate::net::Stream;

/// A worker whose non-empty queue has not shrunk for this long counts as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(10);

/// The runtimes that run sessions.
#[derive(Debug)]
pub(super) enum Workers {
    /// The runtime that accepts. If it has several threads, it balances tasks over them itself. It
    /// counts as one worker.
    Current(Handle),
    /// Separate runtimes of one thread each. A connection stays with the one that was chosen.
    Dedicated {
        runtimes: Vec<Handle>,
        /// One lock for all: every choice looks at all of them.
        queues: Mutex<Vec<Queue>>,
    },
}

/// The last observation of a runtime's global queue, where tasks spawned from other threads wait
/// for their first poll. An idle runtime empties it at once, a busy one gradually.
#[derive(Debug, Default)]
pub(super) struct Queue {
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
        let queues = runtimes.iter().map(|_| Queue::default()).collect();
        Workers::Dedicated { runtimes, queues: Mutex::new(queues) }
    }

    /// One handle for each thread that runs sessions.
    pub(super) fn threads(&self) -> Vec<&Handle> {
        match self {
            Workers::Current(runtime) => vec![runtime; runtime.metrics().num_workers()],
            Workers::Dedicated { runtimes, .. } => runtimes.iter().collect(),
        }
    }

    /// How many workers there are. They are numbered from 0.
    pub(super) fn count(&self) -> usize {
        match self {
            Workers::Current(_) => 1,
            Workers::Dedicated { runtimes, .. } => runtimes.len(),
        }
    }

    /// Each runtime that runs sessions, once.
    pub(super) fn runtimes(&self) -> Vec<&Handle> {
        match self {
            Workers::Current(runtime) => vec![runtime],
            Workers::Dedicated { runtimes, .. } => runtimes.iter().collect(),
        }
    }

    /// The file descriptors of the dedicated runtimes. Each has four: two for epoll, an eventfd,
    /// and one for signals.
    pub(super) fn descriptors(&self) -> usize {
        match self {
            Workers::Current(_) => 0,
            Workers::Dedicated { runtimes, .. } => 4 * runtimes.len(),
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

    /// Chooses a worker for a connection, registers the stream with its runtime, and calls `start`
    /// in the context of that: a task that `start` spawns runs there.
    ///
    /// # Errors
    /// The stream could not be registered with the runtime, or that runtime was dropped.
    pub(super) fn place<S: Stream>(
        &self,
        sessions: &Sessions,
        stream: S::Detached,
        start: impl FnOnce(u16, S),
    ) -> io::Result<()> {
        let Workers::Dedicated { runtimes, queues } = self else {
            start(0, S::attach(stream)?);
            return Ok(());
        };
        let now = Instant::now();
        let mut queues = queues.lock().unwrap_or_else(PoisonError::into_inner);
        let mut load = |worker: &u16| {
            let queue = &mut queues[usize::from(*worker)];
            queue.observe(runtimes[usize::from(*worker)].metrics().global_queue_depth(), now);
            // Whether the runtime was dropped, how long it has been stuck, how many sessions it has.
            (queue.is_gone, queue.stuck_for(now), sessions.roster(*worker).sessions())
        };
        let worker = (0..).take(runtimes.len()).min_by_key(&mut load).expect("there is one");
        let _guard = runtimes[usize::from(worker)].enter();
        let queue = &mut queues[usize::from(worker)];
        match S::attach(stream) {
            Ok(stream) => {
                queue.record_spawn(now);
                start(worker, stream);
                Ok(())
            }
            Err(error) => {
                // Later connections then go to another runtime.
                queue.is_gone |= is_rt_shutdown_err(&error);
                Err(error)
            }
        }
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

    /// How long the runtime has been stuck.
    fn stuck_for(&self, now: Instant) -> Duration {
        let stuck = self.stalled_since.map_or(Duration::ZERO, |since| now - since);
        if stuck < STUCK_AFTER { Duration::ZERO } else { stuck }
    }

    /// Records that a task was added.
    fn record_spawn(&mut self, now: Instant) {
        self.length += 1;
        self.stalled_since.get_or_insert(now);
    }
}
