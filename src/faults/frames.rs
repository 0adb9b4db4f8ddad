//! WebSocket frames on their way to the client (RFC 6455 section 5.2): where their payload is, and
//! what is done to them on purpose.

use super::corruption::Corruption;
use super::{Chance, Plan};
use crate::config::Fault;

const TEXT: u8 = 1;
const MASK: u8 = 0x80;

/// A byte that UTF-8 never has.
const NOT_UTF8: u8 = 0xff;

/// The frames of one connection, as they pass in pieces of any size.
#[derive(Debug)]
pub(super) struct Frames {
    masks: bool,
    breaks_text: bool,
    chance: Chance,
    /// The header so far, while it is incomplete.
    header: Vec<u8>,
    /// What is left of the payload.
    left: u64,
    /// How much of the payload has passed.
    passed: u64,
    is_text: bool,
    /// The key that masks the payload.
    key: Option<[u8; 4]>,
    /// How many frames have begun.
    begun: u64,
}

impl Frames {
    pub(super) fn new(plan: &Plan, chance: Chance) -> Self {
        Frames {
            masks: plan.has(Fault::WsMask),
            breaks_text: plan.has(Fault::WsUtf8),
            chance: chance.about("ws-mask"),
            header: Vec::new(),
            left: 0,
            passed: 0,
            is_text: false,
            key: None,
            begun: 0,
        }
    }

    /// Whether no frame has passed in part.
    pub(super) fn is_at_boundary(&self) -> bool {
        self.left == 0 && self.header.is_empty()
    }

    /// Passes `bytes`, of whose payload at most `most` bytes, and returns what is sent in their
    /// place, and how much payload that has. With `whole`, the frame that reaches `most` is passed
    /// to its end, and nothing behind it.
    pub(super) fn pass(
        &mut self,
        mut bytes: &[u8],
        most: u64,
        whole: bool,
        mut corruption: Option<&mut Corruption>,
    ) -> (Vec<u8>, u64) {
        let (mut out, mut payload) = (Vec::with_capacity(bytes.len() + 4), 0);
        loop {
            if payload >= most && (!whole || self.is_at_boundary()) {
                break;
            }
            if self.left == 0 {
                let Some((first, rest)) = bytes.split_first() else { break };
                self.header.push(*first);
                bytes = rest;
                self.end_header(&mut out);
                continue;
            }
            let mut length = self.left.min(bytes.len() as u64);
            if !whole {
                length = length.min(most - payload);
            }
            if length == 0 {
                break;
            }
            let (piece, rest) = bytes.split_at(length as usize);
            let begin = out.len();
            out.extend_from_slice(piece);
            self.spoil(&mut out[begin..], corruption.as_deref_mut());
            self.left -= length;
            payload += length;
            bytes = rest;
        }
        (out, payload)
    }

    /// Does to a piece of payload what is to be done.
    fn spoil(&mut self, piece: &mut [u8], corruption: Option<&mut Corruption>) {
        if self.breaks_text && self.is_text && self.passed == 0 {
            piece[0] = NOT_UTF8;
        }
        if let Some(corruption) = corruption {
            corruption.pass(piece);
        }
        if let Some(key) = self.key {
            let keys = key.iter().cycle().skip((self.passed % 4) as usize);
            piece.iter_mut().zip(keys).for_each(|(byte, key)| *byte ^= key);
        }
        self.passed += piece.len() as u64;
    }

    /// Goes on to the payload if the header is complete. A server's frame has no mask.
    fn end_header(&mut self, out: &mut Vec<u8>) {
        let [first, second, extended @ ..] = self.header.as_slice() else { return };
        let length = match (second & !MASK, extended) {
            (126, [a, b]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, bytes) => match <[u8; 8]>::try_from(bytes) {
                Ok(bytes) => u64::from_be_bytes(bytes),
                Err(_) => return,
            },
            (126, _) => return,
            (length, _) => u64::from(length),
        };
        (self.left, self.passed, self.is_text) = (length, 0, first & 0x0f == TEXT);
        let at = out.len();
        out.append(&mut self.header);
        if self.masks {
            let key = (self.chance.word(self.begun) as u32).to_be_bytes();
            out[at + 1] |= MASK;
            out.extend_from_slice(&key);
            self.key = Some(key);
        }
        self.begun += 1;
    }
}

/// A Close frame with this code.
pub(super) fn close(code: u16) -> Vec<u8> {
    let [high, low] = code.to_be_bytes();
    vec![0x88, 2, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Probability;

    fn frames(faults: &[Fault]) -> Frames {
        let mut plan = Plan::default();
        plan.extend(faults);
        Frames::new(&plan, Chance::of(1, 3, 1))
    }

    /// A frame of `length` bytes `x`.
    fn frame(opcode: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![MASK | opcode];
        match length {
            0..=125 => frame.push(length as u8),
            126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![b'x'; length]);
        frame
    }

    /// All that passes of `bytes` in pieces of `size`.
    fn passed(frames: &mut Frames, bytes: &[u8], size: usize) -> Vec<u8> {
        bytes.chunks(size).flat_map(|piece| frames.pass(piece, u64::MAX, false, None).0).collect()
    }

    #[test]
    fn frames_of_every_length_pass_as_they_are_in_pieces_of_every_size() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let stream = [frame(2, length), frame(1, 3), frame(8, 0)].concat();
            for size in [1, 2, 3, 1000, stream.len()] {
                let mut frames = frames(&[]);
                assert_eq!(passed(&mut frames, &stream, size), stream, "{length} in {size}");
                assert!(frames.is_at_boundary());
            }
        }
    }

    #[test]
    fn a_masked_frame_has_its_mask_and_the_same_payload() {
        let stream = [frame(2, 5), frame(9, 0), frame(2, 300)].concat();
        let whole = passed(&mut frames(&[Fault::WsMask]), &stream, stream.len());
        assert_eq!(whole.len(), stream.len() + 3 * 4);
        assert_eq!(whole[..2], [0x82, MASK | 5]);
        let payload: Vec<_> = whole[6..11].iter().zip(whole[2..6].iter().cycle()).collect();
        assert!(payload.iter().all(|(byte, key)| **byte ^ **key == b'x'), "{payload:?}");
        for size in [1, 3, 7] {
            assert_eq!(passed(&mut frames(&[Fault::WsMask]), &stream, size), whole, "{size}");
        }
    }

    #[test]
    fn only_the_beginning_of_a_text_is_no_utf8() {
        let stream = [frame(1, 3), frame(2, 3), frame(1, 0), frame(9, 2)].concat();
        let mut expected = stream.clone();
        expected[2] = 0xff;
        for size in [1, 2, stream.len()] {
            assert_eq!(passed(&mut frames(&[Fault::WsUtf8]), &stream, size), expected, "{size}");
        }
    }

    #[test]
    fn a_limit_is_one_on_payload_and_can_wait_for_the_end_of_a_frame() {
        let stream = [frame(2, 10), frame(2, 10)].concat();
        let cut = |most, whole| {
            let mut frames = frames(&[]);
            let (out, payload) = frames.pass(&stream, most, whole, None);
            (out.len(), payload, frames.is_at_boundary())
        };
        assert_eq!(cut(0, false), (0, 0, true));
        assert_eq!(cut(4, false), (2 + 4, 4, false));
        assert_eq!(cut(10, false), (12, 10, true));
        assert_eq!(cut(11, false), (12 + 2 + 1, 11, false));
        assert_eq!(cut(0, true), (0, 0, true));
        assert_eq!(cut(4, true), (12, 10, true));
        assert_eq!(cut(20, true), (24, 20, true));
    }

    #[test]
    fn only_payload_is_corrupted() {
        let stream = [frame(2, 200), frame(2, 0), frame(2, 50)].concat();
        let mut all = Corruption::new(Chance::of(1, 3, 1), Probability::ALWAYS);
        let (out, _) = frames(&[]).pass(&stream, u64::MAX, false, Some(&mut all));
        let differing = out.iter().zip(&stream).filter(|(a, b)| a != b).count();
        assert_eq!((differing, all.flipped()), (250, 250));
        assert_eq!(out[..4], stream[..4]);
    }
}
