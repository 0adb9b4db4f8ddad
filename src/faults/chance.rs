//! Everything that is left to chance: a function of seed, protocol, connection and place, so that
//! it can be had again.

use crate::config::Probability;

/// A source of numbers that look random. Each is found by its place, so that it does not matter
/// when and in which order they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chance(u64);

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): each bit of the input changes half of
/// the output's.
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// The odd number next to 2^64 divided by the golden ratio: SplitMix64's step.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Chance {
    /// That of one connection or flow.
    pub(crate) fn of(seed: u64, protocol: u64, number: u64) -> Self {
        Chance(seed).at(protocol).at(number)
    }

    /// That of one kind of decision, which is independent of the others.
    pub(crate) fn about(self, kind: &str) -> Self {
        kind.bytes().fold(self, |chance, byte| chance.at(u64::from(byte)))
    }

    fn at(self, place: u64) -> Self {
        Chance(self.word(place))
    }

    /// The number at a place.
    pub(crate) fn word(self, place: u64) -> u64 {
        mix(self.0.wrapping_add(place.wrapping_add(1).wrapping_mul(STEP)))
    }

    /// The number at a place, from 0 on and less than 1.
    pub(crate) fn unit(self, place: u64) -> f64 {
        // A double has 53 bits of precision.
        (self.word(place) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Whether what has this probability happens at a place.
    pub(crate) fn happens(self, place: u64, probability: Probability) -> bool {
        self.unit(place) < probability.get()
    }

    pub(crate) fn bytes(self, length: usize) -> Vec<u8> {
        (0..length as u64).map(|place| self.word(place) as u8).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_has_the_same_number_on_every_platform() {
        let chance = Chance::of(1, 2, 3).about("drop");
        assert_eq!(chance.word(7), chance.word(7));
        assert_eq!(chance.word(7), WORD);
        for other in [Chance::of(2, 2, 3), Chance::of(1, 3, 3), Chance::of(1, 2, 4)] {
            assert_ne!(other.about("drop").word(7), chance.word(7));
        }
        assert_ne!(Chance::of(1, 2, 3).about("burst").word(7), chance.word(7));
    }

    /// A seed in somebody's bug report has to mean the same in every later version.
    const WORD: u64 = 2159636821259285061;

    #[test]
    fn what_has_a_probability_happens_as_often() {
        const PLACES: u64 = 100_000;
        for share in [0.0, 0.001, 0.1, 0.5, 0.99, 1.0] {
            let (probability, chance) = (Probability::new(share), Chance::of(7, 0, 0));
            let count = (0..PLACES).filter(|place| chance.happens(*place, probability)).count();
            let (mean, variance) = (PLACES as f64 * share, PLACES as f64 * share * (1.0 - share));
            assert!((count as f64 - mean).abs() <= 4.0 * variance.sqrt(), "{share}: {count}");
        }
    }
}
