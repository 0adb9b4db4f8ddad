//! Addresses become sockets.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Type};
use tokio::net::TcpListener;

use super::AnyListener;
#[cfg(unix)]
use super::UnixListener;
use crate::address::{Address, UnixAddress};
use crate::config::{Listen, Protocol};
use crate::error::StartError;

/// Connections that the kernel completes before we accept them. The default of mio differs from
/// version to version.
pub(super) const BACKLOG: i32 = 4096;

/// The receive buffer of a UDP socket, in bytes, unless another one is asked for.
const RECV_BUFFER: usize = 4 << 20;

/// The send buffer of a UDP socket, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// The most that the kernel keeps unsent of a TCP connection. Half of it must have gone before
/// the connection is writable again.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 128 * 1024;

/// What sockets are bound with.
#[derive(Debug)]
pub(crate) struct Options {
    /// When the kernel is to give a connection up.
    pub(crate) stall: Option<Duration>,
    /// The permission bits of the files of Unix sockets.
    pub(crate) unix_mode: Option<u32>,
    /// How many sockets a UDP address gets, where the system can have more than one.
    pub(crate) workers: usize,
    /// The receive buffer of each UDP socket, in bytes, if the default does not do.
    pub(crate) recv_buffer: Option<usize>,
}

/// Binds the addresses of `listen`, one of `all`, to listeners in the current runtime.
pub(crate) fn listeners(
    listen: &Listen,
    all: &[Listen],
    options: &Options,
) -> Result<Vec<(Address, AnyListener)>, StartError> {
    each_address(listen, |address| match address {
        Address::Ip(address) => {
            let is_v6_only = has_ipv4_twin(listen.protocol, *address, all);
            let listener = bind_tcp(*address, is_v6_only, options)?;
            Ok((listener.local_addr()?.into(), AnyListener::Tcp(listener)))
        }
        Address::Unix(name) => {
            Ok((Address::Unix(name.clone()), bind_unix(name, options.unix_mode)?))
        }
    })
}

/// Sockets that share one address.
pub(crate) type SharedAddress = (SocketAddr, Vec<UdpSocket>);

/// Binds the addresses of `listen`, one of `all`, to sockets for datagrams, not blocking and not in
/// a runtime yet. Each address gets several, and the kernel spreads the clients over them.
pub(crate) fn datagrams(
    listen: &Listen,
    all: &[Listen],
    options: &Options,
) -> Result<Vec<SharedAddress>, StartError> {
    for address in &listen.addresses {
        let problem = match address {
            Address::Ip(ip) if is_for_many(ip.ip().to_canonical()) => {
                "datagrams that were sent to many are not answered"
            }
            Address::Ip(_) => continue,
            Address::Unix(_) => "UDP has no Unix sockets",
        };
        let (protocol, address) = (listen.protocol, address.clone());
        return Err(StartError::Address { protocol, address, problem });
    }
    each_address(listen, |address| {
        let address = address.ip().ok_or(io::ErrorKind::Unsupported)?;
        let is_v6_only = has_ipv4_twin(listen.protocol, address, all);
        let sockets = bind_udp(address, is_v6_only, options)?;
        Ok((sockets[0].local_addr()?, sockets))
    })
}

/// Binds each address. Of a name's addresses, those that this machine does not have are passed
/// over as long as one remains: `localhost` is `::1` too, IPv6 or not.
fn each_address<T>(
    listen: &Listen,
    bind: impl Fn(&Address) -> io::Result<T>,
) -> Result<Vec<T>, StartError> {
    let mut bound = Vec::new();
    let mut absent = None;
    for address in &listen.addresses {
        let address = canonical(address);
        match bind(&address) {
            Ok(socket) => bound.push(socket),
            Err(source) => {
                let is_absent = is_absent(&source);
                let error = StartError::Bind { protocol: listen.protocol, address, source };
                if !is_absent {
                    return Err(error);
                }
                absent.get_or_insert(error);
            }
        }
    }
    match absent {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// `::ffff:0.0.0.0` is bound as `0.0.0.0`, so that what holds for the one holds for the other.
fn canonical(address: &Address) -> Address {
    match address {
        Address::Ip(address) => SocketAddr::new(address.ip().to_canonical(), address.port()).into(),
        Address::Unix(_) => address.clone(),
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

/// Listens on one address. An IPv6 wildcard takes IPv4 too, unless `is_v6_only`.
fn bind_tcp(address: SocketAddr, is_v6_only: bool, options: &Options) -> io::Result<TcpListener> {
    let socket = new_socket(address, Type::STREAM, is_v6_only)?;
    // A restart must not wait for the old server's connections to leave TIME_WAIT. On Windows the
    // option means something else.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    // Without it an echo waits in Nagle's algorithm for an acknowledgement that the peer delays.
    // Accepted connections inherit it.
    socket.set_tcp_nodelay(true)?;
    set_stall_options(&socket, options)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket.into())
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

/// While ARP or ND is pending for a neighbour, the kernel charges up to 200 KiB of replies to this
/// socket. The send buffer needs room beside them for the replies to others.
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
            "A receive buffer of {wanted} bytes was asked for; the system gives less (net.core.rmem_max)"
        );
    }
}

/// Tells the kernel its part of the stall rule. Accepted connections inherit it.
#[cfg(target_os = "linux")]
fn set_stall_options(socket: &socket2::Socket, options: &Options) -> io::Result<()> {
    // We do not see what becomes of bytes that the kernel has taken from us: if the peer
    // acknowledges none of them in that time, the kernel is to end the connection.
    socket.set_tcp_user_timeout(options.stall)?;
    // A socket becomes writable only when a third of its send buffer is free, which can be more
    // than a megabyte: a slow reader would look stalled for minutes. With a limit on what the
    // kernel keeps unsent it becomes writable in smaller steps.
    socket.set_tcp_notsent_lowat(UNSENT)
}

/// Elsewhere the session's own clock is all there is.
#[cfg(not(target_os = "linux"))]
fn set_stall_options(_socket: &socket2::Socket, options: &Options) -> io::Result<()> {
    let _ = options.stall;
    Ok(())
}

/// Whether the IPv4 wildcard is asked for on the same port as the IPv6 wildcard `address`, which
/// then has to leave IPv4 alone.
fn has_ipv4_twin(protocol: Protocol, address: SocketAddr, listeners: &[Listen]) -> bool {
    let is_udp = protocol == Protocol::Udp;
    let same_kind = listeners.iter().filter(|other| (other.protocol == Protocol::Udp) == is_udp);
    let mut others = same_kind.flat_map(|other| &other.addresses).filter_map(Address::ip);
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

    #[tokio::test]
    async fn accepted_connections_do_not_wait_in_nagles_algorithm() {
        let listen = Listen::new(Protocol::Tcp, ([127, 0, 0, 1], 0));
        let options = Options { stall: None, unix_mode: None, workers: 1, recv_buffer: None };
        let bound = listeners(&listen, &[], &options).unwrap();
        let [(Address::Ip(address), AnyListener::Tcp(listener))] = &bound[..] else {
            panic!("it is TCP: {bound:?}")
        };
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
