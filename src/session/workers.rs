//! The runtimes that echo, and which of them gets a connection.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// A runtime that has not begun with a connection for so long does something else.
const BEHIND: Duration = Duration::from_millis(10);

/// The runtimes that echo.
#[derive(Debug)]
pub(crate) enum Workers {
    /// The one that accepts: it spreads tasks over its threads by itself, if it has several.
    Here(Handle),
    /// Others, of one thread each. A connection stays where it was put.
    Others(Vec<Worker>),
}

#[derive(Debug)]
pub(crate) struct Worker {
    runtime: Handle,
    /// Since when it has, each time it was looked at, had a task that it had not begun with.
    behind: Mutex<Option<Instant>>,
}

impl Workers {
    /// The runtime that the caller is in.
    pub(crate) fn here() -> Self {
        Workers::Here(Handle::current())
    }

    /// These; where there are none, the one that the caller is in.
    pub(crate) fn others(runtimes: Vec<Handle>) -> Self {
        if runtimes.is_empty() {
            return Workers::here();
        }
        let worker = |runtime| Worker { runtime, behind: Mutex::default() };
        Workers::Others(runtimes.into_iter().map(worker).collect())
    }

    /// The runtime of each thread that echoes.
    pub(crate) fn threads(&self) -> Vec<&Handle> {
        match self {
            Workers::Here(runtime) => vec![runtime; runtime.metrics().num_workers()],
            Workers::Others(workers) => workers.iter().map(|worker| &worker.runtime).collect(),
        }
    }

    /// Chooses a runtime for a connection, and has it started there: what `start` spawns is
    /// spawned in that runtime.
    ///
    /// # Errors
    /// The system refused to watch the connection.
    pub(super) fn place(&self, tcp: TcpStream, start: impl FnOnce(TcpStream)) -> io::Result<()> {
        let Workers::Others(workers) = self else {
            start(tcp);
            return Ok(());
        };
        let tcp = tcp.into_std()?;
        let now = Instant::now();
        let worker = Worker::least_loaded(workers, now);
        let _there = worker.runtime.enter();
        start(TcpStream::from_std(tcp)?);
        worker.behind().get_or_insert(now);
        Ok(())
    }
}

impl Worker {
    /// The one with the fewest connections among those that keep up, or among all if none does.
    fn least_loaded(workers: &[Worker], now: Instant) -> &Worker {
        let load =
            |worker: &&Worker| (worker.is_behind(now), worker.runtime.metrics().num_alive_tasks());
        workers.iter().min_by_key(load).expect("there is one")
    }

    /// Whether it is stuck, or as good as that. What is spawned from outside waits in the runtime's
    /// global queue; in one that keeps up, that is empty most of the time.
    fn is_behind(&self, now: Instant) -> bool {
        let mut behind = self.behind();
        if self.runtime.metrics().global_queue_depth() == 0 {
            *behind = None;
        }
        behind.is_some_and(|since| now - since >= BEHIND)
    }

    fn behind(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
