//! What the echo asks of a datagram socket, and the kernel's, which has it.

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
    /// Receives a batch of at least one datagram, and says how many there are. `many`: more than
    /// one is to be expected.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut Batch,
        many: bool,
    ) -> Poll<io::Result<usize>>;

    /// Sends the next messages of `batch` that one system call can send. `ends[i]` is where the
    /// i-th of them ends in the batch; how many were sent. WouldBlock: the send buffer is full.
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

/// The kernel's.
#[derive(Debug)]
pub struct KernelSocket {
    socket: Arc<UdpSocket>,
    calls: Calls,
}

impl KernelSocket {
    pub(super) fn new(socket: Arc<UdpSocket>) -> io::Result<Self> {
        let calls = Calls::prepare(&socket)?;
        Ok(KernelSocket { socket, calls })
    }
}

impl DatagramSocket for KernelSocket {
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
                    count = self.calls.receive(&self.socket, batch, many)?;
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
        self.calls.send_one(&self.socket, payload, peer, ancillary)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_send_ready(cx)
    }
}
