//! Addresses become sockets, all of them or none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Type};

use crate::config::{Listen, Protocol};
use crate::error::StartError;

/// Connections that the kernel completes before we accept them. The default of mio differs from
/// version to version.
const BACKLOG: i32 = 4096;

/// The receive buffer of a UDP socket, in bytes, unless another one is asked for.
const RECV_BUFFER: usize = 4 << 20;

/// The send buffer of a UDP socket, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// The most that the kernel keeps unsent of a TCP connection. Half of it must have gone before
/// the connection is writable again.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// A bound socket, not blocking, not in a runtime yet.
pub(crate) enum Socket {
    Stream(TcpListener),
    /// Several on one address: the kernel spreads the clients over them.
    Datagrams(Vec<UdpSocket>),
}

/// What sockets are bound with.
#[derive(Debug)]
pub(crate) struct Options {
    /// When the kernel is to give a connection up.
    pub(crate) stall: Option<Duration>,
    /// How many sockets a UDP address gets, where the system can have more than one.
    pub(crate) workers: usize,
    /// The receive buffer of each, in bytes, if the default does not do.
    pub(crate) recv_buffer: Option<usize>,
}

/// Binds everything, in the order of `listeners`.
///
/// Of a name's addresses, those that this machine does not have are passed over as long as one
/// remains: `localhost` is `::1` too, IPv6 or not.
pub(crate) fn all(
    listeners: &[Listen],
    options: &Options,
) -> Result<Vec<(Protocol, SocketAddr, Socket)>, StartError> {
    let mut bound = Vec::new();
    for listen in listeners {
        let before = bound.len();
        let mut absent = None;
        for &address in &listen.addresses {
            let protocol = listen.protocol;
            // ::ffff:0.0.0.0 is 0.0.0.0, and nothing else must be thought of it.
            let address = match address.ip().to_canonical() {
                IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
                IpAddr::V6(_) => address,
            };
            if protocol == Protocol::Udp && is_for_many(address.ip()) {
                let why = "datagrams that were sent to many are not answered";
                return Err(StartError::Config(format!("--udp {address}: {why}")));
            }
            let is_v6_only = has_ipv4_twin(protocol, address, listeners);
            match bind(protocol, address, is_v6_only, options) {
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
    options: &Options,
) -> io::Result<(SocketAddr, Socket)> {
    if protocol == Protocol::Udp {
        let sockets = bind_datagrams(address, is_v6_only, options)?;
        return Ok((sockets[0].local_addr()?, Socket::Datagrams(sockets)));
    }
    let socket = new_socket(address, Type::STREAM, is_v6_only)?;
    // A restart must not wait for the old server's connections to leave TIME_WAIT. On Windows the
    // option means something else.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Without it an echo waits in Nagle's algorithm for an acknowledgement that the peer delays.
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    watch_for_stalls(&socket, options.stall)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    let socket = TcpListener::from(socket);
    Ok((socket.local_addr()?, Socket::Stream(socket)))
}

fn new_socket(address: SocketAddr, kind: Type, is_v6_only: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), kind, None)?;
    if address.is_ipv6() {
        // Systems differ in their default.
        socket.set_only_v6(is_v6_only)?;
    }
    Ok(socket)
}

/// As many sockets as there are workers, where the kernel spreads clients over them, else one.
fn bind_datagrams(
    address: SocketAddr,
    is_v6_only: bool,
    options: &Options,
) -> io::Result<Vec<UdpSocket>> {
    let count = if cfg!(target_os = "linux") { options.workers.max(1) } else { 1 };
    let mut address = address;
    let mut sockets = Vec::new();
    for number in 0..count {
        let socket = new_socket(address, Type::DGRAM, is_v6_only)?;
        // The first is bound alone, so that an address that somebody else has is refused; only
        // then may others of ours join it.
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

/// Replies to a neighbour that does not answer wait for it in the send buffer, some 200 KiB of them
/// for seconds. There has to be room beside them for the others' replies.
fn set_send_buffer(socket: &socket2::Socket) {
    #[cfg(target_os = "linux")]
    if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_ok() {
        return;
    }
    // The system gives what it gives.
    let _ = socket.set_send_buffer_size(SEND_BUFFER);
}

/// A burst of datagrams waits in the receive buffer, or is lost. The system may give less than
/// asked for, which is told of if somebody asked.
fn set_recv_buffer(
    socket: &socket2::Socket,
    address: SocketAddr,
    asked: Option<usize>,
    tell: bool,
) {
    let wanted = asked.unwrap_or(RECV_BUFFER);
    // Beyond the system's limit only with privileges.
    #[cfg(target_os = "linux")]
    let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket, wanted).is_ok();
    #[cfg(not(target_os = "linux"))]
    let forced = false;
    if !forced {
        let _ = socket.set_recv_buffer_size(wanted);
    }
    let given = socket.recv_buffer_size().unwrap_or(0);
    // Linux says the double of what there is for data.
    let given = if cfg!(target_os = "linux") { given / 2 } else { given };
    if tell && asked.is_some() && given < wanted {
        tracing::warn!(
            %address, given,
            "--udp-recv-buffer {wanted}: the system gives less (net.core.rmem_max)"
        );
    }
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

/// Whether an address stands for more than one host.
fn is_for_many(address: IpAddr) -> bool {
    address.is_multicast() || address == IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether a bind failed because the machine has no such address, or no such kind of address.
fn is_absent(error: &io::Error) -> bool {
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

    #[test]
    fn accepted_connections_do_not_wait_in_nagles_algorithm() {
        let listen =
            Listen { protocol: Protocol::Tcp, addresses: vec![([127, 0, 0, 1], 0).into()] };
        let options = Options { stall: None, workers: 1, recv_buffer: None };
        let bound = all(&[listen], &options).unwrap();
        let (_, address, Socket::Stream(listener)) = &bound[0] else { panic!("it is TCP") };
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
