//! Transports: what carries a protocol's bytes over an accepted stream. It is the stream itself, or
//! TLS over it; a transport can wrap another one's stream.

mod plain;
mod read_ahead;
mod replay;
mod tls;

use std::future::poll_fn;
use std::time::Duration;

use futures::Future;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use plain::Plain;
pub(crate) use read_ahead::ReadAhead;
pub(crate) use replay::{Meter, Replay};
pub(crate) use tls::Tls;

use crate::connection::{Connection, End};
use crate::echo::{Echo, Goodbye, StreamEcho, Underlying};

/// What carries a protocol's bytes over a stream `S`.
pub(crate) trait Transport<S>: Send + Sync + 'static {
    /// The carried stream.
    type Carried: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The stream below the carried one.
    const UNDERLYING: Underlying<Self::Carried>;

    /// Makes the carried stream, after the transport's own handshake if there is one.
    fn carry(
        &self,
        stream: S,
        connection: Connection,
    ) -> impl Future<Output = Result<Carried<Self::Carried>, End>> + Send + 'static;
}

/// A carried stream.
#[derive(Debug)]
pub(crate) struct Carried<S> {
    pub(crate) stream: S,
    /// Who the client has proved to be, if it was asked.
    pub(crate) client: Option<String>,
}

/// How long a refused client has to read why, and to close.
const REFUSAL_LINGER: Duration = Duration::from_secs(2);

/// Closes a stream that will not be echoed, without destroying the answer that is in flight.
pub(crate) async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    underlying: Underlying<S>,
) {
    let mut refused = StreamEcho::over(stream, underlying, 4096);
    let farewell = poll_fn(|cx| refused.poll_close(cx, Goodbye::Answer));
    // Either way it is over, and the reason for it is known.
    let _ = tokio::time::timeout(REFUSAL_LINGER, farewell).await;
}
