//! Binds addresses to sockets, and sets the options of those sockets.

use std::io;
use std::net::{self, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Type};

#[cfg(unix)]
use super::UnixListener;
use super::resolve::Candidates;
use super::{AnyListener, TcpListener};
use crate::address::{Address, UnixAddress};
use crate::config::Protocol;
use crate::error::StartError;

/// How many completed connections the kernel queues for accept. We set it because mio's default
/// differs from version to version.
pub(super) const BACKLOG: i32 = 4096;

/// The default receive buffer of a UDP socket, in bytes.
const RECV_BUFFER: usize = 4 << 20;

/// The send buffer of a UDP socket, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// TCP_NOTSENT_LOWAT in bytes: how much unsent data the kernel queues for a TCP connection. The
/// socket becomes writable again when half of it has been sent.
#[cfg(target_os = "linux")]
const NOTSENT_LOWAT: u32 = 128 * 1024;

/// Options of the sockets.
#[derive(Debug)]
pub(crate) struct Options {
    /// TCP_USER_TIMEOUT: how long sent bytes may stay unacknowledged.
    pub(crate) stall: Option<Duration>,
    /// The permission bits of Unix socket files.
    pub(crate) unix_mode: Option<u32>,
    /// How many sockets share a UDP address, where the kernel balances clients over them.
    pub(crate) workers: usize,
    /// The receive buffer of each UDP socket, in bytes. `None`: [`RECV_BUFFER`].
    pub(crate) recv_buffer: Option<usize>,
}

/// Binds listeners in the current runtime to the addresses of `listen`, which is one of `all`.
pub(crate) fn listeners(
    listen: &Candidates,
    all: &[Candidates],
    options: &Options,
) -> Result<Vec<(Address, AnyListener)>, StartError> {
    bind_each(listen, |address| match address {
        Address::Ip(address) => {
            let is_v6_only = has_ipv4_wildcard(listen, *address, all);
            let listener = bind_tcp(*address, is_v6_only, options)?;
            let bound = listener.local_addr()?.into();
            Ok((bound, AnyListener::Tcp(TcpListener::from_std(listener)?)))
        }
        Address::Unix(name) => {
            Ok((Address::Unix(name.clone()), bind_unix(name, options.unix_mode)?))
        }
    })
}

/// Sockets that share one address.
pub(crate) type SharedAddress = (SocketAddr, Vec<UdpSocket>);

/// Binds UDP sockets to the addresses of `listen`, which is one of `all`. The sockets are
/// non-blocking and not registered with a runtime. On Linux several share an address, and the
/// kernel balances clients over them.
pub(crate) fn datagrams(
    listen: &Candidates,
    all: &[Candidates],
    options: &Options,
) -> Result<Vec<SharedAddress>, StartError> {
    bind_each(listen, |address| {
        let address = address.ip().ok_or(io::ErrorKind::Unsupported)?;
        let is_v6_only = has_ipv4_wildcard(listen, address, all);
        let sockets = bind_udp(address, is_v6_only, options)?;
        Ok((sockets[0].local_addr()?, sockets))
    })
}

/// Binds each address of `listen`, or the first that can be bound. An address that this machine does
/// not have is skipped as long as another one can be bound: `localhost` resolves to `::1` even on
/// machines without IPv6.
fn bind_each<T>(
    listen: &Candidates,
    bind: impl Fn(&Address) -> io::Result<T>,
) -> Result<Vec<T>, StartError> {
    let mut bound = Vec::new();
    let mut unavailable = None;
    for address in &listen.addresses {
        match bind(address) {
            Ok(socket) => bound.push(socket),
            Err(source) => {
                let is_unavailable = is_unavailable(&source);
                let address = address.clone();
                let error = StartError::Bind { protocol: listen.protocol, address, source };
                if !is_unavailable {
                    return Err(error);
                }
                unavailable.get_or_insert(error);
            }
        }
        if listen.is_first_of && !bound.is_empty() {
            break;
        }
    }
    match unavailable {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

#[cfg(unix)]
fn bind_unix(address: &UnixAddress, mode: Option<u32>) -> io::Result<AnyListener> {
    UnixListener::bind(address, mode).map(AnyListener::Unix)
}

#[cfg(not(unix))]
fn bind_unix(_address: &UnixAddress, _mode: Option<u32>) -> io::Result<AnyListener> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}

/// Listens on one address. The IPv6 wildcard accepts IPv4 too, unless `is_v6_only`. The listener is
/// non-blocking and not registered with a runtime.
fn bind_tcp(
    address: SocketAddr,
    is_v6_only: bool,
    options: &Options,
) -> io::Result<net::TcpListener> {
    let socket = new_socket(address, Type::STREAM, is_v6_only)?;
    // A restart must not wait for the old server's connections to leave TIME_WAIT. On Windows,
    // SO_REUSEADDR would let two servers share the port.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    set_stream_options(&socket, options)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Sets the options that accepted connections inherit from their listener.
pub(super) fn set_stream_options(socket: &socket2::Socket, options: &Options) -> io::Result<()> {
    // Nagle's algorithm would hold an echo back until the peer's delayed acknowledgement.
    socket.set_tcp_nodelay(true)?;
    // Urgent data stays in line (RFC 6093), where it is echoed like any other byte. Otherwise the
    // kernel would keep its last byte apart.
    socket.set_out_of_band_inline(true)?;
    set_stall_options(socket, options)
}

fn new_socket(address: SocketAddr, kind: Type, is_v6_only: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // The default differs between systems.
        socket.set_only_v6(is_v6_only)?;
    }
    Ok(socket)
}

/// Binds one socket for each worker on Linux, where the kernel balances clients over them, else
/// one.
fn bind_udp(
    address: SocketAddr,
    is_v6_only: bool,
    options: &Options,
) -> io::Result<Vec<UdpSocket>> {
    let count = if cfg!(target_os = "linux") { options.workers.max(1) } else { 1 };
    let mut address = address;
    let mut sockets = Vec::new();
    for number in 0..count {
        let socket = new_socket(address, Type::DGRAM, is_v6_only)?;
        // The first socket is bound without SO_REUSEPORT, so that an address in use is refused.
        // Only then may our other sockets share it.
        #[cfg(target_os = "linux")]
        if number > 0 {
            socket.set_reuse_port(true)?;
        }
        socket.bind(&address.into())?;
        #[cfg(target_os = "linux")]
        if number == 0 && count > 1 {
            socket.set_reuse_port(true)?;
        }
        if number == 0 {
            address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        }
        set_recv_buffer(&socket, address, options.recv_buffer, number == 0);
        set_send_buffer(&socket);
        socket.set_nonblocking(true)?;
        sockets.push(UdpSocket::from(socket));
    }
    Ok(sockets)
}

/// Enlarges the buffers of a socket that somebody else has bound. Larger ones stay, unless `asked`
/// says how large the receive buffer is to be.
#[cfg(target_os = "linux")]
pub(super) fn enlarge_buffers(socket: &socket2::Socket, address: SocketAddr, asked: Option<usize>) {
    // Linux reports twice the size, to count its own overhead (socket(7)).
    let is_small = |size: io::Result<usize>, wanted| size.is_ok_and(|size| size / 2 < wanted);
    if asked.is_some() || is_small(socket.recv_buffer_size(), RECV_BUFFER) {
        set_recv_buffer(socket, address, asked, true);
    }
    if is_small(socket.send_buffer_size(), SEND_BUFFER) {
        set_send_buffer(socket);
    }
}

/// While ARP or ND is pending for a neighbour, the kernel charges up to 200 KiB of replies to this
/// socket. The send buffer has to hold them and the replies to others.
fn set_send_buffer(socket: &socket2::Socket) {
    #[cfg(target_os = "linux")]
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_ok() {
        return;
    }
    // A smaller buffer is no reason not to start.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
}

/// Sets the receive buffer, which has to hold a burst of datagrams. Logs a warning if the system
/// gives less than was asked for, if `may_warn`.
fn set_recv_buffer(
    socket: &socket2::Socket,
    address: SocketAddr,
    asked: Option<usize>,
    may_warn: bool,
) {
    let wanted = asked.unwrap_or(RECV_BUFFER);
    // SO_RCVBUFFORCE exceeds net.core.rmem_max, but needs CAP_NET_ADMIN.
    #[cfg(target_os = "linux")]
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_ok();
    #[cfg(not(target_os = "linux"))]
    let forced = false;
    if !forced {
        let _ = socket.set_recv_buffer_size(wanted);
    }
    let given = socket.recv_buffer_size().unwrap_or(0);
    // Linux reports twice the size, to count its own overhead (socket(7)).
    let given = if cfg!(target_os = "linux") { given / 2 } else { given };
    if may_warn && asked.is_some() && given < wanted {
        tracing::warn!(
            protocol = "udp", %address, given,
            "The receive buffer is smaller than the {wanted} bytes asked for (net.core.rmem_max)"
        );
    }
}

/// Sets what the kernel contributes to the stall timeout. Accepted connections inherit it.
#[cfg(target_os = "linux")]
fn set_stall_options(socket: &socket2::Socket, options: &Options) -> io::Result<()> {
    // We do not see what becomes of bytes in the kernel's send buffer. If the peer acknowledges
    // none of them for this long, the kernel closes the connection.
    socket.set_tcp_user_timeout(options.stall)?;
    // Without a limit on unsent data, a socket becomes writable only when a third of its send
    // buffer is free, which can be more than a megabyte: a slow reader would look stalled for
    // minutes.
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)
}

/// Other systems lack these options; the session's own stall timeout still applies.
#[cfg(not(target_os = "linux"))]
fn set_stall_options(_socket: &socket2::Socket, options: &Options) -> io::Result<()> {
    let _ = options.stall;
    Ok(())
}

/// Whether another listener has the IPv4 wildcard on the same port as the IPv6 wildcard `address` of
/// `listen`. The latter then has to be bound with IPV6_V6ONLY.
fn has_ipv4_wildcard(listen: &Candidates, address: SocketAddr, all: &[Candidates]) -> bool {
    let is_udp = |candidates: &Candidates| candidates.protocol == Protocol::Udp;
    let mut others = all
        .iter()
        .filter(|other| is_udp(other) == is_udp(listen) && !other.is_first_of)
        .flat_map(|other| &other.addresses)
        .filter_map(Address::ip);
    address.ip().is_unspecified()
        && !listen.is_first_of
        && address.port() != 0
        && others.any(|other| {
            other.is_ipv4() && other.ip().is_unspecified() && other.port() == address.port()
        })
}

/// Whether a bind failed because the machine lacks the address or its whole family.
fn is_unavailable(error: &io::Error) -> bool {
    #[cfg(unix)]
    if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) {
        return true;
    }
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::net::Listener;

    #[tokio::test]
    async fn accepted_connections_do_not_wait_in_nagles_algorithm() {
        let addresses = vec![([127, 0, 0, 1], 0).into()];
        let listen = Candidates { protocol: Protocol::Tcp, addresses, is_first_of: false };
        let options = Options { stall: None, unix_mode: None, workers: 1, recv_buffer: None };
        let bound = listeners(&listen, &[], &options).unwrap();
        let [(Address::Ip(address), AnyListener::Tcp(listener))] = &bound[..] else {
            panic!("expected a TCP listener: {bound:?}")
        };
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
