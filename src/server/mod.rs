//! The server: binds every address, serves each protocol on its listeners, and shuts all down
//! together.

mod accept;
mod binding;
mod connections;
mod fault_injection;
mod health;
mod memory;
mod metrics;
mod placement;
mod progress;
mod starter;
mod validate;

use std::sync::Arc;
use std::time::Duration;

use futures::Future;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tracing::{error, info, warn};

use crate::address::Address;
#[cfg(feature = "admin")]
use crate::address::ListenAddress;
use crate::config::{Config, Identity, Protocol, TlsPolicy};
use crate::connection::{Sessions, Stage, Statistics};
use crate::echo::Rules;
use crate::error::StartError;
use crate::net::AnyListener;
use crate::protocols::udp::{self, Udp};
use crate::tls::{TlsReloader, TlsSettings};
use binding::Bound;
#[cfg(feature = "admin")]
pub(crate) use binding::bind_admin;
use fault_injection::FaultInjection;
use metrics::Sources;
use placement::Workers;
use starter::{Service, Starter};
use validate::{check_proxies, validate};

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
    faults: Option<FaultInjection>,
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
        let Bound { tls, listeners, datagrams: shared, local_addrs } =
            binding::bind(&config, workers.threads().len()).await?;
        check_proxies(&config, &local_addrs)?;
        let own = shared.iter().map(|(address, _)| *address).collect();
        let datagram_rules = udp::rules(&config.udp, own);
        let has_facts = config.facts.contains(&Protocol::Udp);
        let faults = FaultInjection::start(&config, &workers)?;
        let on_datagrams = faults.as_ref().and_then(|faults| faults.on(Protocol::Udp));
        let datagrams =
            binding::register(shared, &workers, &datagram_rules, has_facts, on_datagrams.as_ref())?;
        // What is logged before a start that fails would be taken for its cause.
        match &tls {
            Some(tls) => tls.announce(),
            None if config.identity == Identity::SelfSigned
                && config.tls == TlsPolicy::default() => {}
            None => warn!("The TLS settings are not used: no listener speaks TLS (--tls, --wss)"),
        }
        if let Some(faults) = &faults {
            faults.announce(&config.faults);
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
            faults,
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
                faults: self.faults.as_ref().map(FaultInjection::faults),
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
        bind_admin(&self.config, &self.local_addrs, address).await
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
            faults: self.faults.as_ref().map(FaultInjection::faults),
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
