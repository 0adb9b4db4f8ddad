//! The WebSocket opening handshake (RFC 6455 section 4.1).

use hyper::http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::http2::Http2;
use super::options::ConnectOptions;
use crate::causes;
use crate::probe::first_bytes::Seen;
use crate::probe::link::{ByteStream, Link, Messages};
use crate::probe::{FailureKind, ProbeError, ProbeSetting, Target};

/// The largest message that is taken. A server that announces a larger one must not have the probe
/// reserve memory for it. Messages to send have 1 GiB at most.
pub(super) const LARGEST: usize = (1 << 30) + (64 << 10);

/// What the handshake itself says (RFC 6455 section 4.1). Another value would make it fail, or make
/// the other side send what the probe cannot read.
const OWN_FIELDS: [HeaderName; 8] = [
    header::CONNECTION,
    header::UPGRADE,
    header::SEC_WEBSOCKET_EXTENSIONS,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_PROTOCOL,
    header::SEC_WEBSOCKET_VERSION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
];

/// The WebSocket request, with the subprotocols and header fields of `options`.
pub(super) fn request(target: &Target, options: &ConnectOptions) -> Result<Request, ProbeError> {
    let mut request = target
        .request_url()
        .into_client_request()
        .map_err(|error| ProbeError::setting(ProbeSetting::Target, error.to_string()))?;
    let fields = request.headers_mut();
    if !options.subprotocols.is_empty() {
        if let Some(name) =
            options.subprotocols.iter().find(|name| HeaderValue::from_str(name).is_err())
        {
            let problem = format!("'{name}' is not a token");
            return Err(ProbeError::setting(ProbeSetting::Subprotocols, problem));
        }
        let offer = HeaderValue::from_str(&options.subprotocols.join(", "));
        fields.insert(header::SEC_WEBSOCKET_PROTOCOL, offer.expect("each part is a valid value"));
    }
    let mut further = HeaderMap::new();
    for (name, value) in &options.headers {
        let refuse = |what| {
            let problem = format!("'{name}: {value}' has an invalid {what}");
            ProbeError::setting(ProbeSetting::Headers, problem)
        };
        let name = HeaderName::try_from(name.as_str()).map_err(|_| refuse("name"))?;
        if OWN_FIELDS.contains(&name) {
            let problem = format!("{name} is the handshake's own field, and cannot be set");
            return Err(ProbeError::setting(ProbeSetting::Headers, problem));
        }
        further.append(name, HeaderValue::from_str(value).map_err(|_| refuse("value"))?);
    }
    // Replaces the values of names that are there.
    fields.extend(further);
    Ok(request)
}

pub(super) async fn upgrade(
    target: &Target,
    request: Request,
    largest: usize,
    stream: Box<dyn ByteStream>,
    seen: &Seen,
) -> Result<(Link, Option<String>), ProbeError> {
    let (socket, response) = client_async_with_config(request, stream, Some(config(largest)))
        .await
        .map_err(|error| {
            let error = match error {
                // A TLS 1.3 server refuses the client's certificate after the client's handshake
                // has ended.
                Error::Io(error) if causes::tls_error(&error).is_some() => {
                    return ProbeError::tls(target, error, None);
                }
                other => other,
            };
            let problem = match &error {
                Error::Http(response) => refusal(response),
                other => seen.in_place_of_http(target).unwrap_or_else(|| {
                    format!("the WebSocket upgrade failed: {}", cause(other, seen))
                }),
            };
            let kind = match &error {
                Error::Io(error) => FailureKind::of_io(error),
                _ => FailureKind::Upgrade,
            };
            ProbeError::connect_caused_by(target, kind, problem, error)
        })?;
    let subprotocol = response.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let subprotocol = subprotocol.map(|name| String::from_utf8_lossy(name.as_bytes()).into_owned());
    Ok((Link::Messages(Box::new(Messages { socket, to_skip: 0 })), subprotocol))
}

/// Takes messages of up to `largest` bytes.
fn config(largest: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest))
}

/// A WebSocket on a stream of HTTP/2.
pub(super) async fn upgrade_http2(
    target: &Target,
    request: Request,
    largest: usize,
    http2: Http2,
) -> Result<(Link, Option<String>), ProbeError> {
    let (stream, response) = http2.open(target, &request).await?;
    let field = |name| response.headers().get(name).map(|value| printable(value.as_bytes()));
    let refuse = |problem: &str| {
        let problem = format!("the WebSocket upgrade failed: {problem}");
        Err(ProbeError::connect(target, FailureKind::Upgrade, problem))
    };
    if field(header::SEC_WEBSOCKET_EXTENSIONS).is_some() {
        return refuse("it selected an extension, and none was offered");
    }
    let subprotocol = field(header::SEC_WEBSOCKET_PROTOCOL);
    let offers = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL);
    let offers = offers.and_then(|offers| offers.to_str().ok()).unwrap_or_default();
    let is_offered = |name: &String| offers.split(", ").any(|offer| offer == name);
    if subprotocol.as_ref().is_some_and(|name| !is_offered(name)) {
        return refuse("it selected a subprotocol that was not offered");
    }
    let socket =
        WebSocketStream::from_raw_socket(stream, Role::Client, Some(config(largest))).await;
    Ok((Link::Messages(Box::new(Messages { socket, to_skip: 0 })), subprotocol))
}

/// What an HTTP response says in place of an upgrade: the status, where to go instead, what to
/// authenticate with, and the first line of its text.
pub(super) fn refusal(response: &Response<Option<Vec<u8>>>) -> String {
    let mut said = format!("the server answered {} instead of upgrading", response.status());
    let field = |name| response.headers().get(name).map(|value| printable(value.as_bytes()));
    if let Some(location) = field(header::LOCATION) {
        said += &format!("; it is at {location}");
    }
    if let Some(challenge) = field(header::WWW_AUTHENTICATE) {
        said += &format!("; it asks for authentication: {challenge}");
    }
    let is_text = field(header::CONTENT_TYPE).is_none_or(|kind| !kind.contains("html"));
    let body = response.body().as_deref().filter(|_| is_text).unwrap_or_default();
    match body.split(|byte| *byte == b'\n').map(printable).find(|line| !line.is_empty()) {
        Some(line) => said + &format!(": {line}"),
        None => said,
    }
}

/// Up to 200 characters of what a server has sent, without those that a terminal obeys.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}

/// Why an upgrade failed, without tungstenite's own words where there are better ones.
fn cause(error: &Error, seen: &Seen) -> String {
    match error {
        Error::Io(error) => format!("{}, {}", causes::of_connect(error), seen.end()),
        Error::Protocol(ProtocolError::HandshakeIncomplete) | Error::ConnectionClosed => {
            format!("the other side closed the connection, {}", seen.end())
        }
        Error::Protocol(ProtocolError::HttparseError(_) | ProtocolError::WrongHttpVersion) => {
            "the other side does not speak HTTP/1.1".to_owned()
        }
        Error::Protocol(ProtocolError::SecWebSocketAcceptKeyMismatch) => {
            "its Sec-WebSocket-Accept is not the answer to our key".to_owned()
        }
        Error::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => {
            "it selected a subprotocol that was not offered, or none of those offered".to_owned()
        }
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader
            | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => "its answer lacks Upgrade: websocket or Connection: Upgrade".to_owned(),
        _ => "its answer is not valid (RFC 6455 section 4.1)".to_owned(),
    }
}
