//! WebSocket, and the HTTP request that opens it. Over HTTP/1.1 the connection itself becomes the
//! WebSocket (RFC 6455 section 4.2); over HTTP/2 each stream can become one (`http2.rs`).

mod deflate;
mod faults;
mod fields;
mod handshake;
mod http2;
mod page;
mod settings;

use std::convert::Infallible;
use std::error::Error;
use std::future::{pending, poll_fn, ready};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::Either;
use http_body_util::Full;
use hyper::Request;
use hyper::body;
use hyper::http::request::Parts;
use hyper::http::{StatusCode, Version};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

pub(crate) use handshake::Answers;
pub(crate) use settings::Settings;

use crate::causes;
use crate::connection::{
    Connection, End, Handshake, HandshakeError, Incoming, Opened, Opening, Refused,
};
use crate::echo::{
    Carrier, Echo, EchoError, Frames, Goodbye, Injected, Moved, Step, StreamEcho, Traffic,
};
use crate::facts::{HttpSeen, Seen};
use crate::faults::Misbehaving;
use crate::net::Stream;
use crate::transport::{self, Carried, Carrying, Replay, Transport};
use http2::Http2;
use settings::{MAX_HEAD, log_opened, open};

/// A request may have this many fields; with more, the response is 431.
const MAX_FIELDS: usize = 100;

/// The end of a request that gets no response.
const STALLED: &str = "stalled on purpose in the place of a response";

/// The HTTP/2 connection preface of a client (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// WebSocket over the transport `T`.
pub(crate) struct WebSocket<T> {
    pub(crate) transport: T,
    pub(crate) settings: Settings,
}

impl<S: Stream, T: Transport<S>> Handshake<S> for WebSocket<T> {
    type Echo = OverHttp<T::Carried>;

    fn begin(&self, mut incoming: Incoming<S>, connection: Connection) -> Opening<Self::Echo> {
        let settings = self.settings.clone();
        let proxy = incoming.proxy.as_ref().map(|proxy| proxy.peer);
        let seen = settings.shows_facts.then(|| Box::new(Seen::of(&mut incoming, connection)));
        let carrying = self.transport.carry(incoming, connection);
        let opening = async move {
            let (carried, early) = match carrying {
                Carrying::Done(stream, early) => (Carried::plain(stream), early),
                Carrying::Handshake(carrying) => (carrying.await?, Vec::new()),
            };
            let Carried { stream, client, alpn, tls, .. } = carried;
            let planned = stream.planned();
            let seen = seen.map(|seen| Box::new(seen.over_tls(tls).with_faults(planned)));
            let beginning = Replay::begins_with(stream, early, PREFACE).await;
            let (stream, is_http2) =
                beginning.map_err(|error| End::Failed(EchoError::Read(error)))?;
            // Without ALPN, or with a name that is not HTTP's, the preface alone decides.
            match (alpn.as_deref(), is_http2) {
                (Some(b"h2"), false) => {
                    return Err(refuse(stream, NOT_HTTP2, PROTOCOL_ERROR.into()));
                }
                (Some(b"http/1.1"), true) => {
                    let answer = answer("505 HTTP Version Not Supported", NOT_HTTP1);
                    return Err(refuse(stream, NOT_HTTP1, answer));
                }
                _ => {}
            }
            if is_http2 {
                let carrier = Http2::first_request(stream, settings, connection, seen, proxy);
                let carrier = Box::pin(carrier).await?;
                return Ok(Opened::carrier(OverHttp::Http2(Box::new(carrier)), client));
            }
            let upgrading = upgrade(stream, connection, &settings, seen);
            let socket = Box::pin(upgrading).await?;
            Ok(Opened::new(OverHttp::Socket(socket), client))
        };
        Opening::Handshake(opening.boxed())
    }
}

const NOT_HTTP2: &str = "ALPN selected h2, and the client sent no HTTP/2 connection preface";
const NOT_HTTP1: &str = "ALPN selected http/1.1, and the client sent an HTTP/2 connection preface";

/// An empty SETTINGS frame, with which a server has to begin, and a GOAWAY frame with the code
/// PROTOCOL_ERROR (RFC 9113 sections 3.4, 6.5 and 6.8).
const PROTOCOL_ERROR: [u8; 26] =
    [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The first byte of a TLS connection: the type of a handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

const IS_TLS: &str = "what came is not HTTP, perhaps TLS: that is what wss:// and https:// begin with, \
                      and this port speaks ws:// and http://";

/// An HTTP/1.1 response for a client that does not speak HTTP/1.1.
fn answer(status: &str, why: &str) -> Vec<u8> {
    transport::http_response(status, &format!("This is a WebSocket echo server: {why}."))
}

/// Refuses a client that does not speak the version of HTTP that ALPN selected, which is a
/// connection error (RFC 7301 section 3.2, RFC 9113 section 3.2).
fn refuse<S>(stream: Replay<S>, why: &str, answer: Vec<u8>) -> Refused
where
    S: Carrier + Misbehaving + Send + 'static,
{
    let (stream, read) = stream.into_parts();
    let (why, answer) = match read.is_empty() {
        true => (SENT_NOTHING, Vec::new()),
        false => (why, answer),
    };
    let end = End::Handshake(HandshakeError::Http(why.to_owned()));
    transport::refuse(stream, end, answer)
}

const SENT_NOTHING: &str = "the client closed the connection without one";

/// Reads one HTTP/1.1 request and answers it. If the answer opens a WebSocket, bytes that the
/// client has already sent after its request are its first input.
async fn upgrade<S>(
    mut stream: Replay<S>,
    connection: Connection,
    settings: &Settings,
    seen: Option<Box<Seen>>,
) -> Result<StreamEcho<S, Frames>, Refused>
where
    S: Carrier + Misbehaving + Send + 'static,
{
    let first = stream.first();
    if first == Some(TLS_HANDSHAKE) {
        return Err(refuse(stream, IS_TLS, answer("400 Bad Request", IS_TLS)));
    }
    let answered = Arc::new(OnceLock::new());
    let record = seen.is_some().then(|| stream.record());
    // hyper answers what is no request by itself, and without words. So it is not heard before there
    // is one.
    let meter = stream.meter();
    meter.mute(true);
    let control = stream.get_ref().control();
    let (is_stalled, is_on_purpose) = (AtomicBool::new(false), AtomicBool::new(false));
    let answer = |head: Parts| {
        let uri = head.uri.clone();
        let http =
            record.as_ref().map(|record| HttpSeen::of(&head, Some(record.bytes().as_slice())));
        let write = seen.as_ref().map(|seen| || seen.to_json(http.as_ref()));
        let write = write.as_ref().map(|write| write as &dyn Fn() -> String);
        let (response, agreed) = settings.answers.answer(head, write);
        if let Some(agreed) = &agreed {
            log_opened(connection, Version::HTTP_11, uri.path(), agreed, settings);
        }
        let opened = agreed.map(|agreed| (agreed, write.map(|write| write())));
        (response, opened)
    };
    let service = service_fn(|request: Request<body::Incoming>| {
        meter.mute(false);
        let (head, _body) = request.into_parts();
        let response = match faults::apply(control.as_deref(), head) {
            faults::Request::Answered(head) => Some(answer(head)),
            faults::Request::Refused(response) => {
                is_on_purpose.store(true, Ordering::Relaxed);
                Some((response, None))
            }
            faults::Request::Stalled => {
                is_stalled.store(true, Ordering::Relaxed);
                None
            }
        };
        let response = response.map(|(response, opened)| {
            if let Some(control) = &control {
                control.answered(opened.is_some());
            }
            let _ = answered.set((response.status(), opened));
            response.map(Full::new)
        });
        match response {
            Some(response) => Either::Left(ready(Ok::<_, Infallible>(response))),
            None => Either::Right(pending()),
        }
    });
    let mut http1 = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        // A client may send FIN behind its request. Otherwise hyper would close without an answer if
        // the FIN has come by the time that the request is read.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|cx| match http1.poll_without_shutdown(cx) {
        Poll::Pending if is_stalled.load(Ordering::Relaxed) => Poll::Ready(Ok(())),
        served => served,
    });
    let served = served.await;
    let parts = http1.into_parts();
    let (mut stream, rest) = parts.io.into_inner().into_parts();
    if is_stalled.load(Ordering::Relaxed) {
        let end = End::OnPurpose(STALLED.to_owned());
        return Err(transport::hold(stream, end, &settings.sessions));
    }
    if let (Ok(()), Some((_, Some((agreed, facts))))) = (&served, answered.get()) {
        let mut input = Vec::from(parts.read_buf);
        input.extend(rest);
        stream.begin_frames();
        return Ok(open(stream, agreed, settings, &input, facts.as_deref()));
    }
    let unheard = match (&served, answered.get()) {
        (Err(error), None) => to_no_request(error, first),
        _ => Vec::new(),
    };
    let end = match (served, answered.get()) {
        (Err(error), _) => {
            // The connection below HTTP may have failed, and TLS says why.
            let below = error.source().and_then(|below| below.downcast_ref::<io::Error>());
            match below.and_then(causes::tls_error) {
                Some(tls) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, tls.clone());
                    End::Failed(EchoError::Read(error))
                }
                None => End::Handshake(HandshakeError::Http(causes::of_http1(&error, first))),
            }
        }
        (Ok(()), Some((status, _))) if is_on_purpose.load(Ordering::Relaxed) => {
            End::answered_on_purpose(*status)
        }
        (Ok(()), Some((status, _))) => End::Answered(StatusCode::as_u16(status)),
        (Ok(()), None) => End::Handshake(HandshakeError::Http(SENT_NOTHING.to_owned())),
    };
    Err(transport::refuse(stream, end, unheard))
}

/// The answer to what is no request.
fn to_no_request(error: &hyper::Error, first: Option<u8>) -> Vec<u8> {
    if error.is_parse_too_large() {
        let why = "the head of a request may have 16 KiB and 100 fields";
        return answer("431 Request Header Fields Too Large", why);
    }
    match error.is_parse() {
        true => answer("400 Bad Request", &causes::of_http1(error, first)),
        false => Vec::new(),
    }
}

/// What an HTTP connection turned into.
#[derive(Debug)]
pub(crate) enum OverHttp<S> {
    /// A WebSocket.
    Socket(StreamEcho<S, Frames>),
    /// An HTTP/2 connection, whose streams are WebSockets with sessions of their own.
    Http2(Box<Http2<S>>),
}

impl<S> Echo for OverHttp<S>
where
    S: Carrier + Send + 'static,
{
    const LINGER: Duration = StreamEcho::<S, Frames>::LINGER;
    const PINGS: bool = true;

    fn poll_step(&mut self, cx: &mut Context<'_>) -> Poll<Result<Step, EchoError>> {
        match self {
            OverHttp::Socket(socket) => socket.poll_step(cx),
            OverHttp::Http2(carrier) => carrier.poll_step(cx),
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, why: Goodbye) -> Poll<Result<(), EchoError>> {
        match self {
            OverHttp::Socket(socket) => socket.poll_close(cx, why),
            OverHttp::Http2(carrier) => carrier.poll_close(cx, why),
        }
    }

    fn heartbeat(&mut self) -> bool {
        match self {
            OverHttp::Socket(socket) => socket.heartbeat(),
            OverHttp::Http2(carrier) => carrier.heartbeat(),
        }
    }

    fn traffic(&self) -> Traffic {
        match self {
            OverHttp::Socket(socket) => socket.traffic(),
            OverHttp::Http2(carrier) => carrier.traffic(),
        }
    }

    fn owes(&self) -> bool {
        match self {
            OverHttp::Socket(socket) => socket.owes(),
            OverHttp::Http2(carrier) => carrier.owes(),
        }
    }

    fn holds(&self) -> bool {
        match self {
            OverHttp::Socket(socket) => socket.holds(),
            OverHttp::Http2(carrier) => carrier.holds(),
        }
    }

    fn held(&mut self) -> usize {
        match self {
            OverHttp::Socket(socket) => socket.held(),
            OverHttp::Http2(carrier) => carrier.held(),
        }
    }

    fn moved(&self) -> Moved {
        match self {
            OverHttp::Socket(socket) => socket.moved(),
            OverHttp::Http2(carrier) => carrier.moved(),
        }
    }

    fn injected(&self) -> Option<Injected> {
        match self {
            OverHttp::Socket(socket) => socket.injected(),
            OverHttp::Http2(carrier) => carrier.injected(),
        }
    }
}
