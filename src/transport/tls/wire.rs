//! The stream below TLS, with the bytes that were read ahead of the record layer, and those that the
//! socket has yet to take.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::record::LARGEST;
use crate::echo::LowerStream;

/// Room for four records of the largest size, so that reading 64 KiB in bulk takes one system call.
const SIZE: usize = 4 * (16 * 1024 + 256 + 5);

// One record always fits, whatever its sender adds to the plaintext.
const _: () = assert!(LARGEST < SIZE);

thread_local! {
    /// A connection takes the buffer when it reads, and returns it when all of it is consumed or
    /// when it has to wait for more. That happens within one poll, unless the peer stops reading. An
    /// idle connection holds no buffer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The stream below TLS.
pub(super) struct Wire<S> {
    io: S,
    /// The bytes `used..filled` were read and are not consumed. It is the thread's buffer while they
    /// are being worked on, and has their size while the connection waits for more of them.
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
    /// What the socket has not taken; its first `sent` bytes it has.
    unsent: Vec<u8>,
    sent: usize,
}

impl<S> Wire<S> {
    /// The wire on `io`, of which `read` was read before.
    pub(super) fn new(io: S, read: Vec<u8>) -> Self {
        let filled = read.len();
        Wire { io, buffer: read, used: 0, filled, unsent: Vec::new(), sent: 0 }
    }

    /// What was read and is not consumed.
    pub(super) fn unread(&mut self) -> &mut [u8] {
        &mut self.buffer[self.used..self.filled]
    }

    /// Takes the first `length` bytes of [`Wire::unread`] as done with.
    pub(super) fn consume(&mut self, length: usize) {
        self.used += length;
        debug_assert!(self.used <= self.filled, "only what was read can be consumed");
        if self.used == self.filled {
            give_back(std::mem::take(&mut self.buffer));
            (self.used, self.filled) = (0, 0);
        }
    }

    /// Has `bytes` sent behind all others by [`Wire::poll_flush`].
    pub(super) fn queue(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Whether memory is held: for what is unread or unsent.
    pub(super) fn holds(&self) -> bool {
        !(self.buffer.is_empty() && self.unsent.is_empty())
    }

    /// The stream alone, and what has yet to be sent on it.
    pub(super) fn into_parts(mut self) -> (S, Vec<u8>) {
        self.unsent.drain(..self.sent);
        (self.io, self.unsent)
    }
}

fn give_back(buffer: Vec<u8>) {
    if buffer.len() == SIZE {
        BUFFER.set(buffer);
    }
}

impl<S: AsyncRead + Unpin> Wire<S> {
    /// Reads once, behind what is unread. Ready with 0 bytes means that the stream has ended. While
    /// it is pending, no more memory is held than what is unread needs.
    ///
    /// # Errors
    /// Besides those of the stream: [`io::ErrorKind::StorageFull`] if there is no room left.
    pub(super) fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let unread = self.filled - self.used;
        if unread == SIZE {
            return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
        }
        self.make_room();
        let mut into = ReadBuf::new(&mut self.buffer[unread..]);
        let read = Pin::new(&mut self.io).poll_read(cx, &mut into);
        let length = into.filled().len();
        self.filled += length;
        if length == 0 {
            let whole = std::mem::take(&mut self.buffer);
            self.buffer = whole[..unread].to_vec();
            give_back(whole);
        }
        read.map_ok(|()| length)
    }

    /// Moves what is unread to the start of a buffer of the full size.
    fn make_room(&mut self) {
        if self.buffer.len() == SIZE {
            self.buffer.copy_within(self.used..self.filled, 0);
        } else {
            let mut whole = BUFFER.take();
            if whole.is_empty() {
                whole = vec![0; SIZE];
            }
            let unread = self.unread();
            whole[..unread.len()].copy_from_slice(unread);
            self.buffer = whole;
        }
        (self.used, self.filled) = (0, self.filled - self.used);
    }
}

impl<S: AsyncWrite + Unpin> Wire<S> {
    /// Sends what is unsent. Ready as soon as the socket has taken all of it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            let rest = &self.unsent[self.sent..];
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.sent += taken,
            }
        }
        // An idle connection holds no buffer.
        (self.unsent, self.sent) = (Vec::new(), 0);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    /// Sends `records` at once, and keeps what the socket does not take. Nothing may be unsent
    /// before.
    pub(super) fn send(&mut self, cx: &mut Context<'_>, records: &[Vec<u8>]) -> io::Result<()> {
        debug_assert!(self.unsent.is_empty(), "records leave in their order");
        if let [record] = records {
            return self.send_one(cx, record);
        }
        let mut slices: Vec<_> = records.iter().map(|record| IoSlice::new(record)).collect();
        let mut slices = &mut slices[..];
        while !slices.is_empty() {
            match Pin::new(&mut self.io).poll_write_vectored(cx, slices) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(taken) => IoSlice::advance_slices(&mut slices, taken?),
                Poll::Pending => {
                    self.unsent = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                    break;
                }
            }
        }
        Ok(())
    }

    fn send_one(&mut self, cx: &mut Context<'_>, mut record: &[u8]) -> io::Result<()> {
        while !record.is_empty() {
            match Pin::new(&mut self.io).poll_write(cx, record) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(taken) => record = &record[taken?..],
                Poll::Pending => {
                    self.unsent = record.to_vec();
                    break;
                }
            }
        }
        Ok(())
    }

    /// Ends our side, behind all that is unsent.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Reads past the records, for whoever drops what comes.
impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let unread = self.filled - self.used;
        if unread > 0 {
            let length = unread.min(into.remaining());
            into.put_slice(&self.unread()[..length]);
            self.consume(length);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl<S: LowerStream + AsyncWrite> LowerStream for Wire<S> {
    fn held(&self, _is_flushed: bool) -> usize {
        self.buffer.capacity() + self.unsent.capacity()
    }

    fn has_sent_all(&self) -> bool {
        self.unsent.is_empty() && self.io.has_sent_all()
    }

    fn reset_on_drop(&mut self) {
        self.io.reset_on_drop();
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(cx)
    }

    fn poll_peer_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.io.poll_peer_end(cx)
    }
}
