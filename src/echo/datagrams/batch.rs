//! Datagrams that were received together, with what is needed to answer them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
#[cfg(any(target_os = "linux", test))]
use std::ops::Range;

/// The most messages (datagrams or trains) that one system call receives.
pub(super) const LIMIT: usize = if cfg!(target_os = "linux") { 32 } else { 1 };

/// The largest datagram that UDP's 16-bit length field can announce.
pub(crate) const LARGEST: usize = 65_535;

/// Bytes for the largest datagram or train, and two cache lines more, so that the starts of the
/// slots do not map to the same cache set. Pages that nothing was received into take no memory.
const SLOT: usize = (LARGEST + 1) + 128;

/// The longest datagram that is put into a train. A segment has to fit into the MTU of the way
/// back, and longer datagrams are rarely sent in numbers.
#[cfg(any(target_os = "linux", test))]
const SEGMENT: usize = 1472;

/// The most bytes in a train. The kernel takes the payload of one datagram, in up to 64 segments.
#[cfg(any(target_os = "linux", test))]
const TRAIN: usize = 65_487;

/// A buffer for each message, and what is known of it.
#[derive(Debug)]
pub struct Batch {
    slots: Vec<u8>,
    /// The messages to be answered, in the order of their arrival.
    pub(super) received: Vec<Received>,
    /// How many of them are dealt with: sent, or counted as unanswered.
    pub(super) answered: usize,
}

/// One message: a datagram, or a train.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The slot that holds its bytes.
    pub(super) slot: usize,
    pub(super) length: usize,
    pub(super) peer: SocketAddr,
    pub(super) ancillary: Ancillary,
    /// It was sent to a broadcast or multicast address.
    pub(super) is_to_many: bool,
    /// The TTL, or under IPv6 the hop limit, that it arrived with. `None` if the kernel was not asked
    /// for it.
    pub(super) ttl: Option<u8>,
}

/// The ancillary data (RFC 3542 section 6) of a request. With the same data, its reply leaves from
/// the address that the request was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ancillary {
    /// The request's destination, which is the reply's source.
    pub(super) source: IpAddr,
    /// The index of the interface that it came in on. Link-local addresses need it.
    pub(super) interface: u32,
    /// DSCP and ECN.
    pub(super) tos: u8,
    /// The size of a train's segments; 0 for a single datagram.
    pub(super) segment: u16,
}

impl Received {
    /// An initial value.
    pub(super) const NOTHING: Received = Received {
        slot: 0,
        length: 0,
        peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        ancillary: Ancillary {
            source: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            interface: 0,
            tos: 0,
            segment: 0,
        },
        is_to_many: false,
        ttl: None,
    };

    /// How many datagrams it stands for.
    pub(super) fn datagrams(&self) -> usize {
        match usize::from(self.ancillary.segment) {
            0 => 1,
            segment => self.length.div_ceil(segment),
        }
    }

    /// Keeps only the first `datagrams` of a train.
    pub(super) fn cut(&mut self, datagrams: usize) {
        if self.ancillary.segment > 0 {
            self.length = self.length.min(datagrams * usize::from(self.ancillary.segment));
        }
    }
}

impl Batch {
    pub(super) fn new() -> Self {
        Batch { slots: vec![0; LIMIT * SLOT], received: Vec::with_capacity(LIMIT), answered: 0 }
    }

    /// Clears the batch. Returns the slots to receive into, and the list to be filled.
    pub(super) fn begin(&mut self) -> (impl Iterator<Item = &mut [u8]>, &mut Vec<Received>) {
        self.received.clear();
        self.answered = 0;
        (self.slots.chunks_exact_mut(SLOT), &mut self.received)
    }

    pub(super) fn payload(&self, received: &Received) -> &[u8] {
        &self.slots[received.slot * SLOT..][..received.length]
    }

    /// The payload of each datagram that `received` stands for.
    pub(super) fn datagrams(&self, received: &Received) -> impl Iterator<Item = &[u8]> {
        let payload = self.payload(received);
        let size = match usize::from(received.ancillary.segment) {
            0 => payload.len(),
            segment => segment,
        };
        (0..received.datagrams())
            .map(move |place| &payload[place * size..payload.len().min((place + 1) * size)])
    }

    /// Puts the answers of `answer` in the place of the datagrams that it has one for. An answer that
    /// is longer than its datagram is dropped, and the datagram is echoed. Trains are passed over: a
    /// socket that gets questions receives none.
    pub(super) fn replace(&mut self, mut answer: impl FnMut(&Received, &[u8]) -> Option<Vec<u8>>) {
        for received in self.received.iter_mut().filter(|each| each.ancillary.segment == 0) {
            let datagram = &mut self.slots[received.slot * SLOT..][..received.length];
            if let Some(reply) = answer(received, datagram)
                && let Some(place) = datagram.get_mut(..reply.len())
            {
                place.copy_from_slice(&reply);
                received.length = reply.len();
            }
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.answered == self.received.len()
    }

    /// The run of datagrams from `at` on that are no trains, and whose replies need no ancillary
    /// data if the socket is bound to one address.
    #[cfg(any(target_os = "linux", test))]
    pub(super) fn without_ancillary(&self, at: usize) -> Range<usize> {
        let is_bare = |i: &usize| {
            let Ancillary { tos, segment, .. } = self.received[*i].ancillary;
            tos == 0 && segment == 0 && self.train(*i) == i + 1
        };
        at..(at..self.received.len()).take_while(is_bare).last().map_or(at, |last| last + 1)
    }

    /// The end of the run of datagrams from `at` on that can be sent as one train. They have one
    /// peer and one size; the last may be shorter. An empty datagram cannot be in a train.
    #[cfg(any(target_os = "linux", test))]
    pub(super) fn train(&self, at: usize) -> usize {
        let first = &self.received[at];
        let mut end = at + 1;
        if first.ancillary.segment > 0 || !(1..=SEGMENT).contains(&first.length) {
            return end;
        }
        let mut total = first.length;
        for next in &self.received[end..] {
            total += next.length;
            let fits = (1..=first.length).contains(&next.length) && total <= TRAIN;
            if !fits || next.peer != first.peer || next.ancillary != first.ancillary {
                break;
            }
            end += 1;
            if next.length < first.length {
                break;
            }
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(datagrams: &[(u16, usize)]) -> Batch {
        let mut batch = Batch { slots: Vec::new(), received: Vec::new(), answered: 0 };
        for (port, length) in datagrams {
            let peer = SocketAddr::from(([192, 0, 2, 1], *port));
            batch.received.push(Received { length: *length, peer, ..Received::NOTHING });
        }
        batch
    }

    #[test]
    fn each_datagram_has_a_slot_of_its_own() {
        let mut batch = Batch::new();
        for round in 1..=2 {
            let (slots, received) = batch.begin();
            assert!(received.is_empty());
            for (slot, place) in slots.enumerate() {
                assert!(place.len() >= LARGEST);
                assert_eq!(place.len() % 4096, 128, "each begins elsewhere in the cache");
                place.fill(round * (slot as u8 + 1));
                received.push(Received { slot, length: LARGEST, ..Received::NOTHING });
            }
            assert_eq!(batch.received.len(), LIMIT);
            for received in &batch.received {
                let expected = round * (received.slot as u8 + 1);
                assert_eq!(batch.payload(received), [expected; LARGEST]);
            }
            assert!(!batch.is_done());
            batch.answered = LIMIT;
            assert!(batch.is_done());
        }
    }

    #[test]
    fn a_train_has_one_peer_and_one_size() {
        let cases: [(&[(u16, usize)], usize); 8] = [
            (&[(1, 100)], 1),
            (&[(1, 100), (1, 100), (1, 100)], 3),
            (&[(1, 100), (2, 100)], 1),
            (&[(1, 100), (1, 101)], 1),
            (&[(1, 100), (1, 50), (1, 50)], 2),
            (&[(1, 0), (1, 0)], 1),
            (&[(1, 100), (1, 0)], 1),
            (&[(1, 2000), (1, 2000)], 1),
        ];
        for (datagrams, end) in cases {
            assert_eq!(batch(datagrams).train(0), end, "{datagrams:?}");
        }
    }

    #[test]
    fn a_train_is_no_longer_than_a_datagram() {
        assert_eq!(batch(&[(1, 1472); 60]).train(0), TRAIN / 1472);
    }

    #[test]
    fn a_datagram_with_other_ancillary_data_is_not_in_the_train() {
        let mut batch = batch(&[(1, 100), (1, 100)]);
        batch.received[1].ancillary.tos = 0xb8;
        assert_eq!(batch.train(0), 1);
        batch.received[1].ancillary = Ancillary { segment: 10, ..batch.received[0].ancillary };
        assert_eq!(batch.train(0), 1);
        assert_eq!(batch.train(1), 2);
        batch.received[0].ancillary.segment = 10;
        assert_eq!(batch.train(0), 1, "one train is no part of another");
    }

    #[test]
    fn datagrams_without_ancillary_data_are_a_run_that_ends_at_a_train() {
        let mut batch = batch(&[(1, 100), (2, 100), (1, 0), (2, 100), (3, 9), (3, 9)]);
        assert_eq!(batch.without_ancillary(0), 0..4);
        assert_eq!(batch.without_ancillary(3), 3..4);
        assert_eq!(batch.without_ancillary(4), 4..4, "a train");
        batch.received[1].ancillary.tos = 0xb8;
        assert_eq!(batch.without_ancillary(0), 0..1);
        assert_eq!(batch.without_ancillary(1), 1..1);
        batch.received[2].ancillary.segment = 10;
        assert_eq!(batch.without_ancillary(2), 2..2, "a train that was received as one");
    }

    #[test]
    fn an_answer_takes_the_place_of_its_datagram_unless_it_is_longer() {
        let mut batch = Batch::new();
        let (slots, received) = batch.begin();
        for (slot, place) in slots.enumerate().take(4) {
            place[..10].fill(b'a' + slot as u8);
            received.push(Received { slot, length: 10, ..Received::NOTHING });
        }
        // The rules removed the first one, so that places and slots differ.
        received.remove(0);
        received[2].ancillary.segment = 5;
        let mut asked = Vec::new();
        batch.replace(|received, datagram| {
            asked.push((received.slot, datagram.to_vec()));
            Some(vec![b'x'; if received.slot == 1 { 9 } else { 11 }])
        });
        assert_eq!(asked, [(1, vec![b'b'; 10]), (2, vec![b'c'; 10])], "a train is not asked");
        let payloads: Vec<_> = batch.received.iter().map(|each| batch.payload(each)).collect();
        assert_eq!(payloads, [&b"xxxxxxxxx"[..], b"cccccccccc", b"dddddddddd"]);
    }

    #[test]
    fn a_message_is_taken_apart_into_its_datagrams() {
        let mut batch = Batch::new();
        let (mut slots, received) = batch.begin();
        slots.next().unwrap()[..7].copy_from_slice(b"abcdefg");
        received.push(Received { length: 7, ..Received::NOTHING });
        drop(slots);
        for (length, segment, expected) in [
            (0, 0, &[&b""[..]][..]),
            (7, 0, &[b"abcdefg"]),
            (7, 3, &[b"abc", b"def", b"g"]),
            (6, 3, &[b"abc", b"def"]),
        ] {
            let ancillary = Ancillary { segment, ..Received::NOTHING.ancillary };
            let message = Received { length, ancillary, ..batch.received[0] };
            assert_eq!(batch.datagrams(&message).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn a_train_is_counted_and_cut_by_its_segments() {
        let ancillary = Ancillary { segment: 100, ..Received::NOTHING.ancillary };
        let mut train = Received { length: 350, ancillary, ..Received::NOTHING };
        assert_eq!(train.datagrams(), 4);
        train.cut(4);
        assert_eq!(train.length, 350);
        train.cut(2);
        assert_eq!((train.length, train.datagrams()), (200, 2));
        assert_eq!(Received::NOTHING.datagrams(), 1);
        let mut single = Received { length: 350, ..Received::NOTHING };
        single.cut(1);
        assert_eq!(single.length, 350);
    }
}
