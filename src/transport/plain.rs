//! The plain transport: the accepted stream itself, without a handshake.

use futures::Future;
use futures::future::ready;

use super::{Carried, Transport};
use crate::connection::{Connection, Refused};
use crate::echo::{LowerStream, Underlying};
use crate::net::Stream;

/// Carries bytes as they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plain;

/// What a socket holds is the kernel's.
impl<S: Stream> LowerStream for S {}

impl<S: Stream> Transport<S> for Plain {
    type Carried = S;

    const UNDERLYING: Underlying<S> = |stream| stream;

    fn carry(
        &self,
        stream: S,
        _connection: Connection,
    ) -> impl Future<Output = Result<Carried<S>, Refused>> + Send + 'static {
        ready(Ok(Carried { stream, client: None, alpn: None }))
    }
}
