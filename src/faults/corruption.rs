//! Flipped bits in what is sent.

use super::Chance;
use crate::config::Probability;

/// Flips one bit in a share of the bytes of a stream. Which ones depends on their place in the
/// stream, and not on how it is cut into writes.
#[derive(Debug)]
pub(super) struct Corruption {
    chance: Chance,
    bit: Chance,
    share: Probability,
    /// The logarithm of the probability that a byte stays as it is.
    log: f64,
    /// How many bytes come before the next one that is corrupted.
    before: u64,
    /// How many were corrupted.
    flipped: u64,
}

impl Corruption {
    pub(super) fn new(chance: Chance, share: Probability) -> Self {
        let chance = chance.about("corrupt");
        let (bit, log) = (chance.about("bit"), (-share.get()).ln_1p());
        let mut corruption = Corruption { chance, bit, share, log, before: 0, flipped: 0 };
        corruption.before = corruption.gap();
        corruption
    }

    /// How many bytes stay as they are before the next one that is corrupted: the inverse of the
    /// geometric distribution.
    fn gap(&self) -> u64 {
        if self.share.get() <= 0.0 {
            return u64::MAX;
        }
        // The conversion saturates. ln_1p is exact for a small probability.
        ((-self.chance.unit(self.flipped)).ln_1p() / self.log) as u64
    }

    /// Corrupts the next bytes of the stream.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut bytes = bytes;
        while let Some(at) = usize::try_from(self.before).ok().filter(|at| *at < bytes.len()) {
            self.flipped += 1;
            bytes[at] ^= 1 << (self.bit.word(self.flipped) % 8);
            bytes = &mut bytes[at + 1..];
            self.before = self.gap();
        }
        self.before -= bytes.len() as u64;
    }

    /// How many bytes were corrupted so far.
    pub(super) fn flipped(&self) -> u64 {
        self.flipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_bytes_are_corrupted_however_the_stream_is_cut() {
        let corruption = || Corruption::new(Chance::of(1, 0, 1), Probability::new(0.01));
        let mut whole = vec![0; 100_000];
        let mut one = corruption();
        one.pass(&mut whole);
        assert!((800..1200).contains(&one.flipped()), "{}", one.flipped());
        for size in [1, 7, 4096] {
            let mut cut = vec![0; whole.len()];
            let mut other = corruption();
            cut.chunks_mut(size).for_each(|chunk| other.pass(chunk));
            assert_eq!((&cut, other.flipped()), (&whole, one.flipped()), "{size}");
        }
        assert!(whole.iter().all(|byte| byte.count_ones() <= 1), "one bit of a byte");
    }

    #[test]
    fn none_or_all_bytes_can_be_corrupted() {
        for (share, expected) in [(0.0, 0), (1.0, 1000)] {
            let mut bytes = [0; 1000];
            Corruption::new(Chance::of(1, 0, 1), Probability::new(share)).pass(&mut bytes);
            assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), expected);
        }
    }
}
