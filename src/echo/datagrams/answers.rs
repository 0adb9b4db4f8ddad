//! Datagrams that get another answer than their echo.

use std::net::{IpAddr, SocketAddr};

/// Knows which datagrams get another answer than their echo, and which.
pub trait Answers: Unpin {
    /// Whether any does. It is a constant so that an echo that has no other answers does not look
    /// for them.
    const ANY: bool;

    /// The answer to a datagram that the rules let through. `None`: its echo. An answer that is
    /// longer than the datagram is not sent, and the echo is: the source may be forged, and then a
    /// longer reply would amplify what an attacker sends.
    fn answer(&self, asked: &Asked<'_>) -> Option<Vec<u8>>;
}

/// A datagram that may get another answer than its echo.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Where it came from.
    pub peer: SocketAddr,
    /// Where it was sent to. Unspecified on a system other than Linux, where it is not known.
    pub destination: IpAddr,
    /// The TTL, or under IPv6 the hop limit, that it arrived with. `None` on a system other than
    /// Linux.
    pub ttl: Option<u8>,
    /// The TOS, or under IPv6 the traffic class: DSCP and ECN. It is meaningless without a TTL.
    pub tos: u8,
    /// What it holds.
    pub bytes: &'a [u8],
}

/// No other answers: what comes in goes back.
#[derive(Debug, Clone, Copy)]
pub struct Verbatim;

impl Answers for Verbatim {
    const ANY: bool = false;

    fn answer(&self, _asked: &Asked<'_>) -> Option<Vec<u8>> {
        None
    }
}

/// Other answers that there may be.
impl<A: Answers> Answers for Option<A> {
    const ANY: bool = A::ANY;

    fn answer(&self, asked: &Asked<'_>) -> Option<Vec<u8>> {
        self.as_ref()?.answer(asked)
    }
}
