//! Inflates compressed text (RFC 7692) only to validate it as UTF-8: the echo is the client's own
//! compressed bytes.

use std::cell::Cell;

use flate2::{Decompress, FlushDecompress, Status};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Violation;
use super::utf8::Utf8;

/// Bytes that a message may inflate to, whatever its compressed size.
const FREE: u64 = 16 << 20;

/// Further bytes for each compressed byte. DEFLATE reaches 1032; text stays below 20.
const RATIO: u64 = 100;

/// The end of every message, which its sender leaves out (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// A final block that is empty (RFC 1951 section 3.2.4). A decompressor takes it as such only between
/// two blocks, at the boundary of a byte.
const FINAL_BLOCK: [u8; 5] = [0x01, 0x00, 0x00, 0xFF, 0xFF];

/// The size of the buffer for inflated bytes, which are validated there and dropped.
const WINDOW: usize = 8 * 1024;

thread_local! {
    /// A decompressor owns some 47 KiB. Most messages begin and end within one read, so one for
    /// each thread is usually enough.
    static SPARE: Cell<Option<Box<Decompress>>> = const { Cell::new(None) };
}

/// Inflates one message. No message needs the one before, because `client_no_context_takeover`
/// was negotiated.
#[derive(Debug)]
pub(super) struct Inflater {
    /// `None` only while it is dropped.
    decompress: Option<Box<Decompress>>,
    compressed: u64,
    inflated: u64,
    /// Nothing has been fed since the start, or since a final block.
    is_fresh: bool,
}

impl Inflater {
    /// About what one takes of memory.
    pub(super) const SIZE: usize = 47 * 1024;

    pub(super) fn new() -> Self {
        let decompress = SPARE.take().unwrap_or_else(|| Box::new(Decompress::new(false)));
        Inflater { decompress: Some(decompress), compressed: 0, inflated: 0, is_fresh: true }
    }

    /// Inflates `bytes`, which continue the message, into `text`. Returns how many bytes that gave.
    pub(super) fn feed(&mut self, bytes: &[u8], text: &mut Utf8) -> Result<u64, Violation> {
        self.compressed += bytes.len() as u64;
        self.inflate(bytes, text)
    }

    /// Ends the message. Returns how many bytes that gave.
    ///
    /// A sender ends a message with an empty block, of which it leaves out [`TAIL`] (RFC 7692 section
    /// 7.2.1). So with [`TAIL`] the data is at the end of a block, or it was cut. Some senders leave
    /// out the empty block after a final one, or send nothing at all for an empty message: that is
    /// whole all the same.
    pub(super) fn finish(&mut self, text: &mut Utf8) -> Result<u64, Violation> {
        if self.is_fresh {
            return Ok(0);
        }
        let inflated = self.inflate(&TAIL, text)?;
        let decompress = self.decompress.as_mut().expect("there until dropped");
        let (read, written) = (decompress.total_in(), decompress.total_out());
        let status = decompress.decompress(&FINAL_BLOCK, &mut [0; 8], FlushDecompress::Sync);
        let is_whole = matches!(status, Ok(Status::StreamEnd))
            && decompress.total_in() - read == FINAL_BLOCK.len() as u64
            && decompress.total_out() == written;
        if is_whole { Ok(inflated) } else { Err(data("compressed text ends inside a block")) }
    }

    fn inflate(&mut self, mut bytes: &[u8], text: &mut Utf8) -> Result<u64, Violation> {
        let decompress = self.decompress.as_mut().expect("there until dropped");
        let mut window = [0; WINDOW];
        let before = self.inflated;
        loop {
            let (read, written) = (decompress.total_in(), decompress.total_out());
            let status = decompress
                .decompress(bytes, &mut window, FlushDecompress::Sync)
                .map_err(|_| data("compressed text is not DEFLATE"))?;
            let consumed = (decompress.total_in() - read) as usize;
            let inflated = (decompress.total_out() - written) as usize;
            bytes = &bytes[consumed..];
            text.feed(&window[..inflated]).map_err(|_| data("text is not UTF-8"))?;
            self.inflated += inflated as u64;
            if self.inflated > FREE + RATIO * self.compressed {
                let detail = "compressed text inflates to more than 16 MiB and a hundredfold";
                return Err(Violation { code: CloseCode::Size, detail });
            }
            if status == Status::StreamEnd {
                // Another block may follow a final one (section 7.2.3.4).
                decompress.reset(false);
                self.is_fresh = true;
            } else if consumed > 0 {
                self.is_fresh = false;
            }
            // Space left in the window means that these bytes have nothing more to give.
            if bytes.is_empty() && inflated < WINDOW {
                return Ok(self.inflated - before);
            }
            if consumed == 0 && inflated == 0 {
                return Err(data("compressed text is not DEFLATE"));
            }
        }
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        if let Some(mut decompress) = self.decompress.take() {
            decompress.reset(false);
            // This fails only in a thread that is ending.
            let _ = SPARE.try_with(|spare| spare.set(Some(decompress)));
        }
    }
}

fn data(detail: &'static str) -> Violation {
    Violation { code: CloseCode::Invalid, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the 43 KiB are.
    fn place(inflater: &Inflater) -> *const Decompress {
        &raw const **inflater.decompress.as_ref().unwrap()
    }

    #[test]
    fn a_decompressor_is_used_again_and_begins_anew() {
        let mut text = Utf8::default();
        let mut first = Inflater::new();
        let at = place(&first);
        // The block that this byte begins never goes on.
        assert_eq!(first.feed(b"\x4b", &mut text), Ok(0));
        drop(first);
        // If the place is free, this is where the allocator will most likely put another one.
        let _other = Box::new(Decompress::new(false));
        let mut second = Inflater::new();
        assert_eq!(place(&second), at);
        assert_eq!(second.feed(b"\xf2\x48\xcd\xc9\xc9\x07\x00", &mut text), Ok(5));
        assert_eq!(second.finish(&mut text), Ok(0));
    }
}
