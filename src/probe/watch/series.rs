//! What is known of one target at one address: counts from the beginning, and the last rounds.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::round::{Outcome, Tally};
use super::round_trips::RoundTrips;
use crate::probe::{FailureKind, Phase, Target};

/// How many rounds are recent.
const RECENT: usize = 3;

/// How many round-trip times of a recent round are kept. They are its first ones.
const KEPT: usize = 64;

/// One target at one address.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Series {
    /// What is probed.
    pub target: Arc<Target>,
    /// The address of it, where each address of a name is a target of its own, or where the target
    /// names an address.
    pub address: Option<SocketAddr>,
    /// Whether it is probed. An address that its name has no more is not, and is forgotten after three
    /// lookups.
    pub is_probed: bool,
    /// Whether the last round connected, and at least one message came back unchanged, and none
    /// changed. `None` before the end of the first round.
    pub is_up: Option<bool>,
    /// Since when it has been so.
    pub since: SystemTime,
    /// Rounds that have ended, and of the last ones how many have failed in a row.
    pub rounds: u64,
    /// See `rounds`.
    pub failed_rounds: u64,
    /// Rounds that did not begin, because the one before was still going on.
    pub missed: u64,
    /// The messages of all rounds.
    pub messages: Tally,
    /// The round-trip times of all messages that came back unchanged and in time.
    pub round_trips: RoundTrips,
    /// How long each phase of the last connection took.
    pub phases: Vec<(Phase, Duration)>,
    /// How many rounds have failed, by the kind.
    pub failures: BTreeMap<FailureKind, u64>,
    /// Why the last round has failed, if it has.
    pub problem: Option<String>,
    /// When the server's certificate expires, as it was presented last, whether it verified or not.
    pub expires: Option<SystemTime>,
    recent: VecDeque<Recent>,
}

/// A round that ended not long ago.
#[derive(Debug, Clone)]
struct Recent {
    sent: u64,
    received: u64,
    round_trips: Vec<Duration>,
}

/// The last three rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Lately {
    /// How many of the messages did not come back unchanged and in time, from 0 to 1. A round without a
    /// connection sends none, and does not count, unless there is no other.
    pub loss: f64,
    /// The median of the round-trip times. `None` if there are none.
    pub median: Option<Duration>,
    /// The longest.
    pub longest: Option<Duration>,
}

/// That a target is not as it was, or not reached any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    Down,
    /// It is up again, and was not for this long.
    Up(Duration),
}

impl Series {
    pub(super) fn new(target: Arc<Target>, address: Option<SocketAddr>) -> Self {
        Series {
            target,
            address,
            is_probed: true,
            is_up: None,
            since: SystemTime::now(),
            rounds: 0,
            failed_rounds: 0,
            missed: 0,
            messages: Tally::default(),
            round_trips: RoundTrips::default(),
            phases: Vec::new(),
            failures: BTreeMap::new(),
            problem: None,
            expires: None,
            recent: VecDeque::new(),
        }
    }

    /// The last three rounds. `None` before the end of the first.
    pub fn lately(&self) -> Option<Lately> {
        if self.recent.is_empty() {
            return None;
        }
        let sum = |of: fn(&Recent) -> u64| self.recent.iter().map(of).sum::<u64>();
        let (sent, received) = (sum(|round| round.sent), sum(|round| round.received));
        let loss = 1.0 - received as f64 / sent.max(1) as f64;
        let mut times: Vec<_> =
            self.recent.iter().flat_map(|round| round.round_trips.iter().copied()).collect();
        times.sort_unstable();
        Some(Lately {
            loss,
            median: times.get(times.len() / 2).copied(),
            longest: times.last().copied(),
        })
    }

    /// Takes the outcome of a round into account.
    pub(super) fn ended(&mut self, outcome: Outcome) -> Option<Turn> {
        let Outcome { connected, tally, round_trips, rejected, failure } = outcome;
        self.rounds += 1;
        self.messages.add(&tally);
        round_trips.iter().for_each(|time| self.round_trips.record(*time));
        if let Some(connected) = connected {
            self.phases = Phase::ALL
                .iter()
                .filter_map(|phase| Some((*phase, phase.of(&connected)?)))
                .collect();
            self.expires = connected.tls_facts.and_then(|facts| facts.expires);
        }
        self.expires = rejected.or(self.expires);
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        let kept = round_trips.into_iter().take(KEPT).collect();
        let Tally { sent, received, .. } = tally;
        self.recent.push_back(Recent { sent, received, round_trips: kept });
        let is_up = failure.is_none();
        let turn = match (self.is_up, is_up) {
            (Some(true) | None, false) => Some(Turn::Down),
            (Some(false), true) => Some(Turn::Up(self.since.elapsed().unwrap_or_default())),
            _ => None,
        };
        if self.is_up != Some(is_up) {
            self.since = SystemTime::now();
        }
        self.is_up = Some(is_up);
        self.failed_rounds = if is_up { 0 } else { self.failed_rounds + 1 };
        self.problem = failure.map(|(kind, problem)| {
            *self.failures.entry(kind).or_default() += 1;
            problem
        });
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(sent: u64, received: u64, failure: Option<FailureKind>) -> Outcome {
        Outcome {
            connected: None,
            tally: Tally { sent, received, ..Tally::default() },
            rejected: None,
            round_trips: (1..=received).map(Duration::from_millis).collect(),
            failure: failure.map(|kind| (kind, kind.to_string())),
        }
    }

    fn series() -> Series {
        Series::new(Arc::new("tcp://h:1".parse().unwrap()), None)
    }

    #[test]
    fn a_target_turns_when_its_state_changes_and_not_with_each_round() {
        let mut series = series();
        assert_eq!(series.ended(outcome(5, 5, None)), None);
        assert_eq!(series.ended(outcome(0, 0, Some(FailureKind::Refused))), Some(Turn::Down));
        assert_eq!(series.ended(outcome(0, 0, Some(FailureKind::Timeout))), None);
        assert_eq!((series.failed_rounds, series.problem.as_deref()), (2, Some("timeout")));
        assert!(matches!(series.ended(outcome(5, 4, None)), Some(Turn::Up(_))));
        assert_eq!((series.failed_rounds, series.problem.as_deref()), (0, None));
        assert_eq!(series.rounds, 4);
        let kinds: Vec<_> = series.failures.into_iter().collect();
        assert_eq!(kinds, [(FailureKind::Refused, 1), (FailureKind::Timeout, 1)]);
    }

    #[test]
    fn a_target_that_has_never_been_up_is_down_after_its_first_round() {
        assert_eq!(series().ended(outcome(0, 0, Some(FailureKind::Resolve))), Some(Turn::Down));
    }

    #[test]
    fn lately_is_the_last_three_rounds() {
        let mut series = series();
        assert_eq!(series.lately(), None);
        for received in [0, 10, 10, 8] {
            series.ended(outcome(10, received, None));
        }
        let lately = series.lately().unwrap();
        assert!((lately.loss - 2.0 / 30.0).abs() < 1e-9, "{lately:?}");
        assert_eq!(lately.longest, Some(Duration::from_millis(10)));
        assert_eq!(lately.median, Some(Duration::from_millis(5)));
        series.ended(outcome(0, 0, Some(FailureKind::Refused)));
        let loss = series.lately().unwrap().loss;
        assert!((loss - 0.1).abs() < 1e-9, "{loss}");
        for _ in 0..2 {
            series.ended(outcome(0, 0, Some(FailureKind::Refused)));
        }
        assert_eq!(series.lately().unwrap().loss, 1.0);
    }
}
