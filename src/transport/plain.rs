//! The plain transport: the accepted stream itself, without a handshake.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::{Carrying, Transport};
use crate::connection::{Connection, Incoming};
use crate::echo::{Carrier, LowerStream};
use crate::net::Stream;

/// Carries bytes as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

/// What a socket holds is the kernel's.
impl<S: Stream> LowerStream for S {
    fn has_sent_all(&self) -> bool {
        Stream::has_sent_all(self)
    }

    fn reset_on_drop(&mut self) {
        Stream::reset_on_drop(self);
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self).poll_shutdown(cx)
    }

    fn poll_peer_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Stream::poll_peer_end(self, cx)
    }
}

impl<S: Stream> Carrier for S {
    const IS_SOCKET: bool = true;

    fn lower(&mut self) -> &mut dyn LowerStream {
        self
    }
}

impl<S: Stream> Transport<S> for Plain {
    type Carried = S;

    fn carry(&self, incoming: Incoming<S>, _connection: Connection) -> Carrying<S> {
        Carrying::Done(incoming.stream, incoming.early)
    }
}
