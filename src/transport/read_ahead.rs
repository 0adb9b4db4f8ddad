//! A read buffer below rustls, which reads 4 KiB at a time: with it, a TLS record of 16 KiB takes
//! one system call instead of five.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::echo::{Carrier, LowerStream};

/// Four TLS records of the largest size, in bytes.
const SIZE: usize = 4 * (16 * 1024 + 256 + 5);

/// What rustls holds at most of what it was given to send: its own limit.
const RUSTLS_UNSENT: usize = 64 * 1024;

/// What rustls holds at most of what it has received: a record, decrypted and as it came.
const RUSTLS_RECEIVED: usize = 2 * 16 * 1024;

thread_local! {
    /// A connection takes the buffer when it reads, and returns it when rustls has consumed it.
    /// That happens within one poll, unless the peer stops reading. An idle connection holds no
    /// buffer.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The stream below TLS.
#[derive(Debug)]
pub(crate) struct ReadAhead<S> {
    io: S,
    /// The bytes `used..filled` were read ahead. Empty while there are none.
    buffer: Vec<u8>,
    used: usize,
    filled: usize,
    has_written: bool,
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(io: S) -> Self {
        ReadAhead { io, buffer: Vec::new(), used: 0, filled: 0, has_written: false }
    }

    /// Whether anything was written to the stream.
    pub(crate) fn has_written(&self) -> bool {
        self.has_written
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    /// Reads ahead, unless there is something left. Returns what there is, without consuming it;
    /// nothing at the end of the stream. No buffer is held while it is pending.
    pub(crate) fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        if self.used == self.filled {
            let mut buffer = BUFFER.take();
            if buffer.is_empty() {
                buffer = vec![0; SIZE];
            }
            let mut ahead = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut self.io).poll_read(cx, &mut ahead);
            let filled = ahead.filled().len();
            if filled == 0 {
                BUFFER.set(buffer);
                return read.map_ok(|()| &[][..]);
            }
            (self.buffer, self.used, self.filled) = (buffer, 0, filled);
        }
        Poll::Ready(Ok(&self.buffer[self.used..self.filled]))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let ready = ready!(this.poll_ahead(cx))?;
        let length = ready.len().min(into.remaining());
        into.put_slice(&ready[..length]);
        this.used += length;
        if length > 0 && this.used == this.filled {
            BUFFER.set(std::mem::take(&mut this.buffer));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin + Send> LowerStream for ReadAhead<S> {
    fn held(&self, is_flushed: bool) -> usize {
        // While something waits to be sent nothing is read, and rustls keeps what it has read.
        let rustls = if is_flushed { 0 } else { RUSTLS_UNSENT + RUSTLS_RECEIVED };
        self.buffer.capacity() + rustls
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for ReadAhead<S> {
    fn lower(&mut self) -> &mut dyn LowerStream {
        self
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.has_written = true;
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn every_byte_is_read_once_and_the_buffer_is_returned() {
        let (mut far, near) = duplex(1 << 20);
        let sent: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        far.write_all(&sent).await.unwrap();
        drop(far);
        let mut ahead = ReadAhead::new(near);
        let mut other = ReadAhead::new(&b"another connection of the same thread"[..]);
        let (mut read, mut piece) = (Vec::new(), [0; 4096]);
        let mut between = [0; 5];
        other.read_exact(&mut between).await.unwrap();
        loop {
            let length = ahead.read(&mut piece).await.unwrap();
            if length == 0 {
                break;
            }
            read.extend_from_slice(&piece[..length]);
        }
        assert!(read == sent);
        assert_eq!(ahead.buffer.capacity(), 0);
        let mut rest = String::new();
        other.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&between, rest.as_str()), (b"anoth", "er connection of the same thread"));
    }
}
