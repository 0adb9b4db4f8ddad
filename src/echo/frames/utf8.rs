//! A validator for UTF-8 that arrives in pieces. It refuses the first byte that cannot be right.

use std::str::from_utf8;

/// A validator. A sequence may be split over several calls.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    /// The beginning of an incomplete sequence.
    partial: [u8; 3],
    length: u8,
}

/// The input is not UTF-8, whatever follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8 {
    /// Validates `bytes`, which continue the input.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NotUtf8> {
        while self.length > 0 {
            let Some((&next, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            let length = usize::from(self.length);
            let mut sequence = [0; 4];
            sequence[..length].copy_from_slice(&self.partial[..length]);
            sequence[length] = next;
            self.length = 0;
            self.remember(&sequence[..=length])?;
        }
        self.remember(bytes)
    }

    /// Whether the input so far ends with a complete sequence.
    pub(super) fn is_complete(&self) -> bool {
        self.length == 0
    }

    /// Validates `bytes`, which begin with a sequence, and keeps an incomplete end.
    fn remember(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        let Err(error) = from_utf8(bytes) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let end = &bytes[error.valid_up_to()..];
        self.partial[..end.len()].copy_from_slice(end);
        self.length = end.len() as u8;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces. Returns which piece was refused, and whether the end is complete.
    fn fed(bytes: &[u8], pieces: usize) -> (Option<usize>, bool) {
        let mut utf8 = Utf8::default();
        for (i, piece) in bytes.chunks(pieces).enumerate() {
            if utf8.feed(piece) == Err(NotUtf8) {
                return (Some(i), false);
            }
        }
        (None, utf8.is_complete())
    }

    #[test]
    fn the_first_impossible_byte_is_refused() {
        // Beyond U+10FFFF, a surrogate, overlong forms, a stray continuation, 0xFF.
        let cases: [(&[u8], usize); 6] = [
            (b"\xf4\x90\x80\x80", 1),
            (b"\xed\xa0\x80", 1),
            (b"\xc0\xaf", 0),
            (b"a\xe0\x80\xaf", 2),
            (b"\x80", 0),
            (b"\xce\xba\xff", 2),
        ];
        for (bytes, at) in cases {
            assert_eq!(fed(bytes, 1).0, Some(at), "{bytes:x?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 20 } else { 256 }))]

        #[test]
        fn pieces_are_validated_like_the_whole(
            text in ".{0,30}",
            garbage in proptest::collection::vec(any::<u8>(), 0..4),
            pieces in 1_usize..9,
        ) {
            let mut bytes = text.into_bytes();
            bytes.extend(garbage);
            let whole = from_utf8(&bytes);
            let (refused, is_complete) = fed(&bytes, pieces);
            let expected = matches!(&whole, Err(error) if error.error_len().is_some());
            prop_assert_eq!(refused.is_some(), expected);
            prop_assert_eq!(refused.is_none() && is_complete, whole.is_ok());
        }
    }
}
