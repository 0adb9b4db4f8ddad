//! Load: many connections at once, each with messages in flight or on a schedule, for a while.

use std::future::{Pending, pending, poll_fn};
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::connect::connect;
use super::exchange::{CLOSE_TIMEOUT, Ended, Exchange};
use super::pace::{Pace, later};
use super::payload::Payloads;
use super::{Event, Probe, ProbeError, ProbeSetting, Reply, Summary, ignore};
use crate::causes::{self, Peer};
use crate::config::Protocol;
use crate::connection::deadline::Deadline;

/// How many connections are established at the same time.
const CONNECTING: usize = 100;

/// After how many replies a connection adds its results to the summary, which has a lock.
const BATCH: usize = 64;

/// How many messages a connection tracks. A connection that is so far behind its schedule sends no
/// more until messages have come back or expired; what it does not send counts as unsent.
const MAX_TRACKED: usize = 500_000;

/// How often a connection sends and receives before other tasks of its thread get a turn.
const ROUNDS: usize = 32;

/// How many WebSocket messages at most are flushed together.
const MAX_UNFLUSHED: usize = 64;

/// How often progress is reported.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How much a load sends, and for how long.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// The number of connections, at least 1; over UDP, of flows. 1.
    pub connections: usize,
    /// How many messages each connection has in flight, at least 1. Not used with a
    /// [`rate`](LoadOptions::rate). 1.
    pub in_flight: usize,
    /// How long to send. 10 seconds.
    pub duration: Duration,
    /// Messages a second over all connections together, from 0.001 to 10⁹. They are sent on a
    /// schedule, whether or not earlier ones have come back, and their round trips begin when they
    /// were due, so that a service that stalls does not hide it (coordinated omission). `None`: a
    /// connection sends its next message when a reply has come. `None`.
    pub rate: Option<f64>,
    /// How long to wait for a reply: one that comes later is late, one that does not come is lost.
    /// 2 seconds.
    pub timeout: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions::new()
    }
}

impl LoadOptions {
    /// The defaults.
    pub fn new() -> Self {
        LoadOptions {
            connections: 1,
            in_flight: 1,
            duration: Duration::from_secs(10),
            rate: None,
            timeout: Duration::from_secs(2),
        }
    }

    /// Sets [`LoadOptions::connections`].
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// Sets [`LoadOptions::in_flight`].
    #[must_use]
    pub fn in_flight(mut self, messages: usize) -> Self {
        self.in_flight = messages;
        self
    }

    /// Sets [`LoadOptions::duration`].
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Sets [`LoadOptions::rate`], in messages a second.
    #[must_use]
    pub fn rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets [`LoadOptions::timeout`].
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    fn check(&self) -> Result<(), ProbeError> {
        let refuse = |setting, problem| Err(ProbeError::setting(setting, problem));
        if self.connections == 0 {
            return refuse(ProbeSetting::Connections, "must be at least 1");
        }
        if self.in_flight == 0 {
            return refuse(ProbeSetting::InFlight, "must be at least 1");
        }
        if self.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
            return refuse(ProbeSetting::Rate, "must be from 0.001 to 1000000000");
        }
        Ok(())
    }
}

/// How far a load has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Since the first message.
    pub elapsed: Duration,
    /// Messages sent.
    pub sent: u64,
    /// Replies received, whatever their verdict. Connections add theirs in batches.
    pub replies: u64,
}

/// A load that [`run`](Load::run) starts. [`Probe::load`] makes one.
///
/// The type parameters are those of [`until`](Load::until) and [`on_event`](Load::on_event).
#[must_use = "a load does nothing until it is run"]
pub struct Load<Stop = Pending<()>, OnEvent = fn(Event)> {
    probe: Probe,
    options: LoadOptions,
    stop: Stop,
    on_event: OnEvent,
}

impl Load {
    pub(super) fn new(probe: Probe, options: LoadOptions) -> Self {
        Load { probe, options, stop: pending(), on_event: ignore }
    }
}

impl<Stop, OnEvent> Load<Stop, OnEvent> {
    /// Ends the load when `stop` completes. Messages that are in flight then count as
    /// [unanswered](Summary::unanswered), not as lost.
    pub fn until<F: Future<Output = ()>>(self, stop: F) -> Load<F, OnEvent> {
        let Load { probe, options, on_event, .. } = self;
        Load { probe, options, stop, on_event }
    }

    /// Calls `on_event` with an [`Event::Progress`] every 200 ms.
    pub fn on_event<F: FnMut(Event)>(self, on_event: F) -> Load<Stop, F> {
        let Load { probe, options, stop, .. } = self;
        Load { probe, options, stop, on_event }
    }
}

impl<Stop: Future<Output = ()>, OnEvent: FnMut(Event)> Load<Stop, OnEvent> {
    /// Establishes the connections, sends until the duration is over, and returns the counts and
    /// times of all connections together. The connections are tasks of the runtime, spread over its
    /// threads. If the load is stopped before they are established, the counts are all zero.
    ///
    /// # Errors
    /// An option is wrong, a certificate or key cannot be used, or not one connection could be
    /// established. If only some could not, or fail later, the summary has the reasons.
    ///
    /// # Panics
    /// If the task of a connection panics, which would be a bug.
    pub async fn run(self) -> Result<Summary, ProbeError> {
        let Load { probe, options, stop, mut on_event } = self;
        let target = probe.target();
        probe.messages.check(target)?;
        options.check()?;
        let mut stop = pin!(stop);
        let mut summary = Summary::new();
        let connecting = stream::iter(0..options.connections)
            .map(|_| connect(target, &probe.connect))
            .buffer_unordered(CONNECTING)
            .collect::<Vec<_>>();
        let connected = tokio::select! {
            connected = connecting => connected,
            () = &mut stop => return Ok(summary),
        };
        let mut links = Vec::new();
        let mut failure = None;
        for result in connected {
            match result {
                Ok((link, _)) => links.push(link),
                Err(error) => {
                    summary.fail(error.to_string());
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure.filter(|_| links.is_empty()) {
            return Err(error);
        }
        let payloads = Payloads::new(probe.messages.size, probe.messages.is_text);
        let start = Instant::now();
        let shared = Arc::new(Shared {
            summary: Mutex::new(summary),
            start,
            sent: AtomicU64::new(0),
            replies: AtomicU64::new(0),
            last_reply: AtomicU64::new(0),
        });
        let mut drivers = JoinSet::new();
        let connections = links.len();
        for (n, link) in links.into_iter().enumerate() {
            let exchange = Exchange::new(link, payloads.for_another());
            let schedule = options.rate.map(|rate| Schedule::new(rate, n, connections, start));
            let schedule =
                schedule.transpose().map_err(|error| ProbeError::no_timer(target, error))?;
            let mut driver = Driver {
                exchange,
                schedule,
                in_flight: options.in_flight,
                end: later(start, options.duration),
                timeout: options.timeout,
                is_udp: target.protocol() == Protocol::Udp,
                batch: Batch {
                    replies: 0,
                    pending: Vec::new(),
                    flushed_at: None,
                    shared: Arc::clone(&shared),
                },
                deadline: Box::pin(Deadline::default()),
                is_done: false,
            };
            drivers.spawn(async move {
                poll_fn(|cx| driver.poll(cx)).await;
                driver.is_done = true;
                // How the connection closes is not measured, so an error is ignored.
                let close = poll_fn(|cx| driver.exchange.poll_close(cx));
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, close).await;
            });
        }
        let mut ticks = interval(PROGRESS_INTERVAL);
        loop {
            tokio::select! {
                joined = drivers.join_next() => match joined {
                    Some(joined) => joined.expect("a driver does not panic"),
                    None => break,
                },
                _ = ticks.tick() => on_event(Event::Progress(Progress {
                    elapsed: start.elapsed(),
                    sent: shared.sent.load(Ordering::Relaxed),
                    replies: shared.replies.load(Ordering::Relaxed),
                })),
                () = &mut stop => break,
            }
        }
        // A driver that is dropped adds its results to the summary.
        drivers.shutdown().await;
        let mut summary = std::mem::replace(&mut *shared.lock(), Summary::new());
        summary.sent = shared.sent.load(Ordering::Relaxed);
        // Waiting in vain for replies at the end would lower the rate.
        let sending = start.elapsed().min(options.duration);
        let last_reply = Duration::from_nanos(shared.last_reply.load(Ordering::Relaxed));
        summary.elapsed = sending.max(last_reply);
        Ok(summary)
    }
}

/// What the connections of a load share.
struct Shared {
    /// The results that they have added. What is counted by atomics is not in it.
    summary: Mutex<Summary>,
    start: Instant,
    sent: AtomicU64,
    replies: AtomicU64,
    /// Nanoseconds from the start to the last reply.
    last_reply: AtomicU64,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Summary> {
        self.summary.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the messages of one connection are due.
struct Schedule {
    next: Instant,
    step: Duration,
    pace: Pace,
}

impl Schedule {
    /// The share of connection `n` in `rate` messages a second over `connections`, which take turns.
    fn new(rate: f64, n: usize, connections: usize, start: Instant) -> std::io::Result<Self> {
        let step = Duration::from_secs_f64(connections as f64 / rate);
        let offset = step.mul_f64(n as f64 / connections as f64);
        Ok(Schedule { next: start + offset, step, pace: Pace::new()? })
    }
}

/// One connection of a load.
struct Driver {
    exchange: Exchange,
    schedule: Option<Schedule>,
    in_flight: usize,
    end: Instant,
    timeout: Duration,
    is_udp: bool,
    batch: Batch,
    deadline: Pin<Box<Deadline>>,
    /// Whether it sent and waited to the end, and was not stopped.
    is_done: bool,
}

impl Drop for Driver {
    /// Adds the messages that did not come back or were not sent to the summary.
    fn drop(&mut self) {
        let (tracker, now) = (&self.exchange.tracker, Instant::now());
        let waiting = tracker.waiting() as u64;
        let mut summary = self.batch.shared.lock();
        summary.lost += tracker.lost();
        *(if self.is_done { &mut summary.lost } else { &mut summary.unanswered }) += waiting;
        if let Some(schedule) = &self.schedule {
            // Messages were due until the end, or until the load was stopped.
            let until = if self.is_done { self.end } else { self.end.min(now) };
            let late = until.saturating_duration_since(schedule.next);
            summary.unsent += late.as_nanos().div_ceil(schedule.step.as_nanos().max(1)) as u64;
        }
    }
}

impl Driver {
    /// Sends, receives and expires messages. Ready when the connection has ended, or when the
    /// duration is over and every message has come back or expired.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let is_sending = now < self.end || self.is_behind(now);
            if is_sending {
                self.refill(now);
                for _ in 0..MAX_UNFLUSHED {
                    if !(self.exchange.hand_over(cx) && self.has_room(now)) {
                        break;
                    }
                    self.refill(now);
                }
            } else if self.exchange.tracker.waiting() == 0 {
                return Poll::Ready(());
            }
            let before = self.batch.replies;
            let batch = &mut self.batch;
            if let Poll::Ready(ended) = self.exchange.poll(cx, |reply| batch.add(&reply)) {
                let (reason, is_final) = match ended {
                    Ended::Closed(how) => (format!("closed by the other side: {how}"), true),
                    Ended::Failed(error) => (causes::of_io(&error, Peer::Server), !self.is_udp),
                };
                self.batch.shared.lock().fail(reason);
                if is_final {
                    return Poll::Ready(());
                }
                // It returned Ready, so it has not registered a waker for the next reply.
                continue;
            }
            if self.batch.replies != before || (is_sending && self.has_room(now)) {
                continue;
            }
            // When to wake up even if nothing is received.
            let expiry = self.exchange.tracker.oldest().map(|at| later(at, self.timeout));
            let wake = [expiry, Some(self.end).filter(|_| is_sending)].into_iter().flatten().min();
            // While the connection takes nothing, it is what wakes us, and not the schedule.
            if let Some(schedule) = self.schedule.as_mut()
                && is_sending
                && self.exchange.can_send()
                && self.exchange.tracker.tracked() < MAX_TRACKED
                && schedule.pace.poll_until(cx, schedule.next.min(self.end)).is_ready()
            {
                continue;
            }
            let Some(wake) = wake else { continue };
            self.batch.flush_if_due(now);
            std::task::ready!(self.deadline.as_mut().poll_passed(cx, wake));
            let before = Instant::now().checked_sub(self.timeout);
            if let Some(before) = before {
                self.exchange.tracker.expire(before);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether another message could be sent now.
    fn has_room(&self, now: Instant) -> bool {
        self.exchange.can_send()
            && self.exchange.tracker.tracked() < MAX_TRACKED
            && match &self.schedule {
                None => self.exchange.tracker.waiting() < self.in_flight,
                Some(schedule) => schedule.next <= now && schedule.next < self.end,
            }
    }

    /// Whether messages that were due before the end can still be sent after it: their round trips
    /// include the delay. What the connection has no room for is not sent.
    fn is_behind(&self, now: Instant) -> bool {
        self.schedule.is_some() && now < later(self.end, self.timeout) && self.has_room(now)
    }

    /// Sends the messages that are due, as many as the connection takes in one write.
    fn refill(&mut self, now: Instant) {
        if !self.has_room(now) {
            return;
        }
        let most = self.exchange.max_messages();
        let count = match &mut self.schedule {
            None => {
                let count = most.min(self.in_flight - self.exchange.tracker.waiting());
                self.exchange.send(std::iter::repeat_n(now, count));
                count
            }
            Some(schedule) => {
                let mut count = 0;
                let due = std::iter::from_fn(|| {
                    let at = schedule.next;
                    if at > now || at >= self.end || count == most {
                        return None;
                    }
                    schedule.next += schedule.step;
                    count += 1;
                    Some(at)
                });
                self.exchange.send(due);
                count
            }
        };
        self.batch.shared.sent.fetch_add(count as u64, Ordering::Relaxed);
    }
}

/// The replies of one connection that are not in the summary yet.
struct Batch {
    /// How many there were in all.
    replies: usize,
    pending: Vec<Reply>,
    flushed_at: Option<Instant>,
    shared: Arc<Shared>,
}

impl Batch {
    fn add(&mut self, reply: &Reply) {
        self.replies += 1;
        self.pending.push(*reply);
        if self.pending.len() >= BATCH {
            self.flush();
        }
    }

    /// Adds the replies to the summary unless that was done a moment ago, so that progress includes
    /// the replies of slow connections.
    fn flush_if_due(&mut self, now: Instant) {
        let is_due = self.flushed_at.is_none_or(|at| now - at >= PROGRESS_INTERVAL / 2);
        if is_due && !self.pending.is_empty() {
            self.flushed_at = Some(now);
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut summary = self.shared.lock();
        for reply in &self.pending {
            summary.count(reply);
            if let Some(rtt) = reply.rtt {
                summary.record(rtt);
            }
        }
        if !self.pending.is_empty() {
            // A batch is flushed when its last reply has come, or shortly after.
            let since = u64::try_from(self.shared.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.shared.last_reply.fetch_max(since, Ordering::Relaxed);
        }
        self.shared.replies.fetch_add(self.pending.len() as u64, Ordering::Relaxed);
        self.pending.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.flush();
    }
}
