//! The threads that echo. Each drives a runtime of its own.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// How long to wait for the threads to end. A stuck thread must not keep the process from ending.
const JOIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The threads, each of which drives its runtime until this is dropped.
pub struct Threads {
    handles: Vec<Handle>,
    stop: watch::Sender<bool>,
    /// Disconnected when all threads have ended.
    ended: mpsc::Receiver<()>,
}

impl Threads {
    /// Starts `count` threads, or one for each core. If that is one, none is started: the caller's
    /// thread then echoes itself, which saves handing connections over.
    pub fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        // If the number of cores is unknown, one thread has to do.
        let count = count.or_else(|| thread::available_parallelism().ok());
        let count = count.map(NonZeroUsize::get).filter(|count| *count > 1).unwrap_or(0);
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = mpsc::channel();
        let mut threads = Threads { handles: Vec::new(), stop, ended };
        // Locals are dropped in reverse order: if starting fails, this sender must go before
        // `threads`, whose drop waits until all senders are gone.
        let end = end;
        for number in 1..=count {
            let runtime = runtime()?;
            threads.handles.push(runtime.handle().clone());
            let (mut stopped, end) = (stopped.clone(), end.clone());
            thread::Builder::new().name(format!("echo-{number}")).spawn(move || {
                // An error means that the sender is gone, which ends the thread too.
                let _ = runtime.block_on(stopped.wait_for(|stopped| *stopped));
                drop(runtime);
                drop(end);
            })?;
        }
        Ok(threads)
    }

    /// The runtime of each thread.
    pub fn handles(&self) -> Vec<Handle> {
        self.handles.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.ended.recv_timeout(JOIN_TIMEOUT);
    }
}

/// A runtime of one thread.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
