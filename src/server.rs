//! The server: binds everything, starts the front-ends, ends them together.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::info;

use crate::config::{Config, Listen, Protocol};
use crate::error::StartError;
use crate::listeners::{tcp::Tcp, tls::Tls, udp, ws::WebSocket};
use crate::session::{Door, Drain, Sessions, Stage, accept_loop};
use crate::tls::{self, TlsSettings};

/// Connections that the kernel completes before we accept them. mio's own choice differs from
/// version to version.
const BACKLOG: u32 = 4096;

/// How long connections have to take what they are owed once the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// An echo server that has bound its addresses, and does not serve yet.
///
/// ```
/// use echo_server::{Config, Protocol, Server};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tokio::sync::oneshot;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0));
/// let server = Server::bind(config).await?;
/// let address = server.local_addrs()[0].address;
///
/// let (stop, stopped) = oneshot::channel::<()>();
/// let running = tokio::spawn(server.run(async { drop(stopped.await) }));
///
/// let mut client = tokio::net::TcpStream::connect(address).await?;
/// client.write_all(b"hello").await?;
/// client.shutdown().await?;
/// let mut echo = String::new();
/// client.read_to_string(&mut echo).await?;
/// assert_eq!(echo, "hello");
///
/// drop(stop);
/// running.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    config: Config,
    tls: Option<TlsSettings>,
    sockets: Vec<Socket>,
    local_addrs: Vec<LocalAddr>,
}

/// Where a front-end listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalAddr {
    /// What it speaks.
    pub protocol: Protocol,
    /// Its address, with the port that the system chose if port 0 was asked for.
    pub address: SocketAddr,
}

#[derive(Debug)]
enum Socket {
    Stream(Protocol, TcpListener),
    Datagram(UdpSocket, SocketAddr),
}

impl Server {
    /// Reads all files and binds all addresses: either everything is ready to serve, or nothing
    /// has begun.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// Outside a tokio runtime whose I/O driver and timers are enabled.
    #[expect(clippy::unused_async, reason = "sockets need a runtime, and a caller must notice")]
    pub async fn bind(config: Config) -> Result<Server, StartError> {
        if config.listeners.is_empty() {
            return Err(StartError::Config("there is no front-end to start".to_owned()));
        }
        if config.buffer_size == 0 {
            return Err(StartError::Config("--buffer-size 0: must be at least 1".to_owned()));
        }
        let needs_tls = config.listeners.iter().any(|listen| listen.protocol.is_over_tls());
        let tls = if needs_tls { Some(tls::settings(&config.identity)?) } else { None };
        let mut sockets = Vec::new();
        let mut local_addrs = Vec::new();
        for listen in &config.listeners {
            for (socket, address) in bind_listen(listen)? {
                sockets.push(socket);
                local_addrs.push(LocalAddr { protocol: listen.protocol, address });
            }
        }
        Ok(Server { config, tls, sockets, local_addrs })
    }

    /// Where it listens, in the order of [`Config::listeners`].
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.local_addrs
    }

    /// The certificate chain of the TLS front-ends, the server's own certificate first; empty if
    /// there is no such front-end. A test can trust a self-signed certificate by it.
    pub fn certificate_chain(&self) -> &[CertificateDer<'static>] {
        self.tls.as_ref().map_or(&[], |tls| &tls.chain)
    }

    /// Serves until `shutdown` completes, then lets every connection go: each gets what it is
    /// owed, and its protocol's farewell.
    ///
    /// Dropping the future aborts every connection.
    pub async fn run(self, shutdown: impl Future<Output = ()>) {
        let sessions = Arc::new(Sessions::default());
        let _abort = AbortOnDrop(Arc::clone(&sessions.drain));
        for LocalAddr { protocol, address } in &self.local_addrs {
            info!(%protocol, %address, "Server listening on port {}", address.port());
        }
        for socket in self.sockets {
            start(socket, &self.config, self.tls.as_ref(), &sessions);
        }
        shutdown.await;
        info!(connections = sessions.drain.members(), "Shutting down");
        sessions.drain.advance(Stage::Draining);
        if tokio::time::timeout(DRAIN_TIMEOUT, sessions.drain.emptied()).await.is_err() {
            sessions.drain.advance(Stage::Aborting);
            sessions.drain.emptied().await;
        }
    }
}

/// Binds the addresses of one front-end. Of a name's addresses, those that this machine does not
/// have are passed over as long as one remains: `localhost` is ::1 too, IPv6 or not.
fn bind_listen(listen: &Listen) -> Result<Vec<(Socket, SocketAddr)>, StartError> {
    let mut bound = Vec::new();
    let mut failed = None;
    for &address in &listen.addresses {
        match bind_address(listen.protocol, address) {
            Ok(socket) => bound.push(socket),
            Err(source) => {
                let is_absent = is_absent(&source);
                let error = StartError::Bind { protocol: listen.protocol, address, source };
                if !is_absent {
                    return Err(error);
                }
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

fn bind_address(protocol: Protocol, address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    if protocol == Protocol::Udp {
        let socket = std::net::UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        return Ok((Socket::Datagram(UdpSocket::from_std(socket)?, local), local));
    }
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for the old server's connections to leave TIME_WAIT. On Windows the
    // option means something else.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(BACKLOG)?;
    let local = listener.local_addr()?;
    Ok((Socket::Stream(protocol, listener), local))
}

/// Whether a bind failed because the machine has no such address.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
}

/// Starts the front-end of one socket.
fn start(socket: Socket, config: &Config, tls: Option<&TlsSettings>, sessions: &Arc<Sessions>) {
    let plain = Tcp { buffer_size: config.buffer_size };
    let secured = || {
        let tls = tls.expect("settings were made for every front-end over TLS");
        Tls::new(Arc::clone(&tls.config), config.buffer_size)
    };
    match socket {
        Socket::Datagram(socket, local) => {
            tokio::spawn(udp::session(socket, local, sessions));
        }
        Socket::Stream(Protocol::Tcp, listener) => accept(listener, plain, sessions),
        Socket::Stream(Protocol::Tls, listener) => accept(listener, secured(), sessions),
        Socket::Stream(protocol @ Protocol::Wss, listener) => {
            accept(listener, WebSocket::new(protocol, secured()), sessions);
        }
        Socket::Stream(protocol, listener) => {
            accept(listener, WebSocket::new(protocol, plain), sessions);
        }
    }
}

fn accept<D: Door>(listener: TcpListener, door: D, sessions: &Arc<Sessions>) {
    tokio::spawn(accept_loop(listener, door, Arc::clone(sessions)));
}

/// Whoever drops a running server leaves no connection behind.
struct AbortOnDrop(Arc<Drain>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.advance(Stage::Aborting);
    }
}
