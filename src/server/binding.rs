//! From a configuration to bound sockets, and to the services on them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use super::LocalAddr;
use super::placement::Workers;
use super::starter::{Service, TransportConfig};
#[cfg(feature = "admin")]
use crate::address::Address;
use crate::address::ListenAddress;
use crate::config::{Config, Listen, Protocol};
use crate::echo::Rules;
use crate::error::StartError;
use crate::faults::Faults;
use crate::net::{AnyListener, bind, candidates, inherited};
use crate::protocols::udp::Udp;
use crate::tls::TlsSettings;

/// What a server is bound to.
pub(super) struct Bound {
    /// The settings of TLS, if a listener speaks it.
    pub(super) tls: Option<Arc<TlsSettings>>,
    pub(super) listeners: Vec<(Protocol, AnyListener, Service)>,
    /// The sockets of each address for datagrams.
    pub(super) datagrams: Vec<(SocketAddr, Vec<UdpSocket>)>,
    pub(super) local_addrs: Vec<LocalAddr>,
}

/// Reads all files and binds all addresses. Datagrams get a socket for each of `workers`.
pub(super) async fn bind(config: &Config, workers: usize) -> Result<Bound, StartError> {
    // A bad file must be found before anything is bound.
    let tls = tls_settings(config).await?;
    let services = config.listeners.iter().map(|listen| service(listen.protocol, tls.as_ref()));
    let services: Vec<_> = services.collect();
    let options = bind::Options {
        stall: config.timeouts.stall,
        unix_mode: config.unix_mode,
        workers,
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
                Some((name, from)) => inherited::datagrams(name, from, &options).map_err(refused),
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
    Ok(Bound { tls, listeners, datagrams: shared, local_addrs })
}

/// Binds the admin endpoint's listeners at `address`. `bound` are the server's own.
#[cfg(feature = "admin")]
pub(crate) async fn bind_admin(
    config: &Config,
    bound: &[LocalAddr],
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
        stall: config.timeouts.stall,
        unix_mode: config.unix_mode,
        workers: 1,
        recv_buffer: None,
    };
    if let ListenAddress::Inherited { name } = address {
        let from = &config.inherited;
        let taken = inherited::listeners("admin", name.as_deref(), from, &options);
        return taken
            .map_err(|problem| StartError::AdminAddress { address: address.clone(), problem });
    }
    // It listens like any protocol on streams.
    let candidates = candidates(&Listen::new(Protocol::Tcp, address.clone())).await;
    let listeners = candidates.and_then(|candidates| bind::listeners(&candidates, &[], &options));
    listeners.map_err(|error| as_admin(twice(error, bound)))
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

/// The settings of TLS, if a listener speaks it. Reading files blocks, and a disk or a pipe may not
/// respond, so that a thread of its own reads them.
async fn tls_settings(config: &Config) -> Result<Option<Arc<TlsSettings>>, StartError> {
    let is_over_tls = |listen: &Listen| matches!(listen.protocol, Protocol::Tls | Protocol::Wss);
    if !config.listeners.iter().any(is_over_tls) {
        return Ok(None);
    }
    let (identity, policy) = (config.identity.clone(), config.tls.clone());
    let faults = config.faults.clone();
    let load = move || TlsSettings::new(&identity, &policy, &faults);
    let loading = tokio::task::spawn_blocking(load);
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
/// for facts are answered, and `faults` what is done wrong on purpose.
pub(super) fn register(
    shared: Vec<(SocketAddr, Vec<UdpSocket>)>,
    workers: &Workers,
    rules: &Arc<Rules>,
    has_facts: bool,
    faults: Option<&Arc<Faults>>,
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
        let udp = Udp::new(sockets, &workers, address, rules, has_facts, faults);
        udp.map_err(|source| StartError::Bind {
            protocol: Protocol::Udp,
            address: address.into(),
            source,
        })
    });
    protocols.collect()
}
