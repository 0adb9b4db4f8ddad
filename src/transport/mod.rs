//! The front-ends, one protocol a file. None imports another: WebSocket over TLS is the WebSocket
//! door on the transport of the TLS door, and it is the server that puts the two together.

mod read_ahead;
mod replay;

pub(crate) use read_ahead::ReadAhead;
pub(crate) use replay::{Meter, Replay};

use std::future::poll_fn;
use std::time::Duration;

use futures::Future;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::connection::{End, Subject};
use crate::echo::{Echo, Goodbye, Raw, StreamEcho};

/// What carries a byte stream: TCP itself, or TLS over it.
pub(crate) trait Transport: Send + Sync + 'static {
    /// The carried stream.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The TCP connection below the carried stream.
    const RAW: Raw<Self::Stream>;

    /// Makes it, after the transport's own handshake if there is one.
    fn carry(
        &self,
        tcp: TcpStream,
        subject: Subject,
    ) -> impl Future<Output = Result<Carried<Self::Stream>, End>> + Send + 'static;
}

/// A carried stream.
#[derive(Debug)]
pub(crate) struct Carried<S> {
    pub(crate) stream: S,
    /// Who the client has proved to be, if it was asked.
    pub(crate) client: Option<String>,
}

/// How long a refused client has to read why, and to close.
const HANG_UP: Duration = Duration::from_secs(2);

/// Closes a stream that will not be echoed, without destroying the answer that is in flight.
pub(crate) async fn hang_up<S: AsyncRead + AsyncWrite + Unpin>(stream: S, raw: Raw<S>) {
    let mut refused = StreamEcho::over(stream, raw, 4096);
    let farewell = poll_fn(|cx| refused.poll_close(cx, Goodbye::Answer));
    // Either way it is over, and the reason for it is known.
    let _ = tokio::time::timeout(HANG_UP, farewell).await;
}
