//! Looks up what listeners are to be bound to. It is the only place where a server asks a resolver.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::address::{Address, ListenAddress};
use crate::config::{Listen, Protocol};
use crate::error::StartError;

/// A protocol, and the addresses to bind for one [`Listen`].
#[derive(Debug)]
pub(crate) struct Candidates {
    pub(crate) protocol: Protocol,
    /// In the resolver's order, each once, with IPv4-mapped addresses as IPv4.
    pub(crate) addresses: Vec<Address>,
    /// The first address that this machine has is enough.
    pub(crate) is_first_of: bool,
}

/// Looks up the addresses of `listen`.
pub(crate) async fn candidates(listen: &Listen) -> Result<Candidates, StartError> {
    let Listen { protocol, address } = listen;
    let (addresses, is_first_of) = match address {
        ListenAddress::At(address) => (vec![address.clone()], false),
        ListenAddress::All { port } => (
            vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()],
            true,
        ),
        ListenAddress::Name { host, port } => {
            let found = tokio::net::lookup_host((host.as_str(), *port)).await;
            let found: Vec<_> = found
                .map_err(|error| refusal(listen, failed(host, &error)))?
                .map(Address::from)
                .collect();
            if found.is_empty() {
                return Err(refusal(listen, format!("the name '{host}' has no address")));
            }
            (found, false)
        }
    };
    let mut unique = Vec::new();
    for address in addresses.iter().map(Address::canonical) {
        if let Some(problem) = problem(*protocol, &address) {
            return Err(refusal(listen, problem.to_owned()));
        }
        if !unique.contains(&address) {
            unique.push(address);
        }
    }
    Ok(Candidates { protocol: *protocol, addresses: unique, is_first_of })
}

fn refusal(listen: &Listen, problem: String) -> StartError {
    StartError::Address { protocol: listen.protocol, address: listen.address.clone(), problem }
}

/// Why the resolver found nothing. Its own words are about its functions.
fn failed(host: &str, error: &io::Error) -> String {
    match host.split_once('%') {
        Some((_, interface)) => format!("this machine has no interface '{interface}'"),
        None if error.to_string().contains("Temporary failure") => {
            format!("the name '{host}' could not be looked up: the resolver did not answer")
        }
        None => format!("the name '{host}' has no address"),
    }
}

/// Why `protocol` cannot be served on `address`.
fn problem(protocol: Protocol, address: &Address) -> Option<&'static str> {
    match address {
        Address::Unix(_) if protocol == Protocol::Udp => Some("UDP has no Unix sockets"),
        Address::Unix(_) => None,
        Address::Ip(address) => match address {
            std::net::SocketAddr::V6(v6)
                if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 =>
            {
                Some("a link-local address needs its interface, as in [fe80::1%eth0]:8080")
            }
            _ if address.ip().is_multicast() || address.ip() == Ipv4Addr::BROADCAST => {
                Some("it is a multicast or broadcast address, which nothing is echoed from")
            }
            _ => None,
        },
    }
}
