//! Datagrams: each goes back, whole, to where it came from.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::net::UdpSocket;

use super::{Echo, EchoError, Goodbye, Moved, Step, Traffic, scratch};

/// The largest datagram that UDP's 16-bit length field can announce. The payload limit is lower:
/// 65,507 bytes over IPv4, 65,527 over IPv6.
pub const MAX_DATAGRAM: usize = 65_535;

/// Echoes the datagrams of one socket.
///
/// It never ends by itself: what a peer or the network does to one datagram is no reason to stop
/// answering the others.
#[derive(Debug)]
pub struct DatagramEcho {
    socket: UdpSocket,
    /// The datagram that the socket had no room for. While there is one, nothing is received, and
    /// the kernel's receive buffer decides what is lost.
    owed: Option<(Box<[u8]>, SocketAddr)>,
    traffic: Traffic,
}

impl DatagramEcho {
    /// Echoes what `socket` receives.
    pub fn new(socket: UdpSocket) -> Self {
        DatagramEcho { socket, owed: None, traffic: Traffic::default() }
    }

    fn poll_settle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some((datagram, peer)) = &self.owed {
            let result = ready!(self.socket.poll_send_to(cx, datagram, *peer));
            account(&mut self.traffic, *peer, &result);
            self.owed = None;
        }
        Poll::Ready(())
    }
}

impl Echo for DatagramEcho {
    /// There is nobody to wait for.
    const LINGER: Duration = Duration::ZERO;

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        ready!(self.poll_settle(cx));
        scratch::with(MAX_DATAGRAM, |buffer| {
            let mut into = ReadBuf::new(buffer);
            let peer = match ready!(self.socket.poll_recv_from(cx, &mut into)) {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::debug!(%error, "Receiving a datagram failed");
                    return Poll::Ready(Ok(Step::Moved));
                }
            };
            let datagram = into.filled();
            self.traffic.received += datagram.len() as u64;
            self.traffic.messages += 1;
            match self.socket.poll_send_to(cx, datagram, peer) {
                Poll::Ready(result) => account(&mut self.traffic, peer, &result),
                Poll::Pending => self.owed = Some((datagram.into(), peer)),
            }
            Poll::Ready(Ok(Step::Moved))
        })
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        self.poll_settle(cx).map(Ok)
    }

    fn traffic(&self) -> Traffic {
        self.traffic
    }

    fn owes(&self) -> bool {
        self.owed.is_some()
    }

    fn moved(&self) -> Moved {
        Moved { inward: self.traffic.received, outward: self.traffic.sent }
    }
}

/// Counts a reply, or says why there was none.
fn account(traffic: &mut Traffic, peer: SocketAddr, result: &io::Result<usize>) {
    match result {
        Ok(sent) => traffic.sent += *sent as u64,
        Err(error) => tracing::debug!(%peer, %error, "Sending a datagram failed"),
    }
}
