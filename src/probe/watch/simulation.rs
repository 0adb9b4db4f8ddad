//! How soon a mesh sees that a rack is cut off: a simulation with a seed, with the peers that members
//! choose and the places in the interval that their watchers take. docs/mesh.md has its figures:
//!
//! `cargo test --lib watch::simulation -- --include-ignored --nocapture --test-threads 1`

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::WatchOptions;
use super::members::{Member, choose};
use super::watcher::place;
use crate::noise::Noise;

const SEED: u64 = 22;

/// How many members a rack has. Their addresses follow each other.
const RACK: usize = 20;

/// How many times a rack is cut off, each time any rack and at any moment.
const CUTS: usize = 200;

const EVERY: Duration = Duration::from_secs(10);

/// That one member probes another.
struct Pair {
    source: usize,
    target: usize,
    /// When its rounds begin, within the interval.
    place: Duration,
}

/// From the cut to the beginning of the first round that fails.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Of any pair.
    first: Duration,
    /// Of one pair, at least, of each member of the rack with a source outside of it.
    every_member: Duration,
    /// Of half of all pairs between the rack and the others.
    half: Duration,
}

/// In intervals, the median and the longest over many cuts.
#[derive(Debug, Clone, Copy)]
struct Figures {
    first: [f64; 2],
    every_member: [f64; 2],
    half: [f64; 2],
}

/// The pairs of a mesh whose processes have each started at any time.
fn pairs(members: usize, peers: Option<usize>) -> Vec<Pair> {
    let url: Arc<str> = "tcp://echo-mesh:8080".into();
    let mut others: BTreeSet<Member> = (0..members).map(member).collect();
    let mut noise = Noise(SEED);
    let mut pairs = Vec::new();
    for source in 0..members {
        let here = member(source);
        others.remove(&here);
        let own = BTreeSet::from([address(&here)]);
        let options = WatchOptions::new(format!("host-{source}")).every(EVERY);
        let start = within_interval(&mut noise);
        for chosen in choose(&others, peers, &own, &options.source) {
            let ip = address(&chosen);
            let key = (Arc::clone(&url), Some(SocketAddr::new(ip, 8080)));
            let place = after(Duration::ZERO, start + place(&options, &key));
            pairs.push(Pair { source, target: number(ip), place });
        }
        others.insert(here);
    }
    pairs
}

fn member(number: usize) -> Member {
    Member::Address(IpAddr::from([10, 0, (number >> 8) as u8, number as u8]))
}

fn address(member: &Member) -> IpAddr {
    match member {
        Member::Address(address) => *address,
        Member::Name(name) => unreachable!("{name}"),
    }
}

/// The number of the member that has this address.
fn number(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(v4) => v4.to_bits() as usize & 0xffff,
        IpAddr::V6(_) => unreachable!("members have IPv4 addresses"),
    }
}

fn within_interval(noise: &mut Noise) -> Duration {
    Duration::from_nanos(noise.next() % EVERY.as_nanos() as u64)
}

/// From `now` to the next time that it is `place` in the interval.
fn after(now: Duration, place: Duration) -> Duration {
    let every = EVERY.as_nanos();
    Duration::from_nanos(((place.as_nanos() + every - now.as_nanos()) % every) as u64)
}

/// Cuts all links between `rack` and the others, at `now` in the interval.
fn cut(pairs: &[Pair], rack: &Range<usize>, now: Duration) -> Seen {
    let mut all = Vec::new();
    let mut members = vec![Duration::MAX; RACK];
    for Pair { source, target, place } in pairs {
        if rack.contains(source) == rack.contains(target) {
            continue;
        }
        let seen = after(now, *place);
        all.push(seen);
        if rack.contains(target) {
            let member = &mut members[target - rack.start];
            *member = seen.min(*member);
        }
    }
    all.sort_unstable();
    Seen {
        first: all[0],
        every_member: members.into_iter().max().unwrap(),
        half: all[all.len().div_ceil(2) - 1],
    }
}

fn simulate(members: usize, peers: Option<usize>) -> Figures {
    let pairs = pairs(members, peers);
    let mut noise = Noise(SEED);
    let mut seen = Vec::new();
    for _ in 0..CUTS {
        let start = noise.below(members / RACK) * RACK;
        seen.push(cut(&pairs, &(start..start + RACK), within_interval(&mut noise)));
    }
    let of = |time: fn(&Seen) -> Duration| {
        let mut times: Vec<_> = seen.iter().map(time).collect();
        times.sort_unstable();
        [CUTS / 2, CUTS - 1].map(|n| times[n].div_duration_f64(EVERY))
    };
    Figures {
        first: of(|seen| seen.first),
        every_member: of(|seen| seen.every_member),
        half: of(|seen| seen.half),
    }
}

#[test]
fn a_rack_that_is_cut_off_is_seen_within_an_interval() {
    for members in [200, 1000] {
        let Figures { first, every_member, half } = simulate(members, Some(8));
        // Of some 300 pairs, one is always about to begin.
        assert!(first[0] < 0.01 && first[1] < 0.05, "{members}: {first:?}");
        // Each member has some eight sources outside of the rack.
        assert!(every_member[0] < 0.5 && every_member[1] < 0.8, "{members}: {every_member:?}");
        assert!((0.4..0.6).contains(&half[0]) && half[1] < 0.65, "{members}: {half:?}");
    }
}

#[test]
#[ignore = "prints the figures of docs/mesh.md, in half a minute"]
fn how_soon_a_rack_is_seen() {
    println!("| hosts | peers | first pair | every host of the rack | half of all pairs |");
    for members in [200, 1000] {
        for peers in [Some(4), Some(8), None] {
            let Figures { first, every_member, half } = simulate(members, peers);
            let peers = peers.map_or("all".to_owned(), |peers| peers.to_string());
            let cell = |[median, longest]: [f64; 2]| format!("{median:.4} ({longest:.4})");
            let cells = [first, every_member, half].map(cell).join(" | ");
            println!("| {members} | {peers} | {cells} |");
        }
    }
}
