//! Flipped bits in what is sent.

use super::Chance;
use crate::config::Probability;

/// Flips one bit in a share of the bytes of a stream. Which ones depends on their place in the
/// stream, and not on how it is cut into writes.
#[derive(Debug)]
pub(super) struct Corruption {
    chance: Chance,
    share: Probability,
    /// How many bytes come before the next one that is corrupted.
    before: u64,
    /// How many were corrupted.
    flipped: u64,
}

impl Corruption {
    pub(super) fn new(chance: Chance, share: Probability) -> Self {
        let chance = chance.about("corrupt");
        Corruption { chance, share, before: chance.gap(0, share) - 1, flipped: 0 }
    }

    /// Corrupts the next bytes of the stream.
    pub(super) fn pass(&mut self, bytes: &mut [u8]) {
        let mut bytes = bytes;
        while let Some(at) = usize::try_from(self.before).ok().filter(|at| *at < bytes.len()) {
            self.flipped += 1;
            let bit = self.chance.about("bit").word(self.flipped) % 8;
            bytes[at] ^= 1 << bit;
            bytes = &mut bytes[at + 1..];
            self.before = self.chance.gap(self.flipped, self.share) - 1;
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
