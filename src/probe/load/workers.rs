//! The threads of a load. Each has a runtime of its own, a share of the connections, and an engine
//! that drives them.
//!
//! The engine is the future that the runtime blocks on, and the only thing that it runs. So the
//! runtime asks the kernel for events exactly once between two turns of the engine. As tasks of the
//! caller's runtime, connections would be served after up to 61 others, with the events of some time
//! ago (tokio's `event_interval`), and that delay would be measured.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use futures::future::join_all;
use futures::{StreamExt, stream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, timeout};

use super::LoadOptions;
use super::engine::{Counts, Engine, Orders, Plan};
use super::ready::Ready;
use super::schedule::{Schedule, Share};
use crate::config::Protocol;
use crate::probe::connect::connect;
use crate::probe::exchange::CLOSE_TIMEOUT;
use crate::probe::link::Link;
use crate::probe::pace::{Pace, later};
use crate::probe::payload::Payloads;
use crate::probe::{Probe, ProbeError, Summary};

/// How many connections are established at the same time.
const CONNECTING: usize = 100;

/// The threads, as the task sees them that runs the load. Dropping it ends them.
pub(super) struct Workers {
    workers: Vec<Worker>,
    rate: Option<f64>,
}

struct Worker {
    connections: usize,
    ready: Arc<Ready>,
    counts: Arc<Mutex<Counts>>,
    established: Option<oneshot::Receiver<Result<Established, ProbeError>>>,
    begin: Option<oneshot::Sender<Begin>>,
    done: Option<oneshot::Receiver<Summary>>,
}

/// How many connections a thread has, and why it has not more.
struct Established {
    connections: usize,
    failures: Vec<ProbeError>,
}

/// When the load begins, and the thread's share in its rate, if it has one.
struct Begin {
    start: Instant,
    share: Option<Share>,
}

impl Workers {
    /// Starts the threads, which begin to connect.
    pub(super) fn start(probe: &Probe, options: &LoadOptions) -> Result<Workers, ProbeError> {
        let count = options.threads.get().min(options.connections);
        let payloads = Payloads::new(&probe.messages);
        let mut workers = Workers { workers: Vec::new(), rate: options.rate };
        for number in 0..count {
            let (established_to, established) = oneshot::channel();
            let (begin, begin_from) = oneshot::channel();
            let (done_to, done) = oneshot::channel();
            let worker = Worker {
                connections: 0,
                ready: Arc::default(),
                counts: Arc::default(),
                established: Some(established),
                begin: Some(begin),
                done: Some(done),
            };
            let task = Task {
                probe: probe.clone(),
                connections: options.connections / count
                    + usize::from(number < options.connections % count),
                options: options.clone(),
                payloads: payloads.clone(),
                ready: Arc::clone(&worker.ready),
                counts: Arc::clone(&worker.counts),
            };
            workers.workers.push(worker);
            thread::Builder::new()
                .name(format!("probe-{}", number + 1))
                .spawn(move || task.run(established_to, begin_from, done_to))
                .map_err(|error| ProbeError::no_thread(probe.target(), error))?;
        }
        Ok(workers)
    }

    /// Waits until all threads have connected. Returns how many connections there are, and why there
    /// are not more.
    pub(super) async fn established(&mut self) -> Result<(usize, Vec<ProbeError>), ProbeError> {
        let (mut connections, mut failures) = (0, Vec::new());
        for worker in &mut self.workers {
            let established = worker.established.take().expect("it is asked for once");
            let established = established.await.expect("a thread of a load does not panic")?;
            worker.connections = established.connections;
            connections += established.connections;
            failures.extend(established.failures);
        }
        self.workers.retain(|worker| worker.connections > 0);
        Ok((connections, failures))
    }

    /// Begins with the load on all `connections`. Returns when that was.
    pub(super) fn begin(&mut self, connections: usize) -> Instant {
        // The clock of the caller's runtime may be paused, as it can be in tests.
        let start = Instant::from_std(std::time::Instant::now());
        let count = self.workers.len();
        for (thread, worker) in self.workers.iter_mut().enumerate() {
            let share = self.rate.map(|rate| Share {
                rate,
                of_connections: connections,
                thread,
                of_threads: count,
            });
            if let Some(begin) = worker.begin.take() {
                // If the thread is gone, `done` will say so.
                let _ = begin.send(Begin { start, share });
            }
        }
        start
    }

    /// Messages and replies of all threads so far.
    pub(super) fn counts(&self) -> Counts {
        let mut all = Counts::default();
        for worker in &self.workers {
            let counts = *worker.counts.lock().unwrap_or_else(PoisonError::into_inner);
            all.sent += counts.sent;
            all.replies += counts.replies;
        }
        all
    }

    /// Tells the threads to end the load, which they do at once.
    pub(super) fn stop(&self) {
        self.workers.iter().for_each(|worker| worker.ready.stop());
    }

    /// Waits until all threads are done, and adds what they have counted to `summary`. The future can
    /// be dropped and made again.
    pub(super) async fn done(&mut self, summary: &mut Summary) {
        for worker in &mut self.workers {
            if let Some(done) = &mut worker.done {
                summary.add(done.await.expect("a thread of a load does not panic"));
                worker.done = None;
            }
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        // Threads that have not begun see that nobody can tell them to begin any more.
        self.stop();
    }
}

/// What a thread does.
struct Task {
    probe: Probe,
    options: LoadOptions,
    connections: usize,
    payloads: Payloads,
    ready: Arc<Ready>,
    counts: Arc<Mutex<Counts>>,
}

impl Task {
    fn run(
        self,
        established: oneshot::Sender<Result<Established, ProbeError>>,
        begin: oneshot::Receiver<Begin>,
        done: oneshot::Sender<Summary>,
    ) {
        match runtime() {
            Ok(runtime) => {
                // The engine has no budget: it looks after its turns itself.
                if let Some(summary) =
                    runtime.block_on(unconstrained(self.load(established, begin)))
                {
                    // If nobody asks any more, the load was dropped.
                    let _ = done.send(summary);
                }
                // A name is resolved by a blocking call that cannot be interrupted.
                runtime.shutdown_background();
            }
            Err(error) => {
                let _ = established.send(Err(ProbeError::no_thread(self.probe.target(), error)));
            }
        }
    }

    /// Connects, reports that, waits for the beginning, and does the load. `None` if there is no
    /// beginning.
    async fn load(
        self,
        established: oneshot::Sender<Result<Established, ProbeError>>,
        mut begin: oneshot::Receiver<Begin>,
    ) -> Option<Summary> {
        let (links, failures) = tokio::select! {
            connected = self.connect() => connected,
            _ = &mut begin => return None,
        };
        let connections = links.len();
        let pace = match Pace::new() {
            Ok(pace) => pace,
            Err(error) => {
                let error = ProbeError::no_timer(self.probe.target(), error);
                let _ = established.send(Err(error));
                return None;
            }
        };
        let mut engine = Engine::new(links, &self.payloads, pace, Arc::clone(&self.ready));
        let _ = established.send(Ok(Established { connections, failures }));
        let begin = begin.await.ok()?;
        engine.begin(self.orders(begin, connections));
        poll_fn(|cx| {
            let polled = engine.poll(cx);
            *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = engine.counts();
            polled
        })
        .await;
        let (summary, exchanges) = engine.finish();
        if !self.ready.is_stopped() {
            // How connections close is not measured, so errors are ignored.
            let closing = exchanges.into_iter().map(async |mut exchange| {
                let _ = poll_fn(|cx| exchange.poll_close(cx)).await;
            });
            let _ = timeout(CLOSE_TIMEOUT, join_all(closing)).await;
        }
        Some(summary)
    }

    /// Establishes the connections, and says why some could not be.
    async fn connect(&self) -> (Vec<Link>, Vec<ProbeError>) {
        let Probe { target, connect: options, .. } = &self.probe;
        let connecting = stream::iter(0..self.connections).map(|_| connect(target, options));
        let mut connecting = pin!(connecting.buffer_unordered(CONNECTING));
        let (mut links, mut failures) = (Vec::new(), Vec::new());
        while let Some(connected) = connecting.next().await {
            match connected {
                Ok((link, _)) => links.push(link),
                Err(error) => failures.push(error),
            }
        }
        (links, failures)
    }

    fn orders(&self, begin: Begin, connections: usize) -> Orders {
        let Begin { start, share } = begin;
        let end = later(start, self.options.duration);
        Orders {
            start,
            end,
            timeout: self.options.timeout,
            plan: match share {
                Some(share) => Plan::Schedule(Schedule::new(share, connections, start, end)),
                None => Plan::Replies(self.options.in_flight),
            },
            is_udp: self.probe.target().protocol() == Protocol::Udp,
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}
