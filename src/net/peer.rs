//! Who is at the other end of a connection: what admission counts by, and the log names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

/// The other end of a connection, as the one place that admission, the log and a protocol ask.
///
/// If the first bytes of a connection name another client (a PROXY header), that is a further
/// variant, filled in by whoever reads those bytes, and all of them speak of that client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Ip(SocketAddr),
    /// A process of this machine. Its own socket has no name as a rule, but the kernel knows who it
    /// was when it connected (SO_PEERCRED in unix(7)).
    #[cfg(unix)]
    Unix {
        uid: u32,
        /// Not every system tells, nor across PID namespaces.
        pid: Option<i32>,
    },
}

impl Peer {
    /// The address that a limit for each address counts by.
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
