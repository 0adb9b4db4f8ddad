//! The other end of a connection: what admission limits count by, and what the log names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection, for admission, the log and the protocols alike.
///
/// Behind a PROXY header it is the client that the header announces, and everything that asks for the
/// peer sees that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ip(SocketAddr),
    /// A process on this machine. Its socket is usually unnamed, but the kernel has recorded the
    /// credentials with which it connected (SO_PEERCRED in unix(7)).
    #[cfg(unix)]
    Unix {
        uid: u32,
        /// `None` on systems that do not report it, and across PID namespaces.
        pid: Option<i32>,
    },
}

impl Peer {
    /// A peer by its address. A listener on the IPv6 wildcard sees IPv4 peers as IPv4-mapped.
    pub(crate) fn ip_of(address: SocketAddr) -> Self {
        Peer::Ip(match address {
            SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => (v4, v6.port()).into(),
                None => address,
            },
            SocketAddr::V4(_) => address,
        })
    }

    /// The address that the connection limit per address counts by.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(address) => Some(address.ip()),
            #[cfg(unix)]
            Peer::Unix { .. } => None,
        }
    }

    /// The user that connected to a Unix socket.
    pub(crate) fn uid(&self) -> Option<u32> {
        match self {
            Peer::Ip(_) => None,
            #[cfg(unix)]
            Peer::Unix { uid, .. } => Some(*uid),
        }
    }

    /// The process that connected to a Unix socket.
    pub(crate) fn pid(&self) -> Option<i32> {
        match self {
            Peer::Ip(_) => None,
            #[cfg(unix)]
            Peer::Unix { pid, .. } => *pid,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(address) => address.fmt(f),
            #[cfg(unix)]
            Peer::Unix { uid, pid: Some(pid) } => write!(f, "pid {pid} of uid {uid}"),
            #[cfg(unix)]
            Peer::Unix { uid, pid: None } => write!(f, "a process of uid {uid}"),
        }
    }
}
