//! The server: binds everything, starts the front-ends, ends them together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::{error, info, warn};

mod accept;
mod placement;

use crate::config::{Config, Identity, Limits, Protocol};
use crate::connection::{Door, Drain, Sessions, Stage};
use crate::echo::Rules;
use crate::error::StartError;
use crate::net::bind::{self, Socket};
use crate::protocols::tcp::Tcp;
use crate::protocols::tls::Tls;
use crate::protocols::udp::{self, Udp};
use crate::protocols::ws::{Answers, Settings, WebSocket};
use crate::tls::{TlsReloader, TlsSettings};
use accept::accept_loop;
use placement::Workers;

/// How long aborted connections may take to be gone.
const LAST_MOMENT: Duration = Duration::from_secs(1);

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
    tls: Option<Arc<TlsSettings>>,
    sockets: Vec<Bound>,
    local_addrs: Vec<LocalAddr>,
    datagram_rules: Arc<Rules>,
    workers: Workers,
}

/// A front-end's socket, in the runtime.
#[derive(Debug)]
enum Bound {
    Stream(TcpListener),
    Datagrams(Udp),
}

impl Bound {
    fn datagram_sockets(&self) -> usize {
        match self {
            Bound::Stream(_) => 0,
            Bound::Datagrams(udp) => udp.sockets(),
        }
    }
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

/// What became of the connections that were there when a server shut down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Those that got what they were owed, or left by themselves.
    pub drained: u64,
    /// Those that were dropped when the drain timeout was over.
    pub aborted: u64,
}

impl Server {
    /// Reads all files and binds all addresses: either everything is ready to serve, or nothing
    /// has begun. Connections will be served by the runtime that [`Server::run`] is polled in, which
    /// has to be the one that this is called in.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// Outside a tokio runtime whose I/O driver and timers are enabled.
    #[expect(clippy::unused_async, reason = "sockets need a runtime, and a caller must notice")]
    pub async fn bind(config: Config) -> Result<Server, StartError> {
        Server::bind_with(config, Workers::here())
    }

    /// [`Server::bind`], but connections are spread evenly over `runtimes`, and the one that
    /// [`Server::run`] is polled in only accepts. A connection stays with its runtime. Meant for runtimes of one
    /// thread each (`current_thread`), all of which somebody has to drive: they take turns strictly
    /// in order, where a multi-thread runtime with more to do than it has room for lets some
    /// connections wait for long.
    ///
    /// A runtime that is stuck keeps its own connections waiting, and those that come within 10 ms
    /// of that; later ones go to the others. One that was dropped gets no more after the first.
    ///
    /// # Errors
    /// Those of [`Server::bind`].
    ///
    /// # Panics
    /// Outside a tokio runtime, or if one of them has no I/O driver or no timers.
    #[expect(clippy::unused_async, reason = "sockets need a runtime, and a caller must notice")]
    pub async fn bind_over(config: Config, runtimes: Vec<Handle>) -> Result<Server, StartError> {
        Server::bind_with(config, Workers::others(runtimes))
    }

    fn bind_with(config: Config, workers: Workers) -> Result<Server, StartError> {
        workers.check_drivers();
        if config.listeners.is_empty() {
            return Err(StartError::Config("there is no front-end to start".to_owned()));
        }
        if config.buffer_size == 0 {
            return Err(StartError::Config("--buffer-size 0: must be at least 1".to_owned()));
        }
        let needs_tls = config.listeners.iter().any(|listen| listen.protocol.is_over_tls());
        let tls = if needs_tls {
            Some(Arc::new(TlsSettings::new(&config.identity, &config.tls)?))
        } else {
            None
        };
        if !needs_tls && config.identity != Identity::SelfSigned {
            warn!("--cert and --key are not used: no listener speaks TLS");
        }
        let mut sockets = Vec::new();
        let mut local_addrs = Vec::new();
        let options = bind::Options {
            stall: config.timeouts.stall,
            workers: workers.threads().len(),
            recv_buffer: config.udp.recv_buffer,
        };
        let bound = bind::all(&config.listeners, &options)?;
        let is_udp = |(protocol, address, _): &(_, SocketAddr, _)| {
            (*protocol == Protocol::Udp).then_some(*address)
        };
        let datagram_rules = udp::rules(&config.udp, bound.iter().filter_map(is_udp).collect());
        for (protocol, address, socket) in bound {
            let refused = |source| StartError::Bind { protocol, address, source };
            sockets.push(match socket {
                Socket::Stream(socket) => {
                    Bound::Stream(TcpListener::from_std(socket).map_err(refused)?)
                }
                Socket::Datagrams(sockets) => {
                    let udp = Udp::new(sockets, &workers.threads(), address, &datagram_rules);
                    Bound::Datagrams(udp.map_err(refused)?)
                }
            });
            local_addrs.push(LocalAddr { protocol, address });
        }
        Ok(Server { config, tls, sockets, local_addrs, datagram_rules, workers })
    }

    /// Where it listens, in the order of [`Config::listeners`].
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.local_addrs
    }

    /// The certificate chain of the TLS front-ends, the server's own certificate first; empty if
    /// there is no such front-end. A test can trust a self-signed certificate by it.
    pub fn certificate_chain(&self) -> Vec<CertificateDer<'static>> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.current().chain)
    }

    /// What has the TLS front-ends read their files again, if there is such a front-end. The server
    /// does so by itself, too, when they change.
    pub fn tls_reloader(&self) -> Option<TlsReloader> {
        self.tls.clone().map(TlsReloader::new)
    }

    /// Serves until `shutdown` completes, then lets every connection go: each gets what it is
    /// owed, and its protocol's farewell. What is left after [`Timeouts::drain`] is aborted.
    ///
    /// When this returns, every address is free again. Dropping the future aborts every
    /// connection.
    ///
    /// [`Timeouts::drain`]: crate::Timeouts::drain
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Summary {
        let Limits { max_connections, max_connections_per_ip } = self.config.limits;
        let udp_sockets = self.sockets.iter().map(Bound::datagram_sockets).sum::<usize>();
        let max_connections = max_connections
            .unwrap_or_else(|| default_max_connections(self.workers.descriptors() + udp_sockets));
        let timeouts = self.config.timeouts;
        let sessions = Sessions::new(max_connections, max_connections_per_ip, timeouts);
        let sessions = Arc::new(sessions);
        let workers = Arc::new(self.workers);
        let drain = Arc::clone(&sessions.drain);
        let _abort = AbortOnDrop(Arc::clone(&drain));
        for LocalAddr { protocol, address } in &self.local_addrs {
            info!(%protocol, %address, "Server listening on port {}", address.port());
        }
        for (socket, local) in self.sockets.into_iter().zip(self.local_addrs) {
            start(socket, local, &self.config, self.tls.as_ref(), &sessions, &workers);
        }
        let watching =
            self.tls.map(|tls| AbortOnDropHandle(tokio::spawn(TlsReloader::new(tls).watch())));
        shutdown.await;
        drop(watching);
        info!(connections = sessions.connections(), "Shutting down");
        drain.advance(Stage::Draining);
        let mut stuck = 0;
        if tokio::time::timeout(timeouts.drain, drain.emptied()).await.is_err() {
            drain.advance(Stage::Aborting);
            // Each is dropped as soon as its thread has a moment. One that is stuck has none.
            if tokio::time::timeout(LAST_MOMENT, drain.emptied()).await.is_err() {
                stuck = sessions.connections() as u64;
                error!(
                    connections = stuck,
                    "Some connections could not be dropped: a thread is stuck"
                );
            }
        }
        sessions.log.summarize();
        udp::summarize(&self.datagram_rules);
        let (drained, aborted) = sessions.drained_and_aborted();
        let aborted = aborted + stuck;
        let (refused, panicked) = (sessions.refused(), sessions.panicked());
        info!(drained, aborted, refused, panicked, "Server stopped");
        Summary { drained, aborted }
    }
}

/// Nine tenths of the descriptors that the process may have. The rest, `ours` and 32 at least, is for
/// runtimes and sockets, and whatever else the process does.
fn default_max_connections(ours: usize) -> usize {
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let connections = limit.saturating_sub((limit / 10).max(32 + ours as u64));
        return usize::try_from(connections).unwrap_or(usize::MAX).max(1);
    }
    usize::MAX
}

/// Starts the front-end of one socket.
fn start(
    socket: Bound,
    local: LocalAddr,
    config: &Config,
    tls: Option<&Arc<TlsSettings>>,
    sessions: &Arc<Sessions>,
    workers: &Arc<Workers>,
) {
    let listener = match socket {
        Bound::Stream(listener) => listener,
        Bound::Datagrams(udp) => {
            tokio::spawn(udp.run(Arc::clone(sessions), sessions.drain.join()));
            return;
        }
    };
    let plain = Tcp { buffer_size: config.buffer_size };
    let secured = |is_for_http| {
        let tls = tls.expect("settings were made for every front-end over TLS");
        Tls::new(Arc::clone(tls), is_for_http, config.buffer_size, Arc::clone(&sessions.log))
    };
    let settings = || Settings {
        answers: Answers::new(&config.websocket),
        buffer_size: config.buffer_size,
        sessions: Arc::clone(sessions),
    };
    match local.protocol {
        Protocol::Tcp => accept(listener, plain, sessions, workers),
        Protocol::Tls => accept(listener, secured(false), sessions, workers),
        Protocol::Ws => {
            accept(listener, WebSocket::new(Protocol::Ws, plain, settings()), sessions, workers)
        }
        Protocol::Wss => {
            let door = WebSocket::new(Protocol::Wss, secured(true), settings());
            accept(listener, door, sessions, workers);
        }
        Protocol::Udp => unreachable!("UDP has no listener to accept from"),
    }
}

fn accept<D: Door>(
    listener: TcpListener,
    door: D,
    sessions: &Arc<Sessions>,
    workers: &Arc<Workers>,
) {
    // Counted in before it runs for the first time: a drain may come before that.
    let member = sessions.drain.join();
    tokio::spawn(accept_loop(listener, door, Arc::clone(sessions), Arc::clone(workers), member));
}

/// A task that ends with its owner.
struct AbortOnDropHandle(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whoever drops a running server leaves no connection behind.
struct AbortOnDrop(Arc<Drain>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.advance(Stage::Aborting);
    }
}
