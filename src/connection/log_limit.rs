//! A limit on the lines that clients can make us log. A burst is logged in full. A flood is counted
//! instead, and its count is one line.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{Level, warn};

/// Lines in a burst.
const BURST: f64 = 1000.0;

/// Lines a second after a burst: at some 200 bytes a line, 350 MB a day.
const PER_SECOND: f64 = 20.0;

/// How often a flood is reported while it lasts.
const SUMMARY: Duration = Duration::from_secs(10);

/// Whether the calling module may log a line about a single connection now. Where the line would
/// not be logged anyway, as with `--quiet`, this takes no lock and counts nothing as hidden.
///
/// It is a macro because log filters go by module, and the line is the calling module's.
macro_rules! shows {
    ($limit:expr) => {
        tracing::enabled!(tracing::Level::INFO) && $limit.has_room()
    };
}

pub(crate) use shows;

/// A token bucket for lines about single connections.
#[derive(Debug)]
pub(crate) struct LogLimit {
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    lines: f64,
    filled: Instant,
    /// Lines not shown since the last summary. While there are any, the next summary is scheduled.
    hidden: u64,
}

impl LogLimit {
    pub(crate) fn new() -> Self {
        LogLimit { bucket: Mutex::new(Bucket { lines: BURST, filled: Instant::now(), hidden: 0 }) }
    }

    /// Whether there is room for a line now; [`shows`] asks first whether it would be logged. With
    /// debug logging on, there is always room: whoever turned it on wants to see more.
    pub(crate) fn has_room(self: &Arc<Self>) -> bool {
        if tracing::enabled!(Level::DEBUG) {
            return true;
        }
        let (shows, is_first_hidden) = self.lock().take(Instant::now());
        if is_first_hidden {
            let limit = Arc::clone(self);
            tokio::spawn(async move {
                tokio::time::sleep(SUMMARY).await;
                limit.summarize();
            });
        }
        shows
    }

    /// Logs how many lines were not shown, if any.
    pub(crate) fn summarize(&self) {
        let hidden = std::mem::take(&mut self.lock().hidden);
        if hidden > 0 {
            warn!(lines = hidden, "Lines about single connections were not shown");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Takes a token for a line. Returns whether there was one, and whether this is the first line
    /// since the last summary without one.
    fn take(&mut self, now: Instant) -> (bool, bool) {
        let gained = now.saturating_duration_since(self.filled).as_secs_f64() * PER_SECOND;
        self.lines = (self.lines + gained).min(BURST);
        self.filled = now;
        if self.lines >= 1.0 {
            self.lines -= 1.0;
            return (true, false);
        }
        self.hidden += 1;
        (false, self.hidden == 1)
    }
}

/// A repeated log line, shown at most once per [`SUMMARY`] with the number of its occurrences.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    state: Mutex<(Option<Instant>, u64)>,
}

impl Throttle {
    /// Counts an occurrence. Returns the count since the last line if it is time for a line.
    pub(crate) fn count(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (shown, since) = &mut *state;
        *since += 1;
        if shown.is_some_and(|shown| now < shown + SUMMARY) {
            return None;
        }
        *shown = Some(now);
        Some(std::mem::take(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_shown_and_a_flood_is_counted() {
        let start = Instant::now();
        let mut bucket = Bucket { lines: BURST, filled: start, hidden: 0 };
        let shown = (0..5000).filter(|_| bucket.take(start).0).count();
        assert_eq!((shown, bucket.hidden), (1000, 4000));
        let later = start + Duration::from_secs(1);
        let shown = (0..5000).filter(|_| bucket.take(later).0).count();
        assert_eq!(shown, 20);
    }

    #[test]
    fn only_the_first_hidden_line_asks_for_a_summary() {
        let start = Instant::now();
        let mut bucket = Bucket { lines: 1.0, filled: start, hidden: 0 };
        let taken: Vec<_> = (0..4).map(|_| bucket.take(start)).collect();
        assert_eq!(taken, [(true, false), (false, true), (false, false), (false, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttled_line_has_the_number_of_its_occurrences() {
        let throttle = Throttle::default();
        assert_eq!(throttle.count(), Some(1));
        assert_eq!((0..5).filter_map(|_| throttle.count()).next(), None);
        tokio::time::advance(SUMMARY).await;
        assert_eq!(throttle.count(), Some(6));
    }
}
