//! Which connections have something to do. Many connections are driven by one task, and each has a
//! waker of its own.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

use futures::task::AtomicWaker;

/// The connections that were woken, and the task that drives them.
#[derive(Debug, Default)]
pub(super) struct Ready {
    queue: Mutex<Vec<usize>>,
    driver: AtomicWaker,
    is_stopped: AtomicBool,
}

impl Ready {
    /// Wakes the driver's task when a connection is woken. Called each time that the task is
    /// polled, before [`take`](Ready::take).
    pub(super) fn register(&self, driver: &Waker) {
        self.driver.register(driver);
    }

    /// Moves the connections that were woken since to the end of `woken`.
    pub(super) fn take(&self, woken: &mut VecDeque<usize>) {
        woken.extend(self.lock().drain(..));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Tells the driver to stop. It may be called in any thread.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Release);
        self.driver.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<usize>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one connection.
#[derive(Debug)]
pub(super) struct Slot {
    index: usize,
    is_queued: AtomicBool,
    ready: Arc<Ready>,
}

impl Slot {
    pub(super) fn new(index: usize, ready: &Arc<Ready>) -> Arc<Slot> {
        Arc::new(Slot { index, is_queued: AtomicBool::new(false), ready: Arc::clone(ready) })
    }

    /// The connection gets its turn now: from here on it can be woken again.
    pub(super) fn begin(&self) {
        self.is_queued.store(false, Ordering::Release);
    }

    /// Puts the connection in the queue, unless it is there.
    pub(super) fn enqueue(&self) {
        if self.is_queued.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut queue = self.ready.lock();
        queue.push(self.index);
        // The first one wakes the driver, which then takes all.
        if queue.len() == 1 {
            drop(queue);
            self.ready.driver.wake();
        }
    }
}

impl Wake for Slot {
    fn wake(self: Arc<Self>) {
        self.enqueue();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.enqueue();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_connection_is_queued_once_and_the_driver_woken_once_a_batch() {
        let ready = Arc::new(Ready::default());
        let slots: Vec<_> = (0..3).map(|index| Slot::new(index, &ready)).collect();
        let count = Arc::new(Count::default());
        ready.register(&Waker::from(Arc::clone(&count)));
        for index in [2, 0, 2] {
            Waker::from(Arc::clone(&slots[index])).wake_by_ref();
        }
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        let mut batch = VecDeque::new();
        ready.take(&mut batch);
        assert_eq!((batch, ready.is_empty()), (VecDeque::from([2, 0]), true));
        slots[2].enqueue();
        assert!(ready.is_empty(), "it has not had its turn");
        slots[2].begin();
        slots[2].enqueue();
        assert!(!ready.is_empty());
    }
}
