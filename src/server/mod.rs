//! The server: binds everything, starts every protocol on its listeners, ends them together.

mod accept;
mod placement;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::{error, info, warn};

use crate::address::Address;
use crate::config::{Config, Identity, Protocol};
use crate::connection::{Drain, Handshake, Sessions, Stage, Statistics};
use crate::echo::Rules;
use crate::error::{Setting, StartError};
use crate::net::{AnyListener, Listener, bind};
use crate::protocols::bytes::Bytes;
use crate::protocols::udp::{self, Udp};
use crate::protocols::ws::{Answers, Settings, WebSocket};
use crate::tls::{TlsReloader, TlsSettings};
use crate::transport::{Plain, Tls};
use accept::Acceptor;
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
/// let address = server.local_addrs()[0].address.ip().expect("an IP address");
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
    listeners: Vec<(Protocol, AnyListener, Service)>,
    datagrams: Vec<Udp>,
    datagram_rules: Arc<Rules>,
    local_addrs: Vec<LocalAddr>,
    workers: Workers,
}

/// What is spoken on a listener's streams, and what carries it.
#[derive(Debug, Clone)]
enum Service {
    Bytes(Carrier),
    WebSocket(Carrier),
}

/// A transport with its settings.
#[derive(Debug, Clone)]
enum Carrier {
    Plain,
    Tls(Arc<TlsSettings>),
}

/// Where a protocol listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalAddr {
    /// What is spoken there.
    pub protocol: Protocol,
    /// Its address, with the port that the system chose if port 0 was asked for.
    pub address: Address,
}

/// What became of a server's connections, as its last log line says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Of those that were there when it shut down: those that got what they were owed, or left by
    /// themselves.
    pub drained: u64,
    /// Of those that were there when it shut down: those that were dropped when the drain timeout
    /// was over.
    pub aborted: u64,
    /// Those that were refused at a limit, since the start.
    pub refused: u64,
    /// Those that a bug of this library has ended, since the start.
    pub panicked: u64,
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
        check(&config)?;
        // All files are read before anything is bound.
        let mut tls = None;
        let services =
            config.listeners.iter().map(|listen| service(listen.protocol, &config, &mut tls));
        let services = services.collect::<Result<Vec<_>, _>>()?;
        if tls.is_none() && config.identity != Identity::SelfSigned {
            warn!("The certificates are not used: no listener speaks TLS");
        }
        let options = bind::Options {
            stall: config.timeouts.stall,
            unix_mode: config.unix_mode,
            workers: workers.threads().len(),
            recv_buffer: config.udp.recv_buffer,
        };
        let (mut listeners, mut shared, mut local_addrs) = (Vec::new(), Vec::new(), Vec::new());
        for (listen, service) in config.listeners.iter().zip(services) {
            let protocol = listen.protocol;
            let Some(service) = service else {
                for (address, sockets) in bind::datagrams(listen, &config.listeners, &options)? {
                    local_addrs.push(LocalAddr { protocol, address: address.into() });
                    shared.push((address, sockets));
                }
                continue;
            };
            for (address, listener) in bind::listeners(listen, &config.listeners, &options)? {
                local_addrs.push(LocalAddr { protocol, address });
                listeners.push((protocol, listener, service.clone()));
            }
        }
        let own = shared.iter().map(|(address, _)| *address).collect();
        let datagram_rules = udp::rules(&config.udp, own);
        let datagrams = datagram_protocols(shared, &workers, &datagram_rules)?;
        Ok(Server { config, tls, listeners, datagrams, datagram_rules, local_addrs, workers })
    }

    /// Where it listens, in the order of [`Config::listeners`].
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.local_addrs
    }

    /// The certificate chain of the TLS protocols, the server's own certificate first; empty if
    /// there is no such protocol. A test can trust a self-signed certificate by it.
    pub fn certificate_chain(&self) -> Vec<CertificateDer<'static>> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.current().chain)
    }

    /// What has the TLS protocols read their files again, if there is such a protocol. The server
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
        let udp_sockets = self.datagrams.iter().map(Udp::sockets).sum::<usize>();
        let max_connections = default_max_connections(self.workers.descriptors() + udp_sockets);
        let timeouts = self.config.timeouts;
        let sessions = Arc::new(Sessions::new(self.config.limits, max_connections, timeouts));
        let drain = Arc::clone(&sessions.drain);
        let _abort = AbortOnDrop(Arc::clone(&drain));
        for LocalAddr { protocol, address } in &self.local_addrs {
            match address {
                Address::Ip(ip) => {
                    info!(%protocol, %address, "Server listening on port {}", ip.port());
                }
                Address::Unix(_) => info!(%protocol, %address, "Server listening on {address}"),
            }
        }
        let starter = Starter {
            config: self.config,
            sessions: Arc::clone(&sessions),
            workers: Arc::new(self.workers),
        };
        for (protocol, listener, service) in self.listeners {
            match listener {
                AnyListener::Tcp(listener) => starter.serve(protocol, listener, service),
                #[cfg(unix)]
                AnyListener::Unix(listener) => starter.serve(protocol, listener, service),
            }
        }
        for udp in self.datagrams {
            tokio::spawn(udp.run(Arc::clone(&sessions), drain.join()));
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
            // Each is dropped as soon as its thread has a moment. A stuck thread has none.
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
        let Statistics { drained, aborted, refused, panicked } = sessions.statistics();
        let aborted = aborted + stuck;
        info!(drained, aborted, refused, panicked, "Server stopped");
        Summary { drained, aborted, refused, panicked }
    }
}

/// What no value of its own type can be wrong about.
fn check(config: &Config) -> Result<(), StartError> {
    if config.listeners.is_empty() {
        return Err(StartError::setting(Setting::Listeners, "there are none"));
    }
    if config.buffer_size == 0 {
        return Err(StartError::setting(Setting::BufferSize, "0 bytes: must be at least 1"));
    }
    if config.unix_mode.is_some_and(|mode| mode > 0o777) {
        return Err(StartError::setting(Setting::UnixMode, "more than the nine permission bits"));
    }
    Ok(())
}

/// What serves `protocol` on a listener; `None` if it has no listeners but datagram sockets. All
/// that need settings for TLS share them: the first makes them.
fn service(
    protocol: Protocol,
    config: &Config,
    tls: &mut Option<Arc<TlsSettings>>,
) -> Result<Option<Service>, StartError> {
    let mut secured = || {
        let settings = match tls {
            Some(settings) => settings,
            None => tls.insert(Arc::new(TlsSettings::new(&config.identity, &config.tls)?)),
        };
        Ok::<_, StartError>(Carrier::Tls(Arc::clone(settings)))
    };
    Ok(Some(match protocol {
        Protocol::Tcp => Service::Bytes(Carrier::Plain),
        Protocol::Tls => Service::Bytes(secured()?),
        Protocol::Ws => Service::WebSocket(Carrier::Plain),
        Protocol::Wss => Service::WebSocket(secured()?),
        Protocol::Udp => return Ok(None),
    }))
}

/// The datagram sockets, each in the runtime that will echo it.
fn datagram_protocols(
    shared: Vec<(SocketAddr, Vec<UdpSocket>)>,
    workers: &Workers,
    rules: &Arc<Rules>,
) -> Result<Vec<Udp>, StartError> {
    let threads = workers.threads();
    let protocols = shared.into_iter().map(|(address, sockets)| {
        Udp::new(sockets, &threads, address, rules).map_err(|source| StartError::Bind {
            protocol: Protocol::Udp,
            address: address.into(),
            source,
        })
    });
    protocols.collect()
}

/// Nine tenths of the descriptors that the process may have. The rest, `ours` and 32 at least, is for
/// runtimes and sockets, and whatever else the process does.
#[cfg(unix)]
fn default_max_connections(ours: usize) -> usize {
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let connections = limit.saturating_sub((limit / 10).max(32 + ours as u64));
        return usize::try_from(connections).unwrap_or(usize::MAX).max(1);
    }
    usize::MAX
}

/// Elsewhere there is no limit on descriptors.
#[cfg(not(unix))]
fn default_max_connections(_ours: usize) -> usize {
    usize::MAX
}

/// What it takes to start a service on a listener.
struct Starter {
    config: Config,
    sessions: Arc<Sessions>,
    workers: Arc<Workers>,
}

impl Starter {
    /// Starts `service` on `listener`.
    fn serve<L: Listener>(&self, protocol: Protocol, listener: L, service: Service) {
        let buffer_size = self.config.buffer_size;
        let tls =
            |settings, is_for_http| Tls::new(settings, is_for_http, Arc::clone(&self.sessions.log));
        let settings = || Settings {
            answers: Answers::new(&self.config.websocket),
            buffer_size,
            sessions: Arc::clone(&self.sessions),
        };
        match service {
            Service::Bytes(Carrier::Plain) => {
                self.accept(protocol, listener, Bytes { transport: Plain, buffer_size });
            }
            Service::Bytes(Carrier::Tls(tls_settings)) => {
                let transport = tls(tls_settings, false);
                self.accept(protocol, listener, Bytes { transport, buffer_size });
            }
            Service::WebSocket(Carrier::Plain) => {
                let handshake = WebSocket { transport: Plain, settings: settings() };
                self.accept(protocol, listener, handshake);
            }
            Service::WebSocket(Carrier::Tls(tls_settings)) => {
                let transport = tls(tls_settings, true);
                self.accept(protocol, listener, WebSocket { transport, settings: settings() });
            }
        }
    }

    fn accept<L, H>(&self, protocol: Protocol, listener: L, handshake: H)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        // Counted in before it runs for the first time: a drain may come before that.
        let member = self.sessions.drain.join();
        let (sessions, workers) = (Arc::clone(&self.sessions), Arc::clone(&self.workers));
        let acceptor = Acceptor { protocol, handshake, sessions, workers };
        tokio::spawn(acceptor.run(listener, member));
    }
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
