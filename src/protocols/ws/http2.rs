//! HTTP/2 on a WebSocket port: the page, and WebSockets on streams (RFC 8441). Each has a session,
//! a place among the connections and a closing line of its own; the connection that carries them
//! has them too.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, poll_fn, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::{Future, FutureExt};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::Version;
use hyper::server::conn::http2::{self, Connection};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::full;
use super::settings::{MAX_HEAD, Settings, log_opened, open};
use crate::connection::{self, End, HandshakeError, Opened, Session};
use crate::echo::{Echo, EchoError, Goodbye, Moved, PeerEnd, Step, Traffic};
use crate::transport::{Meter, Replay};

/// Requests and WebSockets that one connection may have at a time: as many as RFC 9113 section
/// 6.5.2 wants at least.
const MAX_STREAMS: u32 = 100;

/// What a client may send on one stream before it is read. The streams' windows have room in the
/// connection's, so that those that are not read leave the others theirs.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// What hyper buffers for one stream. Two batches more can wait in front of it, and one in the
/// echo.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection that speaks HTTP/2.
pub(crate) struct Http2<S> {
    connection: Pin<Box<Serving<S>>>,
    meter: Arc<Meter>,
    /// Held by each WebSocket that is open, by the service, and here.
    open: Arc<()>,
    is_leaving: bool,
    end: Option<Option<Result<PeerEnd, EchoError>>>,
}

/// hyper's side of it.
type Serving<S> = Connection<TokioIo<Replay<S>>, Streams, TokioExecutor>;

impl<S> std::fmt::Debug for Http2<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").field("meter", &self.meter).finish_non_exhaustive()
    }
}

impl<S> Http2<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    /// Speaks HTTP/2 on `stream` until the first request has been answered, or it is over.
    pub(super) async fn first_request(
        stream: Replay<S>,
        settings: Settings,
        connection: connection::Connection,
    ) -> Self {
        let open = Arc::new(());
        let streams = Streams {
            settings,
            carrier: connection,
            open: Arc::clone(&open),
            answered: Arc::default(),
        };
        let (meter, answered) = (stream.meter(), Arc::clone(&streams.answered));
        let connection = http2::Builder::new(TokioExecutor::new())
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .serve_connection(TokioIo::new(stream), streams);
        let connection = Box::pin(connection);
        let mut http2 = Http2 { connection, meter, open, is_leaving: false, end: None };
        poll_fn(|cx| {
            let end = http2.poll_connection(cx);
            if end.is_ready() || answered.load(Ordering::Relaxed) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
        http2
    }

    /// Ready when the connection is over; `self.end` says how, until somebody asks.
    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.end.is_none() {
            let served = ready!(self.connection.as_mut().poll(cx));
            self.end = Some(match served {
                Ok(()) => Some(Ok(PeerEnd::EndOfStream)),
                Err(error) => Some(judge(&error)),
            });
        }
        Poll::Ready(())
    }

    /// How the connection ended; that it failed is said once.
    fn take_end(&mut self) -> Result<PeerEnd, EchoError> {
        let end = self.end.as_mut().and_then(Option::take);
        end.unwrap_or(Ok(PeerEnd::EndOfStream))
    }
}

/// What is behind an error of hyper's, which by itself only says that there was one.
fn judge(error: &hyper::Error) -> Result<PeerEnd, EchoError> {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        // rustls' word for a FIN without close_notify.
        Some(io::ErrorKind::UnexpectedEof) => Ok(PeerEnd::Truncated),
        kind => {
            let error = io::Error::new(kind.unwrap_or(io::ErrorKind::Other), cause.to_string());
            Err(EchoError::Read(error))
        }
    }
}

/// What its peers are told, they are told by hyper.
impl<S> Echo for Http2<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    const LINGER: Duration = Duration::from_secs(5);

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        ready!(self.poll_connection(cx));
        Poll::Ready(self.take_end().map(Step::Ended))
    }

    /// GOAWAY (RFC 9113 section 6.8), then whatever the streams have to finish.
    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        if !self.is_leaving && self.end.is_none() {
            self.is_leaving = true;
            self.connection.as_mut().graceful_shutdown();
        }
        ready!(self.poll_connection(cx));
        Poll::Ready(self.take_end().map(drop))
    }

    /// The streams' sessions count what they echo.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// What the streams still owe; a client that only does not close owes us.
    fn owes(&self) -> bool {
        let others = Arc::strong_count(&self.open) > 2;
        self.is_leaving && self.end.is_none() && others
    }

    fn moved(&self) -> Moved {
        self.meter.moved()
    }
}

/// Answers the requests of one connection.
struct Streams {
    settings: Settings,
    /// The connection that carries them.
    carrier: connection::Connection,
    open: Arc<()>,
    /// A request has been.
    answered: Arc<AtomicBool>,
}

impl Service<Request<Incoming>> for Streams {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Full<Bytes>>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        self.answered.store(true, Ordering::Relaxed);
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, _body) = request.into_parts();
        let uri = head.uri.clone();
        let (response, agreed) = self.settings.answers.answer(head);
        let response = response.map(Full::new);
        let Some(agreed) = agreed else { return ready(Ok(response)) };
        let sessions = &self.settings.sessions;
        let Some(admitted) = sessions.admit(self.carrier.protocol, self.carrier.peer) else {
            return ready(Ok(full().map(Full::new)));
        };
        log_opened(admitted.connection, Version::HTTP_2, uri.path(), &agreed, &self.settings);
        let settings = self.settings.clone();
        let opening = async move {
            let failed = |error: hyper::Error| HandshakeError::Http(error.to_string());
            let stream = upgrade.await.map_err(|error| End::Handshake(failed(error)))?;
            let socket = open(TokioIo::new(stream), |stream| stream, &agreed, &settings);
            Ok(Opened::new(socket, None))
        };
        let session = Session::of_connection(sessions, admitted, opening.boxed());
        let open = Arc::clone(&self.open);
        tokio::spawn(async move {
            session.await;
            drop(open);
        });
        ready(Ok(response))
    }
}
