//! Name resolution.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::options::{ConnectOptions, Family};
use super::race::interleave;
use crate::probe::{FailureKind, ProbeError, Target};

/// The addresses of `name` that `options` admit, at least one, in the order to try them.
pub(super) async fn resolve(
    target: &Target,
    options: &ConnectOptions,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, ProbeError> {
    if let Some(address) = options.address {
        return Ok(vec![SocketAddr::new(address, port)]);
    }
    let found = addresses_of(name).await.map_err(|error| {
        let problem = match error.to_string().contains("Temporary failure") {
            true => format!("the name {name} could not be looked up: the resolver did not answer"),
            false => format!("the name {name} has no address"),
        };
        ProbeError::connect_caused_by(target, FailureKind::Resolve, problem, error)
    })?;
    let family = options.family.or(options.source.map(|source| match source {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }));
    let found = found.into_iter().map(|mut address| {
        address.set_port(port);
        address
    });
    let addresses = interleave(found.filter(|address| match family {
        None => true,
        Some(Family::V4) => address.is_ipv4(),
        Some(Family::V6) => address.is_ipv6(),
    }));
    let none = |problem| ProbeError::connect(target, FailureKind::Resolve, problem);
    match (addresses.is_empty(), family) {
        (false, _) => Ok(addresses),
        (true, None) => Err(none(format!("{name} has no address"))),
        (true, Some(family)) => {
            let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
            Err(none(format!("{name} has no {family} address")))
        }
    }
}

/// How many lookups there are at the same time. One that nobody waits for any more goes on, in a thread
/// of its own, until the resolver gives up; without a limit, a resolver that does not answer would
/// collect them.
static LOOKUPS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(32)));

/// The addresses of `name`, with port 0, in the order of the system's resolver.
pub(in crate::probe) async fn addresses_of(name: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, 0)]);
    }
    let place = Arc::clone(&LOOKUPS).acquire_owned().await.expect("it is never closed");
    let name = name.to_owned();
    let lookup = spawn_blocking(move || {
        let _place = place;
        (name.as_str(), 0).to_socket_addrs().map(Vec::from_iter)
    });
    // It is cancelled if the runtime ends.
    lookup.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}
