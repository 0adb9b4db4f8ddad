//! One datagram at a time, on any system. If the socket is bound to all addresses, the system
//! chooses the one that a reply leaves from.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::batch::{Ancillary, Batch, LIMIT, Received};

/// A socket's system calls.
#[derive(Debug)]
pub(super) struct Calls;

impl Calls {
    #[expect(clippy::unnecessary_wraps, reason = "the Linux version can fail")]
    pub(super) fn prepare(_socket: &UdpSocket, _asked: bool) -> io::Result<Self> {
        Ok(Calls)
    }

    /// Receives one datagram. Its TTL stays unknown, whether or not questions are asked.
    pub(super) fn receive<const ASKED: bool>(
        &self,
        socket: &UdpSocket,
        batch: &mut Batch,
        _many: bool,
    ) -> io::Result<usize> {
        let (mut slots, received) = batch.begin();
        let (length, peer) = socket.try_recv_from(slots.next().unwrap_or_default())?;
        received.push(Received { length, peer, ..Received::NOTHING });
        Ok(1)
    }

    pub(super) fn send(
        &self,
        socket: &UdpSocket,
        batch: &Batch,
        ends: &mut [usize; LIMIT],
    ) -> io::Result<usize> {
        let received = &batch.received[batch.answered];
        ends[0] = batch.answered + 1;
        self.send_one(socket, batch.payload(received), received.peer, received.ancillary)?;
        Ok(1)
    }

    pub(super) fn send_one(
        &self,
        socket: &UdpSocket,
        payload: &[u8],
        peer: SocketAddr,
        _ancillary: Ancillary,
    ) -> io::Result<()> {
        socket.try_send_to(payload, peer).map(drop)
    }
}

pub(super) fn is_segmentation_error(_error: &io::Error) -> bool {
    false
}
