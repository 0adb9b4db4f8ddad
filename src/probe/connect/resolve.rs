//! Name resolution.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
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
        let problem = match ["Temporary failure", "Try again"]
            .iter()
            .any(|words| error.to_string().contains(words))
        {
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

/// The lookups that are going on, each of which whoever wants to know the same waits for. One that nobody
/// waits for any more goes on, in a thread of its own, until the resolver gives up: without this, a
/// resolver that does not answer would collect threads.
static RUNNING: Mutex<BTreeMap<String, Lookup>> = Mutex::new(BTreeMap::new());

type Lookup = Shared<BoxFuture<'static, Result<Vec<SocketAddr>, Failure>>>;

/// What the resolver said, or `None` if the runtime in which it was asked has ended.
type Failure = Option<(io::ErrorKind, String)>;

/// The addresses of `name`, with port 0, in the order of the system's resolver.
pub(in crate::probe) async fn addresses_of(name: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, 0)]);
    }
    for _ in 0..2 {
        let lookup = running().entry(name.to_owned()).or_insert_with(|| look_up(name)).clone();
        match lookup.clone().await {
            Ok(found) => return Ok(found),
            Err(Some((kind, words))) => return Err(io::Error::new(kind, words)),
            // It was of another runtime. This one is asked, too.
            Err(None) => running().retain(|_, other| !other.ptr_eq(&lookup)),
        }
    }
    Err(io::Error::other("the lookup was cancelled"))
}

fn look_up(name: &str) -> Lookup {
    let name = name.to_owned();
    let asked = spawn_blocking(move || {
        let found = (name.as_str(), 0).to_socket_addrs().map(Vec::from_iter);
        running().remove(&name);
        found.map_err(|error| Some((error.kind(), error.to_string())))
    });
    asked.map(|asked| asked.unwrap_or(Err(None))).boxed().shared()
}

fn running() -> MutexGuard<'static, BTreeMap<String, Lookup>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
