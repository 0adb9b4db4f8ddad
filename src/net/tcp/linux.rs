//! TCP on Linux: a listener whose streams are registered only where they live, and a stream that
//! reads past urgent data.

use std::io::{self, IoSlice, Read, Write};
use std::net;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::net::accept::{AcceptSocket, Accepted};
use crate::net::{Listener, Peer, SocketFacts, Stream};

/// A TCP listener that is registered with a runtime.
#[derive(Debug)]
pub(crate) struct TcpListener(AcceptSocket);

impl TcpListener {
    /// Registers `listener`, which must be non-blocking, with the current runtime.
    pub(crate) fn from_std(listener: net::TcpListener) -> io::Result<Self> {
        AcceptSocket::register(listener.into()).map(TcpListener)
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(net::TcpStream, Peer)> {
        self.0.accept().await.and_then(with_peer)
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(net::TcpStream, Peer)>> + Send> {
        Ok(self.0.into_backlog()?.map(|accepted| accepted.and_then(with_peer)))
    }
}

fn with_peer((stream, address): Accepted) -> io::Result<(net::TcpStream, Peer)> {
    let address = address.ok_or(io::ErrorKind::ConnectionAborted)?;
    Ok((stream.into(), Peer::ip_of(address.try_into()?)))
}

/// A TCP stream that is registered with a runtime.
///
/// Urgent data is in line (SO_OOBINLINE), but the kernel ends a read in front of the last urgent
/// byte even if more has arrived. tokio's own stream takes each short read for a sign that the
/// receive buffer is empty, and would then wait for bytes that are there already. This one has epoll
/// report urgent data, too (EPOLLPRI). Once there has been some, it reads until EAGAIN.
#[derive(Debug)]
pub(crate) struct TcpStream(AsyncFd<net::TcpStream>);

impl TcpStream {
    /// Whether epoll has ever reported urgent data. It is also true once the peer's FIN has come,
    /// which makes no difference: tokio never clears the readiness that a FIN causes.
    fn has_urgent_data(&self) -> bool {
        // This reads tokio's flags, without a system call. Nothing clears the one for urgent data.
        self.0.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    /// Waits after EAGAIN. It is out of line because hardly any read gets there: a short read clears
    /// the readiness beforehand.
    #[cold]
    fn poll_read_again(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read(cx, into)
    }

    /// Writes by `write`, which has `length` bytes to write and returns how many were written.
    fn poll_write_by(
        &self,
        cx: &mut Context<'_>,
        length: usize,
        write: impl Fn(&mut &net::TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            match write(&mut self.0.get_ref()) {
                Ok(written) => {
                    // The send buffer is full. Clearing saves a call that would fail with EAGAIN.
                    if 0 < written && written < length {
                        ready.clear_ready();
                    }
                    return Poll::Ready(Ok(written));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl Stream for TcpStream {
    type Detached = net::TcpStream;

    fn attach(stream: net::TcpStream) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        // `AsyncFd::with_interest` is deprecated because it is unsound for a type that does not keep
        // its descriptor open. This one does, and the replacement is an unsafe function.
        #[expect(deprecated)]
        Ok(TcpStream(AsyncFd::with_interest(stream, interest)?))
    }

    /// With a TCP_NOTSENT_LOWAT of 1, a socket is writable only when it has nothing unsent.
    fn has_sent_all(&self) -> bool {
        let socket = self.0.get_ref();
        if SockRef::from(socket).set_tcp_notsent_lowat(1).is_err() {
            return true;
        }
        let mut polled = [PollFd::new(socket, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error of the socket is reported, too, and then nothing can be sent.
        poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    fn reset_on_drop(&self) {
        let _ = SockRef::from(self.0.get_ref()).set_linger(Some(Duration::ZERO));
    }

    fn poll_peer_end(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Ok(mut ready) = ready!(self.0.poll_read_ready(cx)) else { return Poll::Ready(()) };
            if ready.ready().is_read_closed() {
                return Poll::Ready(());
            }
            ready.clear_ready();
        }
    }

    fn facts(&self) -> SocketFacts {
        SocketFacts::of_tcp(&self.0.get_ref().into())
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut ready = ready!(self.0.poll_read_ready(cx))?;
        let buffer = into.initialize_unfilled();
        let room = buffer.len();
        match self.0.get_ref().read(buffer) {
            Ok(length) => {
                // After a short read the receive buffer is empty, unless the read has ended at
                // urgent data. This saves a call that would fail with EAGAIN.
                if 0 < length && length < room && !self.has_urgent_data() {
                    ready.clear_ready();
                }
                into.advance(length);
                Poll::Ready(Ok(()))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                ready.clear_ready();
                self.poll_read_again(cx, into)
            }
            Err(error) => Poll::Ready(Err(error)),
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
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        self.poll_write_by(cx, length, |stream| stream.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Does nothing: the kernel sends what was written without being asked.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.0.get_ref().shutdown(net::Shutdown::Write) {
            // The connection was reset, so both directions are closed.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
