//! Round-trip times as Prometheus' classic histograms have them.

use std::time::Duration;

/// The upper bounds of the buckets, in microseconds: from 10 µs to 10 s, three to a decade.
const BOUNDS: [u64; 19] = [
    10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000,
    500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000,
];

/// How many round trips took how long.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundTrips {
    /// The last has no bound.
    counts: [u64; BOUNDS.len() + 1],
    sum: Duration,
}

impl RoundTrips {
    pub(super) fn record(&mut self, time: Duration) {
        let at = BOUNDS.partition_point(|bound| Duration::from_micros(*bound) < time);
        self.counts[at] += 1;
        self.sum += time;
    }

    /// The upper bound of each bucket in seconds, and how many times are in it and in none before; the
    /// last has no bound, which is [`f64::INFINITY`].
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(self.counts)
    }

    /// All times together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_at_a_bound_is_below_it() {
        let mut trips = RoundTrips::default();
        for micros in [1, 10, 11, 10_000_000, 10_000_001] {
            trips.record(Duration::from_micros(micros));
        }
        assert_eq!(trips.counts[..2], [2, 1]);
        assert_eq!(trips.counts[18..], [1, 1]);
        // The encoder would add a bucket to a histogram whose last bound is a number.
        assert_eq!(trips.buckets().last(), Some((f64::INFINITY, 1)));
        assert_eq!(trips.sum, Duration::from_micros(20_000_023));
    }
}
