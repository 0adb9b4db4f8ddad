//! How a server tells its connections to end, and learns that they have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What a server does with its connections. The stage only ever moves down this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// New connections are accepted.
    Serving = 0,
    /// No new connections are accepted. Each gets what it is owed and a farewell.
    Draining = 1,
    /// The remaining connections are dropped.
    Aborting = 2,
}

/// The server's stage, and the number of members that a drain waits for.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    stage: AtomicU8,
    changed: Notify,
    members: Members,
}

/// Written whenever a connection comes or goes, and therefore kept off the cache line of the stage,
/// which every wake of a session reads. Aligned to 128 bytes because processors prefetch cache
/// lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Members {
    count: AtomicUsize,
    emptied: Notify,
}

impl Drain {
    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Serving,
            1 => Stage::Draining,
            _ => Stage::Aborting,
        }
    }

    /// Moves to `stage`, unless a later one has been reached.
    pub(crate) fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    /// Counts the caller in until the guard is dropped.
    pub(crate) fn join(self: &Arc<Self>) -> Member {
        self.enter();
        Member(Arc::clone(self))
    }

    /// Counts the caller in until it leaves.
    pub(super) fn enter(&self) {
        self.members.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts out a caller that has entered.
    pub(super) fn leave(&self) {
        if self.members.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.members.emptied.notify_waiters();
        }
    }

    /// The number of members.
    pub(crate) fn members(&self) -> usize {
        self.members.count.load(Ordering::Acquire)
    }

    /// Waits until there are no members.
    pub(crate) async fn emptied(&self) {
        loop {
            let emptied = self.members.emptied.notified();
            if self.members() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Waits until `stage` has been reached.
    pub(crate) async fn reached(&self, stage: Stage) {
        loop {
            let changed = self.changed.notified();
            if self.stage() >= stage {
                return;
            }
            changed.await;
        }
    }
}

/// Counts as a member until it is dropped.
#[derive(Debug)]
pub(crate) struct Member(Arc<Drain>);

impl Drop for Member {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[test]
    fn a_stage_never_goes_back() {
        let drain = Drain::default();
        drain.advance(Stage::Aborting);
        drain.advance(Stage::Draining);
        assert_eq!(drain.stage(), Stage::Aborting);
    }

    #[tokio::test]
    async fn emptied_waits_for_the_last_member() {
        let drain = Arc::new(Drain::default());
        let (first, second) = (drain.join(), drain.join());
        let mut emptied = pin!(drain.emptied());
        assert!(futures::poll!(emptied.as_mut()).is_pending());
        drop(first);
        assert!(futures::poll!(emptied.as_mut()).is_pending());
        drop(second);
        emptied.await;
    }
}
