//! Compressed text (RFC 7692), inflated to see whether it is UTF-8, and for nothing else: the echo
//! is the client's own compressed bytes.

use std::cell::Cell;

use flate2::{Decompress, FlushDecompress, Status};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::Violation;
use super::utf8::Utf8;

/// A message may inflate to this many bytes, whatever its compressed size.
const FREE: u64 = 16 << 20;

/// Beyond them, to this many for each compressed byte. DEFLATE can do 1032; text does below 20.
const RATIO: u64 = 100;

/// What every message ends with, and its sender leaves out (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xFF, 0xFF];

/// Inflated bytes go here, and no further.
const WINDOW: usize = 8 * 1024;

thread_local! {
    /// An inflater owns some 43 KiB. Most messages come and end in one read, so that one inflater
    /// for each thread serves them all.
    static SPARE: Cell<Option<Box<Decompress>>> = const { Cell::new(None) };
}

/// Inflates one message. Every message starts anew: that was agreed upon
/// (`client_no_context_takeover`).
#[derive(Debug)]
pub(super) struct Inflater {
    /// `None` only while it is dropped.
    decompress: Option<Box<Decompress>>,
    compressed: u64,
    inflated: u64,
}

impl Inflater {
    pub(super) fn new() -> Self {
        let decompress = SPARE.take().unwrap_or_else(|| Box::new(Decompress::new(false)));
        Inflater { decompress: Some(decompress), compressed: 0, inflated: 0 }
    }

    /// Goes on with `bytes` of the message, and feeds `text` with what they inflate to. Returns
    /// how much that was.
    pub(super) fn feed(&mut self, bytes: &[u8], text: &mut Utf8) -> Result<u64, Violation> {
        self.compressed += bytes.len() as u64;
        self.inflate(bytes, text)
    }

    /// The message ends.
    pub(super) fn finish(&mut self, text: &mut Utf8) -> Result<u64, Violation> {
        self.inflate(&TAIL, text)
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
                // A final block, behind which another may follow (section 7.2.3.4).
                decompress.reset(false);
            }
            // With room left in the window there is nothing more to come of these bytes.
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
            // A thread that is ending keeps none.
            let _ = SPARE.try_with(|spare| spare.set(Some(decompress)));
        }
    }
}

fn data(detail: &'static str) -> Violation {
    Violation { code: CloseCode::Invalid, detail }
}
