//! Name resolution.

use std::net::{IpAddr, SocketAddr};

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
    let found = tokio::net::lookup_host((name, port)).await.map_err(|error| {
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
