//! A hash that is the same on every host, and after every restart.

use std::hash::Hasher;

/// The hash of `parts`, one after the other. FNV-1a, whose last step is mixed: it changes the upper bits
/// too little, and those decide an order.
pub(super) fn stable(parts: &[&[u8]]) -> u64 {
    let mut state = Fnv(0xcbf2_9ce4_8422_2325);
    for part in parts {
        state.write(part);
        // "ab", "c" is not "a", "bc".
        state.write(&[0xff]);
    }
    let mut mixed = state.finish();
    for _ in 0..2 {
        mixed ^= mixed >> 32;
        mixed = mixed.wrapping_mul(0xd6e8_feb8_6659_fd93);
    }
    mixed ^ mixed >> 32
}

struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_do_not_change_and_parts_do_not_run_into_each_other() {
        // A version that computes another value would choose other peers than those beside it.
        assert_eq!(stable(&[b"10.0.0.1"]), 0x57c9_b465_1746_2a72);
        assert_ne!(stable(&[b"ab", b"c"]), stable(&[b"a", b"bc"]));
    }

    #[test]
    fn neighbouring_addresses_are_spread_evenly() {
        let mut tenths = [0; 10];
        for last in 0..10_000_u32 {
            let hash = stable(&[format!("10.0.{}.{}", last >> 8, last & 255).as_bytes()]);
            tenths[((hash as u128 * 10) >> 64) as usize] += 1;
        }
        // 1000 each, and a standard deviation of 30.
        assert!(tenths.iter().all(|count| (850..1150).contains(count)), "{tenths:?}");
    }
}
