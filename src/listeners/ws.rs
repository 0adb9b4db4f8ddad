//! WebSocket: the HTTP request that opens it (RFC 6455 section 4.2), over TCP or over TLS.

use std::convert::Infallible;
use std::future::{poll_fn, ready};
use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use hyper::body::Incoming;
use hyper::http::{HeaderValue, StatusCode, header};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::{Transport, hang_up};
use crate::config::Protocol;
use crate::echo::{MessageEcho, Raw};
use crate::session::{Door, End, HandshakeError, Opening, Subject};

/// A request's head may be this long, and have this many fields; past it the answer is 431.
const MAX_HEAD: usize = 16 * 1024;
const MAX_FIELDS: usize = 100;

/// The door for WebSocket on the transport `T`.
#[derive(Debug)]
pub(crate) struct WebSocket<T> {
    protocol: Protocol,
    transport: T,
}

impl<T> WebSocket<T> {
    pub(crate) fn new(protocol: Protocol, transport: T) -> Self {
        WebSocket { protocol, transport }
    }
}

impl<T: Transport> Door for WebSocket<T> {
    type Echo = MessageEcho<T::Stream>;

    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn open(&self, tcp: TcpStream, subject: Subject) -> Opening<Self::Echo> {
        let carried = self.transport.carry(tcp, subject);
        async move { upgrade(carried.await?, T::RAW).await }.boxed()
    }
}

/// Reads one HTTP request and answers it. If it asked for a WebSocket, the stream becomes one,
/// with whatever the client has sent behind its request.
async fn upgrade<S>(stream: S, raw: Raw<S>) -> Result<MessageEcho<S>, End>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answered = Arc::new(OnceLock::new());
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request);
        let _ = answered.set(response.status());
        ready(Ok::<_, Infallible>(response))
    });
    let mut connection = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_FIELDS)
        .serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    let parts = connection.into_parts();
    let stream = parts.io.into_inner();
    if answered.get() == Some(&StatusCode::SWITCHING_PROTOCOLS) && served.is_ok() {
        return Ok(MessageEcho::new(stream, raw, parts.read_buf.into()).await);
    }
    hang_up(stream, raw).await;
    Err(match (served, answered.get()) {
        (Err(error), _) => End::Handshake(HandshakeError::Http(error.to_string())),
        (Ok(()), Some(status)) => End::Answered(status.as_u16()),
        (Ok(()), None) => End::Handshake(HandshakeError::Http("none came".to_owned())),
    })
}

/// 101 for a WebSocket client; for anybody else, what would make it one.
fn answer<B>(request: Request<B>) -> Response<String> {
    let (head, _body) = request.into_parts();
    let offered = first_subprotocol(&head.headers);
    match create_response(&Request::from_parts(head, ())) {
        Ok(response) => {
            let mut response = response.map(|()| String::new());
            if let Some(subprotocol) = offered {
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
            }
            response
        }
        Err(error) => refusal(&error),
    }
}

/// An echo server speaks every subprotocol, so it takes the client's first choice.
fn first_subprotocol(headers: &hyper::HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offers.split(',').next()?.trim();
    if first.is_empty() { None } else { HeaderValue::from_str(first).ok() }
}

fn refusal(error: &Error) -> Response<String> {
    use ProtocolError::{
        MissingConnectionUpgradeHeader, MissingSecWebSocketVersionHeader,
        MissingUpgradeWebSocketHeader, WrongHttpMethod, WrongHttpVersion,
    };
    let (status, field) = match error {
        Error::Protocol(WrongHttpMethod) => {
            (StatusCode::METHOD_NOT_ALLOWED, Some((header::ALLOW, "GET")))
        }
        Error::Protocol(WrongHttpVersion) => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, None),
        Error::Protocol(MissingConnectionUpgradeHeader | MissingUpgradeWebSocketHeader) => {
            (StatusCode::UPGRADE_REQUIRED, Some((header::UPGRADE, "websocket")))
        }
        Error::Protocol(MissingSecWebSocketVersionHeader) => {
            (StatusCode::UPGRADE_REQUIRED, Some((header::SEC_WEBSOCKET_VERSION, "13")))
        }
        _ => (StatusCode::BAD_REQUEST, None),
    };
    let mut response = Response::new(format!("This is a WebSocket echo server. {error}\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    if let Some((name, value)) = field {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
