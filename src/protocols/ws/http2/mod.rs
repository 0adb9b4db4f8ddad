//! HTTP/2 on a WebSocket listener: the page, and WebSockets on streams (RFC 8441). Each WebSocket has
//! a session, a place among the connections and a closing line of its own; the connection that
//! carries them has them too.
//!
//! This uses h2 itself. hyper's upgrade of a stream hides what a session needs: it cannot be reset
//! with its unsent data, and small DATA frames are limited beyond flow control.

mod faults;
mod stream;

use std::future::{self, poll_fn};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use futures::task::AtomicWaker;
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, RecvStream, SendStream};
use hyper::header::{CONTENT_LENGTH, DATE};
use hyper::http::request::Parts;
use hyper::http::{StatusCode, Version};
use hyper::{Request, Response, Uri};
use tokio::io::{AsyncRead, AsyncWrite};

use super::handshake::{Agreed, full, has_body, needs_facts};
use super::settings::{MAX_HEAD, Settings, log_opened, open};
use crate::causes::{self, Peer};
use crate::connection::{Admitted, Connection, End, Opened, Opening, Session};
use crate::echo::{Echo, EchoError, Goodbye, Moved, PeerEnd, Step, StreamEcho, Traffic};
use crate::facts::{self, HttpSeen, Seen};
use crate::net;
use crate::transport::{Meter, Replay};
use stream::Http2Stream;

/// Requests and WebSockets that one connection may have at a time: as many as RFC 9113 section
/// 6.5.2 wants at least.
const MAX_STREAMS: u32 = 100;

/// What a client may send on one stream before it is read. The streams' windows have room in the
/// connection's, so that those that are not read leave the others theirs.
const STREAM_WINDOW: u32 = 32 * 1024;
const CONNECTION_WINDOW: u32 = MAX_STREAMS * STREAM_WINDOW;

/// What h2 may buffer of one stream's output, within the client's window.
const SEND_BUFFER: usize = 16 * 1024;

/// How many DATA frames of all streams together h2 may hold: it bounds their payload only, and keeps
/// each frame by itself.
const MAX_FRAMES: usize = 4096;

/// What such a frame costs besides its payload.
const FRAME_OVERHEAD: usize = 256;

/// What is read of a connection before its streams get a turn. They take their frames out of h2, so
/// that what h2 holds of small frames is bounded by this, and not by the windows.
const READ_PER_TURN: usize = 64 * 1024;

/// How many requests, answered at once, are a costly step: a stream that is opened and reset costs a
/// client some fifty bytes.
const COSTLY_REQUESTS: usize = 16;

/// h2 counts small DATA frames that it holds, as the bytes that they lack to 256, and closes the
/// connection when there are too many. This is ten times what one turn can bring.
const DATA_FRAME_BUDGET: usize = 256 * READ_PER_TURN;

/// A connection that speaks HTTP/2.
pub(crate) struct Http2<S> {
    connection: server::Connection<Replay<S>, Bytes>,
    pings: Option<PingPong>,
    keep_alive: KeepAlive,
    meter: Arc<Meter>,
    streams: Arc<Streams>,
    settings: Settings,
    /// The connection that carries the streams.
    carrier: Connection,
    /// What the server saw of it, if its client may know.
    seen: Option<Box<Seen>>,
    /// Who has announced its client.
    proxy: Option<Box<net::Peer>>,
    phase: Phase,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    /// GOAWAY is on its way (RFC 9113 section 6.8); the streams finish.
    Leaving,
    Over,
}

/// Whether the client was asked if it is there, by a PING (RFC 9113 section 6.7).
#[derive(Debug, Clone, Copy)]
enum KeepAlive {
    Quiet,
    Due,
    /// When so many bytes had come from it.
    Asked(u64),
}

/// What a connection and its streams know of each other.
#[derive(Debug, Default)]
struct Streams {
    open: AtomicUsize,
    /// The last stream that ended was reset because the client took nothing.
    last_one_stalled: AtomicBool,
    /// What the streams have given h2 to send since it last had sent everything.
    queued: AtomicUsize,
    /// In how many DATA frames, and who waits until those have been sent.
    frames: Mutex<Frames>,
    /// The connection's task.
    carrier: AtomicWaker,
}

/// The DATA frames that h2 has yet to send.
#[derive(Debug, Default)]
struct Frames {
    count: usize,
    waiting: Vec<Waker>,
}

impl Streams {
    fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    fn closed(&self, has_stalled: bool) {
        self.last_one_stalled.store(has_stalled, Ordering::Relaxed);
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.carrier.wake();
        }
    }

    fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Counts a DATA frame with so many bytes of payload.
    fn queued(&self, bytes: usize) {
        self.queued.fetch_add(bytes, Ordering::Relaxed);
        self.frames().count += 1;
    }

    /// Ready if h2 may be given one more DATA frame. Pending: the task is woken when it may.
    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut frames = self.frames();
        if frames.count < MAX_FRAMES {
            return Poll::Ready(());
        }
        if !frames.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            frames.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// h2 has sent everything.
    fn sent_all(&self) {
        self.queued.store(0, Ordering::Relaxed);
        let Frames { waiting, .. } = std::mem::take(&mut *self.frames());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The memory that h2 needs for what it has not sent.
    fn held(&self) -> usize {
        self.queued.load(Ordering::Relaxed) + self.frames().count * FRAME_OVERHEAD
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the client has let the last of its streams stall: it will not take anything else.
    fn have_all_stalled(&self) -> bool {
        self.open() == 0 && self.last_one_stalled.load(Ordering::Relaxed)
    }
}

impl<S> std::fmt::Debug for Http2<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http2").field("carrier", &self.carrier).finish_non_exhaustive()
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
        carrier: Connection,
        seen: Option<Box<Seen>>,
        proxy: Option<net::Peer>,
    ) -> Result<Self, End> {
        let meter = stream.meter();
        let connection = server::Builder::new()
            .enable_connect_protocol()
            .max_concurrent_streams(MAX_STREAMS)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(MAX_HEAD as u32)
            .data_frame_budget(DATA_FRAME_BUDGET)
            .handshake(stream)
            .await;
        let mut connection = connection
            .map_err(|error| End::Failed(EchoError::Read(causes::of_http2(error, Peer::Client))))?;
        let mut http2 = Http2 {
            pings: connection.ping_pong(),
            connection,
            keep_alive: KeepAlive::Quiet,
            meter,
            streams: Arc::default(),
            settings,
            carrier,
            seen,
            proxy: proxy.map(Box::new),
            phase: Phase::Serving,
        };
        poll_fn(|cx| http2.poll_requests(cx)).await.map_err(End::Failed)?;
        Ok(http2)
    }

    /// Answers the requests that have come, and returns how many; `None` when the connection is over.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<usize>, EchoError>> {
        if self.phase == Phase::Over {
            return Poll::Ready(Ok(None));
        }
        self.meter.allow(READ_PER_TURN);
        self.poll_keep_alive(cx);
        // Each poll sends what is queued. All requests are answered before the next one, so that
        // the answers share a write.
        let mut requests = Vec::new();
        let mut is_costly = false;
        let ended = loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    is_costly = self.seen.is_some() && needs_facts(request.method(), request.uri());
                    requests.push((request, respond));
                }
                Poll::Ready(Some(Err(error))) => {
                    break Some(Err(EchoError::Read(causes::of_http2(error, Peer::Client))));
                }
                Poll::Ready(None) => break Some(Ok(None)),
                Poll::Pending => break None,
            }
            // Facts are written for one request at a time.
            if is_costly || requests.len() == MAX_STREAMS as usize {
                break None;
            }
        };
        // Whatever is queued has its window, so only the connection itself can keep it back.
        if !self.meter.is_blocked() {
            self.streams.sent_all();
        }
        let answered = if is_costly { COSTLY_REQUESTS } else { requests.len() };
        for (request, respond) in requests {
            self.answer(request, respond);
        }
        match ended {
            Some(ended) => {
                self.phase = Phase::Over;
                Poll::Ready(ended)
            }
            // The next poll sends the answers.
            None if answered > 0 => Poll::Ready(Ok(Some(answered))),
            None => Poll::Pending,
        }
    }

    /// Sends the PING that is due.
    fn poll_keep_alive(&mut self, cx: &mut Context<'_>) {
        let Some(pings) = &mut self.pings else { return };
        // That an answer came is seen by the bytes that came; this makes place for the next PING.
        let _ = pings.poll_pong(cx);
        if matches!(self.keep_alive, KeepAlive::Due) && pings.send_ping(Ping::opaque()).is_ok() {
            self.keep_alive = KeepAlive::Asked(self.meter.moved().inward);
        }
    }

    /// What the response to a request is.
    fn decide(&self, head: Parts) -> Decided {
        let uri = head.uri.clone();
        let http = self.seen.is_some() && needs_facts(&head.method, &uri);
        let http = http.then(|| HttpSeen::of(&head, None));
        let seen = self.seen.as_deref().zip(http.as_ref());
        let write = seen.map(|(seen, http)| move || seen.to_json(Some(http)));
        let write = write.as_ref().map(|write| write as &dyn Fn() -> String);
        let (response, agreed) = self.settings.answers.answer(head, write);
        Decided { response, agreed, uri, http }
    }

    /// What the server saw of a request for a WebSocket, if its client may know.
    fn facts(
        &self,
        connection: Connection,
        faults: Option<&str>,
        http: Option<&HttpSeen>,
    ) -> Option<String> {
        let (seen, http) = self.seen.as_deref().zip(http)?;
        Some(seen.to_json_of(connection, faults, Some(http)))
    }

    /// Answers one request. If it opens a WebSocket, a session for the stream starts.
    fn answer(&self, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, receiving) = request.into_parts();
        if let Some(faults) = &self.settings.faults {
            return self.misbehave(faults, head, receiving, respond);
        }
        let Decided { response, agreed, uri, http } = self.decide(head);
        let Some(agreed) = agreed else {
            return match uri.path() == facts::PATH && response.status() == StatusCode::OK {
                true => self.tell(receiving, respond, response),
                false => reply(respond, response),
            };
        };
        let Some(admitted) = self.admit_stream() else { return reply(respond, full()) };
        let connection = admitted.connection;
        let facts = self.facts(connection, None, http.as_ref());
        let opened = match respond.send_response(dated(response.map(drop)), false) {
            Ok(sending) => {
                log_opened(connection, Version::HTTP_2, uri.path(), &agreed, &self.settings);
                let stream = self.stream(receiving, sending);
                let socket = open(stream, &agreed, &self.settings, &[], facts.as_deref());
                Opening::Done(Opened::new(socket, None))
            }
            Err(error) => failed(error),
        };
        tokio::spawn(Session::of_connection(&self.settings.sessions, admitted, opened));
    }

    /// Admits a stream that has a session. It counts as a connection of the carrier's client.
    fn admit_stream(&self) -> Option<Admitted> {
        let proxy = self.proxy.as_deref().copied();
        let Connection { protocol, peer, worker, .. } = self.carrier;
        Some(self.settings.sessions.admit_from(protocol, peer, proxy)?.on(worker))
    }

    /// Sends a response that is too large to wait in h2 for the client's window: in a session of its
    /// own, which stalls, is evicted and drained as an echo is.
    fn tell(
        &self,
        receiving: RecvStream,
        mut respond: SendResponse<Bytes>,
        response: Response<Bytes>,
    ) {
        if response.body().is_empty() {
            return reply(respond, response);
        }
        // It would be echoed behind the facts.
        if !receiving.is_end_stream() {
            return reply(respond, has_body());
        }
        let Some(admitted) = self.admit_stream() else { return reply(respond, full()) };
        let (mut head, body) = dated(response).into_parts();
        head.headers.insert(CONTENT_LENGTH, body.len().into());
        let opened = match respond.send_response(Response::from_parts(head, ()), false) {
            Ok(sending) => {
                let stream = self.stream(receiving, sending);
                let told = StreamEcho::new(stream, 1).with_greeting(body.into());
                Opening::Done(Opened::new(told, None))
            }
            Err(error) => failed(error),
        };
        tokio::spawn(Session::of_connection(&self.settings.sessions, admitted, opened));
    }

    fn stream(&self, receiving: RecvStream, sending: SendStream<Bytes>) -> Http2Stream {
        Http2Stream::new(receiving, sending, Arc::clone(&self.streams))
    }
}

/// The response to a request, and what is needed to go on.
struct Decided {
    response: Response<Bytes>,
    /// What was negotiated, if it opens a WebSocket.
    agreed: Option<Agreed>,
    uri: Uri,
    /// What the request showed, if that is wanted as a fact.
    http: Option<HttpSeen>,
}

/// The beginning of a session on a stream that has failed.
fn failed<E: Send + 'static>(error: h2::Error) -> Opening<E> {
    let end = End::Failed(EchoError::Read(causes::of_http2(error, Peer::Client)));
    Opening::Handshake(future::ready(Err(end.into())).boxed())
}

/// Answers a request that opens no WebSocket.
fn reply(mut respond: SendResponse<Bytes>, response: Response<Bytes>) {
    let (mut head, body) = dated(response).into_parts();
    head.headers.entry(CONTENT_LENGTH).or_insert_with(|| body.len().into());
    // The client may have reset the stream; then there is nobody to answer.
    let Ok(mut sending) = respond.send_response(Response::from_parts(head, ()), body.is_empty())
    else {
        return;
    };
    if !body.is_empty() {
        let _ = sending.send_data(body, true);
    }
}

/// A response with the date, which an origin server sends (RFC 9110 section 6.6.1).
fn dated<B>(mut response: Response<B>) -> Response<B> {
    let now = httpdate::fmt_http_date(SystemTime::now());
    response.headers_mut().insert(DATE, now.try_into().expect("a date is ASCII"));
    response
}

/// What its peers are told, they are told by h2.
impl<S> Echo for Http2<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    const LINGER: Duration = Duration::from_secs(5);
    const PINGS: bool = true;

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        self.streams.carrier.register(cx.waker());
        if self.streams.have_all_stalled() {
            return Poll::Ready(Err(EchoError::Unresponsive("it has let all its streams stall")));
        }
        Poll::Ready(match ready!(self.poll_requests(cx)) {
            Ok(Some(COSTLY_REQUESTS..)) => Ok(Step::Costly),
            Ok(Some(_)) => Ok(Step::Moved),
            Ok(None) => Ok(Step::Ended(PeerEnd::EndOfStream)),
            // rustls' error for a FIN without close_notify.
            Err(EchoError::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Ok(Step::Ended(PeerEnd::Truncated))
            }
            Err(error) => Err(error),
        })
    }

    /// GOAWAY, then whatever the streams have to finish.
    fn poll_close(&mut self, cx: &mut Context<'_>, _why: Goodbye) -> Poll<Result<(), EchoError>> {
        if self.phase == Phase::Serving {
            self.phase = Phase::Leaving;
            self.connection.graceful_shutdown();
        }
        while ready!(self.poll_requests(cx))?.is_some() {}
        Poll::Ready(Ok(()))
    }

    fn heartbeat(&mut self) -> bool {
        let received = self.meter.moved().inward;
        match self.keep_alive {
            KeepAlive::Asked(before) if before == received => false,
            _ => {
                self.keep_alive = KeepAlive::Due;
                true
            }
        }
    }

    /// The streams' sessions count what they echo.
    fn traffic(&self) -> Traffic {
        Traffic::default()
    }

    /// What the client does not take of the whole connection; and before a close, what the streams
    /// still owe. That a client only does not close is no debt of ours.
    fn owes(&self) -> bool {
        self.holds() || (self.phase == Phase::Leaving && self.streams.open() > 0)
    }

    fn holds(&self) -> bool {
        self.meter.is_blocked() && self.streams.queued.load(Ordering::Relaxed) > 0
    }

    fn held(&mut self) -> usize {
        self.streams.held()
    }

    fn moved(&self) -> Moved {
        self.meter.moved()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    /// Counts its wakes.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn the_connection_is_woken_by_the_last_of_its_streams() {
        let wakes = Arc::new(Wakes::default());
        let streams = Streams::default();
        streams.carrier.register(&Waker::from(Arc::clone(&wakes)));
        assert_eq!((streams.open(), streams.have_all_stalled()), (0, false));
        // Whether each stalled, and the wakes and the state after it.
        let cases = [(true, 0, false), (false, 0, false), (true, 1, true)];
        for _ in cases {
            streams.opened();
        }
        for (open, (has_stalled, woken, all)) in [2, 1, 0].into_iter().zip(cases) {
            streams.closed(has_stalled);
            assert_eq!(wakes.0.load(Ordering::Relaxed), woken);
            assert_eq!((streams.open(), streams.have_all_stalled()), (open, all));
        }
        streams.opened();
        assert!(!streams.have_all_stalled(), "there is another one");
        streams.closed(false);
        assert!(!streams.have_all_stalled());
    }

    #[test]
    fn a_response_has_the_date_in_its_only_allowed_form() {
        let response = dated(Response::new(()));
        let date = response.headers()[DATE].to_str().unwrap();
        let date = httpdate::parse_http_date(date).unwrap();
        assert!(date.elapsed().unwrap() < Duration::from_secs(60), "{date:?}");
    }
}
