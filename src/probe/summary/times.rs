//! The distribution of many times.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::histogram::{self, Bucket};

/// Up to so many times are kept one by one, so that percentiles are exact.
const MAX_EXACT: usize = 10_000;

/// Many times, such as the round trips of a probe.
///
/// Their number, minimum, maximum, mean and standard deviation are always exact. Percentiles are exact
/// for up to 10,000 times ([`is_exact`](Times::is_exact)); of more they are rounded up to three digits.
/// Everything is `None` if there are no times.
#[derive(Debug, Clone, Default)]
pub struct Times {
    count: u64,
    min: u64,
    max: u64,
    total: u128,
    /// The sum of the squares, in square nanoseconds. A time that does not fit into 64 bits lasts for
    /// centuries.
    squares: u128,
    /// All of them, in the order in which they came, until there are too many.
    exact: Vec<u64>,
    /// All of them, from then on.
    rounded: Option<Box<Histogram<u64>>>,
}

impl Times {
    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether [`percentile`](Times::percentile) is exact.
    pub fn is_exact(&self) -> bool {
        self.rounded.is_none()
    }

    /// The shortest.
    pub fn min(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.min))
    }

    /// The longest.
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.max))
    }

    /// The arithmetic mean, in whole nanoseconds.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.total.checked_div(u128::from(self.count))?;
        // It lies between two numbers of 64 bits.
        Some(Duration::from_nanos(mean as u64))
    }

    /// The standard deviation of all of them, which `ping` calls mdev.
    pub fn stddev(&self) -> Option<Duration> {
        let count = u128::from(self.count);
        let mean = self.total.checked_div(count)?;
        // Exact integers: with floating-point numbers, little would be left of the difference of two
        // large sums.
        let variance = match (count.checked_mul(self.squares), self.total.checked_mul(self.total)) {
            (Some(of_squares), Some(square)) => {
                of_squares.saturating_sub(square) as f64 / (count as f64).powi(2)
            }
            _ => (self.squares as f64 / count as f64 - (mean as f64).powi(2)).max(0.0),
        };
        Some(Duration::from_nanos(variance.sqrt().round() as u64))
    }

    /// The shortest time that `percent` per cent of all do not exceed, from 0 to 100 (nearest rank).
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let nanoseconds = match &self.rounded {
            Some(rounded) => rounded.value_at_percentile(percent).clamp(self.min, self.max),
            None => {
                // Of 1000 times, the 99.9th percentile is the 999th, whatever the multiplication rounds to.
                let rank = (percent * self.count as f64 / 100.0 - 1e-6).ceil() as usize;
                let mut sorted = self.exact.clone();
                let at = rank.clamp(1, sorted.len().max(1)) - 1;
                if at >= sorted.len() {
                    return None;
                }
                *sorted.select_nth_unstable(at).1
            }
        };
        Some(Duration::from_nanos(nanoseconds))
    }

    /// The histogram, in consecutive buckets from the shortest time to the longest, `most` buckets at
    /// most, or one for each power of ten. Their bounds are round numbers of the series E24, E12 or E6
    /// (IEC 60063), so that histograms can be compared and added up.
    pub fn histogram(&self, most: usize) -> Vec<Bucket> {
        let Some(mut buckets) = self.min().zip(self.max()).map(|(min, max)| {
            histogram::buckets(min.as_nanos() as u64, max.as_nanos() as u64, most)
        }) else {
            return Vec::new();
        };
        match &self.rounded {
            None => self.exact.iter().for_each(|time| histogram::add(&mut buckets, *time, 1)),
            Some(rounded) => rounded.iter_recorded().for_each(|value| {
                // The middle of what the value stands for.
                let at = rounded.median_equivalent(value.value_iterated_to());
                let at = at.clamp(self.min, self.max);
                histogram::add(&mut buckets, at, value.count_at_value());
            }),
        }
        buckets
    }

    pub(in crate::probe) fn record(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.min = if self.count == 0 { nanoseconds } else { self.min.min(nanoseconds) };
        self.max = self.max.max(nanoseconds);
        self.count += 1;
        let wide = u128::from(nanoseconds);
        self.total += wide;
        self.squares = self.squares.saturating_add(wide * wide);
        match &mut self.rounded {
            Some(rounded) => record(rounded, nanoseconds),
            None if self.exact.len() < MAX_EXACT => self.exact.push(nanoseconds),
            None => record(self.round(), nanoseconds),
        }
    }

    /// Adds the times of `other`.
    pub(in crate::probe) fn add(&mut self, other: Times) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.total += other.total;
        self.squares = self.squares.saturating_add(other.squares);
        if self.is_exact() && other.is_exact() && self.exact.len() + other.exact.len() <= MAX_EXACT
        {
            self.exact.extend(other.exact);
            return;
        }
        let rounded = match &mut self.rounded {
            Some(rounded) => rounded,
            None => self.round(),
        };
        other.exact.iter().for_each(|time| record(rounded, *time));
        if let Some(others) = other.rounded {
            rounded.add(*others).expect("a histogram that resizes itself takes every value");
        }
    }

    /// From here on the times are rounded.
    fn round(&mut self) -> &mut Histogram<u64> {
        let new = Histogram::new(3).expect("a histogram has up to five digits");
        let rounded = self.rounded.insert(Box::new(new));
        std::mem::take(&mut self.exact).iter().for_each(|time| record(rounded, *time));
        rounded
    }
}

fn record(histogram: &mut Histogram<u64>, nanoseconds: u64) {
    // The histogram begins at 1.
    let recorded = histogram.record(nanoseconds.max(1));
    recorded.expect("a histogram that resizes itself takes every value");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ns(nanoseconds: u64) -> Duration {
        Duration::from_nanos(nanoseconds)
    }

    fn of(times: impl IntoIterator<Item = u64>) -> Times {
        let mut all = Times::default();
        times.into_iter().for_each(|time| all.record(ns(time)));
        all
    }

    #[test]
    fn known_values_have_known_statistics() {
        let times = of([2, 4, 4, 4, 5, 5, 7, 9]);
        assert_eq!((times.count(), times.min(), times.max()), (8, Some(ns(2)), Some(ns(9))));
        assert_eq!((times.mean(), times.stddev()), (Some(ns(5)), Some(ns(2))));
        for (percent, expected) in
            [(0.0, 2), (12.5, 2), (12.6, 4), (50.0, 4), (62.5, 5), (75.0, 5), (87.6, 9), (100.0, 9)]
        {
            assert_eq!(times.percentile(percent), Some(ns(expected)), "{percent}");
        }
    }

    #[test]
    fn no_times_have_no_statistics() {
        let none = of([]);
        assert_eq!((none.min(), none.max(), none.mean(), none.stddev()), (None, None, None, None));
        assert_eq!((none.percentile(50.0), none.histogram(10)), (None, vec![]));
    }

    #[test]
    fn the_deviation_of_nearly_equal_long_times_is_exact() {
        let hour = 3_600_000_000_000;
        assert_eq!(of([hour, hour + 2]).stddev(), Some(ns(1)));
    }

    #[test]
    fn percentiles_are_exact_while_there_are_few() {
        let few = of(1_000_001..=1_010_000);
        assert!(few.is_exact());
        assert_eq!(few.percentile(50.0), Some(ns(1_005_000)));
        let many = of(1_000_001..=1_010_001);
        assert!(!many.is_exact());
        let median = many.percentile(50.0).unwrap().as_nanos();
        assert!((1_005_001..1_006_002).contains(&median), "{median}");
        assert_eq!((many.min(), many.max()), (Some(ns(1_000_001)), Some(ns(1_010_001))));
        assert_eq!(many.mean(), Some(ns(1_005_001)));
    }

    proptest! {
        #[test]
        fn parts_add_up_to_the_whole(
            first in proptest::collection::vec(0..10_000_000_000_u64, 0..300),
            second in proptest::collection::vec(0..10_000_000_000_u64, 0..300),
            repeated in prop_oneof![Just(1_usize), Just(40)],
        ) {
            let first = first.repeat(repeated);
            let mut sum = of(first.iter().copied());
            sum.add(of(second.iter().copied()));
            let whole = of(first.into_iter().chain(second));
            prop_assert_eq!(sum.count(), whole.count());
            prop_assert_eq!((sum.min(), sum.max()), (whole.min(), whole.max()));
            prop_assert_eq!((sum.mean(), sum.stddev()), (whole.mean(), whole.stddev()));
            prop_assert_eq!(sum.percentile(90.0), whole.percentile(90.0));
            prop_assert_eq!(sum.histogram(12), whole.histogram(12));
        }

        #[test]
        fn a_histogram_has_every_time_once(
            times in proptest::collection::vec(0..100_000_000_000_u64, 1..300),
            repeated in prop_oneof![Just(1_usize), Just(100)],
            most in 1..30_usize,
        ) {
            let times = of(times.repeat(repeated));
            let buckets = times.histogram(most);
            prop_assert_eq!(buckets.iter().map(|bucket| bucket.count).sum::<u64>(), times.count());
            prop_assert!(buckets.windows(2).all(|pair| pair[0].to == pair[1].from));
            let (first, last) = (&buckets[0], &buckets[buckets.len() - 1]);
            prop_assert!(first.from <= times.min().unwrap() && times.min().unwrap() < first.to);
            prop_assert!(last.from <= times.max().unwrap() && times.max().unwrap() < last.to);
            prop_assert!(buckets.len() <= most.max(12), "{} of {}", buckets.len(), most);
        }
    }
}
