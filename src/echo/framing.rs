//! What may happen to bytes between input and output.

use std::ops::Range;
use std::time::Duration;

use super::{EchoError, Goodbye, Moved, PeerEnd, Traffic};

/// Turns a batch of input into the output that echoes it, in the buffer that it was read into.
pub trait Framing: Unpin {
    /// How many bytes [`pass`](Framing::pass) needs in front of the input: for what it kept of the
    /// batch before. It makes output out of those and the input, and never more than that.
    const HEADROOM: usize;

    /// How long a peer that has been sent everything, farewell included, has to close too.
    const LINGER: Duration;

    /// Whether [`ping`](Framing::ping) makes one.
    const PINGS: bool;

    /// Turns `buffer`, behind its headroom all input, into output. Once it has found an end, there
    /// is nothing more to turn, and no output.
    fn pass(&mut self, buffer: &mut [u8]) -> Rewritten;

    /// Whether something else may be sent now: nothing has been sent in part.
    fn is_at_boundary(&self) -> bool;

    /// The protocol's farewell. `None` if it has none, or can't say it any more.
    fn farewell(&mut self, why: Goodbye) -> Option<Box<[u8]>>;

    /// What asks the peer whether it is there.
    fn ping(&self) -> Option<Box<[u8]>>;

    /// What it means if the input ends here.
    fn end_of_input(&self) -> PeerEnd;

    /// What has gone through so far, of which `moved` has been read and written.
    fn traffic(&self, moved: Moved) -> Traffic;
}

/// What a batch of input came to.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Output that had been kept until it was complete. It goes before `output`.
    pub released: Vec<u8>,
    /// Where in the buffer the output is.
    pub output: Range<usize>,
    /// The echo is over once the output is delivered.
    pub end: Option<Result<PeerEnd, EchoError>>,
    /// It took a lot of computing: time for others.
    pub toiled: bool,
}

/// No framing: each byte is its own echo.
#[derive(Debug, Default)]
pub struct Bytes {
    batches: u64,
}

impl Framing for Bytes {
    const HEADROOM: usize = 0;
    const LINGER: Duration = Duration::from_secs(2);
    const PINGS: bool = false;

    fn pass(&mut self, buffer: &mut [u8]) -> Rewritten {
        self.batches += 1;
        Rewritten { output: 0..buffer.len(), ..Rewritten::default() }
    }

    fn is_at_boundary(&self) -> bool {
        true
    }

    fn farewell(&mut self, _why: Goodbye) -> Option<Box<[u8]>> {
        None
    }

    fn ping(&self) -> Option<Box<[u8]>> {
        None
    }

    fn end_of_input(&self) -> PeerEnd {
        PeerEnd::EndOfStream
    }

    fn traffic(&self, moved: Moved) -> Traffic {
        Traffic { received: moved.inward, sent: moved.outward, messages: self.batches }
    }
}
