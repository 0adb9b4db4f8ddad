//! How a protocol turns input into the output that echoes it.

use std::ops::Range;
use std::time::Duration;

use super::{EchoError, Goodbye, Moved, PeerEnd, Traffic};

/// Turns a batch of input into the output that echoes it, in the buffer that it was read into.
pub trait Framing: Unpin {
    /// How many bytes [`pass`](Framing::pass) needs in front of the input, for what it kept of the
    /// batch before. The output is never longer than those and the input together.
    const HEADROOM: usize;

    /// See [`Echo::LINGER`](super::Echo::LINGER).
    const LINGER: Duration;

    /// Whether [`ping`](Framing::ping) returns a frame.
    const PINGS: bool;

    /// Turns the input, which fills `buffer` behind its headroom, into output. After a call that
    /// returned an end, every further call returns no output. A pass that would take too much CPU
    /// time stops early, and [`take_unread`](Framing::take_unread) has the rest of its input.
    fn pass(&mut self, buffer: &mut [u8]) -> Rewritten;

    /// At most `most` bytes of input that no pass has looked at yet. It is the input of the next
    /// pass, before anything that is read.
    fn take_unread(&mut self, most: usize) -> Option<Box<[u8]>>;

    /// Whether [`held`](Framing::held) is more than 0.
    fn holds(&self) -> bool;

    /// How many bytes of memory the framing holds for input whose rest is to come, and for input
    /// that it has left unread.
    fn held(&self) -> usize;

    /// Whether a frame of ours may be sent now: no other frame has been sent in part.
    fn is_at_boundary(&self) -> bool;

    /// The protocol's farewell. `None` if it has none, or may not send it any more.
    fn farewell(&mut self, why: Goodbye) -> Option<Box<[u8]>>;

    /// A frame that the peer has to answer.
    fn ping(&self) -> Option<Box<[u8]>>;

    /// How the peer has ended if the input ends here.
    fn end_of_input(&self) -> PeerEnd;

    /// What has gone through so far. `moved` is what the stream has read and written.
    fn traffic(&self, moved: Moved) -> Traffic;
}

/// A batch after [`Framing::pass`].
#[derive(Debug, Default)]
pub struct Rewritten {
    /// Output that was kept from earlier batches until it was complete. It goes before `output`.
    pub released: Vec<u8>,
    /// Where in the buffer the output is.
    pub output: Range<usize>,
    /// The echo is over once the output is delivered.
    pub end: Option<Result<PeerEnd, EchoError>>,
    /// The batch took a lot of CPU time.
    pub was_costly: bool,
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

    fn take_unread(&mut self, _most: usize) -> Option<Box<[u8]>> {
        None
    }

    fn holds(&self) -> bool {
        false
    }

    fn held(&self) -> usize {
        0
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
