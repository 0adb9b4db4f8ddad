//! The threads that echo: each has a runtime of its own.

use std::io;
use std::num::NonZeroUsize;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

/// How long a thread may take to drop what is left on it. It may be stuck, and the end must not be.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Threads that drive their runtimes until this is dropped, and with them what is spawned there.
pub struct Threads {
    handles: Vec<Handle>,
    stop: watch::Sender<bool>,
    /// Closed when all have ended.
    ended: mpsc::Receiver<()>,
}

impl Threads {
    /// Starts as many as asked for, or one for each core. For one, none is started: then the
    /// caller's own thread does, and saves itself the way to another.
    pub fn start(count: Option<NonZeroUsize>) -> io::Result<Self> {
        // Where the system cannot say how many cores there are, one will do.
        let count = count.or_else(|| thread::available_parallelism().ok());
        let count = count.map(NonZeroUsize::get).filter(|count| *count > 1).unwrap_or(0);
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = mpsc::channel();
        let mut threads = Threads { handles: Vec::new(), stop, ended };
        // Dropped before the threads are, who would wait for it.
        let end = end;
        for number in 1..=count {
            let runtime = runtime()?;
            threads.handles.push(runtime.handle().clone());
            let (mut stopped, end) = (stopped.clone(), end.clone());
            thread::Builder::new().name(format!("echo-{number}")).spawn(move || {
                // It ends when it is told to, or nobody is left to tell it.
                let _ = runtime.block_on(stopped.wait_for(|stopped| *stopped));
                drop(runtime);
                drop(end);
            })?;
        }
        Ok(threads)
    }

    /// Their runtimes.
    pub fn handles(&self) -> Vec<Handle> {
        self.handles.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        let _ = self.ended.recv_timeout(LAST_WORDS);
    }
}

/// A runtime of one thread.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
