//! The plain transport: the accepted stream itself, without a handshake.

use super::{Carrying, Transport};
use crate::connection::{Connection, Incoming};
use crate::echo::{Carrier, LowerStream};
use crate::net::Stream;

/// Carries bytes as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

/// What a socket holds is the kernel's.
impl<S: Stream> LowerStream for S {}

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
