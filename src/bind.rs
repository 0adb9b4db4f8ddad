//! Addresses become sockets, all of them or none.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Type};

use crate::config::{Listen, Protocol};
use crate::error::StartError;

/// Connections that the kernel completes before we accept them. The default of mio differs from
/// version to version.
const BACKLOG: i32 = 4096;

/// The most that the kernel keeps unsent of a TCP connection. Half of it must have gone before
/// the connection is writable again.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// A bound socket, not blocking, not in a runtime yet.
pub(crate) enum Socket {
    Stream(TcpListener),
    Datagram(UdpSocket),
}

/// Binds everything, in the order of `listeners`.
///
/// Of a name's addresses, those that this machine does not have are passed over as long as one
/// remains: `localhost` is `::1` too, IPv6 or not.
pub(crate) fn all(
    listeners: &[Listen],
    stall: Option<Duration>,
) -> Result<Vec<(Protocol, SocketAddr, Socket)>, StartError> {
    let mut bound = Vec::new();
    for listen in listeners {
        let before = bound.len();
        let mut absent = None;
        for &address in &listen.addresses {
            let protocol = listen.protocol;
            let is_v6_only = has_ipv4_twin(protocol, address, listeners);
            match bind(protocol, address, is_v6_only, stall) {
                Ok((local, socket)) => bound.push((protocol, local, socket)),
                Err(source) => {
                    let is_absent = is_absent(&source);
                    let error = StartError::Bind { protocol, address, source };
                    if !is_absent {
                        return Err(error);
                    }
                    absent.get_or_insert(error);
                }
            }
        }
        if let Some(error) = absent.filter(|_| bound.len() == before) {
            return Err(error);
        }
    }
    Ok(bound)
}

/// Binds one address. An IPv6 wildcard takes IPv4 too, unless `is_v6_only`.
fn bind(
    protocol: Protocol,
    address: SocketAddr,
    is_v6_only: bool,
    stall: Option<Duration>,
) -> io::Result<(SocketAddr, Socket)> {
    let is_udp = protocol == Protocol::Udp;
    let kind = if is_udp { Type::DGRAM } else { Type::STREAM };
    let socket = socket2::Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // Systems differ in their default.
        socket.set_only_v6(is_v6_only)?;
    }
    if is_udp {
        socket.bind(&address.into())?;
        socket.set_nonblocking(true)?;
        let socket = UdpSocket::from(socket);
        return Ok((socket.local_addr()?, Socket::Datagram(socket)));
    }
    // A restart must not wait for the old server's connections to leave TIME_WAIT. On Windows the
    // option means something else.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    #[cfg(target_os = "linux")]
    watch_for_stalls(&socket, stall)?;
    #[cfg(not(target_os = "linux"))]
    let _ = stall;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from(socket);
    Ok((socket.local_addr()?, Socket::Stream(socket)))
}

/// Sets what the kernel has to do for the stall rule. Accepted connections inherit it.
#[cfg(target_os = "linux")]
fn watch_for_stalls(socket: &socket2::Socket, stall: Option<Duration>) -> io::Result<()> {
    // Bytes that the kernel has taken from us are out of our sight: if the peer acknowledges none
    // of them in that time, the kernel is to end the connection.
    socket.set_tcp_user_timeout(stall)?;
    // A socket becomes writable only when a third of its send buffer is free, which can be more
    // than a megabyte: a slow reader would look stalled for minutes. With a limit on what the
    // kernel keeps unsent it becomes writable in smaller steps.
    socket.set_tcp_notsent_lowat(UNSENT)
}

/// Whether the IPv4 wildcard is asked for on the same port as the IPv6 wildcard `address`, which
/// then has to leave IPv4 alone.
fn has_ipv4_twin(protocol: Protocol, address: SocketAddr, listeners: &[Listen]) -> bool {
    let is_udp = protocol == Protocol::Udp;
    let same_kind = listeners.iter().filter(|other| (other.protocol == Protocol::Udp) == is_udp);
    let mut others = same_kind.flat_map(|other| &other.addresses);
    address.ip().is_unspecified()
        && others.any(|other| {
            other.is_ipv4() && other.ip().is_unspecified() && other.port() == address.port()
        })
}

/// Whether a bind failed because the machine has no such address, or no such kind of address.
fn is_absent(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return true;
    }
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}
