//! What our processor time is to be at most, as a multiple of another server's. A summary shows it
//! beside what was measured.

use super::servers::Which;
use crate::controls::Control;

/// The label of a case, the other server, and the ratio.
const TARGETS: [(&str, Control, f64); 8] = [
    ("TCP connection", Control::Epoll, 1.00),
    ("TCP 16 KiB, 4 × 4", Control::Epoll, 1.02),
    ("TCP 256 KiB, 1 × 1", Control::Epoll, 1.02),
    ("TLS 64 B, 50 × 1", Control::Rustls, 0.90),
    ("TLS 16 KiB, 4 × 4", Control::Rustls, 0.60),
    ("TLS 64 B, 50 × 1", Control::OpenSsl, 0.80),
    ("TLS 16 KiB, 4 × 4", Control::OpenSsl, 0.80),
    ("UDP 64 B, 50 × 1", Control::Mmsg, 1.05),
];

/// The target of a case against a server, if there is one.
pub fn of(label: &str, rival: &Which) -> Option<f64> {
    let is_meant = |(name, control, _): &&(&str, Control, f64)| {
        *name == label && *rival == Which::Control(*control)
    };
    TARGETS.iter().find(is_meant).map(|(_, _, ratio)| *ratio)
}
