//! Looks up what listeners are to be bound to. It is the only place where a server asks a resolver.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

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
        // Somebody else has bound them.
        ListenAddress::Inherited { .. } => (Vec::new(), false),
        ListenAddress::All { port } => (
            vec![(Ipv6Addr::UNSPECIFIED, *port).into(), (Ipv4Addr::UNSPECIFIED, *port).into()],
            true,
        ),
        ListenAddress::Name { host, port } if host.contains('%') => {
            let address = scoped(host, *port).ok_or_else(|| {
                let interface = host.split_once('%').map_or("", |(_, interface)| interface);
                refusal(listen, format!("this machine has no interface '{interface}'"))
            })?;
            (vec![Address::Ip(address.into())], false)
        }
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
    let mut unusable = None;
    for address in addresses.iter().map(Address::canonical) {
        if let Some(problem) = problem(*protocol, &address) {
            unusable.get_or_insert(problem);
        } else if !unique.contains(&address) {
            unique.push(address);
        }
    }
    if let Some(problem) = unusable.filter(|_| unique.is_empty()) {
        return Err(refusal(listen, problem.to_owned()));
    }
    Ok(Candidates { protocol: *protocol, addresses: unique, is_first_of })
}

fn refusal(listen: &Listen, problem: String) -> StartError {
    StartError::Address { protocol: listen.protocol, address: listen.address.clone(), problem }
}

/// Why the resolver found nothing. Its own words are about its functions.
fn failed(host: &str, error: &io::Error) -> String {
    match error.to_string().contains("Temporary failure") {
        true => format!("the name '{host}' could not be looked up: the resolver did not answer"),
        false => format!("the name '{host}' has no address"),
    }
}

/// An IPv6 address with its interface by name (RFC 4007 section 11). Only a link-local address needs
/// it. `None` if there is no such interface.
fn scoped(host: &str, port: u16) -> Option<SocketAddrV6> {
    let (address, interface) = host.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let index = interface_index(interface)?;
    let scope = if address.is_unicast_link_local() { index } else { 0 };
    Some(SocketAddrV6::new(address, port, 0, scope))
}

#[cfg(target_os = "linux")]
fn interface_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Elsewhere the resolver knows the names of interfaces.
#[cfg(not(target_os = "linux"))]
fn interface_index(name: &str) -> Option<u32> {
    use std::net::{SocketAddr, ToSocketAddrs};
    let mut found = (format!("fe80::1%{name}").as_str(), 0).to_socket_addrs().ok()?;
    found.find_map(|address| match address {
        SocketAddr::V6(address) => Some(address.scope_id()),
        SocketAddr::V4(_) => None,
    })
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
