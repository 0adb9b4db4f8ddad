//! Tracks which messages of a connection have come back, and judges replies.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::payload::Payloads;

/// How many expired messages are remembered, to recognize them if they come back late.
const REMEMBERED: usize = 262_144;

/// How many of the oldest messages a reply without a header is compared with.
const SEARCHED: usize = 1024;

/// How a received message compares with what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It is what was sent, and came back within the timeout.
    Echoed,
    /// It is what was sent, but came back after the timeout.
    Late,
    /// It is what was sent, but had come back already.
    Duplicated,
    /// It differs from what was sent.
    Corrupted,
}

/// A received message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// The sequence number, from 0, of the message that it answers. `None` if that is not known.
    pub seq: Option<u64>,
    /// How it compares with that message.
    pub verdict: Verdict,
    /// The time from sending to receiving, if the verdict is [`Verdict::Echoed`] or
    /// [`Verdict::Late`]; `None` also if it is so late that the message was forgotten.
    pub rtt: Option<Duration>,
    /// Whether a message that was sent later had come back already.
    pub is_reordered: bool,
    /// Its size in bytes.
    pub size: usize,
    /// Where it differs from that message, if the verdict is [`Verdict::Corrupted`] and `seq` is
    /// known. `None` if a WebSocket message has the right bytes, but is text and not binary or the
    /// other way round.
    pub difference: Option<Difference>,
}

/// How a reply differs from the message that it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The offset of the first byte that differs, or that only one of them has.
    pub offset: usize,
    /// How many bytes differ, or are in only one of them.
    pub count: usize,
    sent: Excerpt,
    received: Excerpt,
}

/// A few bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Excerpt {
    bytes: [u8; 8],
    length: usize,
}

impl Excerpt {
    fn new(message: &[u8], offset: usize) -> Self {
        let rest = message.get(offset..).unwrap_or_default();
        let mut bytes = [0; 8];
        let length = rest.len().min(bytes.len());
        bytes[..length].copy_from_slice(&rest[..length]);
        Excerpt { bytes, length }
    }
}

impl Difference {
    /// `None` if they are the same.
    pub(super) fn between(sent: &[u8], received: &[u8]) -> Option<Difference> {
        let pairs = || sent.iter().zip(received);
        let shorter = sent.len().min(received.len());
        let beyond = sent.len().abs_diff(received.len());
        let offset = pairs().position(|(one, other)| one != other);
        let count = pairs().filter(|(one, other)| one != other).count() + beyond;
        let offset = offset.unwrap_or(shorter);
        (count > 0).then(|| Difference {
            offset,
            count,
            sent: Excerpt::new(sent, offset),
            received: Excerpt::new(received, offset),
        })
    }

    /// What was sent from the offset on, at most eight bytes.
    pub fn sent(&self) -> &[u8] {
        &self.sent.bytes[..self.sent.length]
    }

    /// What was received in place of it, at most eight bytes.
    pub fn received(&self) -> &[u8] {
        &self.received.bytes[..self.received.length]
    }
}

/// The messages of one connection.
#[derive(Debug)]
pub(super) struct Tracker {
    payloads: Payloads,
    /// The messages from sequence number `base` on.
    window: VecDeque<Sent>,
    base: u64,
    /// No message before this one is waiting. It only grows, so that finding the oldest that waits
    /// does not get slower the more messages are lost.
    due: u64,
    waiting: usize,
    /// Messages in the window that have expired.
    expired: usize,
    /// Expired messages that are not in the window any more.
    forgotten: u64,
    highest_received: Option<u64>,
    /// Messages before this one are not counted, and how many of those wait and are lost.
    counted_from: u64,
    uncounted_waiting: usize,
    uncounted_lost: u64,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Its timeout has passed.
    Expired,
    Done,
}

impl Tracker {
    pub(super) fn new(payloads: Payloads) -> Self {
        Tracker {
            payloads,
            window: VecDeque::new(),
            base: 0,
            due: 0,
            waiting: 0,
            expired: 0,
            forgotten: 0,
            highest_received: None,
            counted_from: 0,
            uncounted_waiting: 0,
            uncounted_lost: 0,
        }
    }

    pub(super) fn payloads(&self) -> &Payloads {
        &self.payloads
    }

    /// The sequence number of the next message.
    pub(super) fn next_seq(&self) -> u64 {
        self.base + self.window.len() as u64
    }

    /// How many messages may still come back in time.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many of them are counted.
    pub(super) fn counted_waiting(&self) -> usize {
        self.waiting - self.uncounted_waiting
    }

    /// How many messages have expired and not come back.
    pub(super) fn lost(&self) -> u64 {
        (self.expired as u64 + self.forgotten).saturating_sub(self.uncounted_lost)
    }

    /// Whether messages have expired, and nothing that was sent behind the first of them has come back.
    pub(super) fn ends_in_silence(&self) -> bool {
        let mut last = self.window.iter().skip_while(|sent| sent.state != State::Expired);
        self.waiting == 0 && self.expired > 0 && last.all(|sent| sent.state == State::Expired)
    }

    /// Whether the oldest message that has not come back begins with `bytes`, which are not none.
    pub(super) fn is_due(&self, bytes: &[u8]) -> bool {
        let open = (self.base..).zip(&self.window).find(|(_, sent)| sent.state != State::Done);
        let message = open.map(|(seq, _)| self.payloads.message(seq)).unwrap_or_default();
        !bytes.is_empty() && message.starts_with(bytes)
    }

    /// Counts none of the messages that were sent until now: a warm-up is over.
    pub(super) fn count_from_here(&mut self) {
        self.counted_from = self.next_seq();
        self.uncounted_waiting = self.waiting;
        self.uncounted_lost = self.expired as u64 + self.forgotten;
    }

    /// Messages before this one, and replies to them, are not counted.
    pub(super) fn counted_from(&self) -> u64 {
        self.counted_from
    }

    /// How many messages take up memory.
    pub(super) fn tracked(&self) -> usize {
        self.window.len()
    }

    /// Message [`next_seq`](Tracker::next_seq) counts as sent at `at`.
    pub(super) fn sent(&mut self, at: Instant) {
        self.window.push_back(Sent { at, state: State::Waiting });
        self.waiting += 1;
    }

    /// The last `count` messages count as sent at `at`. None of them has come back yet.
    pub(super) fn sent_last(&mut self, count: usize, at: Instant) {
        self.window.iter_mut().rev().take(count).for_each(|sent| sent.at = at);
    }

    /// Message `seq` was not sent after all, and nothing waits for it.
    pub(super) fn withdraw(&mut self, seq: u64) {
        let entry = seq.checked_sub(self.base).and_then(|at| self.window.get_mut(at as usize));
        if let Some(sent) = entry.filter(|sent| sent.state == State::Waiting) {
            sent.state = State::Done;
            self.waiting -= 1;
            self.forget();
        }
    }

    /// When the oldest waiting message was sent.
    pub(super) fn oldest(&mut self) -> Option<Instant> {
        let seq = self.first_waiting()?;
        sent_at(&self.window, self.base, seq)
    }

    /// Expires the messages that were sent at `before` or earlier, and returns their numbers.
    pub(super) fn expire(&mut self, before: Instant) -> Vec<u64> {
        let mut expired = Vec::new();
        while let Some(seq) = self.first_waiting()
            && let Some(sent) = self.window.get_mut((seq - self.base) as usize)
            && sent.at <= before
        {
            sent.state = State::Expired;
            self.waiting -= 1;
            self.expired += 1;
            if seq < self.counted_from {
                self.uncounted_waiting -= 1;
                self.uncounted_lost += 1;
            }
            expired.push(seq);
        }
        self.forget();
        expired
    }

    /// Judges a reply.
    pub(super) fn received(&mut self, bytes: &[u8], now: Instant) -> Reply {
        let seq = match self.payloads.seq_of(bytes, self.next_seq()) {
            Some(seq) => Some(seq),
            None => self.seq_by_content(bytes),
        };
        let reply = |verdict, rtt, is_reordered| Reply {
            seq,
            verdict,
            rtt,
            is_reordered,
            size: bytes.len(),
            difference: None,
        };
        let Some(seq) = seq.filter(|seq| *seq < self.next_seq()) else {
            return reply(Verdict::Corrupted, None, false);
        };
        let is_right = self.payloads.is(seq, bytes);
        let entry = seq.checked_sub(self.base).and_then(|at| self.window.get_mut(at as usize));
        let before = match entry {
            Some(sent) => std::mem::replace(&mut sent.state, State::Done),
            // An expired message that was forgotten. Which one is not known, so it may be a duplicate.
            None if self.forgotten > 0 && is_right => {
                self.forgotten -= 1;
                return reply(Verdict::Late, None, false);
            }
            None => State::Done,
        };
        let rtt = sent_at(&self.window, self.base, seq).map(|at| now.saturating_duration_since(at));
        self.waiting -= usize::from(before == State::Waiting);
        self.expired -= usize::from(before == State::Expired);
        if seq < self.counted_from {
            self.uncounted_waiting -= usize::from(before == State::Waiting);
            let is_late = u64::from(before == State::Expired);
            self.uncounted_lost = self.uncounted_lost.saturating_sub(is_late);
        }
        self.forget();
        if !is_right {
            let difference = Difference::between(&self.payloads.message(seq), bytes);
            return Reply { difference, ..reply(Verdict::Corrupted, None, false) };
        }
        if before == State::Done {
            return reply(Verdict::Duplicated, None, false);
        }
        let is_reordered = self.highest_received.is_some_and(|highest| seq < highest);
        self.highest_received = self.highest_received.max(Some(seq));
        let verdict = if before == State::Expired { Verdict::Late } else { Verdict::Echoed };
        reply(verdict, rtt, is_reordered)
    }

    fn first_waiting(&mut self) -> Option<u64> {
        self.due = self.due.max(self.base);
        while let Some(sent) = self.window.get((self.due - self.base) as usize) {
            if sent.state == State::Waiting {
                return Some(self.due);
            }
            self.due += 1;
        }
        None
    }

    /// The message that equals `bytes`. If there is none, the reply is taken for a damaged copy of the
    /// oldest message that waits.
    fn seq_by_content(&mut self, bytes: &[u8]) -> Option<u64> {
        let due = self.first_waiting();
        let open = (self.base..).zip(&self.window).take(SEARCHED);
        let open = open.filter(|(_, sent)| sent.state != State::Done).map(|(seq, _)| seq);
        let last = self.highest_received;
        open.chain(last).find(|seq| self.payloads.is(*seq, bytes)).or(due)
    }

    /// Drops messages from the front of the window that are done, or too many to remember.
    fn forget(&mut self) {
        while let Some(sent) = self.window.front()
            && (sent.state == State::Done
                || sent.state == State::Expired && self.expired > REMEMBERED)
        {
            if sent.state == State::Expired {
                self.expired -= 1;
                self.forgotten += 1;
            }
            self.window.pop_front();
            self.base += 1;
        }
    }
}

fn sent_at(window: &VecDeque<Sent>, base: u64, seq: u64) -> Option<Instant> {
    window.get(usize::try_from(seq.checked_sub(base)?).ok()?).map(|sent| sent.at)
}

#[cfg(test)]
mod tests {
    use super::super::Messages;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    struct Probe {
        tracker: Tracker,
        start: Instant,
    }

    impl Probe {
        fn new(size: usize, messages: u32) -> Probe {
            let start = Instant::now();
            let mut tracker = Tracker::new(Payloads::new(&Messages::new().size(size)));
            for n in 0..messages {
                tracker.sent(start + n * MS);
            }
            Probe { tracker, start }
        }

        fn message(&self, seq: u64) -> Vec<u8> {
            let mut bytes = Vec::new();
            self.tracker.payloads.append(seq, &mut bytes);
            bytes
        }

        fn receive(&mut self, bytes: &[u8]) -> (Option<u64>, Verdict, bool) {
            let reply = self.tracker.received(bytes, self.start + 100 * MS);
            (reply.seq, reply.verdict, reply.is_reordered)
        }
    }

    #[test]
    fn each_reply_is_called_what_it_is() {
        let mut probe = Probe::new(64, 6);
        let messages: Vec<_> = (0..6).map(|seq| probe.message(seq)).collect();
        assert_eq!(probe.receive(&messages[0]), (Some(0), Verdict::Echoed, false));
        assert_eq!(probe.receive(&messages[2]), (Some(2), Verdict::Echoed, false));
        assert_eq!(probe.receive(&messages[1]), (Some(1), Verdict::Echoed, true));
        assert_eq!(probe.receive(&messages[1]), (Some(1), Verdict::Duplicated, false));
        let mut damaged = messages[3].clone();
        damaged[40] ^= 0x10;
        assert_eq!(probe.receive(&damaged), (Some(3), Verdict::Corrupted, false));
        assert_eq!(probe.tracker.expire(probe.start + 4 * MS), [4]);
        assert_eq!(probe.receive(&messages[4]), (Some(4), Verdict::Late, false));
        assert_eq!(probe.tracker.waiting(), 1);
        // A damaged header: it is the one that is due, and not lost as well.
        let mut damaged = messages[5].clone();
        damaged[0] ^= 1;
        assert_eq!(probe.receive(&damaged), (Some(5), Verdict::Corrupted, false));
        assert_eq!(probe.tracker.waiting(), 0);
        assert!(probe.tracker.window.is_empty());
    }

    #[test]
    fn a_reply_that_differs_shows_where() {
        let mut probe = Probe::new(64, 4);
        let mut difference = |seq: u64, change: fn(&mut Vec<u8>)| {
            let (sent, mut received) = (probe.message(seq), probe.message(seq));
            change(&mut received);
            let reply = probe.tracker.received(&received, probe.start);
            let difference = reply.difference.unwrap();
            let from = difference.offset;
            assert_eq!(difference.sent(), &sent[from..sent.len().min(from + 8)]);
            assert_eq!(difference.received(), &received[from..received.len().min(from + 8)]);
            (difference.offset, difference.count)
        };
        assert_eq!(difference(0, |reply| reply[40] ^= 1), (40, 1));
        assert_eq!(difference(1, |reply| reply[60..].fill_with(|| 0)).0, 60);
        assert_eq!(difference(2, |reply| reply.extend(b"\r\n")), (64, 2));
        assert_eq!(difference(3, |reply| reply.truncate(50)), (50, 14));
    }

    #[test]
    fn what_was_never_sent_is_corrupt() {
        let mut probe = Probe::new(64, 1);
        let unsent = probe.message(1);
        assert_eq!(probe.receive(&unsent).1, Verdict::Corrupted);
        assert_eq!(probe.tracker.waiting(), 0, "and stands for what is due");
    }

    #[test]
    fn a_round_trip_is_timed_from_its_own_sending() {
        let mut probe = Probe::new(64, 2);
        let message = probe.message(1);
        let reply = probe.tracker.received(&message, probe.start + 5 * MS);
        assert_eq!(reply.rtt, Some(4 * MS));
    }

    #[test]
    fn messages_without_room_for_a_number_are_told_by_their_order() {
        let mut probe = Probe::new(3, 2);
        let (first, second) = (probe.message(0), probe.message(1));
        assert_eq!(probe.receive(&first), (Some(0), Verdict::Echoed, false));
        assert_eq!(probe.receive(&second), (Some(1), Verdict::Echoed, false));
        assert_eq!(probe.receive(&second), (Some(1), Verdict::Duplicated, false));
        assert_eq!(probe.receive(b"???").1, Verdict::Corrupted);
    }

    #[test]
    fn a_late_message_is_not_lost() {
        for size in [3, 64] {
            let mut probe = Probe::new(size, 2);
            assert_eq!(probe.tracker.expire(probe.start), [0]);
            assert_eq!(probe.tracker.lost(), 1);
            let message = probe.message(0);
            assert_eq!(probe.receive(&message), (Some(0), Verdict::Late, false));
            assert_eq!((probe.tracker.lost(), probe.tracker.waiting()), (0, 1));
        }
    }

    #[test]
    fn silence_begins_with_the_first_message_that_nothing_follows() {
        let mut probe = Probe::new(64, 4);
        let message = probe.message(0);
        probe.receive(&message);
        assert!(!probe.tracker.ends_in_silence(), "the rest may still come");
        assert!(probe.tracker.is_due(&probe.message(1)[..9]));
        assert!(!probe.tracker.is_due(&probe.message(2)[..9]) && !probe.tracker.is_due(b""));
        probe.tracker.expire(probe.start + 9 * MS);
        assert!(probe.tracker.ends_in_silence());
        // Two were dropped in between.
        let message = probe.message(3);
        probe.receive(&message);
        assert!(!probe.tracker.ends_in_silence());
    }

    #[test]
    fn what_was_sent_in_a_warm_up_is_not_counted() {
        let mut probe = Probe::new(64, 4);
        assert_eq!(probe.tracker.expire(probe.start), [0]);
        probe.tracker.count_from_here();
        assert_eq!(probe.tracker.counted_from(), 4);
        for _ in 0..3 {
            probe.tracker.sent(probe.start + 9 * MS);
        }
        let counts =
            |tracker: &Tracker| (tracker.waiting(), tracker.counted_waiting(), tracker.lost());
        assert_eq!(counts(&probe.tracker), (6, 3, 0));
        assert_eq!(probe.tracker.expire(probe.start + MS), [1]);
        assert_eq!(counts(&probe.tracker), (5, 3, 0));
        // One is late, one is in time, two are not the warm-up's.
        for (seq, expected) in [(1, (5, 3, 0)), (2, (4, 3, 0)), (5, (3, 2, 0))] {
            let message = probe.message(seq);
            let reply = probe.tracker.received(&message, probe.start + 10 * MS);
            assert_eq!(reply.seq, Some(seq));
            assert_eq!(counts(&probe.tracker), expected, "{seq}");
        }
        assert_eq!(probe.tracker.expire(probe.start + 9 * MS), [3, 4, 6]);
        assert_eq!(counts(&probe.tracker), (0, 0, 2));
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_not_is_still_late() {
        let mut probe = Probe::new(8, 0);
        let sent = 2 * REMEMBERED;
        for _ in 0..sent {
            probe.tracker.sent(probe.start);
            probe.tracker.expire(probe.start);
        }
        assert!(probe.tracker.tracked() <= REMEMBERED);
        assert_eq!(probe.tracker.lost(), sent as u64);
        let first = probe.message(0);
        assert_eq!(probe.receive(&first).1, Verdict::Late);
        assert_eq!(probe.tracker.lost(), sent as u64 - 1);
    }

    #[test]
    fn a_message_that_was_not_sent_is_neither_waited_for_nor_lost() {
        let mut probe = Probe::new(64, 3);
        probe.tracker.withdraw(1);
        assert_eq!((probe.tracker.waiting(), probe.tracker.next_seq()), (2, 3));
        assert_eq!(probe.tracker.expire(probe.start + 9 * MS), [0, 2]);
        probe.tracker.withdraw(2);
        assert_eq!(probe.tracker.lost(), 2, "it has expired already");
    }

    #[test]
    fn numbers_beyond_32_bits_are_told_apart() {
        let mut probe = Probe::new(64, 0);
        probe.tracker.base = (1 << 32) - 1;
        probe.tracker.sent(probe.start);
        probe.tracker.sent(probe.start);
        let (last, beyond) = (probe.message((1 << 32) - 1), probe.message(1 << 32));
        assert_eq!(probe.receive(&beyond), (Some(1 << 32), Verdict::Echoed, false));
        assert_eq!(probe.receive(&last), (Some((1 << 32) - 1), Verdict::Echoed, true));
    }
}
