//! The datagram socket that the echo needs, as a trait, and its implementation by the kernel.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::batch::{Ancillary, Batch, LIMIT};
use super::calls::Calls;

/// A datagram socket that receives and sends in batches.
pub trait DatagramSocket: Unpin {
    /// The address that it is bound to, for the log.
    fn name(&self) -> String;

    /// Receives at least one datagram, and returns how many messages came. `many` says that more
    /// than one are to be expected.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        many: bool,
    ) -> Poll<io::Result<usize>>;

    /// Sends as many of the next messages of `batch` as one system call can. `ends[i]` is set to
    /// where the i-th of them ends in the batch. Returns how many were sent.
    ///
    /// # Errors
    /// `WouldBlock` if the send buffer is full; otherwise the error of the first message.
    fn try_send(&mut self, batch: &Batch, ends: &mut [usize; LIMIT]) -> io::Result<usize>;

    /// Sends one datagram by itself.
    fn try_send_one(
        &mut self,
        payload: &[u8],
        peer: SocketAddr,
        ancillary: Ancillary,
    ) -> io::Result<()>;

    /// Ready when the send buffer may have room again.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}

/// A UDP socket of the kernel. `ASKED` says that its datagrams may be questions: each then arrives
/// by itself, with its TTL. It is known at compile time because all others would pay for it, too.
#[derive(Debug)]
pub struct KernelSocket<const ASKED: bool = false> {
    socket: Arc<UdpSocket>,
    calls: Calls,
}

impl<const ASKED: bool> KernelSocket<ASKED> {
    pub(super) fn new(socket: Arc<UdpSocket>) -> io::Result<Self> {
        let calls = Calls::prepare(&socket, ASKED)?;
        Ok(KernelSocket { socket, calls })
    }
}

impl<const ASKED: bool> DatagramSocket for KernelSocket<ASKED> {
    fn name(&self) -> String {
        self.socket.local_addr().map_or_else(|_| "unknown".to_owned(), |local| local.to_string())
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        many: bool,
    ) -> Poll<io::Result<usize>> {
        loop {
            let readiness = ready!(self.socket.poll_recv_ready(cx));
            let mut count = 0;
            let result = readiness.and_then(|()| {
                self.socket.try_io(Interest::READABLE, || {
                    count = self.calls.receive::<ASKED>(&self.socket, batch, many)?;
                    // We asked for two at least and got one: report WouldBlock now, and save a call
                    // that would fail with EAGAIN.
                    if count < LIMIT.min(2) {
                        Err(io::ErrorKind::WouldBlock.into())
                    } else {
                        Ok(())
                    }
                })
            });
            match result {
                _ if count > 0 => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Poll::Ready(Err(error));
                }
                _ => {}
            }
        }
    }

    fn try_send(&mut self, batch: &Batch, ends: &mut [usize; LIMIT]) -> io::Result<usize> {
        self.socket.try_io(Interest::WRITABLE, || self.calls.send(&self.socket, batch, ends))
    }

    fn try_send_one(
        &mut self,
        payload: &[u8],
        peer: SocketAddr,
        ancillary: Ancillary,
    ) -> io::Result<()> {
        self.socket.try_io(Interest::WRITABLE, || {
            self.calls.send_one(&self.socket, payload, peer, ancillary)
        })
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }
}
