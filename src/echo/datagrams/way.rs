//! The way that replies take to their peers.

use std::net::SocketAddr;
use std::task::{Context, Poll};

use super::batch::Ancillary;
#[cfg(test)]
use super::batch::Received;

/// A reply that is to be sent.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Where it goes.
    pub peer: SocketAddr,
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Where it leaves from, and with which marks.
    pub(super) ancillary: Ancillary,
}

#[cfg(test)]
impl Reply {
    /// A reply from nowhere in particular.
    pub(crate) fn to(peer: SocketAddr, bytes: Vec<u8>) -> Self {
        Reply { peer, bytes, ancillary: Received::NOTHING.ancillary }
    }
}

/// The way that replies take from the echo to the socket.
pub trait Way: Unpin {
    /// Whether all replies leave at once, as they are. It is a constant so that an echo whose replies
    /// do that does not look for others.
    const IS_DIRECT: bool;

    /// Takes a reply. It may have to be sent twice, if `may_double` says that the rules allow that:
    /// the source may be forged, and then two replies would amplify what an attacker sends.
    fn take(&mut self, reply: Reply, may_double: impl FnOnce() -> bool);

    /// The next reply that has to leave by now; in a `hurry`, the next of all. `None`: nothing is on
    /// its way. If it is `Pending`, the task is woken when the next one has to leave.
    fn poll_next(&mut self, cx: &mut Context<'_>, hurry: bool) -> Poll<Option<&Reply>>;

    /// Removes the reply that [`Way::poll_next`] has just returned.
    fn pop(&mut self);
}

/// The way of replies that leave at once.
#[derive(Debug, Clone, Copy)]
pub struct Direct;

impl Way for Direct {
    const IS_DIRECT: bool = true;

    fn take(&mut self, _reply: Reply, _may_double: impl FnOnce() -> bool) {}

    fn poll_next(&mut self, _cx: &mut Context<'_>, _hurry: bool) -> Poll<Option<&Reply>> {
        Poll::Ready(None)
    }

    fn pop(&mut self) {}
}
