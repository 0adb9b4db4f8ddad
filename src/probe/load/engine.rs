//! Sends and receives on all connections of one thread, in one task.
//!
//! Each time that the task is polled is a turn: read what has come, send what is due, and sleep until
//! the kernel reports more, or until the next message is due. The connections share the timer, the
//! schedule and the buffer for what is received. A turn ends after a bounded number of messages, so
//! that the kernel is asked often enough for a reply to be noticed when it arrives.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::expiry::Expiry;
use super::ready::{Ready, Slot};
use super::schedule::Schedule;
use crate::causes;
use crate::pace::{Pace, later};
use crate::probe::datagrams::is_refusal;
use crate::probe::ending::Ended;
use crate::probe::exchange::Exchange;
use crate::probe::link::{Inbox, Link};
use crate::probe::payload::Payloads;
use crate::probe::{Summary, Times};

/// How often a connection reads and writes before others get a turn.
const ROUNDS: usize = 64;

/// How many WebSocket messages at most are flushed together.
const MAX_UNFLUSHED: usize = ROUNDS;

/// How many connections are read from, and how many due messages are sent, before the kernel is
/// asked again.
const READS: usize = 64;
const SENDS: usize = 4;

/// What to send, and for how long.
#[derive(Debug)]
pub(super) struct Orders {
    pub(super) start: Instant,
    /// When the warm-up is over.
    pub(super) count_from: Instant,
    pub(super) end: Instant,
    /// How many messages to send from then on.
    pub(super) limit: u64,
    pub(super) timeout: Duration,
    pub(super) plan: Plan,
    /// Whether connections outlive errors, as those of UDP do.
    pub(super) is_udp: bool,
}

/// When to send.
#[derive(Debug)]
pub(super) enum Plan {
    /// A reply makes room for the next message: this many are in flight on each connection.
    Replies(usize),
    Schedule(Schedule),
}

impl Plan {
    fn is_by_replies(&self) -> bool {
        matches!(self, Plan::Replies(_))
    }
}

/// Messages sent, replies received and failures, at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) sent: u64,
    pub(super) replies: u64,
    pub(super) failures: u64,
}

/// The connections of a thread, and what came of them.
pub(super) struct Engine {
    orders: Orders,
    connections: Vec<Connection>,
    ready: Arc<Ready>,
    /// The connections that were woken and have not had their turn.
    woken: VecDeque<usize>,
    inbox: Inbox,
    expiry: Expiry,
    pace: Pace,
    /// How many connections have not ended.
    open: usize,
    /// When the warm-up is over, while it lasts.
    warm_until: Option<Instant>,
    /// How many more messages to send; a schedule has its own end.
    left: u64,
    /// When connections that have nothing to wait for are looked for next.
    sweep: Option<Instant>,
    /// A recent time, which saves asking for it.
    now: Instant,
    summary: Summary,
    counts: Counts,
    last_reply: Option<Instant>,
}

struct Connection {
    exchange: Exchange,
    slot: Arc<Slot>,
    waker: Waker,
    has_ended: bool,
    place: Place,
}

/// Where in the schedule a connection is.
struct Place {
    /// The number of its next message.
    next: u64,
    /// It did not take messages with smaller numbers when they were due.
    held_up: u64,
}

impl Engine {
    /// Takes the connections, and waits for what they receive. It sends nothing yet.
    pub(super) fn new(
        links: impl IntoIterator<Item = Link>,
        payloads: &Payloads,
        pace: Pace,
        ready: Arc<Ready>,
    ) -> Engine {
        let connections: Vec<_> = (0..)
            .zip(links)
            .map(|(index, link)| {
                let slot = Slot::new(index, &ready);
                Connection {
                    exchange: Exchange::new(link, payloads.for_another()),
                    waker: Arc::clone(&slot).into(),
                    slot,
                    has_ended: false,
                    place: Place { next: index as u64, held_up: 0 },
                }
            })
            .collect();
        let now = Instant::now();
        let mut engine = Engine {
            orders: Orders {
                start: now,
                count_from: now,
                end: later(now, Duration::MAX),
                limit: u64::MAX,
                timeout: Duration::MAX,
                plan: Plan::Replies(0),
                is_udp: false,
            },
            ready,
            woken: VecDeque::with_capacity(connections.len()),
            inbox: Inbox::default(),
            expiry: Expiry::new(connections.len()),
            pace,
            open: connections.len(),
            warm_until: None,
            left: u64::MAX,
            sweep: None,
            now,
            summary: Summary::new(payloads.size()),
            counts: Counts::default(),
            last_reply: None,
            connections,
        };
        for index in 0..engine.connections.len() {
            engine.visit(index);
        }
        engine
    }

    /// Begins with the load.
    pub(super) fn begin(&mut self, mut orders: Orders) {
        let is_warm_up = orders.count_from > orders.start;
        self.warm_until = is_warm_up.then_some(orders.count_from);
        self.left = if is_warm_up { u64::MAX } else { orders.limit };
        if let Plan::Schedule(schedule) = &mut orders.plan {
            orders.end = schedule.limit(orders.count_from, orders.limit, orders.end);
        } else if self.left == 0 {
            orders.end = orders.start;
        }
        self.sweep = Some(orders.end);
        self.orders = orders;
        if let Plan::Replies(_) = self.orders.plan {
            self.connections.iter().for_each(|connection| connection.slot.enqueue());
        }
    }

    /// How often the timer was armed.
    #[cfg(test)]
    pub(super) fn arms(&self) -> usize {
        self.pace.arms
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The round trips so far.
    pub(super) fn rtt(&self) -> &Times {
        self.summary.rtt()
    }

    /// Ready when the load is over and every message has come back or expired, or when all
    /// connections have ended, or when the load was stopped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ready.register(cx.waker());
        self.now = Instant::now();
        if self.warm_until.is_some_and(|at| at <= self.now) {
            self.end_warm_up();
        }
        // Replies come first. If there is too much to do, messages leave late, which is counted; what
        // a reply waits for us would pass for the service's doing.
        self.ready.take(&mut self.woken);
        for _ in 0..READS.min(self.woken.len()) {
            let Some(index) = self.woken.pop_front() else { break };
            self.connections[index].slot.begin();
            self.visit(index);
        }
        self.send_due();
        self.expire();
        if self.sweep.is_some_and(|at| at <= self.now) {
            self.sweep();
        }
        if self.open == 0 || self.ready.is_stopped() {
            return Poll::Ready(());
        }
        let next_due = match &self.orders.plan {
            Plan::Schedule(schedule) => schedule.next_due(),
            Plan::Replies(_) => None,
        };
        let wake =
            [next_due, self.expiry.next(), self.sweep, self.warm_until].into_iter().flatten().min();
        if !self.woken.is_empty()
            || !self.ready.is_empty()
            || wake.is_some_and(|at| self.pace.poll_until(cx, at).is_ready())
        {
            // There is more to do, behind a look at what has come meanwhile.
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Reads what a connection has received, and then sends on it what there is room for: replies that
    /// came together are answered together.
    fn visit(&mut self, index: usize) {
        let mut is_drained = false;
        for _ in 0..ROUNDS {
            let Connection { exchange, waker, has_ended, .. } = &mut self.connections[index];
            if *has_ended {
                return;
            }
            let mut cx = Context::from_waker(waker);
            let (summary, counts) = (&mut self.summary, &mut self.counts);
            let counted_from = exchange.tracker.counted_from();
            let read = exchange.poll_read(&mut cx, &mut self.inbox, |reply| {
                if reply.seq.is_some_and(|seq| seq < counted_from) {
                    return;
                }
                counts.replies += 1;
                summary.count(&reply);
                if let Some(rtt) = reply.rtt {
                    summary.record(rtt);
                }
            });
            match read {
                Poll::Ready(Ok(at)) => {
                    self.now = at;
                    self.last_reply = Some(at);
                }
                Poll::Ready(Err(ended)) => self.ended(index, ended),
                Poll::Pending => {
                    is_drained = true;
                    break;
                }
            }
        }
        self.fill(index, false);
        if is_drained {
            self.settle(index);
        } else {
            self.connections[index].slot.enqueue();
        }
    }

    /// Sends the messages that the schedule has come to.
    fn send_due(&mut self) {
        for _ in 0..SENDS {
            let Plan::Schedule(schedule) = &mut self.orders.plan else { return };
            let Some(message) = schedule.take(self.now) else { return };
            let index = (message % schedule.connections) as usize;
            let connection = &mut self.connections[index];
            if connection.has_ended || connection.place.next > message {
                continue;
            }
            if !connection.exchange.has_room() {
                connection.place.held_up = message + 1;
                continue;
            }
            self.fill(index, true);
        }
    }

    /// Writes what is unwritten, and as many more messages as there are to send and as the connection
    /// takes. With a schedule these are those that it held up, and those that are due if `is_due`.
    fn fill(&mut self, index: usize, is_due: bool) {
        for _ in 0..ROUNDS {
            let connection = &mut self.connections[index];
            if connection.has_ended {
                return;
            }
            let Connection { exchange, slot, waker, place, .. } = connection;
            let mut cx = Context::from_waker(waker);
            let mut timed = None;
            for _ in 0..MAX_UNFLUSHED {
                let made = place.make(exchange, &self.orders, self.left, self.now, is_due);
                self.counts.sent += made.count;
                self.left = self.left.saturating_sub(made.count);
                if made.count > 0 && !made.is_held_up {
                    let (first, count) = timed.unwrap_or((made.first, 0));
                    timed = Some((first, count + made.count));
                }
                if made.count == 0 || !exchange.hand_over(&mut cx) {
                    break;
                }
            }
            if self.left == 0 && self.orders.end > self.now && self.orders.plan.is_by_replies() {
                // The last message is made, and the load ends when its reply has come.
                self.orders.end = self.now;
                self.sweep = Some(self.now);
            }
            if !exchange.is_unwritten() {
                return;
            }
            let written = exchange.poll_write(&mut cx);
            if exchange.reads_until().is_some() {
                // What the other side has said before is read in the next turn.
                slot.enqueue();
            }
            let withdrawn = exchange.withdrawn();
            self.counts.sent -= withdrawn;
            self.summary.unsent += withdrawn;
            if let Plan::Schedule(schedule) = &self.orders.plan
                && let Some((first, count)) = timed
            {
                self.now = exchange.sent_at();
                for n in 0..count {
                    let due = schedule.due(first + n * schedule.connections);
                    self.summary.record_lateness(self.now.saturating_duration_since(due));
                }
            }
            if !self.expiry.has(index)
                && let Some(oldest) = exchange.tracker.oldest()
            {
                self.expiry.expect(index, later(oldest, self.orders.timeout));
            }
            match written {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => self.ended(index, Ended::Failed(error)),
                Poll::Pending => return,
            }
        }
        self.connections[index].slot.enqueue();
    }

    /// Ends the warm-up: forgets what was counted in it, except for connections that have failed.
    pub(super) fn end_warm_up(&mut self) {
        self.warm_until = None;
        let warm_up = std::mem::replace(&mut self.summary, Summary::new(0));
        self.summary = Summary::new(warm_up.message_size);
        self.summary.add_errors_of(&warm_up);
        self.counts = Counts { failures: self.counts.failures, ..Counts::default() };
        self.last_reply = None;
        self.orders.start = self.orders.count_from;
        for connection in &mut self.connections {
            connection.exchange.tracker.count_from_here();
        }
        self.left = self.orders.limit;
    }

    /// Expires the messages whose replies are overdue.
    fn expire(&mut self) {
        while let Some(index) = self.expiry.take(self.now) {
            let tracker = &mut self.connections[index].exchange.tracker;
            if let Some(before) = self.now.checked_sub(self.orders.timeout) {
                tracker.expire(before);
            }
            if let Some(oldest) = tracker.oldest() {
                self.expiry.expect(index, later(oldest, self.orders.timeout));
            }
            self.fill(index, false);
            self.settle(index);
        }
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        let exchange = &self.connections[index].exchange;
        let is_final = match ended {
            Ended::Failed(error) if self.orders.is_udp => {
                self.summary.fail(causes::of_datagram(&error));
                // Nothing listens there, which over TCP would have refused the connection.
                is_refusal(&error) && !exchange.has_heard()
            }
            ended => {
                self.summary.ended(exchange.ending(&ended));
                true
            }
        };
        self.counts.failures += 1;
        if is_final {
            self.end(index);
        }
    }

    fn end(&mut self, index: usize) {
        self.open -= usize::from(!self.connections[index].has_ended);
        self.connections[index].has_ended = true;
    }

    /// Ends a connection that has nothing to send or to wait for any more.
    fn settle(&mut self, index: usize) {
        let Orders { end, timeout, plan, .. } = &self.orders;
        let connection = &self.connections[index];
        if self.now < *end || connection.exchange.tracker.waiting() > 0 {
            return;
        }
        // Messages that were due before the end can still be sent for a while: their round trips
        // include the delay. What the connection has no room for is not sent.
        let may_send = connection.exchange.has_room() && self.now < later(*end, *timeout);
        let has_more = match plan {
            Plan::Schedule(schedule) => connection.place.next < schedule.total,
            Plan::Replies(_) => false,
        };
        if may_send && has_more {
            return;
        }
        match self.connections[index].exchange.give_up() {
            Some(ended) => self.ended(index, ended),
            None => self.end(index),
        }
    }

    /// Ends all connections that can end. It is done when the load ends, and again when what was due
    /// until then is not sent any more.
    fn sweep(&mut self) {
        let last = later(self.orders.end, self.orders.timeout);
        self.sweep = Some(last).filter(|last| self.now < *last);
        if self.sweep.is_none()
            && let Plan::Schedule(schedule) = &mut self.orders.plan
        {
            schedule.skip_rest();
        }
        for index in 0..self.connections.len() {
            self.settle(index);
        }
    }

    /// What came of the load, and the connections, to be closed. It counts as stopped if it is not
    /// over: then replies that have not come are not lost.
    pub(super) fn finish(mut self) -> (Summary, Vec<Exchange>) {
        if self.warm_until.is_some() {
            self.end_warm_up();
        }
        let now = Instant::now();
        let is_stopped = self.open > 0;
        for connection in &self.connections {
            let tracker = &connection.exchange.tracker;
            let waiting = tracker.counted_waiting() as u64;
            self.summary.lost += tracker.lost();
            if let Some(stall) = connection.exchange.stall().filter(|_| !is_stopped) {
                self.summary.ended(stall);
            }
            let is_lost = connection.has_ended;
            *(if is_lost { &mut self.summary.lost } else { &mut self.summary.unanswered }) +=
                waiting;
            if let Plan::Schedule(schedule) = &self.orders.plan {
                let until = if is_stopped { self.orders.end.min(now) } else { self.orders.end };
                let next = connection.place.next;
                let in_warm_up = schedule.remaining(next, self.orders.count_from);
                self.summary.unsent += schedule.remaining(next, until).saturating_sub(in_warm_up);
            }
        }
        self.summary.sent = self.counts.sent;
        let Orders { start, end, .. } = self.orders;
        // Waiting in vain for replies at the end would lower the rate.
        let until = self.last_reply.map_or(now.min(end), |last| last.max(now.min(end)));
        self.summary.elapsed = until.saturating_duration_since(start);
        (self.summary, self.connections.into_iter().map(|connection| connection.exchange).collect())
    }
}

/// Messages that were made.
struct Made {
    /// The number in the schedule of the first.
    first: u64,
    count: u64,
    /// Whether the connection did not take them when they were due.
    is_held_up: bool,
}

impl Place {
    /// Makes as many messages as are to be sent now and fit into one write.
    fn make(
        &mut self,
        exchange: &mut Exchange,
        orders: &Orders,
        left: u64,
        now: Instant,
        is_due: bool,
    ) -> Made {
        let mut made = Made { first: self.next, count: 0, is_held_up: false };
        if !exchange.has_room() {
            return made;
        }
        let most = exchange.max_messages();
        match &orders.plan {
            Plan::Replies(in_flight) => {
                let room = in_flight.saturating_sub(exchange.tracker.waiting());
                let most = most.min(usize::try_from(left).unwrap_or(usize::MAX));
                let count = if now < orders.end { room.min(most) } else { 0 };
                if count > 0 {
                    exchange.send(count);
                }
                made.count = count as u64;
            }
            Plan::Schedule(schedule) => {
                made.is_held_up = self.next < self.held_up;
                let due = if made.is_held_up {
                    (self.held_up - self.next).div_ceil(schedule.connections)
                } else if is_due {
                    schedule.due_from(self.next, now)
                } else {
                    0
                };
                made.count = due.min(most as u64);
                if made.is_held_up {
                    let number = |n| made.first + n as u64 * schedule.connections;
                    let due = (0..made.count as usize).map(|n| schedule.due(number(n)));
                    exchange.send_held_up(due);
                } else if made.count > 0 {
                    exchange.send(made.count as usize);
                }
                self.next += made.count * schedule.connections;
            }
        }
        made
    }
}
