//! What the system says about a connection that was not established.

use std::io::{self, ErrorKind};

/// What rustls says about a stream that was truncated, with the address of a page for programmers.
const RUSTLS_TRUNCATION: &str = "peer closed connection without sending TLS close_notify";

/// Why connecting failed.
pub(crate) fn of_connect(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        ErrorKind::TimedOut => "no answer",
        ErrorKind::HostUnreachable => "the host is unreachable",
        ErrorKind::NetworkUnreachable => "the network is unreachable: there is no route",
        ErrorKind::AddrNotAvailable => "this machine has no such source address",
        ErrorKind::ConnectionReset => "the connection was reset",
        _ => return of_system(error),
    }
    .to_owned()
}

/// The system's words, without the error number that the standard library puts behind them.
pub(crate) fn of_system(error: &io::Error) -> String {
    let text = error.to_string();
    if text.starts_with(RUSTLS_TRUNCATION) {
        return "the stream ended without close_notify".to_owned();
    }
    match text.rsplit_once(" (os error ") {
        Some((words, _)) if error.raw_os_error().is_some() => words.to_owned(),
        _ => text,
    }
}

/// What an ICMP error or the system says about a datagram.
pub(crate) fn of_datagram(error: &io::Error) -> String {
    match error.kind() {
        // Windows calls it a reset.
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => PORT_UNREACHABLE.to_owned(),
        ErrorKind::PermissionDenied => {
            "not permitted: usually a firewall rule of this host drops it".to_owned()
        }
        _ if is_too_long(error) => {
            "the datagram is larger than the interface or the path carries unfragmented".to_owned()
        }
        _ => of_connect(error),
    }
}

/// Why a datagram is refused as a TCP connection is.
pub(crate) const PORT_UNREACHABLE: &str = "port unreachable: nothing listens there";

/// EMSGSIZE.
fn is_too_long(error: &io::Error) -> bool {
    #[cfg(unix)]
    let code = rustix::io::Errno::MSGSIZE.raw_os_error();
    #[cfg(not(unix))]
    let code = 10_040;
    error.raw_os_error() == Some(code)
}
