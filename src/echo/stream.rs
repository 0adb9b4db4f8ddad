//! Bytes in, the same bytes out: the echo of every byte stream, TCP and TLS alike.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Echo, EchoError, Goodbye, Moved, PeerEnd, Step, Traffic, scratch};

/// Echoes a byte stream through the thread's scratch buffer.
///
/// Input is read into the buffer until the stream has no more or the buffer is full, and written
/// straight out of it in the same poll. Only what the peer does not take is copied, into a tail
/// that the connection owns until it is delivered; until then nothing more is read.
#[derive(Debug)]
pub struct StreamEcho<S> {
    io: S,
    raw: Raw<S>,
    batch: usize,
    owed: Tail,
    /// Written, but perhaps not yet on the wire: a TLS stream keeps records until it is flushed.
    unflushed: bool,
    end: Option<Result<PeerEnd, EchoError>>,
    farewell: Farewell,
    traffic: Traffic,
}

/// The connection below a protocol.
pub type Raw<S> = fn(&mut S) -> &mut (dyn AsyncRead + Unpin + Send);

/// How far [`StreamEcho::poll_close`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    Unsent,
    /// What is owed goes first.
    Sending,
    /// Our side is closed; input is read and dropped until the peer closes its own.
    Lingering,
    Done,
}

impl<S: AsyncRead + Unpin + Send> StreamEcho<S> {
    /// Echoes `io`, at most `batch` bytes at a time.
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn new(io: S, batch: usize) -> Self {
        StreamEcho::over(io, |io| io, batch)
    }
}

impl<S> StreamEcho<S> {
    /// Echoes `io`, a protocol on the connection that `raw` gives. Once the farewell is out, what
    /// the peer still sends is read there and dropped.
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn over(io: S, raw: Raw<S>, batch: usize) -> Self {
        assert!(batch > 0, "a batch of no bytes moves none");
        StreamEcho {
            io,
            raw,
            batch,
            owed: Tail::default(),
            unflushed: false,
            end: None,
            farewell: Farewell::Unsent,
            traffic: Traffic::default(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Echo for StreamEcho<S> {
    const LINGER: Duration = Duration::from_secs(2);

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        ready!(self.poll_settle(cx)).map_err(EchoError::Write)?;
        if let Some(end) = self.end.take() {
            return Poll::Ready(end.map(Step::Ended));
        }
        scratch::with(self.batch, |buffer| {
            let filled = ready!(self.poll_fill(cx, buffer));
            self.write_through(cx, &buffer[..filled]).map_err(EchoError::Write)?;
            Poll::Ready(Ok(Step::Moved))
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        if self.farewell == Farewell::Unsent {
            self.farewell = Farewell::Sending;
        }
        if self.farewell == Farewell::Sending {
            ready!(self.poll_settle(cx)).map_err(EchoError::Write)?;
            ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(EchoError::Write)?;
            self.farewell = Farewell::Lingering;
        }
        while self.farewell == Farewell::Lingering {
            ready!(self.poll_discard(cx));
        }
        Poll::Ready(Ok(()))
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn owes(&self) -> bool {
        !self.owed.is_empty() || self.unflushed || self.farewell == Farewell::Sending
    }

    fn moved(&self) -> Moved {
        Moved { inward: self.traffic.received, outward: self.traffic.sent }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> StreamEcho<S> {
    /// Delivers what an earlier step could not.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.owed.is_empty() {
            let sent = ready!(poll_write(&mut self.io, cx, self.owed.as_slice()))?;
            self.owed.advance(sent);
            self.traffic.sent += sent as u64;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads until the stream has no more for now, the buffer is full, or the input has ended.
    ///
    /// Reading on after a short read costs a TCP socket no system call, since tokio then knows
    /// that it is drained; over TLS it turns many records into one write. Ready with 0 bytes means
    /// that `self.end` is set.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let mut into = ReadBuf::new(buffer);
        while into.remaining() > 0 {
            let before = into.filled().len();
            match Pin::new(&mut self.io).poll_read(cx, &mut into) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if into.filled().len() > before => {}
                Poll::Ready(Ok(())) => {
                    self.end = Some(Ok(PeerEnd::EndOfStream));
                    break;
                }
                // rustls' word for a FIN without close_notify.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.end = Some(Ok(PeerEnd::Truncated));
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.end = Some(Err(EchoError::Read(error)));
                    break;
                }
            }
        }
        let filled = into.filled().len();
        if filled == 0 && self.end.is_none() {
            return Poll::Pending;
        }
        if filled > 0 {
            self.traffic.received += filled as u64;
            self.traffic.messages += 1;
        }
        Poll::Ready(filled)
    }

    /// Writes `bytes`, keeps what the peer does not take, and flushes once.
    fn write_through(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.unflushed = true;
        while !bytes.is_empty() {
            match poll_write(&mut self.io, cx, bytes) {
                Poll::Ready(sent) => {
                    let sent = sent?;
                    bytes = &bytes[sent..];
                    self.traffic.sent += sent as u64;
                }
                Poll::Pending => {
                    self.owed.hold(bytes);
                    return Ok(());
                }
            }
        }
        if let Poll::Ready(flushed) = Pin::new(&mut self.io).poll_flush(cx) {
            flushed?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Reads one batch below the protocol, which may have failed, and drops it. The peer's end, or an error, ends the linger: after the
    /// farewell neither has anything left to lose.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        scratch::with(self.batch, |buffer| {
            let mut into = ReadBuf::new(buffer);
            let read = ready!(Pin::new((self.raw)(&mut self.io)).poll_read(cx, &mut into));
            if read.is_err() || into.filled().is_empty() {
                self.farewell = Farewell::Done;
            }
            Poll::Ready(())
        })
    }
}

/// `poll_write` that takes "0 bytes written" for the failure it is.
fn poll_write<S>(io: &mut S, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>
where
    S: AsyncWrite + Unpin,
{
    match ready!(Pin::new(io).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        sent => Poll::Ready(Ok(sent)),
    }
}

/// Bytes that the peer has yet to take. Empty, it owns no memory.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    sent: usize,
}

impl Tail {
    fn hold(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_empty(), "nothing is read while something is owed");
        self.bytes = bytes.to_vec();
        self.sent = 0;
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    fn advance(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent == self.bytes.len() {
            *self = Tail::default();
        }
    }
}
