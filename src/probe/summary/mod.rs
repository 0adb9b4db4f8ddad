//! The result of a probe: counts and times.

//!
//! | file | what it holds |
//! | --- | --- |
//! | `times` | many times: their minimum, mean, percentiles, maximum, deviation |
//! | `histogram` | the bounds of a histogram's buckets |
//! | `text` | the summary as text |

mod histogram;
mod text;
mod times;

use std::collections::BTreeMap;
use std::time::Duration;

use super::tracker::{Reply, Verdict};
use super::{Connected, Ending};

pub use histogram::Bucket;
pub use times::Times;

/// The counts and times of a probe.
///
/// Each message that was sent is received, lost or unanswered, or its reply is corrupted. The text
/// of a summary (`{}`) has a few lines: what there was none of, it does not mention. The alternate text
/// (`{:#}`) has a table and the histogram of the round trips.
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
    errors: BTreeMap<String, Failures>,
    pub(super) elapsed: Duration,
    /// The size of each message.
    pub(super) message_size: usize,
    /// How many connections were established.
    connections: u64,
    /// How long the phases of establishing them took.
    phases: [Times; Phase::ALL.len()],
    reconnects: u64,
    disconnected: Duration,
    rtt: Times,
    jitter: Jitter,
    lateness: Lateness,
}

/// How often something failed for a reason, and the connections that ended for it.
#[derive(Debug, Clone, Default)]
struct Failures {
    count: u64,
    ending: Option<Ending>,
}

/// A phase of establishing a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Phase {
    /// Resolving the name.
    Resolve,
    /// Connecting the TCP or Unix socket.
    Connect,
    /// The TLS handshake.
    Tls,
    /// The WebSocket opening handshake.
    Upgrade,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Phase; 4] = [Phase::Resolve, Phase::Connect, Phase::Tls, Phase::Upgrade];

    /// How long it took on `connected`.
    pub(in crate::probe) fn of(self, connected: &Connected) -> Option<Duration> {
        match self {
            Phase::Resolve => connected.resolve,
            Phase::Connect => connected.connect,
            Phase::Tls => connected.tls,
            Phase::Upgrade => connected.upgrade,
        }
    }
}

/// The differences between one round trip and the next.
#[derive(Debug, Clone, Copy, Default)]
struct Jitter {
    last: Option<Duration>,
    total: Duration,
    count: u32,
}

/// By how much the probe itself was late in sending.
#[derive(Debug, Clone, Default)]
struct Lateness {
    times: Times,
    /// How many messages were late by more than [`SUBSTANTIAL`].
    substantial: u64,
}

/// A message that leaves later than this after it was due counts as sent late.
const SUBSTANTIAL: Duration = Duration::from_millis(1);

impl Summary {
    pub(super) fn new(message_size: usize) -> Self {
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
            message_size,
            connections: 0,
            phases: Default::default(),
            reconnects: 0,
            disconnected: Duration::ZERO,
            rtt: Times::default(),
            jitter: Jitter::default(),
            lateness: Lateness::default(),
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

    /// The messages that did not come back, in per cent of those that were sent and not
    /// [unanswered](Summary::unanswered).
    pub fn lost_percent(&self) -> f64 {
        let sent = self.sent.saturating_sub(self.unanswered);
        if sent > 0 { self.lost as f64 * 100.0 / sent as f64 } else { 0.0 }
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
        self.late_by().max()
    }

    /// By how much the probe itself was late in sending: what `percent` per cent of the messages did
    /// not exceed, from 0 to 100. Messages that the connection did not take in time are not among them.
    /// `None` if it was not a load on a schedule.
    pub fn late_by_percentile(&self, percent: f64) -> Option<Duration> {
        self.late_by().percentile(percent)
    }

    /// By how much the probe itself was late in sending. Empty if it was not a load on a schedule.
    pub fn late_by(&self) -> &Times {
        &self.lateness.times
    }

    /// Why connections failed or ended early, and how many did so for each reason.
    pub fn errors(&self) -> impl Iterator<Item = (&str, u64)> {
        self.errors.iter().map(|(reason, failures)| (reason.as_str(), failures.count))
    }

    /// Those of the [errors](Summary::errors) that ended a connection, with how much of the echo it
    /// had brought.
    pub fn endings(&self) -> impl Iterator<Item = &Ending> {
        self.errors.values().filter_map(|failures| failures.ending.as_ref())
    }

    /// From the first message to the end. That of a load does not include the time that it waited
    /// in vain for last replies.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The size of each message, in bytes.
    pub fn message_size(&self) -> usize {
        self.message_size
    }

    /// The bytes of the messages that came back as they were sent.
    pub fn bytes_received(&self) -> u64 {
        self.received.saturating_mul(self.message_size as u64)
    }

    /// Connections that were established; over UDP, flows.
    pub fn connections(&self) -> u64 {
        self.connections
    }

    /// How long a phase of establishing the connections took. Empty if the target does not have it.
    pub fn phase(&self, phase: Phase) -> &Times {
        &self.phases[phase as usize]
    }

    /// How often the connection was established again after it had failed.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// How long there was no connection, from each failure until the next connection.
    pub fn disconnected(&self) -> Duration {
        self.disconnected
    }

    /// The round trips.
    pub fn rtt(&self) -> &Times {
        &self.rtt
    }

    /// The shortest round trip, exactly. `None` if there was none, here and below.
    pub fn rtt_min(&self) -> Option<Duration> {
        self.rtt.min()
    }

    /// The mean round trip, exactly.
    pub fn rtt_mean(&self) -> Option<Duration> {
        self.rtt.mean()
    }

    /// The longest round trip, exactly.
    pub fn rtt_max(&self) -> Option<Duration> {
        self.rtt.max()
    }

    /// The round trip that `percent` per cent of all do not exceed, from 0 to 100:
    /// [`Times::percentile`].
    pub fn rtt_percentile(&self, percent: f64) -> Option<Duration> {
        self.rtt.percentile(percent)
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
        self.rtt.record(rtt);
    }

    /// A message was sent this late.
    pub(super) fn record_lateness(&mut self, late_by: Duration) {
        self.lateness.times.record(late_by);
        self.lateness.substantial += u64::from(late_by > SUBSTANTIAL);
    }

    /// A connection was established.
    pub(super) fn connected(&mut self, connected: &Connected) {
        self.connections += 1;
        for phase in Phase::ALL {
            if let Some(time) = phase.of(connected) {
                self.phases[phase as usize].record(time);
            }
        }
    }

    /// The connection was established again, this long after the last one had failed.
    pub(super) fn reconnected(&mut self, after: Duration) {
        self.reconnects += 1;
        self.disconnected += after;
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
        self.add_errors_of(&other);
        self.elapsed = self.elapsed.max(other.elapsed);
        self.connections += other.connections;
        for (own, others) in self.phases.iter_mut().zip(other.phases) {
            own.add(others);
        }
        self.rtt.add(other.rtt);
        self.lateness.times.add(other.lateness.times);
        self.lateness.substantial += other.lateness.substantial;
    }

    /// Adds only the errors.
    pub(super) fn add_errors_of(&mut self, other: &Summary) {
        for (reason, failures) in &other.errors {
            self.errors.entry(reason.clone()).or_default().add(failures.clone());
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.errors.entry(reason).or_default().count += 1;
    }

    /// A connection has ended before its time.
    pub(super) fn ended(&mut self, ending: Ending) {
        let failures = Failures { count: ending.count, ending: Some(ending.clone()) };
        self.errors.entry(ending.reason().to_owned()).or_default().add(failures);
    }
}

impl Failures {
    fn add(&mut self, other: Failures) {
        self.count += other.count;
        match (&mut self.ending, other.ending) {
            (Some(own), Some(others)) => own.add(others),
            (own, others) => *own = own.take().or(others),
        }
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
        let mut summary = Summary::new(64);
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
    fn the_threads_of_a_load_add_up() {
        let (mut all, mut other) = (Summary::new(64), Summary::new(64));
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
}
