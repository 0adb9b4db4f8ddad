//! One datagram at a time, on any system. Replies from a socket that is bound to all addresses
//! leave from the one that the system chooses.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::batch::{Ancillary, Batch, LIMIT, Received};

/// How a socket's system calls are made.
#[derive(Debug)]
pub(super) struct Calls;

impl Calls {
    #[expect(clippy::unnecessary_wraps, reason = "on Linux there is something to fail")]
    pub(super) fn prepare(_socket: &UdpSocket) -> io::Result<Self> {
        Ok(Calls)
    }

    pub(super) fn receive(
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

pub(super) fn is_about_trains(_error: &io::Error) -> bool {
    false
}
