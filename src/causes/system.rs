//! What the system says about a connection that was not established.

use std::io::{self, ErrorKind};

/// Why connecting failed.
pub(crate) fn of_connect(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        ErrorKind::TimedOut => "no answer",
        ErrorKind::HostUnreachable => "the host is unreachable",
        ErrorKind::NetworkUnreachable => "the network is unreachable: there is no route",
        ErrorKind::AddrNotAvailable => "this machine has no such source address",
        ErrorKind::ConnectionReset => "the connection was reset",
        _ => return error.to_string(),
    }
    .to_owned()
}
