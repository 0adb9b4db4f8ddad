//! What is decided of each datagram of a flow: a function of seed, flow and datagram, and of nothing
//! else.

use super::super::{Chance, Plan};
use crate::config::Probability;

/// How many datagrams a burst loses on average.
const BURST: f64 = 4.0;

/// Decides about the datagrams of one flow, one after the other.
#[derive(Debug)]
pub(super) struct Fates {
    drop: Draw,
    burst: Option<Burst>,
    corrupt: Draw,
    /// Which bit is flipped.
    bit: Chance,
    duplicate: Draw,
    reorder: Draw,
    jitter: Chance,
    /// How many datagrams were decided about.
    datagrams: u64,
}

/// What is decided of one datagram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fate {
    pub(super) lost: Option<Lost>,
    /// The bit that is flipped, modulo their number.
    pub(super) flipped: Option<u64>,
    pub(super) is_doubled: bool,
    pub(super) is_overtaken: bool,
    /// The share of the most jitter.
    pub(super) jitter: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Drop,
    Burst,
}

impl Fates {
    pub(super) fn new(plan: &Plan, chance: Chance) -> Self {
        let draw = |kind, probability| Draw { chance: chance.about(kind), probability };
        Fates {
            drop: draw("drop", plan.drop()),
            burst: plan.burst().map(|share| Burst::new(chance, share)),
            corrupt: draw("corrupt", plan.corrupt()),
            bit: chance.about("bit"),
            duplicate: draw("duplicate", plan.duplicate()),
            reorder: draw("reorder", plan.reorder()),
            jitter: chance.about("jitter"),
            datagrams: 0,
        }
    }

    /// Decides about the next datagram.
    pub(super) fn next(&mut self) -> Fate {
        self.datagrams += 1;
        let number = self.datagrams;
        // The burst goes on, whatever else happens to the datagram.
        let is_in_burst = self.burst.as_mut().is_some_and(|burst| burst.step(number));
        let lost = if self.drop.happens(number) {
            Some(Lost::Drop)
        } else {
            is_in_burst.then_some(Lost::Burst)
        };
        Fate {
            lost,
            flipped: self.corrupt.happens(number).then(|| self.bit.word(number)),
            is_doubled: self.duplicate.happens(number),
            is_overtaken: self.reorder.happens(number),
            jitter: self.jitter.unit(number),
        }
    }
}

/// One kind of decision. It never happens without a probability.
#[derive(Debug)]
struct Draw {
    chance: Chance,
    probability: Option<Probability>,
}

impl Draw {
    fn happens(&self, number: u64) -> bool {
        self.probability.is_some_and(|probability| self.chance.happens(number, probability))
    }
}

/// The model of Gilbert (1960) and Elliott (1963), with a good state that loses nothing and a bad one
/// that loses all.
#[derive(Debug)]
struct Burst {
    chance: Chance,
    /// The share of datagrams that are lost in the long run.
    share: f64,
    /// The probability of a change to the bad state.
    begins: f64,
    /// That of a change to the good state.
    ends: f64,
    is_bad: bool,
}

impl Burst {
    fn new(chance: Chance, share: Probability) -> Self {
        let (chance, share) = (chance.about("burst"), share.get());
        let ends = 1.0 / BURST;
        // The share of the bad state is begins / (begins + ends).
        let begins = ends * share / (1.0 - share);
        // To lose more than four of five, bursts have to be longer.
        let (begins, ends) =
            if begins > 1.0 { (1.0, (1.0 - share) / share) } else { (begins, ends) };
        Burst { chance, share, begins, ends, is_bad: false }
    }

    /// Whether the datagram of this number is lost. The first one finds the model in the long run, so
    /// that short flows lose as much.
    fn step(&mut self, number: u64) -> bool {
        let drawn = self.chance.unit(number);
        self.is_bad = match (number, self.is_bad) {
            (1, _) => drawn < self.share,
            (_, false) => drawn < self.begins,
            (_, true) => drawn >= self.ends,
        };
        self.is_bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::FaultGroup;

    const DATAGRAMS: u64 = 100_000;

    fn fates(seed: u64, flow: u64, faults: &str) -> impl Iterator<Item = Fate> {
        let mut plan = Plan::default();
        if !faults.is_empty() {
            plan.extend(&faults.parse::<FaultGroup>().unwrap().faults);
        }
        let mut fates = Fates::new(&plan, Chance::of(seed, 2, flow));
        std::iter::repeat_with(move || fates.next())
    }

    /// Asserts that `count` is within four standard deviations of its mean.
    #[track_caller]
    fn assert_share(count: usize, of: f64, share: f64, what: &str) {
        let (mean, deviation) = (of * share, (of * share * (1.0 - share)).sqrt());
        assert!((count as f64 - mean).abs() <= 4.0 * deviation, "{what}: {count} of {of}");
    }

    #[test]
    fn each_fault_happens_to_its_share_of_datagrams() {
        let faults = "udp:drop=10%,corrupt=20%,duplicate=30%,reorder=40%";
        for seed in 0..5 {
            let all: Vec<_> = fates(seed, 1, faults).take(DATAGRAMS as usize).collect();
            let share_of = |is: &dyn Fn(&Fate) -> bool| all.iter().filter(|each| is(each)).count();
            for (count, share, what) in [
                (share_of(&|each| each.lost == Some(Lost::Drop)), 0.1, "drop"),
                (share_of(&|each| each.flipped.is_some()), 0.2, "corrupt"),
                (share_of(&|each| each.is_doubled), 0.3, "duplicate"),
                (share_of(&|each| each.is_overtaken), 0.4, "reorder"),
                (share_of(&|each| each.jitter < 0.25), 0.25, "jitter"),
                // They are independent of each other.
                (share_of(&|each| each.is_doubled && each.is_overtaken), 0.12, "two"),
                (share_of(&|each| each.lost.is_some() && each.flipped.is_some()), 0.02, "lost"),
            ] {
                assert_share(count, DATAGRAMS as f64, share, what);
            }
        }
    }

    #[test]
    fn without_faults_nothing_happens() {
        for fate in fates(1, 1, "").take(1000) {
            let Fate { lost, flipped, is_doubled, is_overtaken, .. } = fate;
            assert_eq!((lost, flipped, is_doubled, is_overtaken), (None, None, false, false));
        }
    }

    #[test]
    fn seed_and_flow_decide_and_nothing_else_does() {
        let faults = "udp:drop=50%,burst=50%,corrupt=50%,duplicate=50%,reorder=50%";
        let some = |seed, flow, faults| fates(seed, flow, faults).take(100).collect::<Vec<_>>();
        assert_eq!(some(1, 1, faults), some(1, 1, faults));
        assert_ne!(some(1, 1, faults), some(2, 1, faults));
        assert_ne!(some(1, 1, faults), some(1, 2, faults));
        // What else may happen to a datagram does not change whether it is dropped.
        let dropped = |faults| {
            let all = some(1, 1, faults).into_iter();
            all.map(|each| each.lost == Some(Lost::Drop)).collect::<Vec<_>>()
        };
        assert_eq!(dropped(faults), dropped("udp:drop=50%"));
    }

    #[test]
    fn bursts_lose_their_share_of_datagrams_in_runs_of_four() {
        for (share, length) in [(0.01, 4.0), (0.05, 4.0), (0.5, 4.0), (0.8, 4.0), (0.9, 9.0)] {
            let faults = format!("udp:burst={share}");
            let lost: Vec<_> = fates(7, 1, &faults)
                .take(10 * DATAGRAMS as usize)
                .map(|each| each.lost == Some(Lost::Burst))
                .collect();
            let count = lost.iter().filter(|is_lost| **is_lost).count();
            // Neighbours are alike: the variance of a sum is larger, by (1 + c) / (1 - c), where c is
            // the correlation of two neighbours.
            let ends = 1.0 / length;
            let begins = ends * share / (1.0 - share);
            let correlation = 1.0 - begins - ends;
            let variance = lost.len() as f64 * share * (1.0 - share) * (1.0 + correlation)
                / (1.0 - correlation);
            let mean = lost.len() as f64 * share;
            assert!((count as f64 - mean).abs() <= 4.0 * variance.sqrt(), "{share}: {count}");
            let runs = lost.chunk_by(|one, next| one == next).filter(|run| run[0]).count();
            // The standard deviation of a geometric distribution is less than its mean.
            let (found, error) = (count as f64 / runs as f64, length / (runs as f64).sqrt());
            assert!((found - length).abs() <= 4.0 * error, "{share}: runs of {found}");
        }
    }

    #[test]
    fn bursts_lose_their_share_of_the_first_datagrams_of_flows_too() {
        let first = |flow| fates(7, flow, "udp:burst=30%").next().unwrap();
        let lost = (1..=10_000).filter(|flow| first(*flow).lost.is_some()).count();
        assert_share(lost, 10_000.0, 0.3, "first datagrams");
    }

    #[test]
    fn what_always_or_never_happens_does_so() {
        let all = |faults| fates(3, 1, faults).take(1000);
        assert!(all("udp:drop=100%").all(|each| each.lost == Some(Lost::Drop)));
        assert!(all("udp:drop=0%,burst=0%").all(|each| each.lost.is_none()));
        assert!(all("udp:duplicate=100%").all(|each| each.is_doubled));
        assert!(all("udp:reorder=100%,corrupt=0%").all(|each| each.is_overtaken));
    }
}
