//! A TCP stream that reads past urgent data (RFC 6093), on Linux.
//!
//! Urgent data is in line (SO_OOBINLINE), but a read that begins before it ends before it, even if
//! more has arrived. tokio's own stream takes a short read for a sign that nothing is left, and
//! would then wait for bytes that are there already. Here epoll also reports urgent data (EPOLLPRI),
//! and while there is some, only EAGAIN says that nothing is left.

use std::io::{self, Read, Write};
use std::net;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

/// A TCP stream that is registered with a runtime.
#[derive(Debug)]
pub(crate) struct TcpStream {
    io: AsyncFd<net::TcpStream>,
}

impl TcpStream {
    /// Registers `stream`, which must be non-blocking, with the current runtime.
    #[expect(
        deprecated,
        reason = "unsound for types that change their descriptor, which this one does not; the new \
                  function is unsafe"
    )]
    pub(super) fn register(stream: net::TcpStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        Ok(TcpStream { io: AsyncFd::with_interest(stream, interest)? })
    }

    /// Deregisters the stream from its runtime.
    pub(super) fn deregister(self) -> net::TcpStream {
        self.io.into_inner()
    }

    /// The readiness of urgent data, if epoll has reported some and it is not cleared.
    fn urgent(&self) -> Option<AsyncFdReadyGuard<'_, net::TcpStream>> {
        // This looks and does not wait: whoever reads waits for readability.
        let mut cx = Context::from_waker(Waker::noop());
        match pin!(self.io.ready(Interest::PRIORITY)).poll(&mut cx) {
            Poll::Ready(Ok(ready)) if ready.ready().is_priority() => Some(ready),
            _ => None,
        }
    }

    /// Writes by `write`, which was asked for `length` bytes.
    fn poll_write_by(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        mut write: impl FnMut(&mut &net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.io.poll_write_ready(cx))?;
            match write(&mut self.io.get_ref()) {
                Ok(written) => {
                    // After a short write the send buffer is full.
                    if written > 0 && written < length {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.io.poll_read_ready(cx))?;
            let buffer = into.initialize_unfilled();
            let room = buffer.len();
            match self.io.get_ref().read(buffer) {
                Ok(length) => {
                    // After a short read the receive buffer is empty, and a call that would fail
                    // with EAGAIN is saved.
                    if length > 0 && length < room && self.urgent().is_none() {
                        ready.clear_ready();
                    }
                    into.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                    if let Some(mut urgent) = self.urgent() {
                        urgent.clear_ready_matching(Ready::PRIORITY);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_by(cx, bytes.len(), |stream| stream.write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_write_by(cx, length, |stream| stream.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The kernel takes what is written at once; there is nothing to flush.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.io.get_ref().shutdown(net::Shutdown::Write) {
            // The peer has reset the connection.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
