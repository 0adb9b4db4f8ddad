//! The echo of every byte stream, over TCP, TLS or HTTP/2 alike. WebSocket is one of them, with a
//! framing that turns a client's frames into a server's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::framing::{Bytes, Framing, Rewritten};
use super::{
    Echo, EchoError, Goodbye, Injected, Moved, PeerEnd, Step, Traffic, scratch, yield_turn,
};

/// Echoes a byte stream through the thread's scratch buffer.
///
/// A step reads into the buffer until the stream has no more or the buffer is full. The framing
/// turns the input into output in place, and the same poll writes it. Only what the peer does not
/// take is copied, into a tail that the connection owns until it is delivered. Until then nothing
/// more is read.
#[derive(Debug)]
pub struct StreamEcho<S, F = Bytes> {
    io: S,
    framing: F,
    /// How many bytes one step may read.
    batch: u32,
    owed: Tail,
    /// Written, but perhaps not yet on the wire: a TLS stream keeps records until it is flushed.
    unflushed: bool,
    heartbeat: Heartbeat,
    /// Boxed to keep idle connections small: it is set once, at the end.
    end: Option<Box<Result<PeerEnd, EchoError>>>,
    farewell: Farewell,
    /// The peer's FIN has been read, so nothing can come any more.
    has_fin: bool,
    moved: Moved,
}

/// A stream that can be echoed.
pub trait Carrier: AsyncRead + AsyncWrite + Unpin {
    /// Whether this is a connected socket: the end of its input is the peer's FIN, and dropping it
    /// sends all that was written, and ours.
    const IS_SOCKET: bool = false;

    /// The stream below the protocol, such as the TCP stream below TLS; or this stream itself. Once
    /// the farewell is sent, further input is read from there and dropped.
    fn lower(&mut self) -> &mut dyn LowerStream;

    /// Whether it holds memory that [`LowerStream::held`] counts, for a reason that only it knows:
    /// the beginning of what cannot be read before the rest has come.
    fn holds(&self) -> bool {
        false
    }

    /// The memory in bytes of what was written and waits here, before [`LowerStream::held`] counts it.
    fn backlog(&self) -> usize {
        0
    }

    /// How many of the bytes that were written have not been sent, and may never be.
    fn unsent(&self) -> u64 {
        0
    }

    /// What is done on purpose to the bytes of this stream.
    fn injected(&self) -> Option<Injected> {
        None
    }

    /// A step of the echo begins. From now on whatever fails in reading is followed by the end of our
    /// side, behind the echo of what was read before.
    fn begin_step(&mut self) {}

    /// A step of the echo has read all that it will. Returns whether that was so much work that the
    /// stream has ended it; then the task will be woken to read on.
    fn end_step(&mut self) -> bool {
        false
    }
}

/// A stream below a protocol.
pub trait LowerStream: AsyncRead + Unpin + Send {
    /// An upper bound of the memory in bytes that the stream and what is between it and the protocol
    /// hold now, beyond what they hold while they are idle. `is_flushed` says that all that was
    /// written to the protocol's stream has been flushed.
    fn held(&self, is_flushed: bool) -> usize {
        let _ = is_flushed;
        0
    }

    /// Whether all that was written has left the machine, as far as the stream can tell.
    fn has_sent_all(&self) -> bool {
        true
    }

    /// Has the stream end with a reset when it is dropped, if it can.
    fn reset_on_drop(&mut self) {}

    /// Ends our side without the farewell of the protocol above.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = cx;
        Poll::Ready(Ok(()))
    }

    /// Ready when the peer has ended its side, if that can be told without reading. What is read
    /// afterwards may come late.
    fn poll_peer_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let _ = cx;
        Poll::Pending
    }
}

/// Where the stream is between two pings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Heartbeat {
    /// The peer has sent something since the last ping.
    Heard,
    /// A ping is to be sent at the next frame boundary.
    Due,
    /// A ping was sent, and nothing has come since.
    Asked,
}

/// How far [`StreamEcho::poll_close`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Farewell {
    Unsent,
    /// A frame is half sent: echoes on until the output is at a frame boundary, where a farewell
    /// may stand.
    Finishing,
    /// Sends what is owed, and the protocol's farewell behind it.
    Flushing {
        await_answer: bool,
    },
    /// Our farewell is sent; reads on until the peer's own arrives.
    Awaiting,
    /// Shuts down our side of the stream.
    Ending,
    /// Our side is closed; input is read and dropped until the peer closes its own.
    Lingering,
    Done,
}

impl<S> StreamEcho<S> {
    /// Echoes `io`, at most `batch` bytes at a time, or one more if that is even.
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn new(io: S, batch: usize) -> Self {
        StreamEcho::framed(io, batch, Bytes::default())
    }

    /// Echoes `input` first, which was read from the stream already.
    pub fn with_early_input(mut self, input: Vec<u8>) -> Self {
        self.moved.inward += input.len() as u64;
        self.owed.append(input);
        self
    }
}

impl<S, F: Framing> StreamEcho<S, F> {
    /// Like [`StreamEcho::new`], for a protocol that `framing` knows how to echo.
    ///
    /// # Panics
    /// If `batch` is 0.
    pub fn framed(io: S, batch: usize, framing: F) -> Self {
        assert!(batch > 0, "a batch holds at least one byte");
        StreamEcho {
            io,
            framing,
            // An odd size: a read that fills the buffer does not show that the socket is empty, and
            // another one has to find nothing. Messages of a power of two never fill it. No read
            // returns more than 4 GiB, so saturation loses nothing.
            batch: u32::try_from(batch).unwrap_or(u32::MAX) | 1,
            owed: Tail::default(),
            unflushed: false,
            heartbeat: Heartbeat::Heard,
            end: None,
            farewell: Farewell::Unsent,
            has_fin: false,
            moved: Moved::default(),
        }
    }

    /// Sends `greeting` before the first echo. It has to be whole frames of the protocol.
    pub fn with_greeting(mut self, greeting: Vec<u8>) -> Self {
        self.owed.append(greeting);
        self
    }
}

impl<S: Carrier, F: Framing> Echo for StreamEcho<S, F> {
    const LINGER: Duration = F::LINGER;
    const PINGS: bool = F::PINGS;

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        ready!(self.poll_settle(cx)).map_err(EchoError::Write)?;
        scratch::with(F::HEADROOM + self.batch as usize, |buffer| {
            self.io.begin_step();
            let input = self.poll_input(cx, &mut buffer[F::HEADROOM..]);
            let was_work = self.io.end_step();
            if was_work && input.is_pending() {
                return Poll::Ready(Ok(Step::Costly));
            }
            let filled = ready!(input);
            if filled == 0 {
                let end = self.end.take().expect("input of 0 bytes comes with an end");
                return Poll::Ready(end.map(Step::Ended));
            }
            let buffer = &mut buffer[..F::HEADROOM + filled];
            let Rewritten { mut released, output, end, was_costly } = self.framing.pass(buffer);
            // An end within these bytes comes before the end of the stream behind them.
            self.end = end.map(Box::new).or_else(|| self.end.take());
            let written = if released.is_empty() {
                self.write_through(cx, &buffer[output])
            } else {
                released.extend_from_slice(&buffer[output]);
                self.owed.append(released);
                match self.poll_settle(cx) {
                    Poll::Ready(settled) => settled,
                    // The peer does not take it now. The next step tries again.
                    Poll::Pending => Ok(()),
                }
            };
            if let Err(error) = written {
                // What reading has failed with behind these bytes tells more.
                let end = self.end.take().map(|end| *end);
                return Poll::Ready(Err(match end {
                    Some(Err(cause)) => cause,
                    _ => EchoError::Write(error),
                }));
            }
            Poll::Ready(Ok(if was_costly || was_work { Step::Costly } else { Step::Moved }))
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>> {
        loop {
            match self.farewell {
                Farewell::Unsent => {
                    self.farewell = match why {
                        Goodbye::GoingAway => Farewell::Finishing,
                        Goodbye::Answer => self.say_goodbye(Goodbye::Answer),
                    };
                }
                Farewell::Finishing if self.framing.is_at_boundary() => {
                    self.farewell = self.say_goodbye(Goodbye::GoingAway);
                }
                Farewell::Finishing => match ready!(self.poll_step(cx)) {
                    Ok(Step::Moved) => {}
                    Ok(Step::Costly) => {
                        yield_turn(cx);
                        return Poll::Pending;
                    }
                    Ok(Step::Ended(_)) => self.farewell = self.say_goodbye(Goodbye::Answer),
                    Err(error) if error.allows_farewell() => {
                        self.farewell = self.say_goodbye(Goodbye::Answer);
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                },
                Farewell::Flushing { await_answer } => {
                    ready!(self.poll_settle(cx)).map_err(EchoError::Write)?;
                    self.farewell =
                        if await_answer { Farewell::Awaiting } else { Farewell::Ending };
                }
                // The driver will not wait for the peer's farewell any longer.
                Farewell::Awaiting if why == Goodbye::Answer => self.farewell = Farewell::Ending,
                Farewell::Awaiting => match ready!(self.poll_await(cx)) {
                    Step::Costly => {
                        yield_turn(cx);
                        return Poll::Pending;
                    }
                    Step::Moved | Step::Ended(_) => {}
                },
                // Dropping the socket sends our FIN, which saves the call.
                Farewell::Ending if S::IS_SOCKET && self.has_fin => self.farewell = Farewell::Done,
                Farewell::Ending => {
                    ready!(Pin::new(&mut self.io).poll_shutdown(cx)).map_err(EchoError::Write)?;
                    let is_over = self.has_fin;
                    self.farewell = if is_over { Farewell::Done } else { Farewell::Lingering };
                }
                Farewell::Lingering => ready!(self.poll_discard(cx)),
                Farewell::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn heartbeat(&mut self) -> bool {
        match self.heartbeat {
            Heartbeat::Heard => self.heartbeat = Heartbeat::Due,
            // While echoes are owed nothing is read, so what the peer sent may wait unread.
            Heartbeat::Due | Heartbeat::Asked if self.owes() => {}
            Heartbeat::Due if self.framing.is_at_boundary() => {}
            Heartbeat::Due => {
                // For a whole interval the peer has left its frame unfinished. Inside a frame no
                // ping could be sent, and no Close frame can be, so the farewell is a FIN.
                self.farewell = self.say_goodbye(Goodbye::GoingAway);
                return false;
            }
            Heartbeat::Asked => return false,
        }
        true
    }

    fn traffic(&self) -> Traffic {
        let outward = self.moved.outward - self.io.unsent().min(self.moved.outward);
        self.framing.traffic(Moved { outward, ..self.moved })
    }

    fn owes(&self) -> bool {
        let is_leaving = matches!(
            self.farewell,
            Farewell::Finishing | Farewell::Flushing { .. } | Farewell::Ending
        );
        !self.owed.is_empty() || self.unflushed || is_leaving
    }

    fn holds(&self) -> bool {
        self.owes() || self.framing.holds() || self.io.holds()
    }

    fn held(&mut self) -> usize {
        let below = self.io.lower().held(!self.unflushed);
        self.owed.held() + self.framing.held() + self.io.backlog() + below
    }

    fn moved(&self) -> Moved {
        self.moved
    }

    fn injected(&self) -> Option<Injected> {
        self.io.injected()
    }
}

impl<S: Carrier, F: Framing> StreamEcho<S, F> {
    /// Delivers what an earlier step could not.
    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.owed.is_empty() {
            let sent = ready!(poll_write(&mut self.io, cx, self.owed.as_slice()))?;
            self.owed.advance(sent);
            self.moved.outward += sent as u64;
            self.unflushed = true;
        }
        if self.may_ping() {
            self.heartbeat = Heartbeat::Asked;
            self.owed.append(self.framing.ping().into_iter().flatten().collect());
            return self.poll_settle(cx);
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a ping is due and allowed here: not inside a frame, and not after a farewell.
    fn may_ping(&self) -> bool {
        F::PINGS
            && self.heartbeat == Heartbeat::Due
            && self.farewell == Farewell::Unsent
            && self.end.is_none()
            && self.framing.is_at_boundary()
    }

    /// The next input: what the framing has left unread, else what the stream has. Ready with 0
    /// bytes means that `self.end` is set, and all input before the end has been passed.
    fn poll_input(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        if let Some(unread) = self.framing.take_unread(buffer.len()) {
            buffer[..unread.len()].copy_from_slice(&unread);
            return Poll::Ready(unread.len());
        }
        if self.end.is_some() {
            return Poll::Ready(0);
        }
        self.poll_fill(cx, buffer)
    }

    /// Reads until the stream has no more for now, the buffer is full, or the input has ended.
    ///
    /// Reading on after a short read costs a TCP socket no system call, since tokio then knows that
    /// it is drained. Over TLS it turns many records into one write. Ready with 0 bytes means that
    /// `self.end` is set.
    fn poll_fill(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<usize> {
        let mut into = ReadBuf::new(buffer);
        while into.remaining() > 0 {
            let before = into.filled().len();
            match Pin::new(&mut self.io).poll_read(cx, &mut into) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if into.filled().len() > before => {}
                Poll::Ready(Ok(())) => {
                    self.has_fin = S::IS_SOCKET;
                    self.end = Some(Box::new(Ok(self.framing.end_of_input())));
                    break;
                }
                // How rustls reports a FIN without close_notify.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.has_fin = true;
                    self.end = Some(Box::new(Ok(PeerEnd::Truncated)));
                    break;
                }
                Poll::Ready(Err(error)) => {
                    self.end = Some(Box::new(Err(EchoError::Read(error))));
                    break;
                }
            }
        }
        let filled = into.filled().len();
        if filled == 0 && self.end.is_none() {
            return Poll::Pending;
        }
        self.moved.inward += filled as u64;
        self.heartbeat = Heartbeat::Heard;
        Poll::Ready(filled)
    }

    /// Writes `bytes`, keeps what the peer does not take, and otherwise flushes once.
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
                    self.moved.outward += sent as u64;
                }
                Poll::Pending => {
                    self.owed.append(bytes.to_vec());
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

    /// Puts the protocol's farewell behind what is owed.
    fn say_goodbye(&mut self, why: Goodbye) -> Farewell {
        let farewell = self.framing.farewell(why);
        // A peer that has ended or violated the protocol will not answer.
        let await_answer = farewell.is_some() && why == Goodbye::GoingAway && self.end.is_none();
        self.owed.append(farewell.into_iter().flatten().collect());
        Farewell::Flushing { await_answer }
    }

    /// Reads one batch and drops it, unless the peer's farewell is in it.
    fn poll_await(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        scratch::with(F::HEADROOM + self.batch as usize, |buffer| {
            let filled = ready!(self.poll_input(cx, &mut buffer[F::HEADROOM..]));
            let Rewritten { end, was_costly, .. } =
                self.framing.pass(&mut buffer[..F::HEADROOM + filled]);
            if end.is_some() || self.end.is_some() {
                self.farewell = Farewell::Ending;
            }
            Poll::Ready(if was_costly { Step::Costly } else { Step::Moved })
        })
    }

    /// Reads one batch and drops it: from the stream below the protocol, since that may have
    /// failed. The peer's end or an error ends the linger, because everything has been sent by
    /// then.
    fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        scratch::with(self.batch as usize, |buffer| {
            let mut into = ReadBuf::new(buffer);
            let read = ready!(Pin::new(self.io.lower()).poll_read(cx, &mut into));
            if read.is_err() || into.filled().is_empty() {
                self.farewell = Farewell::Done;
            }
            Poll::Ready(())
        })
    }
}

/// `poll_write` that reports 0 written bytes as [`io::ErrorKind::WriteZero`].
fn poll_write<S>(io: &mut S, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>
where
    S: AsyncWrite + Unpin,
{
    match ready!(Pin::new(io).poll_write(cx, bytes))? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        sent => Poll::Ready(Ok(sent)),
    }
}

/// Bytes that the peer has yet to take. An empty tail is one pointer and owns no memory.
#[derive(Debug, Default)]
struct Tail(Option<Box<Unsent>>);

#[derive(Debug)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
}

impl Tail {
    fn append(&mut self, bytes: Vec<u8>) {
        match &mut self.0 {
            None if bytes.is_empty() => {}
            None => self.0 = Some(Box::new(Unsent { bytes, sent: 0 })),
            Some(unsent) => unsent.bytes.extend(bytes),
        }
    }

    fn as_slice(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |unsent| &unsent.bytes[unsent.sent..])
    }

    /// The memory that it owns, of which none is given back before all is sent.
    fn held(&self) -> usize {
        self.0.as_ref().map_or(0, |unsent| unsent.bytes.capacity())
    }

    fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn advance(&mut self, sent: usize) {
        if let Some(unsent) = &mut self.0 {
            unsent.sent += sent;
            if unsent.sent == unsent.bytes.len() {
                self.0 = None;
            }
        }
    }
}
