//! The flows of a socket.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use super::fate::Fates;
use super::transit::{Key, Transit};
use super::{BACKLOG, HOLD};
use crate::echo::Reply;
use crate::faults::{Chance, Plan};
use crate::pace::later;

/// The most flows that a socket knows. Sources are easily forged, so there is no end of them.
const MOST: usize = 4096;

/// The flows that a socket knows. Those that were not heard of for the longest time are forgotten
/// first, and are others when they come back.
#[derive(Debug, Default)]
pub(super) struct Flows {
    by_peer: HashMap<Peer, (u64, Flow)>,
    /// Their peers, by when they were last used.
    by_use: BTreeMap<u64, Peer>,
    uses: u64,
}

/// Address, port and, under IPv6, scope. The flow label of IPv6 is no part of it: a sender may change
/// it at any time (RFC 6437 section 3).
type Peer = (IpAddr, u16, u32);

fn peer_of(address: SocketAddr) -> Peer {
    let scope = match address {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(address) => address.scope_id(),
    };
    (address.ip(), address.port(), scope)
}

impl Flows {
    /// The flow of a peer, which may have to be made.
    pub(super) fn of(&mut self, address: SocketAddr, new: impl FnOnce() -> Flow) -> &mut Flow {
        let peer = peer_of(address);
        self.uses += 1;
        if !self.by_peer.contains_key(&peer)
            && self.by_peer.len() >= MOST
            && let Some((_, oldest)) = self.by_use.pop_first()
        {
            self.by_peer.remove(&oldest);
        }
        let (used, flow) = self.by_peer.entry(peer).or_insert_with(|| (0, new()));
        self.by_use.remove(used);
        *used = self.uses;
        self.by_use.insert(*used, peer);
        flow
    }
}

/// What is known of one flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) fates: Fates,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    /// Bytes of payload a second.
    rate: Option<u64>,
    /// When the rate lets the next datagram leave.
    free: Option<Instant>,
    /// The replies that wait for one that overtakes them. The first ones may have left without.
    held: VecDeque<Key>,
}

impl Flow {
    pub(super) fn new(plan: &Plan, chance: Chance) -> Self {
        Flow {
            fates: Fates::new(plan, chance),
            delay: plan.delay().unwrap_or_default(),
            jitter: plan.jitter().unwrap_or_default(),
            rate: plan.rate().map(u64::from),
            free: None,
            held: VecDeque::new(),
        }
    }

    /// Puts a reply on its way when the rate lets it: it leaves `late` after that, and if another has
    /// to overtake it, it is held before. `None`: too much is on its way.
    pub(super) fn enter(
        &mut self,
        transit: &mut Transit,
        now: Instant,
        late: Duration,
        is_overtaken: bool,
        reply: Reply,
    ) -> Option<Key> {
        let turn = self.free.map_or(now, |free| free.max(now));
        if turn - now > BACKLOG {
            return None;
        }
        let length = reply.bytes.len();
        let key = if is_overtaken {
            transit.enter(now, later(turn, HOLD), late, reply)?
        } else {
            transit.enter(now, later(turn, late), Duration::ZERO, reply)?
        };
        if let Some(rate) = self.rate {
            self.free = Some(turn + Duration::from_secs_f64(length as f64 / rate as f64));
        }
        if is_overtaken {
            // If none is ever overtaken, those that have left must not add up.
            while self.held.front().is_some_and(|first| !transit.has(*first)) {
                self.held.pop_front();
            }
            self.held.push_back(key);
        }
        Some(key)
    }

    /// Has what is held leave right behind a reply. What is held waits for the one that comes next, so
    /// that the last one is the first.
    pub(super) fn overtake(&mut self, transit: &mut Transit, reply: Key) {
        while let Some(held) = self.held.pop_back() {
            transit.put_behind(reply, held);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A flow that can be told from others by its delay.
    fn flow(number: u64) -> Flow {
        let mut flow = Flow::new(&Plan::default(), Chance::of(0, 0, 0));
        flow.delay = Duration::from_secs(number);
        flow
    }

    fn address(number: usize) -> SocketAddr {
        SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 5000))
    }

    #[test]
    fn the_flow_that_was_used_the_longest_ago_is_forgotten() {
        let mut flows = Flows::default();
        for number in 0..MOST {
            flows.of(address(number), || flow(number as u64));
        }
        // The first one is used again, so that the second one is the oldest.
        flows.of(address(0), || unreachable!("it is known"));
        flows.of(address(MOST), || flow(0));
        assert_eq!((flows.by_peer.len(), flows.by_use.len()), (MOST, MOST));
        for known in [0, 2, MOST - 1, MOST] {
            flows.of(address(known), || unreachable!("{known} is known"));
        }
        let forgotten = flows.of(address(1), || flow(77));
        assert_eq!(forgotten.delay.as_secs(), 77);
        assert_eq!((flows.by_peer.len(), flows.by_use.len()), (MOST, MOST));
    }

    #[test]
    fn a_flow_is_an_address_and_a_port() {
        let mut flows = Flows::default();
        let mut made = 0;
        let v6 = |flow_label, scope| {
            std::net::SocketAddrV6::new([0xfe80, 0, 0, 0, 0, 0, 0, 1].into(), 1, flow_label, scope)
        };
        for (address, number) in [
            (address(1), 1),
            (SocketAddr::from(([10, 0, 0, 1], 5001)), 2),
            (address(2), 3),
            (v6(0, 1).into(), 4),
            (v6(7, 1).into(), 4),
            (v6(0, 2).into(), 5),
            (address(1), 5),
        ] {
            flows.of(address, || {
                made += 1;
                flow(made)
            });
            assert_eq!(made, number, "{address}");
        }
    }

    #[test]
    fn what_was_held_and_has_left_does_not_add_up() {
        let mut flow = flow(0);
        let mut transit = Transit::default();
        let now = Instant::now();
        for _ in 0..100 {
            let reply = Reply::to(address(1), vec![0]);
            assert!(flow.enter(&mut transit, now, Duration::ZERO, true, reply).is_some());
            assert_eq!(flow.held.len(), 1);
            transit.pop();
        }
    }
}
