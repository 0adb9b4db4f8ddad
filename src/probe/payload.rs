//! The contents of messages: random, and reproducible, so that replies are compared with them byte
//! for byte.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use super::{LineEnding, Messages};

/// How many random bytes there are, of which every message is a part. They fit into a processor's
/// cache, so that a load spends its time on the network.
const POOL: usize = 64 * 1024;

/// Makes the messages of one connection, and recognizes them.
///
/// A message begins with a header, if it is long enough: a tag, random for each connection, and its
/// sequence number. The rest is a part of the random pool, at an offset that depends on the number.
/// So a message is made again when its reply comes, and does not have to be stored.
#[derive(Debug, Clone)]
pub(super) struct Payloads {
    tag: u32,
    size: usize,
    is_text: bool,
    /// What each message ends with, if it has room for that.
    ending: &'static [u8],
    pool: Arc<[u8]>,
    /// The contents of every message, if they are not random.
    data: Option<Arc<[u8]>>,
}

/// The alphabet of text messages, 64 characters.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl Payloads {
    /// Such messages. Random text is printable ASCII.
    pub(super) fn new(messages: &Messages) -> Self {
        // A line is printable, but for its ending.
        let is_text = messages.is_text || messages.line_ending.is_some();
        let mut state = random_seed() | 1;
        let mut next = || {
            // xorshift64*: the contents need not be unpredictable.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
        };
        let pool = (0..POOL)
            .map(|_| {
                let byte = next() as u8;
                if is_text { ALPHABET[byte as usize % ALPHABET.len()] } else { byte }
            })
            .collect();
        let data = messages.data.clone();
        // Data is sent as it is.
        let ending = messages.line_ending.filter(|_| data.is_none());
        let ending = ending.map_or(&b""[..], LineEnding::bytes);
        Payloads { tag: next(), size: messages.bytes(), is_text, ending, pool, data }
    }

    /// Messages of another connection: the pool is the same, the tag is not.
    pub(super) fn for_another(&self) -> Self {
        Payloads { tag: random_seed() as u32, ..self.clone() }
    }

    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn is_text(&self) -> bool {
        self.is_text
    }

    /// Appends message `seq`.
    pub(super) fn append(&self, seq: u64, into: &mut Vec<u8>) {
        if let Some(data) = &self.data {
            into.extend_from_slice(data);
            return;
        }
        let start = into.len();
        if self.has_header() {
            self.with_header(seq, |header| into.extend_from_slice(header));
        }
        while into.len() - start < self.content() {
            let rest = self.content() - (into.len() - start);
            let piece = self.piece(seq, into.len() - start, rest);
            into.extend_from_slice(piece);
        }
        into.extend_from_slice(self.ending);
    }

    /// Message `seq`.
    pub(super) fn message(&self, seq: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.size);
        self.append(seq, &mut message);
        message
    }

    /// Whether `bytes` are exactly message `seq`.
    pub(super) fn is(&self, seq: u64, bytes: &[u8]) -> bool {
        if bytes.len() != self.size || !bytes.ends_with(self.ending) {
            return false;
        }
        if let Some(data) = &self.data {
            return bytes == &**data;
        }
        let mut at = 0;
        if self.has_header() {
            let is_header = self.with_header(seq, |header| bytes.starts_with(header));
            if !is_header {
                return false;
            }
            at = self.header_size();
        }
        while at < self.content() {
            let piece = self.piece(seq, at, self.content() - at);
            if bytes[at..at + piece.len()] != *piece {
                return false;
            }
            at += piece.len();
        }
        true
    }

    /// The sequence number in the header of `bytes`, if the tag is this connection's; the rest may be
    /// damaged. The header holds the lowest 32 bits of the number, so the result is the last number
    /// before `next` that has these bits.
    pub(super) fn seq_of(&self, bytes: &[u8], next: u64) -> Option<u64> {
        if !self.has_header() || bytes.len() < self.header_size() {
            return None;
        }
        let header = &bytes[..self.header_size()];
        let value = if self.is_text {
            u64::from_str_radix(std::str::from_utf8(header).ok()?, 16).ok()?
        } else {
            u64::from_be_bytes(header.try_into().ok()?)
        };
        let back = (next as u32).wrapping_sub(value as u32);
        // There is no number before 0, and `next` has not been sent.
        let seq = next.checked_sub(u64::from(back)).filter(|_| back > 0);
        seq.filter(|_| (value >> 32) as u32 == self.tag)
    }

    /// Eight bytes, in text 16 hexadecimal digits.
    fn header_size(&self) -> usize {
        if self.is_text { 16 } else { 8 }
    }

    fn has_header(&self) -> bool {
        self.data.is_none() && self.content() >= self.header_size()
    }

    /// How many bytes are before the ending.
    fn content(&self) -> usize {
        self.size.saturating_sub(self.ending.len())
    }

    fn with_header<T>(&self, seq: u64, work: impl FnOnce(&[u8]) -> T) -> T {
        let value = u64::from(self.tag) << 32 | (seq & u64::from(u32::MAX));
        if self.is_text {
            work(format!("{value:016x}").as_bytes())
        } else {
            work(&value.to_be_bytes())
        }
    }

    /// Up to `rest` bytes of message `seq` from its offset `at` on.
    fn piece(&self, seq: u64, at: usize, rest: usize) -> &[u8] {
        // Consecutive messages are far apart in the pool, so that they are never equal.
        let start = (seq.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 48) as usize + at;
        let start = start % POOL;
        &self.pool[start..(start + rest).min(POOL)]
    }
}

/// The standard library seeds its hashers from the system's randomness.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_and_no_other_is_taken_for_it() {
        for is_text in [false, true] {
            for size in [0, 1, 7, 8, 15, 16, 17, 64, 1000, POOL, 3 * POOL + 5] {
                let payloads = payloads(size, is_text);
                for seq in [0, 1, 70_000] {
                    let bytes = payloads.message(seq);
                    assert_eq!(bytes.len(), size);
                    assert!(payloads.is(seq, &bytes));
                    if size >= 16 {
                        assert_eq!(payloads.seq_of(&bytes, seq + 5), Some(seq));
                        assert!(!payloads.is(seq + 1, &bytes));
                        assert_eq!(payloads.for_another().seq_of(&bytes, seq + 5), None);
                    }
                    for at in [0, size / 2, size.saturating_sub(1)] {
                        let mut damaged = bytes.clone();
                        if let Some(byte) = damaged.get_mut(at) {
                            *byte ^= 1;
                            assert!(!payloads.is(seq, &damaged), "size {size}, byte {at}");
                        }
                    }
                }
            }
        }
    }

    fn payloads(size: usize, is_text: bool) -> Payloads {
        Payloads::new(&Messages { is_text, ..Messages::new().size(size) })
    }

    fn lines(size: usize, ending: LineEnding) -> Payloads {
        Payloads::new(&Messages::new().size(size).lines(ending))
    }

    #[test]
    fn data_is_sent_as_it_is() {
        let payloads = Payloads::new(&Messages::new().data(*b"a message of more than 16 bytes"));
        assert_eq!(payloads.message(0), b"a message of more than 16 bytes");
        assert!(payloads.is(7, b"a message of more than 16 bytes"));
        assert!(!payloads.is(7, b"a message of more than 16 byteS"));
        assert_eq!(payloads.seq_of(b"a message of more than 16 bytes", 7), None);
    }

    #[test]
    fn lines_end_as_they_should_and_are_known_again() {
        for (ending, size) in [
            (LineEnding::Lf, 1),
            (LineEnding::Lf, 17),
            (LineEnding::CrLf, 2),
            (LineEnding::CrLf, 3000),
        ] {
            let payloads = lines(size, ending);
            let ending = ending.bytes();
            let mut line = payloads.message(4);
            assert_eq!((line.len(), line.ends_with(ending)), (size, true));
            assert!(line[..size - ending.len()].iter().all(u8::is_ascii_graphic));
            assert!(payloads.is(4, &line));
            *line.last_mut().unwrap() = b' ';
            assert!(!payloads.is(4, &line));
        }
        let payloads = lines(17, LineEnding::Lf);
        assert_eq!(payloads.seq_of(&payloads.message(4), 9), Some(4));
    }

    #[test]
    fn text_is_printable() {
        let bytes = payloads(500, true).message(3);
        assert!(bytes.iter().all(u8::is_ascii_graphic));
    }
}
