//! The places for connections. A client that keeps one and asks nothing loses it to whoever comes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// How many connections are served at a time.
const PLACES: usize = 16;

/// A connection keeps its place at least this long without a request. A client sends its first one
/// as soon as it is connected, so that this has to cover only what a busy machine adds.
const GRACE: Duration = Duration::from_millis(25);

/// The places of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Places {
    taken: Mutex<Vec<Taken>>,
    freed: Notify,
}

/// A place that a connection has.
#[derive(Debug)]
struct Taken {
    /// When the connection was accepted, or its last request was answered.
    since: Instant,
    is_answering: bool,
    /// Its connection is told to go. It is also what the connection's own place is known by.
    dismissal: Arc<Notify>,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    dismissal: Arc<Notify>,
}

impl Places {
    /// Takes a place. If there is none, the connection that has waited longest for a request has to
    /// go.
    pub(super) async fn take(self: &Arc<Self>) -> Place {
        loop {
            if let Some(place) = self.try_take() {
                return place;
            }
            self.dismiss();
            tokio::select! {
                () = self.freed.notified() => {}
                () = sleep(GRACE) => {}
            }
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.len() >= PLACES {
            return None;
        }
        let dismissal = Arc::new(Notify::new());
        let since = Instant::now();
        taken.push(Taken { since, is_answering: false, dismissal: Arc::clone(&dismissal) });
        Some(Place { places: Arc::clone(self), dismissal })
    }

    /// Tells the connection to go that has waited longest for a request, if it has waited long
    /// enough.
    fn dismiss(&self) {
        let taken = self.taken();
        let waiting = taken.iter().filter(|place| !place.is_answering);
        if let Some(longest) = waiting.min_by_key(|place| place.since)
            && longest.since.elapsed() >= GRACE
        {
            longest.dismissal.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Vec<Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes whether a request is being answered.
    pub(super) fn set_answering(&self, is_answering: bool) {
        let mut taken = self.places.taken();
        if let Some(place) = taken.iter_mut().find(|place| self.is_in(place)) {
            (place.is_answering, place.since) = (is_answering, Instant::now());
        }
    }

    /// Whether all places are taken.
    pub(super) fn is_one_of_all(&self) -> bool {
        self.places.taken().len() >= PLACES
    }

    /// Waits until the connection has to go.
    pub(super) async fn dismissed(&self) {
        self.dismissal.notified().await;
    }

    fn is_in(&self, taken: &Taken) -> bool {
        Arc::ptr_eq(&taken.dismissal, &self.dismissal)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().retain(|taken| !self.is_in(taken));
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::time::advance;

    use super::*;

    /// Takes all places, a millisecond after each other.
    async fn take_all(places: &Arc<Places>) -> Vec<Place> {
        let mut all = Vec::new();
        for _ in 0..PLACES {
            all.push(places.take().now_or_never().expect("there is room"));
            advance(Duration::from_millis(1)).await;
        }
        all
    }

    fn dismissed(all: &[Place]) -> Vec<usize> {
        let is_dismissed = |at: &usize| all[*at].dismissed().now_or_never().is_some();
        (0..all.len()).filter(is_dismissed).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_longest_for_a_request_has_to_go() {
        let places = Arc::new(Places::default());
        let mut all = take_all(&places).await;
        assert!(all[0].is_one_of_all());
        // The first has just been answered, and the second is being.
        all[0].set_answering(true);
        all[0].set_answering(false);
        all[1].set_answering(true);
        advance(GRACE).await;
        assert!(places.take().now_or_never().is_none());
        assert_eq!(dismissed(&all), [2]);
        all.remove(2);
        assert!(places.take().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_goes_before_the_time_is_up_and_while_answered() {
        let places = Arc::new(Places::default());
        let all = take_all(&places).await;
        let mut taking = Box::pin(places.take());
        assert!(taking.as_mut().now_or_never().is_none());
        assert!(dismissed(&all).is_empty());
        advance(2 * GRACE).await;
        assert!(taking.as_mut().now_or_never().is_none());
        assert_eq!(dismissed(&all), [0]);
        all.iter().for_each(|place| place.set_answering(true));
        advance(2 * GRACE).await;
        assert!(taking.as_mut().now_or_never().is_none());
        assert!(dismissed(&all).is_empty());
        drop(all);
        taking.await;
    }
}
