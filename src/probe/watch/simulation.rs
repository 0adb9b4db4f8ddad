//! How soon a mesh sees that a rack is cut off: a simulation with a seed, with the peers that members
//! choose and the places in the interval that their watchers take. docs/mesh.md has its figures.

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

/// How many racks are cut off, one after the other, each once and at a moment of its own.
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
    /// Of a pair of each member of the rack, with one that is not in the rack.
    every_member: Duration,
    /// Of half of all pairs of the rack with others.
    half: Duration,
}

/// The pairs of a mesh whose processes have started at any time.
fn pairs(members: usize, peers: Option<usize>) -> Vec<Pair> {
    let url: Arc<str> = "tcp://echo-mesh:8080".into();
    let address = |n: usize| IpAddr::from([10, 0, (n >> 8) as u8, n as u8]);
    let number = |ip: IpAddr| (0..members).find(|n| address(*n) == ip);
    let member = |n: usize| Member { name: "echo-mesh".to_owned(), address: Some(address(n)) };
    let mut others: BTreeSet<Member> = (0..members).map(member).collect();
    let mut noise = Noise(SEED);
    let mut pairs = Vec::new();
    for source in 0..members {
        let here = member(source);
        others.remove(&here);
        let own = BTreeSet::from_iter(here.address);
        let options = WatchOptions::new(format!("host-{source}")).every(EVERY);
        let start = within_interval(&mut noise);
        for chosen in choose(&others, peers, &own, &options.source) {
            let ip = chosen.address.unwrap();
            let key = (Arc::clone(&url), Some(SocketAddr::new(ip, 8080)));
            let place = after(Duration::ZERO, start + place(&options, &key));
            pairs.push(Pair { source, target: number(ip).unwrap(), place });
        }
        others.insert(here);
    }
    pairs
}

fn within_interval(noise: &mut Noise) -> Duration {
    Duration::from_nanos(noise.below(EVERY.as_nanos() as usize) as u64)
}

/// From `now` to the next time that it is `place` in the interval.
fn after(now: Duration, place: Duration) -> Duration {
    let every = EVERY.as_nanos();
    Duration::from_nanos(((place.as_nanos() + every - now.as_nanos()) % every) as u64)
}

/// Cuts off `rack` at `now` in the interval.
fn cut(pairs: &[Pair], rack: &Range<usize>, now: Duration) -> Seen {
    let mut all = Vec::new();
    let mut member = vec![None::<Duration>; rack.len()];
    for Pair { source, target, place } in pairs {
        if rack.contains(source) == rack.contains(target) {
            continue;
        }
        let seen = after(now, *place);
        all.push(seen);
        if rack.contains(target) {
            let earliest = &mut member[target - rack.start];
            *earliest = Some(earliest.map_or(seen, |earliest| earliest.min(seen)));
        }
    }
    all.sort_unstable();
    Seen {
        first: all[0],
        every_member: member.iter().map(|seen| seen.expect("somebody probes it")).max().unwrap(),
        half: all[all.len().div_ceil(2) - 1],
    }
}

/// The median and the longest of each time in seconds, over many cuts.
fn simulate(members: usize, peers: Option<usize>) -> [[f64; 2]; 3] {
    let pairs = pairs(members, peers);
    let mut noise = Noise(SEED);
    let racks = members / RACK;
    let mut cut = |_| {
        let rack = noise.below(racks) * RACK;
        cut(&pairs, &(rack..rack + RACK), within_interval(&mut noise))
    };
    let seen: Vec<_> = (0..CUTS).map(&mut cut).collect();
    let figures = |time: fn(&Seen) -> Duration| {
        let mut times: Vec<_> = seen.iter().map(|seen| time(seen).as_secs_f64()).collect();
        times.sort_by(f64::total_cmp);
        [times[times.len() / 2], times[times.len() - 1]]
    };
    let figures =
        [figures(|seen| seen.first), figures(|seen| seen.every_member), figures(|seen| seen.half)];
    let peers = peers.map_or("all".to_owned(), |peers| peers.to_string());
    println!("{members} members, {peers} peers: first, every member, half: {figures:.3?} s");
    figures
}

#[test]
fn eight_peers() {
    for n in [200, 1000] {
        for k in [Some(4), Some(8), None] {
            let t = std::time::Instant::now();
            simulate(n, k);
            println!("{:?}", t.elapsed());
        }
    }
}
