//! Load: many connections, each with messages in flight, for a while.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use super::dial::dial;
use super::exchange::{Ended, Exchange};
use super::pace::{Pace, later};
use super::payload::Payloads;
use super::summary::Summary;
use super::{DialOptions, Messages, ProbeError, Reply, Target};
use crate::connection::deadline::Deadline;

/// Connections that are made at the same time.
const DIALS: usize = 100;

/// A connection adds what it found to the whole after so many replies.
const BATCH: usize = 64;

/// Messages that a connection keeps in mind. A schedule that the other side is so far behind of
/// stops there, and what is not sent is counted.
const KEPT: usize = 500_000;

/// For the farewell at the end.
const GOODBYE: Duration = Duration::from_secs(1);

/// Rounds of sending and receiving in one turn of a connection.
const ROUNDS: usize = 32;

/// Messages that are flushed together at most, where each is sent for itself.
const TOGETHER: usize = 64;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(200);

/// What a load does.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LoadOptions {
    /// Connections; over UDP, flows. 1.
    pub connections: usize,
    /// Messages that each connection has in flight at most. 1.
    pub in_flight: usize,
    /// How long to send. 10 seconds.
    pub duration: Duration,
    /// Messages a second, over all connections. They are sent on a schedule, whatever becomes of
    /// those before, and timed from when they were due: a server that stalls cannot hide it by
    /// being asked less (no coordinated omission). Then [`in_flight`](LoadOptions::in_flight) does
    /// not count. `None` sends the next message when a reply has come.
    pub rate: Option<f64>,
    /// How long to wait for a reply before the message is lost. 2 seconds.
    pub timeout: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            connections: 1,
            in_flight: 1,
            duration: Duration::from_secs(10),
            rate: None,
            timeout: Duration::from_secs(2),
        }
    }
}

/// How far a load has come.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Progress {
    /// Since the first message.
    pub elapsed: Duration,
    /// Messages sent.
    pub sent: u64,
    /// Replies received, right ones and others.
    pub replies: u64,
}

/// Sends until the duration is over or `stop` completes, tells of its progress now and then, and
/// returns what it all adds up to. The connections are spread over the runtime's threads.
///
/// # Errors
/// There was not one connection.
///
/// # Panics
/// If a connection's task does, which would be a bug.
pub async fn load(
    target: &Target,
    dial_options: &DialOptions,
    messages: Messages,
    options: &LoadOptions,
    stop: impl Future<Output = ()>,
    mut tell: impl FnMut(Progress),
) -> Result<Summary, ProbeError> {
    let messages = messages.checked_for(target)?;
    if options.connections == 0 || options.in_flight == 0 {
        return Err(ProbeError::Usage("there must be a connection and a message".to_owned()));
    }
    if options.rate.is_some_and(|rate| !(0.001..=1e9).contains(&rate)) {
        return Err(ProbeError::Usage("--rate: must be from 0.001 to 1000000000".to_owned()));
    }
    let mut stop = pin!(stop);
    let mut found = Summary::default();
    let dialled = stream::iter(0..options.connections)
        .map(|_| dial(target, dial_options))
        .buffer_unordered(DIALS)
        .collect::<Vec<_>>();
    let dialled = tokio::select! {
        dialled = dialled => dialled,
        () = &mut stop => return Ok(found),
    };
    let mut links = Vec::new();
    let mut failure = None;
    for result in dialled {
        match result {
            Ok((link, _)) => links.push(link),
            Err(error) => {
                found.fail(error.to_string());
                failure = Some(error);
            }
        }
    }
    if let Some(error) = failure.filter(|_| links.is_empty()) {
        return Err(error);
    }
    let payloads = Payloads::new(messages.size, messages.is_text);
    let start = Instant::now();
    let shared = Arc::new(Shared {
        found: Mutex::new(found),
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
        let schedule = schedule.transpose().map_err(|error| {
            ProbeError::Connect(format!("no timer for connection {n}: {error}"))
        })?;
        let mut driver = Driver {
            exchange,
            schedule,
            in_flight: options.in_flight,
            end: later(start, options.duration),
            timeout: options.timeout,
            is_udp: target.protocol == crate::Protocol::Udp,
            batch: Batch { found: Batched::default(), shared: Arc::clone(&shared) },
            deadline: Box::pin(Deadline::default()),
            is_done: false,
        };
        drivers.spawn(async move {
            poll_fn(|cx| driver.poll(cx)).await;
            driver.is_done = true;
            let goodbye = poll_fn(|cx| driver.exchange.poll_close(cx));
            // The other side may be gone; that is not what was asked.
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        });
    }
    let mut ticks = interval(TELL);
    loop {
        tokio::select! {
            joined = drivers.join_next() => match joined {
                Some(joined) => joined.expect("a driver does not panic"),
                None => break,
            },
            _ = ticks.tick() => tell(Progress {
                elapsed: start.elapsed(),
                sent: shared.sent.load(Ordering::Relaxed),
                replies: shared.replies.load(Ordering::Relaxed),
            }),
            () = &mut stop => break,
        }
    }
    // What they have found so far they tell when they are dropped.
    drivers.shutdown().await;
    let mut found = std::mem::take(&mut *shared.lock());
    found.sent = shared.sent.load(Ordering::Relaxed);
    // Waiting for what does not come is not part of it.
    let sending = start.elapsed().min(options.duration);
    let last_reply = Duration::from_nanos(shared.last_reply.load(Ordering::Relaxed));
    found.elapsed = sending.max(last_reply);
    Ok(found)
}

/// What all connections of a load have in common.
struct Shared {
    found: Mutex<Summary>,
    start: Instant,
    sent: AtomicU64,
    replies: AtomicU64,
    /// Nanoseconds from the start to the last reply.
    last_reply: AtomicU64,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Summary> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the messages of one connection are due.
struct Schedule {
    next: Instant,
    step: Duration,
    pace: Pace,
}

impl Schedule {
    /// The part of connection `n` of `connections` in `rate` messages a second.
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
    /// Nothing more is sent or waited for.
    is_done: bool,
}

impl Drop for Driver {
    /// Adds what did not come back, and what was not sent.
    fn drop(&mut self) {
        let (tracker, now) = (&self.exchange.tracker, Instant::now());
        let waiting = tracker.waiting() as u64;
        let mut found = self.batch.shared.lock();
        found.lost += tracker.lost();
        *(if self.is_done { &mut found.lost } else { &mut found.unanswered }) += waiting;
        if let Some(schedule) = &self.schedule {
            // What was due until the end, or until the load was stopped.
            let until = if self.is_done { self.end } else { self.end.min(now) };
            let late = until.saturating_duration_since(schedule.next);
            found.unsent += late.as_nanos().div_ceil(schedule.step.as_nanos().max(1)) as u64;
        }
    }
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..ROUNDS {
            let now = Instant::now();
            let is_sending = now < self.end || self.is_behind(now);
            if is_sending {
                self.refill(now);
                for _ in 0..TOGETHER {
                    if !(self.exchange.hand_over(cx) && self.has_room(now)) {
                        break;
                    }
                    self.refill(now);
                }
            } else if self.exchange.tracker.waiting() == 0 {
                return Poll::Ready(());
            }
            let before = self.batch.found.replies;
            let batch = &mut self.batch;
            if let Poll::Ready(ended) = self.exchange.poll(cx, |reply| batch.add(&reply)) {
                let (why, is_final) = match ended {
                    Ended::Closed(why) => (format!("closed by the other side: {why}"), true),
                    Ended::Failed(error) => (error.to_string(), !self.is_udp),
                };
                self.batch.shared.lock().fail(why);
                if is_final {
                    return Poll::Ready(());
                }
                // It has to be polled again, or nobody wakes us for the next reply.
                continue;
            }
            if self.batch.found.replies != before || (is_sending && self.has_room(now)) {
                continue;
            }
            // The next thing that happens without the other side.
            let expiry = self.exchange.tracker.oldest().map(|at| later(at, self.timeout));
            let wake = [expiry, Some(self.end).filter(|_| is_sending)].into_iter().flatten().min();
            // While the other side takes nothing, there is nothing to be on time for.
            if let Some(schedule) = self.schedule.as_mut()
                && is_sending
                && self.exchange.can_send()
                && self.exchange.tracker.kept() < KEPT
                && schedule.pace.poll_until(cx, schedule.next.min(self.end)).is_ready()
            {
                continue;
            }
            let Some(wake) = wake else { continue };
            self.batch.tell_in_time(now);
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
            && self.exchange.tracker.kept() < KEPT
            && match &self.schedule {
                None => self.exchange.tracker.waiting() < self.in_flight,
                Some(schedule) => schedule.next <= now && schedule.next < self.end,
            }
    }

    /// Whether the end has come, but not everything that was due before it has been sent, and can
    /// be: it is late then, and timed as such. What the other side has no room for is left.
    fn is_behind(&self, now: Instant) -> bool {
        self.schedule.is_some() && now < later(self.end, self.timeout) && self.has_room(now)
    }

    /// Sends what may be sent.
    fn refill(&mut self, now: Instant) {
        if !self.has_room(now) {
            return;
        }
        let most = self.exchange.gathers();
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

/// What one connection has found since it last told.
struct Batch {
    found: Batched,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Batched {
    replies: usize,
    judged: Vec<Reply>,
    told_at: Option<Instant>,
}

impl Batch {
    fn add(&mut self, reply: &Reply) {
        self.found.replies += 1;
        self.found.judged.push(*reply);
        if self.found.judged.len() >= BATCH {
            self.tell();
        }
    }

    /// Tells what there is, unless it was told a moment ago.
    fn tell_in_time(&mut self, now: Instant) {
        let is_time = self.found.told_at.is_none_or(|at| now - at >= TELL / 2);
        if is_time && !self.found.judged.is_empty() {
            self.found.told_at = Some(now);
            self.tell();
        }
    }

    fn tell(&mut self) {
        let mut found = self.shared.lock();
        for reply in &self.found.judged {
            found.count(reply);
            if let Some(rtt) = reply.rtt {
                found.record(rtt);
            }
        }
        if !self.found.judged.is_empty() {
            // A batch is told at its last reply, or not long after.
            let since = u64::try_from(self.shared.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.shared.last_reply.fetch_max(since, Ordering::Relaxed);
        }
        self.shared.replies.fetch_add(self.found.judged.len() as u64, Ordering::Relaxed);
        self.found.judged.clear();
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tell();
    }
}
