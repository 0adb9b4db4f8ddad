//! The server: binds every address, serves each protocol on its listeners, and shuts all down
//! together.

mod accept;
mod connections;
mod health;
mod memory;
mod metrics;
mod placement;
mod progress;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::{error, info, warn};

use crate::address::{Address, ListenAddress};
use crate::config::{Config, Identity, Listen, Protocol, TlsPolicy};
use crate::connection::{Handshake, Sessions, Stage, Statistics};
use crate::echo::Rules;
use crate::error::{Setting, StartError};
use crate::net::{AnyListener, Listener, bind, candidates, inherited};
use crate::protocols::bytes::Bytes;
use crate::protocols::proxied::Proxied;
use crate::protocols::udp::{self, Udp};
use crate::protocols::ws::{Answers, Settings, WebSocket};
use crate::tls::{TlsReloader, TlsSettings};
use crate::transport::{Plain, Tls};
use accept::Acceptor;
use metrics::Sources;
use placement::Workers;

pub use connections::Connections;
pub use health::{Health, Readiness};
pub use metrics::{
    Durations, Expiry, Metrics, ProtocolSnapshot, Snapshot, TlsSnapshot, UdpSnapshot,
};
pub use progress::Progress;

/// How long aborted connections may take to be dropped.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// An echo server that has bound its addresses but does not serve yet.
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
    connections: Connections,
    /// `None` if nobody has asked for them, and then nothing is counted for them.
    metrics: Option<Arc<Sources>>,
    health: Health,
}

/// What is spoken on a listener's streams, and over which transport.
#[derive(Debug, Clone)]
enum Service {
    Bytes(TransportConfig),
    WebSocket(TransportConfig),
}

/// A transport and its settings.
#[derive(Debug, Clone)]
enum TransportConfig {
    Plain,
    Tls(Arc<TlsSettings>),
}

/// An address that the server is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LocalAddr {
    /// The protocol that it serves there.
    pub protocol: Protocol,
    /// The bound address, with the port that the system chose if port 0 was asked for.
    pub address: Address,
}

/// How a server's connections ended. The last log line has the same counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// Connections that were open at shutdown and ended in time: the peer received every owed byte,
    /// or left by itself.
    pub drained: u64,
    /// Connections that were open at shutdown and were dropped when the drain timeout expired.
    pub aborted: u64,
    /// Connections refused because a limit was reached, since the start.
    pub refused: u64,
    /// Connections ended by a panic, which is a bug in this library, since the start.
    pub panicked: u64,
    /// Connections closed because of [`Limits::max_buffered`](crate::Limits::max_buffered), since
    /// the start.
    pub evicted: u64,
}

impl Server {
    /// Reads all files and binds all addresses. If one of them fails, nothing stays bound. The
    /// current runtime will serve the connections; [`Server::run`] has to be polled in the same
    /// one.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// If called outside a tokio runtime whose I/O driver and timers are enabled.
    pub async fn bind(config: Config) -> Result<Server, StartError> {
        Server::bind_with(config, Workers::current()).await
    }

    /// Like [`Server::bind`], but spreads connections evenly over `runtimes`; the runtime that
    /// polls [`Server::run`] only accepts. A connection stays with its runtime.
    ///
    /// It is meant for `current_thread` runtimes, each driven by a thread of its own: they poll
    /// their tasks strictly in turn, whereas an overloaded multi-thread runtime delays some
    /// connections for long.
    ///
    /// A stuck runtime delays its own connections, and those that are placed on it within the first
    /// 10 ms; later ones go to the others. The first connection for a dropped runtime is closed;
    /// later ones go to the others.
    ///
    /// # Errors
    /// Those of [`Server::bind`].
    ///
    /// # Panics
    /// If called outside a tokio runtime, or if one of the runtimes has no I/O driver or no timers.
    pub async fn bind_over(config: Config, runtimes: Vec<Handle>) -> Result<Server, StartError> {
        Server::bind_with(config, Workers::over(runtimes)).await
    }

    async fn bind_with(config: Config, workers: Workers) -> Result<Server, StartError> {
        workers.check_drivers();
        validate(&config)?;
        // A bad file must be found before anything is bound.
        let tls = tls_settings(&config).await?;
        let services = config.listeners.iter().map(|listen| service(listen.protocol, tls.as_ref()));
        let services: Vec<_> = services.collect();
        let options = bind::Options {
            stall: config.timeouts.stall,
            unix_mode: config.unix_mode,
            workers: workers.threads().len(),
            recv_buffer: config.udp.recv_buffer,
        };
        let mut all = Vec::new();
        for listen in &config.listeners {
            all.push(candidates(listen).await?);
        }
        let (mut listeners, mut shared, mut local_addrs) = (Vec::new(), Vec::new(), Vec::new());
        for ((configured, listen), service) in config.listeners.iter().zip(&all).zip(services) {
            let protocol = listen.protocol;
            let inherited = match &configured.address {
                ListenAddress::Inherited { name } => Some((name.as_deref(), &config.inherited)),
                _ => None,
            };
            let refused = |problem| StartError::Address {
                protocol,
                address: configured.address.clone(),
                problem,
            };
            let Some(service) = service else {
                let bound = match inherited {
                    Some((name, from)) => {
                        inherited::datagrams(name, from, &options).map_err(refused)
                    }
                    None => bind::datagrams(listen, &all, &options),
                };
                for (address, sockets) in bound.map_err(|error| twice(error, &local_addrs))? {
                    local_addrs.push(LocalAddr { protocol, address: address.into() });
                    shared.push((address, sockets));
                }
                continue;
            };
            let bound = match inherited {
                Some((name, from)) => {
                    inherited::listeners(protocol.name(), name, from, &options).map_err(refused)
                }
                None => bind::listeners(listen, &all, &options),
            };
            for (address, listener) in bound.map_err(|error| twice(error, &local_addrs))? {
                local_addrs.push(LocalAddr { protocol, address });
                listeners.push((protocol, listener, service.clone()));
            }
        }
        check_proxies(&config, &local_addrs)?;
        let own = shared.iter().map(|(address, _)| *address).collect();
        let datagram_rules = udp::rules(&config.udp, own);
        let has_facts = config.facts.contains(&Protocol::Udp);
        let datagrams = udp_protocols(shared, &workers, &datagram_rules, has_facts)?;
        // What is logged before a start that fails would be taken for its cause.
        match &tls {
            Some(tls) => tls.announce(),
            None if config.identity == Identity::SelfSigned
                && config.tls == TlsPolicy::default() => {}
            None => warn!("The TLS settings are not used: no listener speaks TLS (--tls, --wss)"),
        }
        let connections = Connections::default();
        let health = Health::new(Progress::of(workers.threads()));
        Ok(Server {
            config,
            tls,
            listeners,
            datagrams,
            datagram_rules,
            local_addrs,
            workers,
            connections,
            metrics: None,
            health,
        })
    }

    /// Has the server count what [`Metrics`] reads. Without, nothing is counted for it.
    pub fn metrics(&mut self) -> Metrics {
        let sources = self.metrics.get_or_insert_with(|| {
            let mut protocols: Vec<_> =
                self.local_addrs.iter().map(|local| local.protocol).collect();
            protocols.sort_by_key(|protocol| *protocol as usize);
            protocols.dedup();
            Arc::new(Sources {
                counts: Arc::default(),
                protocols,
                tls: self.tls.clone(),
                rules: Arc::clone(&self.datagram_rules),
                drops: self.datagrams.iter().map(Udp::drops).collect(),
            })
        });
        Metrics::new(Arc::clone(sources))
    }

    /// Tells whether the server is ready for clients, and whether its threads make progress.
    pub fn health(&self) -> Health {
        self.health.clone()
    }

    /// The bound addresses, in the order of [`Config::listeners`].
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.local_addrs
    }

    /// The certificate chain of the TLS protocols, the server's own certificate first. It is empty
    /// if no TLS protocol is served. A test can add it to a client's trusted roots.
    pub fn certificate_chain(&self) -> Vec<CertificateDer<'static>> {
        self.tls.as_ref().map_or_else(Vec::new, |tls| tls.current().chain)
    }

    /// Binds listeners of the admin endpoint at `address`.
    #[cfg(feature = "admin")]
    pub(crate) async fn bind_admin(
        &self,
        address: &ListenAddress,
    ) -> Result<Vec<(Address, AnyListener)>, StartError> {
        let as_admin = |error| match error {
            StartError::Address { address, problem, .. } => {
                StartError::AdminAddress { address, problem }
            }
            StartError::Twice { address, other_protocol, other, .. } => {
                StartError::AdminTwice { address, other_protocol, other }
            }
            StartError::Bind { address, source, .. } => StartError::AdminBind { address, source },
            other => other,
        };
        let options = bind::Options {
            stall: self.config.timeouts.stall,
            unix_mode: self.config.unix_mode,
            workers: 1,
            recv_buffer: None,
        };
        if let ListenAddress::Inherited { name } = address {
            let from = &self.config.inherited;
            let taken = inherited::listeners("admin", name.as_deref(), from, &options);
            return taken
                .map_err(|problem| StartError::AdminAddress { address: address.clone(), problem });
        }
        // It listens like any protocol on streams.
        let candidates = candidates(&Listen::new(Protocol::Tcp, address.clone())).await;
        let bound = candidates.and_then(|candidates| bind::listeners(&candidates, &[], &options));
        bound.map_err(|error| as_admin(twice(error, &self.local_addrs)))
    }

    /// Checks that all sockets of [`Config::inherited`] are used. It is to be called when everything
    /// is bound, the admin endpoint included: clients of a socket that nobody uses would wait for
    /// ever.
    ///
    /// # Errors
    /// Nobody uses some of the sockets.
    pub fn check_inherited(&self) -> Result<(), StartError> {
        self.config.inherited.check_all_taken()
    }

    /// A handle that makes the TLS protocols read their files again; `None` if no TLS protocol is
    /// served. The server also does so by itself when the files change.
    pub fn tls_reloader(&self) -> Option<TlsReloader> {
        self.tls.clone().map(TlsReloader::new)
    }

    /// Tells how many connections the server has, while it runs.
    pub fn connections(&self) -> Connections {
        self.connections.clone()
    }

    /// Tells whether the threads that run sessions make progress, while the server runs.
    pub fn progress(&self) -> Progress {
        self.health.progress()
    }

    /// Serves until `shutdown` completes, and for [`Timeouts::drain_delay`] more, then drains: every
    /// connection is sent the rest of its
    /// echo and closed as its protocol prescribes. Connections that are left after
    /// [`Timeouts::drain`] are aborted.
    ///
    /// When this returns, every address is free again. Dropping the future aborts every
    /// connection.
    ///
    /// [`Timeouts::drain`]: crate::Timeouts::drain
    /// [`Timeouts::drain_delay`]: crate::Timeouts::drain_delay
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Summary {
        let udp_sockets = self.datagrams.iter().map(Udp::sockets).sum::<usize>();
        let max_connections = default_max_connections(self.workers.descriptors() + udp_sockets);
        let timeouts = self.config.timeouts;
        let mut limits = self.config.limits;
        limits.max_buffered.get_or_insert_with(memory::default_max_buffered);
        let counts = self.metrics.map(|sources| Arc::clone(&sources.counts));
        let workers = self.workers.threads().len();
        let sessions = Sessions::new(limits, max_connections, timeouts, workers);
        let sessions = Arc::new(sessions.counting(counts));
        self.connections.begin(&sessions);
        let drain = Arc::clone(&sessions.drain);
        let _abort = AbortOnDrop(Arc::clone(&sessions));
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
        self.health.drain();
        if !timeouts.drain_delay.is_zero() {
            let delay_ms = timeouts.drain_delay.as_millis() as u64;
            info!(delay_ms, "Shutting down soon; new connections are still accepted");
            tokio::time::sleep(timeouts.drain_delay).await;
        }
        drop(watching);
        info!(connections = sessions.connections(), "Shutting down");
        sessions.advance(Stage::Draining);
        let mut stuck = 0;
        if tokio::time::timeout(timeouts.drain, drain.emptied()).await.is_err() {
            sessions.advance(Stage::Aborting);
            // Each connection is dropped in its own runtime, which a stuck thread does not poll.
            if tokio::time::timeout(ABORT_TIMEOUT, drain.emptied()).await.is_err() {
                stuck = sessions.connections() as u64;
                error!(
                    connections = stuck,
                    "Some connections could not be dropped: their thread is stuck"
                );
            }
        }
        sessions.log.summarize();
        udp::summarize(&self.datagram_rules);
        let Statistics { drained, aborted, refused, panicked, evicted } = sessions.statistics();
        let aborted = aborted + stuck;
        info!(drained, aborted, refused, panicked, evicted, "Server stopped");
        Summary { drained, aborted, refused, panicked, evicted }
    }
}

/// `error`, or that an address in use is in use by this server itself.
fn twice(error: StartError, bound: &[LocalAddr]) -> StartError {
    let StartError::Bind { protocol, address, source } = error else { return error };
    let overlaps = |other: &&LocalAddr| {
        let is_udp = |protocol| protocol == Protocol::Udp;
        is_udp(other.protocol) == is_udp(protocol)
            && match (address.ip(), other.address.ip()) {
                (Some(this), Some(other)) => {
                    // The IPv6 wildcard covers IPv4, too.
                    let covers = |this: SocketAddr, other: SocketAddr| {
                        this.ip().is_unspecified() && (this.is_ipv6() || other.is_ipv4())
                    };
                    let is_same = this.ip() == other.ip();
                    this.port() == other.port()
                        && (is_same || covers(this, other) || covers(other, this))
                }
                _ => address == other.address,
            }
    };
    match bound.iter().find(overlaps) {
        Some(LocalAddr { protocol: other_protocol, address: other })
            if source.kind() == io::ErrorKind::AddrInUse =>
        {
            let (other_protocol, other) = (*other_protocol, other.clone());
            StartError::Twice { protocol, address, other_protocol, other }
        }
        _ => StartError::Bind { protocol, address, source },
    }
}

/// Checks what the types of [`Config`] do not rule out.
fn validate(config: &Config) -> Result<(), StartError> {
    if config.listeners.is_empty() {
        return Err(StartError::setting(Setting::Listeners, "none is configured"));
    }
    if config.buffer_size == 0 {
        return Err(StartError::setting(Setting::BufferSize, "0 bytes; it must be at least 1"));
    }
    let is_served =
        |protocol: &&Protocol| config.listeners.iter().any(|listen| listen.protocol == **protocol);
    for (setting, protocols) in
        [(Setting::ProxyProtocol, &config.proxy.protocols), (Setting::Facts, &config.facts)]
    {
        if let Some(idle) = protocols.iter().find(|protocol| !is_served(protocol)) {
            return Err(StartError::setting(setting, format!("no listener speaks {idle}")));
        }
    }
    if config.proxy.protocols.contains(&Protocol::Udp) {
        let problem = "udp: there is no PROXY header for datagrams that proxies agree on";
        return Err(StartError::setting(Setting::ProxyProtocol, problem));
    }
    if !config.proxy.from.is_empty() && config.proxy.protocols.is_empty() {
        let problem = "no listener expects PROXY headers";
        return Err(StartError::setting(Setting::ProxyFrom, problem));
    }
    if config.unix_mode.is_some_and(|mode| mode > 0o777) {
        return Err(StartError::setting(
            Setting::UnixMode,
            "it may have only the nine permission bits, at most 0777",
        ));
    }
    Ok(())
}

/// Checks that not everybody on a network can announce any client.
fn check_proxies(config: &Config, bound: &[LocalAddr]) -> Result<(), StartError> {
    let is_open = |local: &&LocalAddr| {
        config.proxy.protocols.contains(&local.protocol)
            && local.address.ip().is_some_and(|ip| !ip.ip().to_canonical().is_loopback())
    };
    match bound.iter().find(is_open) {
        Some(LocalAddr { protocol, address }) if config.proxy.from.is_empty() => {
            let problem = format!(
                "{protocol} on {address} can be reached from the network, where a PROXY header \
                 could announce anybody; the networks of the proxies are needed, such as 10.0.0.0/8"
            );
            Err(StartError::setting(Setting::ProxyFrom, problem))
        }
        _ => Ok(()),
    }
}

/// The settings of TLS, if a listener speaks it. Reading files blocks, and a disk or a pipe may not
/// respond, so that a thread of its own reads them.
async fn tls_settings(config: &Config) -> Result<Option<Arc<TlsSettings>>, StartError> {
    let is_over_tls = |listen: &Listen| matches!(listen.protocol, Protocol::Tls | Protocol::Wss);
    if !config.listeners.iter().any(is_over_tls) {
        return Ok(None);
    }
    let (identity, policy) = (config.identity.clone(), config.tls.clone());
    let loading = tokio::task::spawn_blocking(move || TlsSettings::new(&identity, &policy));
    match loading.await {
        Ok(settings) => Ok(Some(Arc::new(settings?))),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime shuts down, and this future with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The service for `protocol`; `None` for UDP, which has sockets instead of listeners. All services
/// over TLS share the settings.
fn service(protocol: Protocol, tls: Option<&Arc<TlsSettings>>) -> Option<Service> {
    let over_tls =
        || TransportConfig::Tls(Arc::clone(tls.expect("they are loaded if a listener speaks TLS")));
    Some(match protocol {
        Protocol::Tcp => Service::Bytes(TransportConfig::Plain),
        Protocol::Tls => Service::Bytes(over_tls()),
        Protocol::Ws => Service::WebSocket(TransportConfig::Plain),
        Protocol::Wss => Service::WebSocket(over_tls()),
        Protocol::Udp => return None,
    })
}

/// Registers each UDP socket with the runtime that will echo it. `has_facts` says whether questions
/// for facts are answered.
fn udp_protocols(
    shared: Vec<(SocketAddr, Vec<UdpSocket>)>,
    workers: &Workers,
    rules: &Arc<Rules>,
    has_facts: bool,
) -> Result<Vec<Udp>, StartError> {
    let threads = workers.threads();
    let mut taken = 0;
    let protocols = shared.into_iter().map(|(address, sockets)| {
        // An inherited address has one socket, whatever the number of threads. Several such
        // addresses are spread over the threads.
        let first = if sockets.len() < threads.len() { taken } else { 0 };
        taken = (first + sockets.len()) % threads.len();
        let workers: Vec<_> =
            (0..).zip(threads.iter().copied()).cycle().skip(first).take(sockets.len()).collect();
        let udp = Udp::new(sockets, &workers, address, rules, has_facts);
        udp.map_err(|source| StartError::Bind {
            protocol: Protocol::Udp,
            address: address.into(),
            source,
        })
    });
    protocols.collect()
}

/// The descriptor limit of the process, less what is kept back for runtimes, UDP sockets and the
/// rest of the process: a tenth of the limit, and at least `reserved` + 32.
#[cfg(unix)]
fn default_max_connections(reserved: usize) -> usize {
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        let connections = limit.saturating_sub((limit / 10).max(32 + reserved as u64));
        return usize::try_from(connections).unwrap_or(usize::MAX).max(1);
    }
    usize::MAX
}

/// Other systems have no such limit.
#[cfg(not(unix))]
fn default_max_connections(_reserved: usize) -> usize {
    usize::MAX
}

/// What every service needs to start.
struct Starter {
    config: Config,
    sessions: Arc<Sessions>,
    workers: Arc<Workers>,
}

impl Starter {
    /// Starts `service` on `listener`.
    fn serve<L: Listener>(&self, protocol: Protocol, listener: L, service: Service) {
        let buffer_size = self.config.buffer_size;
        let shows_facts = self.config.facts.contains(&protocol);
        let tls = |settings, is_for_http| {
            let counts = self.sessions.counts().cloned();
            Tls::new(settings, is_for_http, shows_facts, Arc::clone(&self.sessions.log), counts)
        };
        let settings = || Settings {
            answers: Answers::new(&self.config.websocket),
            buffer_size,
            shows_facts,
            sessions: Arc::clone(&self.sessions),
        };
        match service {
            Service::Bytes(TransportConfig::Plain) => {
                let transport = Plain;
                self.accept(protocol, listener, Bytes { transport, buffer_size, shows_facts });
            }
            Service::Bytes(TransportConfig::Tls(tls_settings)) => {
                let transport = tls(tls_settings, false);
                self.accept(protocol, listener, Bytes { transport, buffer_size, shows_facts });
            }
            Service::WebSocket(TransportConfig::Plain) => {
                let handshake = WebSocket { transport: Plain, settings: settings() };
                self.accept(protocol, listener, handshake);
            }
            Service::WebSocket(TransportConfig::Tls(tls_settings)) => {
                let transport = tls(tls_settings, true);
                self.accept(protocol, listener, WebSocket { transport, settings: settings() });
            }
        }
    }

    /// Accepts connections, behind PROXY headers where those are expected.
    fn accept<L, H>(&self, protocol: Protocol, listener: L, handshake: H)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        if !self.config.proxy.protocols.contains(&protocol) {
            return self.accept_by(protocol, listener, handshake);
        }
        let from = self.config.proxy.from.as_slice().into();
        let proxied = Proxied::new(handshake, from, Arc::clone(&self.sessions.log));
        self.accept_by(protocol, listener, proxied);
    }

    fn accept_by<L, H>(&self, protocol: Protocol, listener: L, handshake: H)
    where
        L: Listener,
        H: Handshake<L::Stream>,
    {
        // Join before the task is first polled, so that a drain that starts earlier waits for it.
        let member = self.sessions.drain.join();
        let (sessions, workers) = (Arc::clone(&self.sessions), Arc::clone(&self.workers));
        let acceptor = Acceptor { protocol, handshake, sessions, workers };
        tokio::spawn(acceptor.run(listener, member));
    }
}

/// Aborts a task when dropped.
struct AbortOnDropHandle(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDropHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Aborts every connection when the future of [`Server::run`] is dropped.
struct AbortOnDrop(Arc<Sessions>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.advance(Stage::Aborting);
    }
}
