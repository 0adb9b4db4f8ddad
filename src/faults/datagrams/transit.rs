//! Replies on their way, in the order of the times at which they leave.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::echo::Reply;
use crate::pace::later;

/// What may be on its way from one socket. What a datagram costs besides its bytes is bounded by their
/// number.
pub(super) const MOST_BYTES: usize = 4 * 1024 * 1024;
pub(super) const MOST_REPLIES: usize = 16_384;

/// When a reply leaves. The number tells those of the same time apart.
pub(super) type Key = (Instant, u64);

/// Replies on their way.
#[derive(Debug, Default)]
pub(super) struct Transit {
    replies: BTreeMap<Key, Waiting>,
    bytes: usize,
    numbers: u64,
}

#[derive(Debug)]
struct Waiting {
    reply: Reply,
    /// How much later than it is held it leaves.
    late: Duration,
}

impl Transit {
    /// Takes a reply that leaves at `due`, or, if it is held until then, `late` after that. `None`: so
    /// much is on its way that there is no room for it. What leaves `now` needs none.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        due: Instant,
        late: Duration,
        reply: Reply,
    ) -> Option<Key> {
        let bytes = self.bytes + reply.bytes.len();
        if (bytes > MOST_BYTES || self.replies.len() >= MOST_REPLIES) && due > now {
            return None;
        }
        Some(self.insert(due, Waiting { reply, late }))
    }

    /// Has a reply that is held leave right behind another, unless it is not held any more.
    pub(super) fn put_behind(&mut self, other: Key, held: Key) {
        if let Some(waiting) = self.remove(held) {
            self.insert(other.0, Waiting { late: Duration::ZERO, ..waiting });
        }
    }

    pub(super) fn has(&self, key: Key) -> bool {
        self.replies.contains_key(&key)
    }

    /// When the next one leaves, or is not held any more.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.replies.keys().next().map(|(due, _)| *due)
    }

    /// Whether the next one was held until now and is late, and has taken its place among the others.
    pub(super) fn is_moved_on(&mut self) -> bool {
        match self.replies.first_key_value() {
            Some((key, Waiting { late, .. })) if !late.is_zero() => {
                let (key, due) = (*key, later(key.0, *late));
                if let Some(waiting) = self.remove(key) {
                    self.insert(due, Waiting { late: Duration::ZERO, ..waiting });
                }
                true
            }
            _ => false,
        }
    }

    pub(super) fn next(&self) -> Option<&Reply> {
        self.replies.values().next().map(|waiting| &waiting.reply)
    }

    /// Removes the next one.
    pub(super) fn pop(&mut self) {
        if let Some((_, waiting)) = self.replies.pop_first() {
            self.bytes -= waiting.reply.bytes.len();
        }
    }

    fn insert(&mut self, due: Instant, waiting: Waiting) -> Key {
        self.numbers += 1;
        let key = (due, self.numbers);
        self.bytes += waiting.reply.bytes.len();
        self.replies.insert(key, waiting);
        key
    }

    fn remove(&mut self, key: Key) -> Option<Waiting> {
        let waiting = self.replies.remove(&key)?;
        self.bytes -= waiting.reply.bytes.len();
        Some(waiting)
    }
}
