//! A UDP socket of the probe: on Linux in batches (recvmmsg and sendmmsg), elsewhere one datagram at a
//! time.

use std::io;
use std::task::{Context, Poll, ready};

#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::echo::MAX_DATAGRAM;

/// How many datagrams are received or sent with one system call, at most.
pub(super) const BATCH: usize = if cfg!(target_os = "linux") { 16 } else { 1 };

/// A connected socket.
pub(super) struct Datagrams(UdpSocket);

/// Datagrams that were received together.
#[derive(Default)]
pub(super) struct Received {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
}

impl Received {
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(MAX_DATAGRAM).zip(&self.lengths).map(|(bytes, length)| &bytes[..*length])
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
        Datagrams(socket)
    }
}

impl Datagrams {
    /// Receives what has come, one datagram at least. `many` says that several are expected.
    pub(super) fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Received,
        many: bool,
    ) -> Poll<io::Result<()>> {
        // Two are asked for at least, since fewer than asked for means that there is no more.
        let most = if many { BATCH } else { BATCH.min(2) };
        self.poll_receive_up_to(cx, into, most)
    }

    #[cfg(target_os = "linux")]
    fn poll_receive_up_to(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut Received,
        most: usize,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.0.poll_recv_ready(cx))?;
            let received = self.0.try_io(Interest::READABLE, || {
                calls::receive(&self.0, into, most)?;
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
        ready!(self.0.poll_recv(cx, &mut buffer))?;
        let length = buffer.filled().len();
        into.lengths.push(length);
        Poll::Ready(Ok(()))
    }

    /// Sends datagrams of `size` bytes, at most [`BATCH`] at once. Returns how many were sent. An error
    /// is that of the first.
    pub(super) fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        size: usize,
        count: usize,
    ) -> Poll<io::Result<usize>> {
        if count == 1 {
            return self.0.poll_send(cx, &bytes[..size]).map_ok(|_| 1);
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
            ready!(self.0.poll_send_ready(cx))?;
            let send = || calls::send(&self.0, bytes, size, count);
            match self.0.try_io(Interest::WRITABLE, send) {
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
        self.0.poll_send(cx, &bytes[..size]).map_ok(|_| 1)
    }
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
