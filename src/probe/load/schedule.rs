//! When the messages of a load at a fixed rate are due.

use std::time::Duration;

use tokio::time::Instant;

/// One schedule for all connections of a thread, which take turns: message `m` is due on connection
/// `m % connections`. It knows nothing of what was sent.
#[derive(Debug, Clone)]
pub(super) struct Schedule {
    start: Instant,
    /// From the start to the first message, in nanoseconds.
    offset: f64,
    /// From one message to the next, in nanoseconds.
    step: f64,
    pub(super) connections: u64,
    /// The number of messages that are due before the end.
    pub(super) total: u64,
    /// The first message that [`take`](Schedule::take) has not returned yet.
    next: u64,
}

/// A thread's share in a rate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// Messages a second over all threads.
    pub(super) rate: f64,
    /// The connections of all threads.
    pub(super) of_connections: usize,
    /// Which thread it is, from 0, of how many.
    pub(super) thread: usize,
    pub(super) of_threads: usize,
}

impl Schedule {
    /// The schedule of `connections` connections, at least one, from `start` until before `end`.
    pub(super) fn new(share: Share, connections: usize, start: Instant, end: Instant) -> Schedule {
        let Share { rate, of_connections, thread, of_threads } = share;
        let step = 1e9 / rate * of_connections as f64 / connections as f64;
        let mut schedule = Schedule {
            start,
            // The threads' messages alternate.
            offset: step * thread as f64 / of_threads as f64,
            step,
            connections: connections as u64,
            total: u64::MAX,
            next: 0,
        };
        schedule.total = schedule.count_before(end);
        schedule
    }

    /// When `message` is due.
    pub(super) fn due(&self, message: u64) -> Instant {
        // Computed from the start: a step that is added again and again would add its error, too.
        self.start + Duration::from_nanos((self.offset + self.step * message as f64) as u64)
    }

    /// When the next message is due that has not been taken. `None` behind the last one.
    pub(super) fn next_due(&self) -> Option<Instant> {
        (self.next < self.total).then(|| self.due(self.next))
    }

    /// The next message, if it is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        self.next_due().filter(|due| *due <= now)?;
        self.next += 1;
        Some(self.next - 1)
    }

    /// Ends after `count` messages that are due at `from` or later, or before that. Returns when the
    /// schedule ends.
    pub(super) fn limit(&mut self, from: Instant, count: u64, end: Instant) -> Instant {
        let total = self.count_before(from).saturating_add(count);
        if total >= self.total {
            return end;
        }
        self.total = total;
        match total.checked_sub(1) {
            Some(last) => self.due(last) + Duration::from_nanos(1),
            None => self.start,
        }
    }

    /// Gives up the messages that have not been taken.
    pub(super) fn skip_rest(&mut self) {
        self.next = self.total;
    }

    /// How many messages of one connection, of which `message` is the next, are due. All of them
    /// have numbers below the total.
    pub(super) fn due_from(&self, message: u64, now: Instant) -> u64 {
        // This is nearly always so: the one after the next is due only if we are far behind.
        if self.due(message + self.connections) > now {
            return u64::from(message < self.total && self.due(message) <= now);
        }
        self.from(message, self.count_before(now + Duration::from_nanos(1)))
    }

    /// How many messages of one connection, of which `message` is the next, are due before `end`.
    pub(super) fn remaining(&self, message: u64, end: Instant) -> u64 {
        self.from(message, self.count_before(end))
    }

    fn from(&self, message: u64, below: u64) -> u64 {
        below.saturating_sub(message).div_ceil(self.connections)
    }

    fn count_before(&self, end: Instant) -> u64 {
        let nanoseconds = end.saturating_duration_since(self.start).as_nanos() as f64;
        // Rounding may be wrong by one, and `due` is what counts.
        let mut count = ((nanoseconds - self.offset) / self.step).max(0.0) as u64;
        while count > 0 && self.due(count - 1) >= end {
            count -= 1;
        }
        while self.due(count) < end {
            count += 1;
        }
        count.min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Share = Share { rate: 1000.0, of_connections: 3, thread: 0, of_threads: 1 };

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn messages_are_due_at_the_rate_and_before_the_end() {
        let start = Instant::now();
        for (rate, total) in [(1000.0, 300), (999.0, 300), (1e6, 300_000), (0.5, 1), (3.3, 1)] {
            let schedule = Schedule::new(Share { rate, ..ALONE }, 3, start, start + ms(300));
            assert_eq!(schedule.total, total, "{rate}");
            assert_eq!(schedule.due(0), start);
        }
    }

    #[test]
    fn a_message_is_taken_once_and_not_before_it_is_due() {
        let start = Instant::now();
        let mut schedule = Schedule::new(ALONE, 3, start, start + ms(3));
        assert_eq!(schedule.take(start), Some(0));
        assert_eq!(schedule.take(start), None);
        assert_eq!(schedule.next_due(), Some(start + ms(1)));
        let taken: Vec<_> = std::iter::from_fn(|| schedule.take(start + ms(9))).collect();
        assert_eq!((taken, schedule.next_due()), (vec![1, 2], None));
    }

    #[test]
    fn a_connection_is_due_every_round() {
        let start = Instant::now();
        let schedule = Schedule::new(ALONE, 3, start, start + ms(10));
        // Connection 1 has the messages 1, 4 and 7.
        assert_eq!(schedule.due_from(1, start), 0);
        assert_eq!(schedule.due_from(1, start + ms(1)), 1);
        assert_eq!(schedule.due_from(1, start + ms(4)), 2);
        assert_eq!(schedule.due_from(4, start + ms(99)), 2);
        assert_eq!(schedule.due_from(10, start + ms(99)), 0);
        assert_eq!(schedule.remaining(1, start + ms(7)), 2);
        assert_eq!(schedule.remaining(0, start + ms(99)), 4);
    }

    #[test]
    fn a_limit_counts_from_the_end_of_the_warm_up() {
        let start = Instant::now();
        let schedule = |from, count| {
            let mut schedule = Schedule::new(ALONE, 3, start, start + ms(300));
            let end = schedule.limit(start + from, count, start + ms(300));
            (schedule.total, end)
        };
        let tick = Duration::from_nanos(1);
        assert_eq!(schedule(ms(0), 5), (5, start + ms(4) + tick));
        assert_eq!(schedule(ms(10), 5), (15, start + ms(14) + tick));
        assert_eq!(schedule(ms(10), 290), (300, start + ms(300)));
        assert_eq!(schedule(ms(0), 0), (0, start));
    }

    #[test]
    fn threads_share_a_rate_by_their_connections_and_alternate() {
        let start = Instant::now();
        let share = Share { rate: 1000.0, of_connections: 4, thread: 1, of_threads: 2 };
        let schedule = Schedule::new(share, 2, start, start + ms(10));
        assert_eq!((schedule.due(0), schedule.due(1)), (start + ms(1), start + ms(3)));
        let uneven = Schedule::new(Share { thread: 0, ..share }, 1, start, start + ms(10));
        assert_eq!(uneven.due(1), start + ms(4));
    }
}
