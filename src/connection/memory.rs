//! The limit on the memory that unsent echoes and unfinished input of all connections take
//! together.
//!
//! A session that holds such memory has an [`Account`], from the poll that left it with some to the
//! poll that left it with none. When the accounts come to more than the limit, the session that has
//! been stalled longest is evicted, then the next one, until the others are within the limit. A
//! session that holds nothing touches none of this.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use super::clock::Moment;

/// What all sessions hold, and the most that they may.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    /// `u64::MAX`: no limit, and no accounts.
    limit: u64,
    accounts: Mutex<Accounts>,
}

/// The accounts of the sessions that have not been evicted.
#[derive(Default)]
struct Accounts {
    /// In the order of eviction: by the moment since which a session has been stalled, as far as it
    /// was known when the account was filed. A session that makes progress updates its own account
    /// only. So an account may stand too far ahead in this order, but never too far behind.
    filed: BTreeMap<Key, Filed>,
    /// The sum of their bytes.
    held: u64,
    /// How many have been opened so far.
    opened: u64,
}

type Key = (Moment, u64);

struct Filed {
    bytes: usize,
    shared: Arc<Shared>,
}

/// What a session and its evictor tell each other.
struct Shared {
    /// Since when the session has been stalled. The session writes it without the lock.
    stalled_since: AtomicU64,
    is_evicted: AtomicBool,
    session: Waker,
    /// The moment in the account's key, which changes only while the accounts are locked.
    key: AtomicU64,
    number: u64,
}

impl fmt::Debug for Accounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, held) = (self.filed.len(), self.held);
        f.debug_struct("Accounts").field("open", &open).field("held", &held).finish_non_exhaustive()
    }
}

impl MemoryLimit {
    pub(super) fn new(limit: u64) -> Self {
        MemoryLimit { limit, accounts: Mutex::default() }
    }

    /// Whether there is a limit.
    pub(super) fn is_limited(&self) -> bool {
        self.limit < u64::MAX
    }

    /// Opens an account for a session that holds `bytes` and has been stalled since `since`. If the
    /// session is evicted, `waker` wakes it. Returns how many sessions were evicted for it, too.
    pub(super) fn open(
        self: &Arc<Self>,
        bytes: usize,
        since: Moment,
        waker: &Waker,
    ) -> (Account, u64) {
        let mut accounts = self.lock();
        accounts.opened += 1;
        let shared = Arc::new(Shared {
            stalled_since: AtomicU64::new(since.to_nanos()),
            is_evicted: AtomicBool::new(false),
            session: waker.clone(),
            key: AtomicU64::new(since.to_nanos()),
            number: accounts.opened,
        });
        accounts.filed.insert(shared.key(), Filed { bytes, shared: Arc::clone(&shared) });
        accounts.held += bytes as u64;
        let evicted = self.evict(accounts);
        (Account { bytes, shared, memory: Arc::clone(self) }, evicted)
    }

    /// Evicts sessions until the others are within the limit. Returns how many.
    fn evict(&self, mut accounts: MutexGuard<'_, Accounts>) -> u64 {
        let mut evicted = Vec::new();
        while accounts.held > self.limit {
            let Some(((known, _), filed)) = accounts.filed.pop_first() else { break };
            let since = Moment::from_nanos(filed.shared.stalled_since.load(Ordering::Relaxed));
            if since > known {
                // It has made progress since then, and others may have been stalled for longer.
                filed.shared.key.store(since.to_nanos(), Ordering::Relaxed);
                accounts.filed.insert(filed.shared.key(), filed);
                continue;
            }
            accounts.held -= filed.bytes as u64;
            filed.shared.is_evicted.store(true, Ordering::Relaxed);
            evicted.push(filed.shared);
        }
        drop(accounts);
        for shared in &evicted {
            shared.session.wake_by_ref();
        }
        evicted.len() as u64
    }

    fn lock(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn key(&self) -> Key {
        (Moment::from_nanos(self.key.load(Ordering::Relaxed)), self.number)
    }
}

/// What one session holds. Dropping it takes that out of the sum.
pub(super) struct Account {
    bytes: usize,
    shared: Arc<Shared>,
    memory: Arc<MemoryLimit>,
}

impl Account {
    /// Whether the session has to end.
    pub(super) fn is_evicted(&self) -> bool {
        self.shared.is_evicted.load(Ordering::Relaxed)
    }

    /// The session now holds `bytes` and has been stalled since `since`. Returns how many sessions
    /// were evicted for it.
    pub(super) fn update(&mut self, bytes: usize, since: Moment) -> u64 {
        self.shared.stalled_since.store(since.to_nanos(), Ordering::Relaxed);
        if self.bytes == bytes {
            return 0;
        }
        let mut accounts = self.memory.lock();
        let key = self.shared.key();
        // Not there: the session has been evicted.
        let Some(filed) = accounts.filed.get_mut(&key) else { return 0 };
        filed.bytes = bytes;
        accounts.held = accounts.held - self.bytes as u64 + bytes as u64;
        self.bytes = bytes;
        self.memory.evict(accounts)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut accounts = self.memory.lock();
        if let Some(filed) = accounts.filed.remove(&self.shared.key()) {
            accounts.held -= filed.bytes as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn limit(bytes: u64) -> (Arc<MemoryLimit>, Arc<Wakes>, Waker) {
        let wakes = Arc::new(Wakes::default());
        (Arc::new(MemoryLimit::new(bytes)), Arc::clone(&wakes), wakes.into())
    }

    fn second(second: u64) -> Moment {
        Moment::from_nanos(second * 1_000_000_000)
    }

    fn evicted(accounts: &[Account]) -> Vec<bool> {
        accounts.iter().map(Account::is_evicted).collect()
    }

    fn held(memory: &MemoryLimit) -> u64 {
        memory.lock().held
    }

    #[test]
    fn the_ones_stalled_longest_are_evicted_until_the_others_are_within_the_limit() {
        let (memory, wakes, waker) = limit(100);
        let sessions: Vec<_> =
            [3, 1, 2].map(|at| memory.open(30, second(at), &waker)).into_iter().collect();
        assert!(sessions.iter().all(|(_, evicted)| *evicted == 0));
        let mut accounts: Vec<_> = sessions.into_iter().map(|(account, _)| account).collect();
        let (newest, count) = memory.open(70, second(4), &waker);
        accounts.push(newest);
        assert_eq!((count, wakes.0.load(Ordering::Relaxed)), (2, 2));
        assert_eq!(evicted(&accounts), [false, true, true, false]);
        assert_eq!(held(&memory), 100);
        drop(accounts);
        assert_eq!(held(&memory), 0);
        assert!(memory.lock().filed.is_empty());
    }

    #[test]
    fn who_has_made_progress_is_not_the_one_stalled_longest() {
        let (memory, _, waker) = limit(100);
        let (mut first, _) = memory.open(40, second(1), &waker);
        let (second_one, _) = memory.open(40, second(2), &waker);
        assert_eq!(first.update(40, second(3)), 0);
        let (third, count) = memory.open(40, second(4), &waker);
        assert_eq!(count, 1);
        assert_eq!(evicted(&[first, second_one, third]), [false, true, false]);
    }

    #[test]
    fn an_account_that_grows_evicts_and_one_that_shrinks_makes_room() {
        let (memory, _, waker) = limit(100);
        let (mut first, _) = memory.open(60, second(1), &waker);
        let (mut second_one, _) = memory.open(40, second(2), &waker);
        assert_eq!(first.update(10, second(1)), 0);
        assert_eq!(second_one.update(90, second(2)), 0);
        assert_eq!(first.update(20, second(1)), 1);
        assert!(first.is_evicted() && !second_one.is_evicted());
        // What an evicted session says does not count any more.
        assert_eq!(first.update(1000, second(9)), 0);
        drop(first);
        assert_eq!(held(&memory), 90);
    }

    #[test]
    fn one_session_alone_can_be_over_the_limit() {
        let (memory, wakes, waker) = limit(100);
        let (only, count) = memory.open(101, second(1), &waker);
        assert_eq!((count, wakes.0.load(Ordering::Relaxed)), (1, 1));
        assert!(only.is_evicted());
        drop(only);
        assert_eq!(held(&memory), 0);
    }
}
