//! Which connection has a reply overdue next. There is one queue for all connections, so that one
//! timer is enough.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::Instant;

/// For each connection that waits for replies, a time at which one may be overdue. A connection
/// is here once at most, and not later than its first reply is overdue: replies that come do not
/// move it, so that they cost nothing. When its time has come it is asked, and comes back.
#[derive(Debug, Default)]
pub(super) struct Expiry {
    queue: BinaryHeap<Reverse<(Instant, usize)>>,
    is_queued: Vec<bool>,
}

impl Expiry {
    pub(super) fn new(connections: usize) -> Expiry {
        Expiry { queue: BinaryHeap::new(), is_queued: vec![false; connections] }
    }

    /// Whether [`expect`](Expiry::expect) is needed.
    pub(super) fn has(&self, connection: usize) -> bool {
        self.is_queued[connection]
    }

    /// A reply on `connection` is overdue `at` this time.
    pub(super) fn expect(&mut self, connection: usize, at: Instant) {
        if !std::mem::replace(&mut self.is_queued[connection], true) {
            self.queue.push(Reverse((at, connection)));
        }
    }

    /// The next time at which a reply may be overdue.
    pub(super) fn next(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, _))| *at)
    }

    /// Removes a connection whose time has come.
    pub(super) fn take(&mut self, now: Instant) -> Option<usize> {
        self.next().filter(|at| *at <= now)?;
        let Reverse((_, connection)) = self.queue.pop()?;
        self.is_queued[connection] = false;
        Some(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_waits_once_and_the_earliest_comes_first() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut expiry = Expiry::new(2);
        expiry.expect(0, now + 2 * second);
        expiry.expect(1, now + second);
        expiry.expect(0, now + 3 * second);
        assert_eq!(expiry.next(), Some(now + second));
        assert_eq!(expiry.take(now), None);
        let late = now + 5 * second;
        let taken: Vec<_> = std::iter::from_fn(|| expiry.take(late)).collect();
        assert_eq!((taken, expiry.has(0), expiry.next()), (vec![1, 0], false, None));
    }
}
