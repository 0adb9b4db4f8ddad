//! Timers for what has to happen at its time and not a millisecond later. The alarms of a worker
//! share one timer of the system, which a task of that worker watches.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::pace::Pace;

/// The alarms of one worker.
#[derive(Debug, Default)]
pub(crate) struct Alarms(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Whom to wake, by time; the number tells those of the same time apart.
    waiting: BTreeMap<(Instant, u64), Waker>,
    numbers: u64,
    /// The task that watches the timer.
    watcher: Option<Waker>,
}

impl Alarms {
    /// Alarms, and the future that rings them, which has to be driven by the current runtime.
    ///
    /// # Errors
    /// The system has no timer left.
    pub(crate) fn new() -> io::Result<(Arc<Self>, impl Future<Output = ()> + Send + 'static)> {
        let mut pace = Pace::new()?;
        let alarms = Arc::new(Alarms::default());
        let watched = Arc::clone(&alarms);
        let watch = poll_fn(move |cx| {
            loop {
                let Some(next) = watched.ring(cx) else { return Poll::Pending };
                std::task::ready!(pace.poll_until(cx, next));
            }
        });
        Ok((alarms, watch))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whose time has come, and returns the next time.
    fn ring(&self, cx: &mut Context<'_>) -> Option<Instant> {
        let now = Instant::now();
        let mut state = self.state();
        if !state.watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker())) {
            state.watcher = Some(cx.waker().clone());
        }
        let later = state.waiting.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut state.waiting, later);
        let next = state.waiting.keys().next().map(|(at, _)| *at);
        drop(state);
        due.into_values().for_each(Waker::wake);
        next
    }
}

/// One alarm, which is set for at most one time.
#[derive(Debug)]
pub(crate) struct Alarm {
    alarms: Arc<Alarms>,
    set: Option<(Instant, u64)>,
}

impl Alarm {
    pub(crate) fn of(alarms: &Arc<Alarms>) -> Self {
        Alarm { alarms: Arc::clone(alarms), set: None }
    }

    /// Ready from `at` on. The task is woken then.
    pub(crate) fn poll_until(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if Instant::now() >= at {
            self.clear();
            return Poll::Ready(());
        }
        let mut state = self.alarms.state();
        if let Some(key) = self.set
            && key.0 == at
            && let Some(waker) = state.waiting.get_mut(&key)
        {
            waker.clone_from(cx.waker());
            return Poll::Pending;
        }
        if let Some(key) = self.set.take() {
            state.waiting.remove(&key);
        }
        state.numbers += 1;
        let key = (at, state.numbers);
        state.waiting.insert(key, cx.waker().clone());
        self.set = Some(key);
        let is_first = state.waiting.keys().next() == Some(&key);
        let watcher = state.watcher.as_ref().filter(|_| is_first).cloned();
        drop(state);
        if let Some(watcher) = watcher {
            watcher.wake();
        }
        Poll::Pending
    }

    pub(crate) fn clear(&mut self) {
        if let Some(key) = self.set.take() {
            self.alarms.state().waiting.remove(&key);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn alarms_ring_in_the_order_of_their_times() {
        let (alarms, watch) = Alarms::new().unwrap();
        tokio::spawn(watch);
        let start = Instant::now();
        let rung = Arc::new(Mutex::new(Vec::new()));
        let tasks = [3, 1, 2].map(|place| {
            let (mut alarm, rung) = (Alarm::of(&alarms), Arc::clone(&rung));
            let at = start + Duration::from_millis(place * 10);
            tokio::spawn(async move {
                poll_fn(|cx| alarm.poll_until(cx, at)).await;
                assert!(Instant::now() >= at);
                rung.lock().unwrap().push(place);
            })
        });
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*rung.lock().unwrap(), [1, 2, 3]);
        assert!(alarms.state().waiting.is_empty());
    }

    #[tokio::test]
    async fn an_alarm_that_is_dropped_or_set_anew_leaves_nothing() {
        let (alarms, _watch) = Alarms::new().unwrap();
        let mut alarm = Alarm::of(&alarms);
        let far = Instant::now() + Duration::from_secs(1000);
        for seconds in [0, 1, 1] {
            let polled =
                poll_fn(|cx| Poll::Ready(alarm.poll_until(cx, far + Duration::from_secs(seconds))));
            assert!(polled.await.is_pending());
            assert_eq!(alarms.state().waiting.len(), 1);
        }
        drop(alarm);
        assert!(alarms.state().waiting.is_empty());
    }
}
