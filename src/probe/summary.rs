//! The result of a probe: counts and times.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::tracker::{Reply, Verdict};

/// The counts and times of a probe.
///
/// Each message that was sent is received, lost or unanswered, or its reply is corrupted. The text
/// of a summary has several lines.
#[derive(Debug, Clone)]
pub struct Summary {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) lost: u64,
    pub(super) late: u64,
    pub(super) corrupted: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) unanswered: u64,
    pub(super) unsent: u64,
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) elapsed: Duration,
    rtt: RoundTrips,
    jitter: Jitter,
    lateness: Lateness,
}

/// The round trips. The histogram rounds, so what is to be exact is kept beside it.
#[derive(Debug, Clone)]
struct RoundTrips {
    nanoseconds: Histogram<u64>,
    min: Duration,
    max: Duration,
    total: Duration,
}

/// The differences between one round trip and the next.
#[derive(Debug, Clone, Copy, Default)]
struct Jitter {
    last: Option<Duration>,
    total: Duration,
    count: u32,
}

/// By how much the probe itself was late in sending.
#[derive(Debug, Clone)]
struct Lateness {
    nanoseconds: Histogram<u64>,
    max: Duration,
    /// How many messages were late by more than [`SUBSTANTIAL`].
    substantial: u64,
}

/// A message that leaves later than this after it was due counts as sent late.
const SUBSTANTIAL: Duration = Duration::from_millis(1);

impl Summary {
    pub(super) fn new() -> Self {
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
            rtt: RoundTrips {
                nanoseconds: Histogram::new(3).expect("a histogram has up to five digits"),
                min: Duration::MAX,
                max: Duration::ZERO,
                total: Duration::ZERO,
            },
            jitter: Jitter::default(),
            lateness: Lateness {
                nanoseconds: Histogram::new(3).expect("a histogram has up to five digits"),
                max: Duration::ZERO,
                substantial: 0,
            },
        }
    }

    /// Messages that were sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages that came back as they were sent, late ones included.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Messages that did not come back.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Messages that came back after the timeout.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Replies that differ from what was sent.
    pub fn corrupted(&self) -> u64 {
        self.corrupted
    }

    /// Replies to a message that had come back already.
    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    /// Messages that came back after one that was sent later.
    pub fn reordered(&self) -> u64 {
        self.reordered
    }

    /// Messages that were in flight when the probe was stopped.
    pub fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Messages that were due but not sent. Of a load on a schedule: the connection took none, or
    /// had ended, or the probe was too slow. Over UDP: the system refused to send the datagram.
    pub fn unsent(&self) -> u64 {
        self.unsent
    }

    /// Messages of a load on a schedule that the probe itself sent more than a millisecond after
    /// they were due, although the connection would have taken them. Their round trips do not
    /// include that.
    pub fn sent_late(&self) -> u64 {
        self.lateness.substantial
    }

    /// By how much the probe itself was late in sending at most, exactly. `None` if it was not a load
    /// on a schedule.
    pub fn late_by_max(&self) -> Option<Duration> {
        (!self.lateness.nanoseconds.is_empty()).then_some(self.lateness.max)
    }

    /// By how much the probe itself was late in sending: what `percent` per cent of the messages did
    /// not exceed, from 0 to 100, rounded to three digits. Messages that the connection did not take
    /// in time are not among them. `None` if it was not a load on a schedule.
    pub fn late_by_percentile(&self, percent: f64) -> Option<Duration> {
        let value = Duration::from_nanos(self.lateness.nanoseconds.value_at_percentile(percent));
        (!self.lateness.nanoseconds.is_empty()).then(|| value.min(self.lateness.max))
    }

    /// Why connections failed or ended early, and how many did so for each reason.
    pub fn errors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.errors.iter().map(|(reason, count)| (reason.as_str(), *count))
    }

    /// From the first message to the end. That of a load does not include the time that it waited
    /// in vain for last replies.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The shortest round trip, exactly. `None` if there was none, here and below.
    pub fn rtt_min(&self) -> Option<Duration> {
        (!self.rtt.nanoseconds.is_empty()).then_some(self.rtt.min)
    }

    /// The mean round trip, exactly.
    pub fn rtt_mean(&self) -> Option<Duration> {
        let nanoseconds =
            self.rtt.total.as_nanos().checked_div(u128::from(self.rtt.nanoseconds.len()))?;
        // It lies between two durations of 64 bits or less.
        Some(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)))
    }

    /// The longest round trip, exactly.
    pub fn rtt_max(&self) -> Option<Duration> {
        (!self.rtt.nanoseconds.is_empty()).then_some(self.rtt.max)
    }

    /// The round trip that `percent` per cent of all do not exceed, from 0 to 100, rounded to three
    /// digits.
    pub fn rtt_percentile(&self, percent: f64) -> Option<Duration> {
        let value = Duration::from_nanos(self.rtt.nanoseconds.value_at_percentile(percent));
        (!self.rtt.nanoseconds.is_empty()).then(|| value.clamp(self.rtt.min, self.rtt.max))
    }

    /// The mean difference between one round trip and the next. `None` if there were fewer than
    /// two, and after a load: its connections have no common order.
    pub fn jitter(&self) -> Option<Duration> {
        self.jitter.total.checked_div(self.jitter.count)
    }

    /// Messages a second that came back as they were sent.
    pub fn rate(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.received as f64 / seconds } else { 0.0 }
    }

    /// Whether there was a message, each one that was due came back once, unchanged and in time,
    /// and no connection failed. Reordering, and messages in flight when the probe was stopped, are
    /// not held against it.
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

    /// Adds the round trip that follows the last one that was added.
    pub(super) fn record_in_order(&mut self, rtt: Duration) {
        self.record(rtt);
        if let Some(last) = self.jitter.last.replace(rtt) {
            self.jitter.total += rtt.abs_diff(last);
            self.jitter.count += 1;
        }
    }

    /// Adds a round trip that has no order among the others.
    pub(super) fn record(&mut self, rtt: Duration) {
        let nanoseconds = u64::try_from(rtt.as_nanos()).unwrap_or(u64::MAX);
        // The histogram begins at 1.
        let recorded = self.rtt.nanoseconds.record(nanoseconds.max(1));
        recorded.expect("a histogram that resizes itself takes every value");
        self.rtt.min = self.rtt.min.min(rtt);
        self.rtt.max = self.rtt.max.max(rtt);
        self.rtt.total = self.rtt.total.saturating_add(rtt);
    }

    /// A message was sent this late.
    pub(super) fn record_lateness(&mut self, late_by: Duration) {
        let nanoseconds = u64::try_from(late_by.as_nanos()).unwrap_or(u64::MAX);
        let recorded = self.lateness.nanoseconds.record(nanoseconds.max(1));
        recorded.expect("a histogram that resizes itself takes every value");
        self.lateness.max = self.lateness.max.max(late_by);
        self.lateness.substantial += u64::from(late_by > SUBSTANTIAL);
    }

    /// Adds what another thread of the same load has counted.
    pub(super) fn add(&mut self, other: Summary) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.late += other.late;
        self.corrupted += other.corrupted;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        for (reason, count) in other.errors {
            *self.errors.entry(reason).or_insert(0) += count;
        }
        self.elapsed = self.elapsed.max(other.elapsed);
        let histograms = [
            (&mut self.rtt.nanoseconds, other.rtt.nanoseconds),
            (&mut self.lateness.nanoseconds, other.lateness.nanoseconds),
        ];
        for (own, others) in histograms {
            own.add(others).expect("a histogram that resizes itself takes every value");
        }
        self.rtt.min = self.rtt.min.min(other.rtt.min);
        self.rtt.max = self.rtt.max.max(other.rtt.max);
        self.rtt.total = self.rtt.total.saturating_add(other.rtt.total);
        self.lateness.max = self.lateness.max.max(other.lateness.max);
        self.lateness.substantial += other.lateness.substantial;
    }

    pub(super) fn fail(&mut self, reason: String) {
        *self.errors.entry(reason).or_insert(0) += 1;
    }
}

/// Several lines, for people: the counts, the round trips, and what else happened.
impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { sent, received, lost, late, corrupted, duplicated, reordered, .. } = self;
        write!(
            f,
            "{sent} sent, {received} received, {lost} lost, {late} late, {corrupted} corrupted, \
             {duplicated} duplicated, {reordered} reordered in {:.3} s ({:.0} a second)",
            self.elapsed.as_secs_f64(),
            self.rate()
        )?;
        if let (Some(min), Some(mean), Some(max)) =
            (self.rtt_min(), self.rtt_mean(), self.rtt_max())
        {
            write!(f, "\nrtt: min {}, mean {}", Ms(min), Ms(mean))?;
            for percent in [50.0, 90.0, 99.0, 99.9, 99.99] {
                let beyond = *received as f64 * (100.0 - percent) / 100.0;
                // A high percentile means nothing unless there are values beyond it.
                if let Some(rtt) = self.rtt_percentile(percent)
                    && (percent <= 99.0 || beyond >= 1.0)
                {
                    write!(f, ", p{percent} {}", Ms(rtt))?;
                }
            }
            write!(f, ", max {}", Ms(max))?;
            if let Some(jitter) = self.jitter() {
                write!(f, ", jitter {}", Ms(jitter))?;
            }
        }
        if self.unanswered > 0 {
            write!(f, "\n{} still in flight when stopped", self.unanswered)?;
        }
        if self.unsent > 0 {
            write!(f, "\n{} due but not sent", self.unsent)?;
        }
        // If that few messages were late, the schedule was kept as far as anybody can tell.
        if let (Some(p99), Some(max)) = (self.late_by_percentile(99.0), self.late_by_max())
            && p99 > SUBSTANTIAL
        {
            let late = self.lateness.substantial;
            write!(f, "\nthe probe was late by p99 {}, max {}; ", Ms(p99), Ms(max))?;
            write!(f, "{late} left more than {} after they were due", Ms(SUBSTANTIAL))?;
        }
        self.errors().try_for_each(|(reason, count)| write!(f, "\n{count} times: {reason}"))
    }
}

/// A time in milliseconds.
struct Ms(Duration);

impl fmt::Display for Ms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} ms", self.0.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ns(nanoseconds: u64) -> Duration {
        Duration::from_nanos(nanoseconds)
    }

    #[test]
    fn least_mean_and_most_are_exact() {
        let mut summary = Summary::new();
        assert_eq!((summary.rtt_min(), summary.rtt_mean(), summary.rtt_max()), (None, None, None));
        assert_eq!((summary.rtt_percentile(50.0), summary.jitter()), (None, None));
        for rtt in [1_234_567, 1_234_569, 7_654_322] {
            summary.record_in_order(ns(rtt));
        }
        assert_eq!(summary.rtt_min(), Some(ns(1_234_567)));
        assert_eq!(summary.rtt_mean(), Some(ns(3_374_486)));
        assert_eq!(summary.rtt_max(), Some(ns(7_654_322)));
        assert_eq!(summary.rtt_percentile(100.0), Some(ns(7_654_322)));
        assert_eq!(summary.jitter(), Some(ns((2 + 6_419_753) / 2)));
    }

    #[test]
    fn what_the_probe_is_late_by_is_shown_when_it_matters() {
        let mut summary = Summary::new();
        assert_eq!((summary.late_by_max(), summary.late_by_percentile(99.0)), (None, None));
        for _ in 0..99 {
            summary.record_lateness(ns(20_000));
        }
        summary.record_lateness(ns(7_000_001));
        assert_eq!((summary.sent_late(), summary.late_by_max()), (1, Some(ns(7_000_001))));
        // One in a hundred is as much as the 99th percentile passes over.
        assert!(!summary.to_string().contains("late by"), "{summary}");
        summary.record_lateness(ns(7_000_000));
        assert!(
            summary.to_string().ends_with(
                "\nthe probe was late by p99 7.000 ms, max 7.000 ms; 2 left more than 1.000 ms after \
                 they were due"
            ),
            "{summary}"
        );
    }

    #[test]
    fn the_threads_of_a_load_add_up() {
        let (mut all, mut other) = (Summary::new(), Summary::new());
        all.record(ns(10));
        other.record(ns(4));
        other.record_lateness(ns(2_000_000));
        (other.sent, other.received, other.elapsed) = (1, 1, ns(9));
        other.fail("it broke".to_owned());
        all.fail("it broke".to_owned());
        all.add(other);
        assert_eq!(
            (all.rtt_min(), all.rtt_max(), all.rtt_mean()),
            (Some(ns(4)), Some(ns(10)), Some(ns(7)))
        );
        assert_eq!((all.sent(), all.received(), all.sent_late()), (1, 1, 1));
        assert_eq!((all.elapsed(), all.errors().next()), (ns(9), Some(("it broke", 2))));
    }

    #[test]
    fn people_read_what_there_is() {
        let mut summary = Summary::new();
        assert_eq!(summary.to_string().lines().count(), 1);
        summary.sent = 3;
        summary.received = 1;
        summary.unanswered = 1;
        summary.unsent = 4;
        summary.record(ns(1_500_000));
        summary.fail("closed by the other side".to_owned());
        assert_eq!(
            summary.to_string(),
            "3 sent, 1 received, 0 lost, 0 late, 0 corrupted, 0 duplicated, 0 reordered in 0.000 s \
             (0 a second)\n\
             rtt: min 1.500 ms, mean 1.500 ms, p50 1.500 ms, p90 1.500 ms, p99 1.500 ms, \
             max 1.500 ms\n\
             1 still in flight when stopped\n\
             4 due but not sent\n\
             1 times: closed by the other side"
        );
    }
}
