//! HTTP/2 on a WebSocket port: the page, and WebSockets on streams (RFC 8441). Each has a session,
//! a place among the connections and a closing line of its own; the connection that carries them
//! has them too.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::{Future, FutureExt};
use hyper::body::Incoming;
use hyper::http::{StatusCode, Version};
use hyper::server::conn::http2::{self, Connection};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use super::replay::{Meter, Replay};
use super::ws::{MAX_HEAD, Settings, log_opened, open};
use crate::echo::{Echo, EchoError, Goodbye, Moved, PeerEnd, Step, Traffic};
use crate::session::{End, HandshakeError, Session, Subject};

/// Requests and WebSockets that one connection may have at a time.
const MAX_STREAMS: u32 = 128;

/// What a client may send on one stream, and on all of them together, before it is read.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// What one stream may have waiting for the client.
const SEND_BUFFER: usize = 64 * 1024;

/// A connection that speaks HTTP/2.
pub(crate) struct Http2<S> {
    connection: Pin<Box<Serving<S>>>,
    meter: Arc<Meter>,
    is_leaving: bool,
    is_over: bool,
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
    pub(super) fn new(stream: Replay<S>, streams: Streams) -> Self {
        let meter = stream.meter();
        let connection = http2::Builder::new(TokioExecutor::new())
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .serve_connection(TokioIo::new(stream), streams);
        Http2 { connection: Box::pin(connection), meter, is_leaving: false, is_over: false }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<Result<PeerEnd, EchoError>> {
        if self.is_over {
            return Poll::Ready(Ok(PeerEnd::EndOfStream));
        }
        let served = ready!(self.connection.as_mut().poll(cx));
        self.is_over = true;
        Poll::Ready(match served {
            Ok(()) => Ok(PeerEnd::EndOfStream),
            Err(error) => judge(&error),
        })
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
        self.poll_connection(cx).map_ok(Step::Ended)
    }

    /// GOAWAY (RFC 9113 section 6.8), then whatever the streams have to finish.
    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        if !self.is_leaving && !self.is_over {
            self.is_leaving = true;
            self.connection.as_mut().graceful_shutdown();
        }
        self.poll_connection(cx).map_ok(drop)
    }

    /// The streams' sessions count what they echo.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    fn owes(&self) -> bool {
        self.is_leaving && !self.is_over
    }

    fn moved(&self) -> Moved {
        self.meter.moved()
    }
}

/// Answers the requests of one connection.
pub(super) struct Streams {
    pub(super) settings: Settings,
    /// What carries them.
    pub(super) connection: Subject,
}

impl Service<Request<Incoming>> for Streams {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Ready<Result<Response<String>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let upgrade = hyper::upgrade::on(&mut request);
        let (head, _body) = request.into_parts();
        let uri = head.uri.clone();
        let (response, agreed) = self.settings.answers.answer(head);
        let Some(agreed) = agreed else { return ready(Ok(response)) };
        let Subject::Connection { protocol, peer, .. } = self.connection else {
            unreachable!("a datagram socket speaks no HTTP")
        };
        let sessions = &self.settings.sessions;
        let Some((subject, permit)) = sessions.admit(protocol, peer) else {
            let mut response = Response::new(String::new());
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            return ready(Ok(response));
        };
        log_opened(subject, Version::HTTP_2, uri.path(), &agreed, &self.settings);
        let settings = self.settings.clone();
        let opening = async move {
            let failed = |error: hyper::Error| HandshakeError::Http(error.to_string());
            let stream = upgrade.await.map_err(|error| End::Handshake(failed(error)))?;
            Ok(open(TokioIo::new(stream), |stream| stream, &agreed, &settings))
        };
        tokio::spawn(Session::opening(sessions, subject, permit, opening.boxed()));
        ready(Ok(response))
    }
}
