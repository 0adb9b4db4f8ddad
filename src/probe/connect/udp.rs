//! Opening a UDP socket towards a service.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::options::ConnectOptions;

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

/// Opens a socket, and waits until `peer` answers a datagram.
pub(super) async fn open_answered(
    options: &ConnectOptions,
    peer: SocketAddr,
) -> io::Result<(UdpSocket, SocketAddr)> {
    let opened = open(options, peer).await?;
    opened.0.send(KNOCK).await?;
    // Where nothing listens, the ICMP error is the result of this call.
    opened.0.recv(&mut [0; 2048]).await?;
    Ok(opened)
}

/// Sets the DF bit. `PROBE` (ip(7), IP_MTU_DISCOVER) ignores the path MTU that the kernel has
/// learned, so that each size is really sent.
#[cfg(target_os = "linux")]
fn set_dont_fragment(socket: &UdpSocket, peer: SocketAddr) -> io::Result<()> {
    use rustix::net::sockopt::{
        Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
    };
    match peer {
        SocketAddr::V4(_) => set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?,
        SocketAddr::V6(_) => set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?,
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn set_dont_fragment(_socket: &UdpSocket, _peer: SocketAddr) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the DF bit can be set on Linux only"))
}
