//! A WebSocket on a stream of HTTP/2 (RFC 8441): the opening handshake is an extended CONNECT.
//!
//! The connection carries this one stream, so that no task of its own drives it: whoever reads or
//! writes the stream does, and no other task stands between a message and its time stamp. The
//! server's side (`protocols/ws/http2/stream.rs`) shares a connection among many streams, and
//! accounts for the memory of each.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::{self, SendRequest};
use h2::ext::Protocol;
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use hyper::http::{Method, Request, Response, StatusCode, Uri, Version, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::handshake::client::Request as WebSocketRequest;

use super::websocket::refusal;
use crate::causes::{self, Peer};
use crate::probe::first_bytes::Seen;
use crate::probe::link::ByteStream;
use crate::probe::{FailureKind, ProbeError, Target};

/// What the server may send before it is read, of the stream and of the connection.
const WINDOW: u32 = 1 << 20;

/// How much of a refusal's text is read, and how long that may take.
const REFUSAL: usize = 4096;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection whose settings are known.
pub(super) struct Http2 {
    carrier: Carrier,
    requests: SendRequest<Bytes>,
    seen: Seen,
}

impl Http2 {
    /// Exchanges the prefaces and the settings.
    pub(super) async fn begin(
        target: &Target,
        stream: Box<dyn ByteStream>,
        seen: Seen,
    ) -> Result<Self, ProbeError> {
        let opened = client::Builder::new()
            .enable_push(false)
            .initial_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .handshake(stream)
            .await;
        let (requests, connection) = opened.map_err(|error| failed(target, &seen, error))?;
        let mut carrier = Carrier { connection, end: None };
        // The server's settings come before its answer to a ping (RFC 9113 section 3.4).
        let mut pings = carrier.connection.ping_pong().expect("it is asked for once");
        let asked = pings.send_ping(Ping::opaque());
        asked.map_err(|error| failed(target, &seen, error))?;
        let settled = poll_fn(|cx| poll_settled(&mut carrier, &requests, &mut pings, cx)).await;
        settled.map_err(|error| failed_io(target, &seen, error))?;
        if !requests.is_extended_connect_protocol_enabled() {
            let problem = "the server speaks HTTP/2, but not WebSocket over it (RFC 8441)";
            return Err(ProbeError::connect(target, FailureKind::Upgrade, problem));
        }
        Ok(Http2 { carrier, requests, seen })
    }

    /// Asks for a WebSocket. `request` is that of HTTP/1.1.
    pub(super) async fn open(
        self,
        target: &Target,
        request: &WebSocketRequest,
    ) -> Result<(Box<dyn ByteStream>, Response<()>), ProbeError> {
        let Http2 { mut carrier, mut requests, seen } = self;
        let request = extended_connect(request);
        let asked = requests.send_request(request, false);
        let (mut response, sending) = asked.map_err(|error| failed(target, &seen, error))?;
        let answer = poll_fn(|cx| {
            let carried = carrier.poll_drive(cx);
            match Pin::new(&mut response).poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer.map_err(of_server)),
                Poll::Pending => carried.map(|carried| Err(carried.err().unwrap_or_else(closed))),
            }
        });
        let answer = answer.await.map_err(|error| failed_io(target, &seen, error))?;
        let (head, receiving) = answer.into_parts();
        let mut stream = Http2Stream { carrier, receiving, sending, received: Bytes::new() };
        if head.status != StatusCode::OK {
            let body = timeout(REFUSAL_TIMEOUT, stream.read_some()).await.unwrap_or_default();
            let problem = refusal(&Response::from_parts(head, Some(body)));
            return Err(ProbeError::connect(target, FailureKind::Upgrade, problem));
        }
        Ok((Box::new(stream), Response::from_parts(head, ())))
    }
}

/// Ready when the server's settings have come.
fn poll_settled(
    carrier: &mut Carrier,
    requests: &SendRequest<Bytes>,
    pings: &mut PingPong,
    cx: &mut Context<'_>,
) -> Poll<io::Result<()>> {
    let carried = carrier.poll_drive(cx);
    if requests.is_extended_connect_protocol_enabled() {
        return Poll::Ready(Ok(()));
    }
    match pings.poll_pong(cx) {
        Poll::Ready(Ok(_)) => Poll::Ready(Ok(())),
        // The carrier knows why.
        _ => carried.map(|carried| Err(carried.err().unwrap_or_else(closed))),
    }
}

/// The request of HTTP/1.1 as an extended CONNECT (RFC 8441 section 4): without the fields of the
/// upgrade, and with the Host field as the authority.
pub(super) fn extended_connect(request: &WebSocketRequest) -> Request<()> {
    let uri = request.uri();
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let scheme = if uri.scheme_str() == Some("wss") { "https" } else { "http" };
    let with_authority = |authority: &str| {
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build()
    };
    let own = uri.authority().map_or("localhost", |authority| authority.as_str());
    let uri = with_authority(host.unwrap_or(own)).or_else(|_| with_authority(own));
    let mut connect = Request::new(());
    *connect.method_mut() = Method::CONNECT;
    *connect.version_mut() = Version::HTTP_2;
    *connect.uri_mut() = uri.expect("the target has a valid authority and path");
    connect.extensions_mut().insert(Protocol::from_static("websocket"));
    for (name, value) in request.headers() {
        let is_of_upgrade =
            [header::HOST, header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_KEY];
        if !is_of_upgrade.contains(name) {
            connect.headers_mut().append(name, value.clone());
        }
    }
    connect
}

fn failed(target: &Target, seen: &Seen, error: h2::Error) -> ProbeError {
    failed_io(target, seen, of_server(error))
}

fn failed_io(target: &Target, seen: &Seen, error: io::Error) -> ProbeError {
    // A TLS 1.3 server refuses the client's certificate after the client's handshake has ended.
    if causes::tls_error(&error).is_some() {
        return ProbeError::tls(target, error, None);
    }
    let problem = seen
        .in_place_of_http2(target)
        .unwrap_or_else(|| format!("WebSocket over HTTP/2 failed: {}", causes::of_connect(&error)));
    let kind = match FailureKind::of_io(&error) {
        FailureKind::Other => FailureKind::Upgrade,
        kind => kind,
    };
    ProbeError::connect_caused_by(target, kind, problem, error)
}

fn of_server(error: h2::Error) -> io::Error {
    causes::of_http2(error, Peer::Server)
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the server closed the connection")
}

/// The connection that carries the stream.
struct Carrier {
    connection: client::Connection<Box<dyn ByteStream>, Bytes>,
    /// How it has ended. The error is given once.
    end: Option<Option<io::Error>>,
}

impl Carrier {
    /// Reads and writes what there is. Ready when the connection has ended.
    fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end.is_none() {
            let ended = ready!(Pin::new(&mut self.connection).poll(cx));
            self.end = Some(ended.map_err(of_server).err());
        }
        Poll::Ready(match self.end.as_mut().and_then(Option::take) {
            Some(error) => Err(error),
            None => Ok(()),
        })
    }
}

/// The stream as a stream of bytes.
struct Http2Stream {
    carrier: Carrier,
    receiving: RecvStream,
    sending: SendStream<Bytes>,
    /// Of a DATA frame, what has not been read.
    received: Bytes,
}

impl Http2Stream {
    /// The beginning of what the server sends, or all of it.
    async fn read_some(&mut self) -> Vec<u8> {
        use tokio::io::AsyncReadExt;
        let mut some = Vec::new();
        // What has been read until an error counts.
        let _ = self.take(REFUSAL as u64).read_to_end(&mut some).await;
        some
    }
}

/// The error of a stream that the server has reset.
fn reset(reason: Option<Reason>) -> io::Error {
    let why = match reason.and_then(causes::http2_code) {
        Some(name) => format!("the server reset the stream: {name}"),
        None => "the stream was reset".to_owned(),
    };
    io::Error::new(io::ErrorKind::ConnectionReset, why)
}

impl AsyncRead for Http2Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.received.is_empty() {
            let carried = this.carrier.poll_drive(cx);
            match this.receiving.poll_data(cx) {
                Poll::Ready(Some(Ok(bytes))) => this.received = bytes,
                Poll::Ready(Some(Err(error))) if error.is_io() => {
                    // The connection itself has failed or ended, and its carrier knows how.
                    let how = carried.map(|carried| carried.err().unwrap_or_else(closed));
                    return Poll::Ready(Err(match how {
                        Poll::Ready(error) => error,
                        Poll::Pending => of_server(error),
                    }));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(reset(error.reason()))),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                // The end of the connection is that of the stream.
                Poll::Pending => return carried,
            }
        }
        let length = this.received.len().min(into.remaining());
        into.put_slice(&this.received[..length]);
        this.received.advance(length);
        // It fails only if the stream has ended, and then there is no window.
        let _ = this.receiving.flow_control().release_capacity(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Http2Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.sending.reserve_capacity(bytes.len());
        while this.sending.capacity() == 0 {
            // It may make room.
            if let Poll::Ready(ended) = this.carrier.poll_drive(cx) {
                return Poll::Ready(Err(ended.err().unwrap_or_else(closed)));
            }
            match ready!(this.sending.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(reset(error.reason()))),
                None => return Poll::Ready(Err(reset(None))),
            }
        }
        let length = this.sending.capacity().min(bytes.len());
        let sent = this.sending.send_data(Bytes::copy_from_slice(&bytes[..length]), false);
        Poll::Ready(sent.map(|()| length).map_err(|error| reset(error.reason())))
    }

    /// Writes as much as the connection takes now. Reading goes on with the rest.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.carrier.poll_drive(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended.err().unwrap_or_else(closed))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It fails if the stream has ended already.
        let _ = self.sending.send_data(Bytes::new(), true);
        let _ = self.carrier.poll_drive(cx);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use hyper::http::HeaderName;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    use super::*;

    #[test]
    fn the_request_has_the_pseudo_fields_of_rfc_8441() {
        let mut request = "wss://h.test:1/a?b=1".into_client_request().unwrap();
        let asked = extended_connect(&request);
        assert_eq!((asked.method(), asked.version()), (&Method::CONNECT, Version::HTTP_2));
        assert_eq!(asked.uri(), "https://h.test:1/a?b=1");
        let names: Vec<_> = asked.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["sec-websocket-version"]);
        request.headers_mut().insert("host", "elsewhere.test".parse().unwrap());
        request.headers_mut().insert("x-a", "1".parse().unwrap());
        let asked = extended_connect(&request);
        assert_eq!(asked.uri(), "https://elsewhere.test/a?b=1");
        assert_eq!(asked.headers()["x-a"], "1");
    }
}
