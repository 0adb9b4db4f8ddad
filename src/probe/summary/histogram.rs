//! The bounds of a histogram's buckets: round numbers that grow geometrically, because latencies span
//! several powers of ten.

use std::time::Duration;

/// How many times lie between two bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Bucket {
    /// The shortest time that is in it.
    pub from: Duration,
    /// The shortest time that is longer than those in it.
    pub to: Duration,
    /// How many times are in it.
    pub count: u64,
}

/// Bounds within a power of ten, from the finest series to the coarsest: E24, E12 and E6 of IEC 60063,
/// and what is left below.
const SERIES: [&[u64]; 5] = [
    &[
        10, 11, 12, 13, 15, 16, 18, 20, 22, 24, 27, 30, 33, 36, 39, 43, 47, 51, 56, 62, 68, 75, 82,
        91,
    ],
    &[10, 12, 15, 18, 22, 27, 33, 39, 47, 56, 68, 82],
    &[10, 15, 22, 33, 47, 68],
    &[10, 20, 50],
    &[10],
];

/// The first bound behind 0: shorter times are in one bucket.
const LEAST: u64 = 10;

/// Empty buckets from `min` to `max`, in nanoseconds: those of the finest series that has no more than
/// `most` of them, or of the coarsest.
pub(super) fn buckets(min: u64, max: u64, most: usize) -> Vec<Bucket> {
    let all = SERIES.iter().map(|series| cover(series, min, max));
    let mut coarsest = Vec::new();
    for buckets in all {
        coarsest = buckets;
        if coarsest.len() <= most {
            break;
        }
    }
    coarsest
}

/// Counts `count` times of `nanoseconds`, which the buckets cover.
pub(super) fn add(buckets: &mut [Bucket], nanoseconds: u64, count: u64) {
    let time = Duration::from_nanos(nanoseconds);
    let at = buckets.partition_point(|bucket| bucket.to <= time);
    if let Some(bucket) = buckets.get_mut(at) {
        bucket.count += count;
    }
}

fn cover(series: &[u64], min: u64, max: u64) -> Vec<Bucket> {
    let mut buckets = Vec::new();
    let (mut from, mut power) = (0, LEAST / 10);
    'bounds: while power < u64::MAX / 1000 {
        for step in series {
            let to = power * step;
            if to > min {
                let bound = Duration::from_nanos;
                buckets.push(Bucket { from: bound(from), to: bound(to), count: 0 });
            }
            if to > max {
                break 'bounds;
            }
            from = to;
        }
        power *= 10;
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(min: u64, max: u64, most: usize) -> Vec<u128> {
        let buckets = buckets(min, max, most);
        let last = buckets.last().map(|bucket| bucket.to.as_nanos());
        buckets.iter().map(|bucket| bucket.from.as_nanos()).chain(last).collect()
    }

    #[test]
    fn bounds_are_round_and_as_fine_as_there_is_room() {
        assert_eq!(bounds(210, 400, 10), [200, 220, 240, 270, 300, 330, 360, 390, 430]);
        assert_eq!(bounds(210, 400, 7), [180, 220, 270, 330, 390, 470]);
        assert_eq!(bounds(210, 400, 4), [150, 220, 330, 470]);
        assert_eq!(bounds(210, 400, 1), [200, 500]);
        assert_eq!(bounds(210, 600, 1), [100, 1000]);
        assert_eq!(bounds(0, 9, 5), [0, 10]);
        assert_eq!(bounds(10, 10, 5), [10, 11]);
    }

    #[test]
    fn a_time_at_a_bound_is_above_it() {
        let mut buckets = buckets(10, 25, 5);
        for time in [10, 14, 15, 21, 22, 25] {
            add(&mut buckets, time, 1);
        }
        let counts: Vec<_> =
            buckets.iter().map(|bucket| (bucket.from.as_nanos(), bucket.count)).collect();
        assert_eq!(counts, [(10, 1), (12, 1), (15, 1), (18, 1), (22, 2)]);
    }
}
