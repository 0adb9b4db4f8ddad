//! UDP: one session for a whole socket, whose peers come and go with each datagram.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::UdpSocket;

use crate::config::Protocol;
use crate::echo::DatagramEcho;
use crate::session::{Session, Sessions, Subject};

/// The session that echoes `socket`, which is bound to `local`.
pub(crate) fn session(
    socket: UdpSocket,
    local: SocketAddr,
    sessions: &Arc<Sessions>,
) -> Session<DatagramEcho> {
    let subject = Subject::Socket { protocol: Protocol::Udp, local };
    Session::open(sessions, subject, DatagramEcho::new(socket))
}
