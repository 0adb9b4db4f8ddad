//! How a server tells its connections to end, and learns that they have.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::task::Context;

use futures::Future;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

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
    changed: Arc<Notify>,
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

pin_project_lite::pin_project! {
    /// A task's view of the stage, cheap enough to read at each wake: the contended lock of the
    /// shared list of waiters is taken once per stage and not once per poll.
    pub(crate) struct StageWatch {
        #[pin]
        changed: OwnedNotified,
        is_registered: bool,
    }
}

impl StageWatch {
    pub(crate) fn new(drain: &Drain) -> Self {
        let changed = Arc::clone(&drain.changed).notified_owned();
        StageWatch { changed, is_registered: false }
    }

    /// The stage of `drain`, which must be the drain that this watch was made for. The task is
    /// woken when the stage changes, provided that it is always polled with the same waker, as a
    /// spawned task is.
    pub(crate) fn poll_stage(self: Pin<&mut Self>, drain: &Drain, cx: &mut Context<'_>) -> Stage {
        let mut this = self.project();
        if *this.is_registered && drain.stage() == Stage::Serving {
            return Stage::Serving;
        }
        while this.changed.as_mut().poll(cx).is_ready() {
            let next = Arc::clone(&drain.changed).notified_owned();
            this.changed.set(next);
        }
        *this.is_registered = true;
        drain.stage()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn a_watch_wakes_at_each_stage() {
        let drain = Arc::new(Drain::default());
        let watcher = tokio::spawn({
            let mut watch = Box::pin(StageWatch::new(&drain));
            let drain = Arc::clone(&drain);
            async move {
                let mut seen = Vec::new();
                poll_fn(|cx| {
                    let stage = watch.as_mut().poll_stage(&drain, cx);
                    seen.push(stage);
                    if stage == Stage::Aborting { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                seen
            }
        });
        tokio::task::yield_now().await;
        drain.advance(Stage::Draining);
        tokio::task::yield_now().await;
        drain.advance(Stage::Aborting);
        let seen = watcher.await.expect("the watcher ends");
        assert_eq!(seen, [Stage::Serving, Stage::Draining, Stage::Aborting]);
    }

    #[tokio::test]
    async fn a_stage_reached_before_the_first_poll_is_seen() {
        let drain = Arc::new(Drain::default());
        let mut watch = pin!(StageWatch::new(&drain));
        drain.advance(Stage::Draining);
        let stage = poll_fn(|cx| Poll::Ready(watch.as_mut().poll_stage(&drain, cx))).await;
        assert_eq!(stage, Stage::Draining);
    }

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
