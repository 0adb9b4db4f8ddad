//! Transports: they carry a protocol's bytes over an accepted stream, as they are or over TLS. A
//! transport can wrap another one's stream.

mod faulty;
mod plain;
mod replay;
mod strays;
mod tls;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{self, AsyncWriteExt};

pub(crate) use faulty::WithFaults;
pub(crate) use plain::Plain;
pub(crate) use replay::{Meter, Replay, poll_append};
pub(crate) use strays::http_response;
pub(crate) use tls::Tls;

use crate::connection::{Connection, End, Incoming, Refused, Sessions, Stage};
use crate::echo::{Carrier, Echo, Goodbye, StreamEcho};
use crate::facts::TlsSeen;
use crate::faults::{Misbehaving, Plan, STALL_LINGER};

/// Carries a protocol's bytes over a stream `S`.
pub(crate) trait Transport<S>: Send + Sync + 'static {
    /// The stream that the protocol reads and writes.
    type Carried: Carrier + Misbehaving + Send + 'static;

    /// Begins the transport's handshake, if it has one.
    fn carry(&self, incoming: Incoming<S>, connection: Connection) -> Carrying<Self::Carried>;
}

/// A transport's handshake.
pub(crate) enum Carrying<C> {
    /// There is none. The bytes were read of the stream already.
    Done(C, Vec<u8>),
    Handshake(BoxFuture<'static, Result<Carried<C>, Refused>>),
}

/// The result of a transport's handshake.
#[derive(Debug)]
pub(crate) struct Carried<S> {
    pub(crate) stream: S,
    /// The identity in the client's certificate, if it has sent one.
    pub(crate) client: Option<String>,
    /// The protocol that ALPN (RFC 7301) selected, if any.
    pub(crate) alpn: Option<Vec<u8>>,
    /// What the handshake has shown, if that is wanted as a fact.
    pub(crate) tls: Option<Box<TlsSeen>>,
    /// The faults that the client has asked for by the name of the server.
    pub(crate) asked: Option<Box<Plan>>,
}

impl<S> Carried<S> {
    /// A stream without a handshake.
    pub(crate) fn plain(stream: S) -> Self {
        Carried { stream, client: None, alpn: None, tls: None, asked: None }
    }
}

/// Leaves the client without an answer and without an end, as a server does that hangs, until the
/// client has gone.
pub(crate) fn hold<S>(stream: S, end: End, sessions: &Arc<Sessions>) -> Refused
where
    S: Carrier + Send + 'static,
{
    let sessions = Arc::clone(sessions);
    let faults = stream.injected().map(|injected| injected.faults);
    let mut stream = stream;
    let farewell = async move {
        let gone = async {
            poll_fn(|cx| stream.lower().poll_peer_end(cx)).await;
            tokio::time::sleep(STALL_LINGER).await;
        };
        tokio::select! {
            () = gone => {}
            () = tokio::time::sleep(sessions.longest_stall()) => {}
            () = sessions.drain.reached(Stage::Draining) => {}
        }
    };
    Refused::with_farewell(end, farewell.boxed()).on_faulty(faults)
}

/// How long a refused client has to read the reason, and to close.
const REFUSAL_LINGER: Duration = Duration::from_secs(2);

/// Refuses `stream` because of `end`: sends `answer`, which may be empty, and closes. Closing with
/// unread input would make the kernel send a reset, which could destroy the answer before the client
/// has read it.
pub(crate) fn refuse<S>(stream: S, end: End, answer: Vec<u8>) -> Refused
where
    S: Carrier + Misbehaving + Send + 'static,
{
    let patience = REFUSAL_LINGER.saturating_add(stream.patience());
    let faults = stream.injected().map(|injected| injected.faults);
    let farewell = async move {
        let mut stream = stream;
        stream.write_all(&answer).await?;
        let mut refused = StreamEcho::new(stream, 4096);
        poll_fn(|cx| refused.poll_close(cx, Goodbye::Answer)).await.map_err(io::Error::other)
    };
    // The session reports why the stream was refused; how the close went does not matter.
    let farewell = tokio::time::timeout(patience, farewell).map(drop);
    Refused::with_farewell(end, farewell.boxed()).on_faulty(faults)
}
