//! A UDP socket of the probe: on Linux in batches (recvmmsg and sendmmsg), elsewhere one datagram at a
//! time.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::echo::MAX_DATAGRAM;

/// How many datagrams are received or sent with one system call, at most.
pub(super) const BATCH: usize = if cfg!(target_os = "linux") { 16 } else { 1 };

/// How often a datagram is sent again because an error of an earlier one was in its way.
const RETRIES: usize = 8;

/// A connected socket.
///
/// An ICMP error that answers an earlier datagram waits on the socket, and the next call fails with
/// it, whatever that call is (udp(7)). If that is a send, the datagram is not sent. The socket does
/// not become readable then, so that errors are waited for by themselves (EPOLLERR).
pub(super) struct Datagrams {
    socket: Arc<UdpSocket>,
    /// Completes when there is an error on the socket.
    failing: Pin<Box<dyn Future<Output = io::Result<()>> + Send>>,
    /// Errors of earlier datagrams that a send has met. Receiving reports them.
    queued: VecDeque<io::Error>,
    /// How many of the next datagrams are ignored.
    to_skip: u64,
}

/// Datagrams that were received together.
#[derive(Default)]
pub(super) struct Received {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    /// How many of the first are ignored.
    skipped: usize,
}

impl Received {
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let all = self.bytes.chunks(MAX_DATAGRAM).zip(&self.lengths);
        all.map(|(bytes, length)| &bytes[..*length]).skip(self.skipped)
    }

    /// Room for `count` datagrams.
    fn buffers(&mut self, count: usize) -> impl Iterator<Item = &mut [u8]> {
        self.lengths.clear();
        // It only grows: clearing what was received before would cost as much as receiving.
        if self.bytes.len() < count * MAX_DATAGRAM {
            self.bytes = vec![0; count * MAX_DATAGRAM];
        }
        self.bytes.chunks_mut(MAX_DATAGRAM).take(count)
    }
}

impl From<UdpSocket> for Datagrams {
    fn from(socket: UdpSocket) -> Datagrams {
        let socket = Arc::new(socket);
        let failing = failing(Arc::clone(&socket));
        Datagrams { socket, failing, queued: VecDeque::new(), to_skip: 0 }
    }
}

impl Datagrams {
    pub(super) fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Ignores the next datagrams.
    pub(super) fn skip_first(&mut self, count: u64) {
        self.to_skip = count;
    }

    /// Receives what has come, one datagram at least. `many` says that several are expected.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Received,
        many: bool,
    ) -> Poll<io::Result<()>> {
        if let Some(error) = self.queued.pop_front() {
            return Poll::Ready(Err(error));
        }
        // Two are asked for at least, since fewer than asked for means that there is no more.
        let most = if many { BATCH } else { BATCH.min(2) };
        loop {
            match self.poll_receive_up_to(cx, into, most) {
                Poll::Pending => return self.poll_error(cx).map(Err),
                Poll::Ready(received) => received?,
            }
            into.skipped = into.lengths.len().min(self.to_skip.try_into().unwrap_or(usize::MAX));
            self.to_skip -= into.skipped as u64;
            if into.skipped < into.lengths.len() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes an error off the socket, when there is one.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.failing.as_mut().poll(cx).is_ready() {
            self.failing = failing(Arc::clone(&self.socket));
            // Without an error, the readiness is cleared, and the next one is waited for.
            let taken = self.socket.try_io(Interest::ERROR, || {
                self.socket.take_error()?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match taken {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                taken => return Poll::Ready(taken.unwrap_or_else(|error| error)),
            }
        }
        Poll::Pending
    }

    #[cfg(target_os = "linux")]
    fn poll_receive_up_to(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Received,
        most: usize,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let received = self.socket.try_io(Interest::READABLE, || {
                calls::receive(&self.socket, into, most)?;
                // There is no more: reporting WouldBlock now saves a call that would fail with EAGAIN.
                if into.lengths.len() < most {
                    Err(io::ErrorKind::WouldBlock.into())
                } else {
                    Ok(())
                }
            });
            match received {
                _ if !into.lengths.is_empty() => return Poll::Ready(Ok(())),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                _ => {}
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_receive_up_to(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Received,
        most: usize,
    ) -> Poll<io::Result<()>> {
        let buffer = into.buffers(most).next().expect("there is room for one at least");
        let mut buffer = tokio::io::ReadBuf::new(buffer);
        ready!(self.socket.poll_recv(cx, &mut buffer))?;
        let length = buffer.filled().len();
        into.lengths.push(length);
        Poll::Ready(Ok(()))
    }

    /// Sends datagrams of `size` bytes, at most [`BATCH`] at once. Returns how many were sent. An error
    /// is that of the first, which the system refuses to send.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        size: usize,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        for attempt in 0.. {
            let error = match ready!(self.poll_send_once(cx, bytes, size, count)) {
                Ok(sent) => return Poll::Ready(Ok(sent)),
                Err(error) => error,
            };
            // The failed call has taken the queued error off the socket, so the next one shows whether
            // the system refuses this datagram. It refuses none with ECONNREFUSED.
            let is_own = self.queued.back().is_some_and(|last| is_same(last, &error));
            if attempt == RETRIES || (attempt > 0 && is_own && !is_refusal(&error)) {
                if is_own {
                    self.queued.pop_back();
                }
                return Poll::Ready(Err(error));
            }
            self.queued.push_back(error);
            // Whoever waits for replies has to read it.
            cx.waker().wake_by_ref();
        }
        unreachable!("the attempts are limited")
    }

    fn poll_send_once(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        size: usize,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        if count == 1 {
            return self.socket.poll_send(cx, &bytes[..size]).map_ok(|_| 1);
        }
        self.poll_send_several(cx, bytes, size, count.min(BATCH))
    }

    #[cfg(target_os = "linux")]
    fn poll_send_several(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        size: usize,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_send_ready(cx))?;
            let send = || calls::send(&self.socket, bytes, size, count);
            match self.socket.try_io(Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_send_several(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        size: usize,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, &bytes[..size]).map_ok(|_| 1)
    }
}

fn failing(socket: Arc<UdpSocket>) -> Pin<Box<dyn Future<Output = io::Result<()>> + Send>> {
    Box::pin(async move { socket.ready(Interest::ERROR).await.map(drop) })
}

/// Whether an ICMP error says that nothing listens at the port (RFC 792, RFC 4443 section 3.1).
/// Windows calls it a reset.
pub(super) fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
}

fn is_same(one: &io::Error, other: &io::Error) -> bool {
    one.raw_os_error() == other.raw_os_error() && one.kind() == other.kind()
}

#[cfg(target_os = "linux")]
mod calls {
    use std::cell::Cell;
    use std::io::{self, IoSlice, IoSliceMut};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
    use tokio::net::UdpSocket;

    use super::{BATCH, Received};

    /// The kernel's headers for each direction. They can be reused, since there are no control messages
    /// in them. They belong to the thread: they contain pointers, and a ping may change threads.
    struct Headers {
        receive: MultiHeaders<SockaddrStorage>,
        send: MultiHeaders<SockaddrStorage>,
    }

    impl Default for Headers {
        fn default() -> Self {
            let headers = || MultiHeaders::preallocate(BATCH, None);
            Headers { receive: headers(), send: headers() }
        }
    }

    thread_local! {
        static HEADERS: Cell<Option<Box<Headers>>> = const { Cell::new(None) };
    }

    pub(super) fn receive(socket: &UdpSocket, into: &mut Received, most: usize) -> io::Result<()> {
        let mut headers = HEADERS.take().unwrap_or_default();
        let mut buffers = into.buffers(most);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(buffers.next().unwrap_or_default())]);
        drop(buffers);
        let (flags, slices) = (MsgFlags::MSG_DONTWAIT, &mut slices[..most]);
        let mut lengths = [0; BATCH];
        let received = recvmmsg(socket.as_raw_fd(), &mut headers.receive, slices, flags, None).map(
            |messages| {
                messages.zip(&mut lengths).map(|(message, length)| *length = message.bytes).count()
            },
        );
        HEADERS.set(Some(headers));
        into.lengths.extend_from_slice(&lengths[..received?]);
        Ok(())
    }

    pub(super) fn send(
        socket: &UdpSocket,
        bytes: &[u8],
        size: usize,
        count: usize,
    ) -> io::Result<usize> {
        let mut headers = HEADERS.take().unwrap_or_default();
        let slices: [[IoSlice<'_>; 1]; BATCH] = std::array::from_fn(|n| {
            [IoSlice::new(if n < count { &bytes[n * size..][..size] } else { &[] })]
        });
        let (flags, slices) = (MsgFlags::MSG_DONTWAIT, &slices[..count]);
        let addresses = [None; BATCH];
        let sent =
            sendmmsg(socket.as_raw_fd(), &mut headers.send, slices, &addresses[..count], [], flags)
                .map(Iterator::count);
        HEADERS.set(Some(headers));
        Ok(sent?)
    }
}
