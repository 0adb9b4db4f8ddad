//! Opening a UDP socket towards a service.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::options::ConnectOptions;
use crate::probe::datagrams::{Datagrams, Received};

/// What is sent to find out which of several addresses answers.
const KNOCK: &[u8] = b"echo-server probe";

/// Opens a socket that sends to `peer`, and receives only what `peer` sends.
pub(super) async fn open(
    options: &ConnectOptions,
    peer: SocketAddr,
) -> io::Result<(UdpSocket, SocketAddr)> {
    let any = match peer {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((options.source.unwrap_or(any), 0)).await?;
    options.mark(&socket, peer)?;
    if options.dont_fragment {
        set_dont_fragment(&socket, peer)?;
    }
    socket.connect(peer).await?;
    let local = socket.local_addr()?;
    Ok((socket, local))
}

/// Waits until `peer` answers a datagram.
pub(super) async fn answers(options: &ConnectOptions, peer: SocketAddr) -> io::Result<()> {
    let (socket, _) = open(options, peer).await?;
    let (mut socket, mut answer) = (Datagrams::from(socket), Received::default());
    poll_fn(|cx| socket.poll_send(cx, KNOCK, KNOCK.len(), 1)).await?;
    // Where nothing listens, the ICMP error is the result of this call.
    poll_fn(|cx| socket.poll_receive(cx, &mut answer, false)).await
}

/// Sets the DF bit. `PROBE` (ip(7), IP_MTU_DISCOVER) ignores the path MTU that the kernel has
/// learned, so that each size is really sent.
#[cfg(target_os = "linux")]
fn set_dont_fragment(socket: &UdpSocket, peer: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::setsockopt;
    use nix::sys::socket::sockopt::Ipv6DontFrag;
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    match peer {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => {
            set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
            // IPv6 has no DF bit, since routers never fragment. Our own system would
            // (RFC 3542 section 11.2).
            setsockopt(socket, Ipv6DontFrag, &true)?;
        }
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_dont_fragment(_socket: &UdpSocket, _peer: SocketAddr) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the DF bit can be set on Linux only"))
}
