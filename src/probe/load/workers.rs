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
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

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
use crate::pace::{Pace, later};
use crate::probe::connect::connect;
use crate::probe::exchange::CLOSE_TIMEOUT;
use crate::probe::link::Link;
use crate::probe::payload::Payloads;
use crate::probe::{Connected, Probe, ProbeError, Summary, Times};

/// How many connections are established at the same time.
const CONNECTING: usize = 100;

/// The threads, as the task sees them that runs the load. Dropping it ends them.
pub(super) struct Workers {
    workers: Vec<Worker>,
    connecting: Arc<Attempts>,
    rate: Option<f64>,
    count: Option<u64>,
}

/// How many connections were established, and how many could not be, so far.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) established: AtomicUsize,
    pub(super) failed: AtomicUsize,
}

struct Worker {
    connections: usize,
    ready: Arc<Ready>,
    counts: Arc<Mutex<Counts>>,
    rtt: Arc<Snapshot>,
    established: Option<oneshot::Receiver<Result<Established, ProbeError>>>,
    begin: Option<oneshot::Sender<Begin>>,
    done: Option<oneshot::Receiver<Summary>>,
}

/// The connections of a thread, or of all, and why there are not more.
pub(super) struct Established {
    pub(super) connections: usize,
    /// One of them.
    pub(super) example: Option<Connected>,
    /// How long the phases of establishing them took.
    pub(super) summary: Summary,
    pub(super) failures: Vec<ProbeError>,
}

/// A thread's round trips so far, which it copies when they are wanted and not with each reply.
#[derive(Debug, Default)]
struct Snapshot {
    is_wanted: AtomicBool,
    taken: Mutex<Times>,
}

impl Snapshot {
    fn take_if_wanted(&self, times: &Times) {
        // Nothing but the flag itself is passed on, so that no order is needed.
        if self.is_wanted.load(Ordering::Relaxed) {
            self.is_wanted.store(false, Ordering::Relaxed);
            *self.taken.lock().unwrap_or_else(PoisonError::into_inner) = times.clone();
        }
    }
}

/// When the load begins, and the thread's share in its rate, if it has one.
struct Begin {
    start: Instant,
    share: Option<Share>,
    /// How many messages the thread is to send.
    limit: u64,
}

impl Workers {
    /// Starts the threads, which begin to connect.
    pub(super) fn start(probe: &Probe, options: &LoadOptions) -> Result<Workers, ProbeError> {
        let count = options.threads.get().min(options.connections);
        let payloads = Payloads::new(&probe.messages);
        let mut workers = Workers {
            workers: Vec::new(),
            connecting: Arc::default(),
            rate: options.rate,
            count: options.count,
        };
        for number in 0..count {
            let (established_to, established) = oneshot::channel();
            let (begin, begin_from) = oneshot::channel();
            let (done_to, done) = oneshot::channel();
            let worker = Worker {
                connections: 0,
                ready: Arc::default(),
                counts: Arc::default(),
                rtt: Arc::default(),
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
                rtt: Arc::clone(&worker.rtt),
                connecting: Arc::clone(&workers.connecting),
            };
            workers.workers.push(worker);
            thread::Builder::new()
                .name(format!("probe-{}", number + 1))
                .spawn(move || task.run(established_to, begin_from, done_to))
                .map_err(|error| ProbeError::no_thread(probe.target(), error))?;
        }
        Ok(workers)
    }

    /// How far connecting has come.
    pub(super) fn connecting(&self) -> Arc<Attempts> {
        Arc::clone(&self.connecting)
    }

    /// Waits until all threads have connected, which is asked for once.
    pub(super) async fn established(&mut self) -> Result<Established, ProbeError> {
        let mut all: Option<Established> = None;
        for worker in &mut self.workers {
            let established = worker.established.take().expect("it is asked for once");
            let established = established.await.expect("a thread of a load does not panic")?;
            worker.connections = established.connections;
            match &mut all {
                None => all = Some(established),
                Some(all) => {
                    all.connections += established.connections;
                    all.example = all.example.take().or(established.example);
                    all.summary.add(established.summary);
                    all.failures.extend(established.failures);
                }
            }
        }
        self.workers.retain(|worker| worker.connections > 0);
        Ok(all.expect("there is at least one thread"))
    }

    /// Begins with the load on all `connections`. Returns when that was.
    pub(super) fn begin(&mut self, connections: usize) -> Instant {
        // The clock of the caller's runtime may be paused, as it can be in tests.
        let start = Instant::from_std(std::time::Instant::now());
        let count = self.workers.len();
        let (messages, mut before) = (self.count.map(u128::from), 0);
        for (thread, worker) in self.workers.iter_mut().enumerate() {
            let share = self.rate.map(|rate| Share {
                rate,
                of_connections: connections,
                thread,
                of_threads: count,
            });
            // A thread's part of the messages is that of its connections, and the parts add up.
            let until = |part: usize| messages.map(|all| all * part as u128 / connections as u128);
            let limit = until(before + worker.connections)
                .zip(until(before))
                .map_or(u64::MAX, |(to, from)| (to - from) as u64);
            before += worker.connections;
            if let Some(begin) = worker.begin.take() {
                // If the thread is gone, `done` will say so.
                let _ = begin.send(Begin { start, share, limit });
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
            all.failures += counts.failures;
        }
        all
    }

    /// The round trips of all threads, as they were about when this was called the last time.
    pub(super) fn rtt(&self) -> Times {
        let mut all = Times::default();
        for worker in &self.workers {
            all.add(worker.rtt.taken.lock().unwrap_or_else(PoisonError::into_inner).clone());
            worker.rtt.is_wanted.store(true, Ordering::Relaxed);
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
    rtt: Arc<Snapshot>,
    connecting: Arc<Attempts>,
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
        let (links, connected) = tokio::select! {
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
        let _ = established.send(Ok(connected));
        let begin = begin.await.ok()?;
        engine.begin(self.orders(begin, connections));
        poll_fn(|cx| {
            let polled = engine.poll(cx);
            *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = engine.counts();
            self.rtt.take_if_wanted(engine.rtt());
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
    async fn connect(&self) -> (Vec<Link>, Established) {
        let Probe { target, connect: options, .. } = &self.probe;
        let connecting = stream::iter(0..self.connections).map(|_| connect(target, options));
        let mut connecting = pin!(connecting.buffer_unordered(CONNECTING));
        let mut links = Vec::new();
        let mut all = Established {
            connections: 0,
            example: None,
            summary: Summary::new(self.payloads.size()),
            failures: Vec::new(),
        };
        while let Some(connected) = connecting.next().await {
            match connected {
                Ok((link, connected)) => {
                    links.push(link);
                    all.connections += 1;
                    all.summary.connected(&connected);
                    all.example.get_or_insert(connected);
                    self.connecting.established.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    all.failures.push(error);
                    self.connecting.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        (links, all)
    }

    fn orders(&self, begin: Begin, connections: usize) -> Orders {
        let Begin { start, share, limit } = begin;
        let count_from = later(start, self.options.warm_up);
        let end = later(count_from, self.options.time_limit().unwrap_or(Duration::MAX));
        Orders {
            start,
            count_from,
            end,
            limit,
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
