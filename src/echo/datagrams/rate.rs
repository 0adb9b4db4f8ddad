//! Token buckets, one for each source network, in bounded memory.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Shards, each with a lock of its own.
const SHARDS: usize = 64;
/// Sets in a shard, as in a set-associative cache. A network's bucket is always in the same set.
const SETS: usize = 128;
/// Buckets in a set.
const WAYS: usize = 8;

/// One bucket of the generic cell rate algorithm (ITU-T I.371), which stores an instant instead of
/// a level. Each datagram moves the instant one interval later. It may be ahead of now by at most
/// the burst. Once it is in the past, the bucket is full.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// A hash of the network, with a random key, so that nobody can choose collisions.
    network: u64,
    /// The theoretical arrival time of the next datagram, in nanoseconds.
    due: u64,
}

/// How fast a bucket fills and how much it holds, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rate {
    interval: u64,
    burst: u64,
}

impl Rate {
    /// `per_second` datagrams a second, and bursts of twice as many.
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = u64::from(per_second.max(1));
        // At least a nanosecond: a higher rate than a billion a second limits nothing.
        let interval = (1_000_000_000 / per_second).max(1);
        Rate { interval, burst: 2 * per_second * interval }
    }

    /// Takes up to `datagrams` from a bucket. Returns how many it had.
    fn take(self, due: &mut u64, datagrams: usize, now: u64) -> usize {
        let from = (*due).max(now);
        let room = (now + self.burst).saturating_sub(from) / self.interval;
        let taken = room.min(datagrams as u64);
        *due = from + taken * self.interval;
        taken as usize
    }
}

/// A bucket for each network. A new network takes over the bucket of its set that is nearest to
/// full, since that one limits its own network the least.
#[derive(Debug)]
pub(super) struct Buckets {
    rate: Rate,
    shards: Vec<Mutex<Vec<Bucket>>>,
    hasher: RandomState,
}

impl Buckets {
    pub(super) fn new(rate: Rate) -> Self {
        let shard = || Mutex::new(vec![Bucket::default(); SETS * WAYS]);
        let shards = std::iter::repeat_with(shard).take(SHARDS).collect();
        Buckets { rate, shards, hasher: RandomState::new() }
    }

    /// Takes up to `datagrams` from the bucket of `peer`'s network, an IPv4 address or an IPv6
    /// /64. Returns how many it had.
    pub(super) fn take(&self, peer: IpAddr, datagrams: usize, now: u64) -> usize {
        let network = match peer.to_canonical() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits() >> 64 | 1 << 64,
        };
        let network = self.hasher.hash_one(network);
        let shard = &self.shards[network as usize % SHARDS];
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let set = (network >> 32) as usize % SETS;
        let set = &mut shard[set * WAYS..][..WAYS];
        let place = set.iter().position(|bucket| bucket.network == network).unwrap_or_else(|| {
            let place = (0..WAYS).min_by_key(|place| set[*place].due).unwrap_or_default();
            set[place] = Bucket { network, due: 0 };
            place
        });
        self.rate.take(&mut set[place].due, datagrams, now)
    }
}

/// One bucket for all networks.
#[derive(Debug)]
pub(super) struct Shared {
    rate: Rate,
    due: Mutex<u64>,
}

impl Shared {
    pub(super) fn new(rate: Rate) -> Self {
        Shared { rate, due: Mutex::default() }
    }

    /// Takes up to `datagrams`. Returns how many the bucket had.
    pub(super) fn take(&self, datagrams: usize, now: u64) -> usize {
        self.rate.take(&mut self.due.lock().unwrap_or_else(PoisonError::into_inner), datagrams, now)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn after_a_burst_the_rate_applies() {
        let buckets = Buckets::new(Rate::new(1000));
        let peer = ip("192.0.2.1");
        assert_eq!(buckets.take(peer, 1500, 0), 1500);
        assert_eq!(buckets.take(peer, 1500, 0), 500);
        assert_eq!(buckets.take(peer, 1, 0), 0);
        assert_eq!(buckets.take(peer, 100, SECOND / 100), 10);
        assert_eq!(buckets.take(peer, 5000, 100 * SECOND), 2000);
        assert_eq!(buckets.take(ip("192.0.2.2"), 5000, 100 * SECOND), 2000, "has its own");
    }

    #[test]
    fn no_rate_is_too_high() {
        let buckets = Buckets::new(Rate::new(u32::MAX));
        assert_eq!(buckets.take(ip("192.0.2.1"), 64, 0), 64);
    }

    #[test]
    fn a_network_is_an_ipv4_address_or_an_ipv6_64() {
        let buckets = Buckets::new(Rate::new(10));
        let same = [("192.0.2.1", "::ffff:192.0.2.1"), ("2001:db8::1", "2001:db8::ffff:1")];
        for (one, other) in same {
            assert_eq!(buckets.take(ip(one), 20, 0), 20);
            assert_eq!(buckets.take(ip(other), 20, 0), 0);
        }
        assert_eq!(buckets.take(ip("2001:db8:0:1::1"), 20, 0), 20);
    }

    #[test]
    fn an_ipv4_address_and_the_ipv6_64_of_the_same_number_have_separate_buckets() {
        let buckets = Buckets::new(Rate::new(10));
        assert_eq!(buckets.take(ip("192.0.2.1"), 20, 0), 20);
        assert_eq!(buckets.take(ip("0:0:c000:201::1"), 20, 0), 20);
    }

    #[test]
    fn three_thousand_networks_each_have_a_bucket() {
        let buckets = Buckets::new(Rate::new(1000));
        let peers = || (0..3000_u32).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + i)));
        for left in [2000, 0] {
            // There are twenty times as many places, so that each finds one of its own.
            assert!(peers().all(|peer| buckets.take(peer, 2000, 0) == left), "{left}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it takes a million datagrams")]
    fn a_flood_of_addresses_takes_no_memory_and_lifts_no_limit() {
        let buckets = Buckets::new(Rate::new(1000));
        let loud = ip("192.0.2.1");
        let mut answered = 0;
        for i in 0..1_000_000_u32 {
            // A million addresses in a second, and one that sends ten times its rate.
            let now = u64::from(i) * 1000;
            let spoofed = IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0000 + i));
            assert_eq!(buckets.take(spoofed, 1, now), 1);
            if i % 100 == 0 {
                answered += buckets.take(loud, 1, now);
            }
        }
        assert!((2990..=3010).contains(&answered), "{answered}");
        let places: usize = buckets.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(places * size_of::<Bucket>(), 1 << 20);
    }
}
