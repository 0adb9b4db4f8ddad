//! What a probe found, in numbers.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::tracker::{Reply, Verdict};

/// The counts and times of a probe.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Summary {
    /// Messages sent.
    pub sent: u64,
    /// Messages that came back as they were sent, late ones among them.
    pub received: u64,
    /// Messages that did not come back at all.
    pub lost: u64,
    /// Messages that came back after the timeout.
    pub late: u64,
    /// Answers that differed from what was sent.
    pub corrupted: u64,
    /// Answers that had come before.
    pub duplicated: u64,
    /// Answers that came after the answer to a later message.
    pub reordered: u64,
    /// Messages that were in flight when the probe was stopped.
    pub unanswered: u64,
    /// Of a scheduled load: messages that were due and were not sent, because the other side took
    /// none, or the connection had ended.
    pub unsent: u64,
    /// Connections that failed or ended early, by what was said.
    pub errors: BTreeMap<String, u64>,
    /// From the first message to the end.
    pub elapsed: Duration,
    rtt: Histogram<u64>,
    jitter: Jitter,
}

/// The mean difference between one round trip and the next.
#[derive(Debug, Clone, Copy, Default)]
struct Jitter {
    last: Option<Duration>,
    total: Duration,
    count: u32,
}

impl Default for Summary {
    fn default() -> Self {
        Summary {
            sent: 0,
            received: 0,
            lost: 0,
            late: 0,
            corrupted: 0,
            duplicated: 0,
            reordered: 0,
            unanswered: 0,
            unsent: 0,
            errors: BTreeMap::new(),
            elapsed: Duration::ZERO,
            // Nanoseconds, to three digits; it grows as it must.
            rtt: Histogram::new(3).expect("three digits are within what it can"),
            jitter: Jitter::default(),
        }
    }
}

impl Summary {
    /// The shortest round trip.
    pub fn rtt_min(&self) -> Duration {
        Duration::from_nanos(if self.rtt.is_empty() { 0 } else { self.rtt.min() })
    }

    /// The mean round trip.
    pub fn rtt_mean(&self) -> Duration {
        Duration::from_nanos(self.rtt.mean() as u64)
    }

    /// The longest round trip.
    pub fn rtt_max(&self) -> Duration {
        Duration::from_nanos(self.rtt.max())
    }

    /// The round trip that `percent` of all do not exceed, to three digits.
    pub fn rtt_percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.rtt.value_at_percentile(percent).min(self.rtt.max()))
    }

    /// The mean difference between one round trip and the next. A load has none: its replies have
    /// no single order.
    pub fn jitter(&self) -> Option<Duration> {
        self.jitter.total.checked_div(self.jitter.count)
    }

    /// Messages a second that came back as they were sent.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.received as f64 / seconds } else { 0.0 }
    }

    /// Whether each message that was due came back once, unchanged and in time; and there was one.
    pub fn is_clean(&self) -> bool {
        let Summary { lost, late, corrupted, duplicated, unsent, .. } = self;
        lost + late + corrupted + duplicated + unsent == 0
            && self.received > 0
            && self.errors.is_empty()
    }

    pub(super) fn count(&mut self, reply: &Reply) {
        match reply.verdict {
            Verdict::Echoed => self.received += 1,
            Verdict::Late => {
                self.received += 1;
                self.late += 1;
            }
            Verdict::Duplicated => self.duplicated += 1,
            Verdict::Corrupted => self.corrupted += 1,
        }
        self.reordered += u64::from(reply.is_reordered);
    }

    /// Adds the round trip of the next reply.
    pub(super) fn time(&mut self, rtt: Duration) {
        self.record(rtt);
        if let Some(last) = self.jitter.last.replace(rtt) {
            self.jitter.total += rtt.abs_diff(last);
            self.jitter.count += 1;
        }
    }

    /// Adds a round trip that stands in no order to the others.
    pub(super) fn record(&mut self, rtt: Duration) {
        let nanoseconds = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        self.rtt.record(nanoseconds.max(1)).expect("the histogram grows as it must");
    }

    pub(super) fn fail(&mut self, why: String) {
        *self.errors.entry(why).or_insert(0) += 1;
    }
}
