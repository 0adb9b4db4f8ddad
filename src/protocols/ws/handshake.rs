//! What an HTTP request on a WebSocket port is answered with: an upgrade (RFC 6455 section 4.2, RFC
//! 8441 section 5), the page, or what is wrong. Pure: this room knows no connections and no I/O.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::{header::HeaderName, header::HeaderValue};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::fields::{elements, has_element, is_token};
use super::{deflate, page};
use crate::config::WebSocketPolicy;

/// What a client and the server have agreed upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The subprotocol, if the client offered one that may be spoken.
    pub(crate) subprotocol: Option<HeaderValue>,
    /// The extension's parameters, if messages may be compressed.
    pub(crate) deflate: Option<HeaderValue>,
}

/// An answer, and what was agreed upon if it opens a WebSocket.
pub(crate) type Answer = (Response<Bytes>, Option<Agreed>);

/// Answers requests by one policy.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    policy: Arc<WebSocketPolicy>,
}

/// Why there is no WebSocket.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    why: String,
    field: Option<(HeaderName, &'static str)>,
}

impl Answers {
    pub(crate) fn new(policy: &WebSocketPolicy) -> Self {
        Answers { policy: Arc::new(policy.clone()) }
    }

    /// The answer to a request's `head`.
    pub(crate) fn answer(&self, head: Parts) -> Answer {
        let (version, is_head) = (head.version, head.method == Method::HEAD);
        let answered = match version {
            Version::HTTP_2 => self.over_http2(&head),
            _ => self.over_http1(head),
        };
        let (mut response, agreed) = answered.unwrap_or_else(|refusal| (refusal.into(), None));
        if version == Version::HTTP_2 {
            // It has no such field (RFC 9113 section 8.2.2).
            response.headers_mut().remove(UPGRADE);
        }
        if agreed.is_none() && version != Version::HTTP_2 {
            let is_upgradable = response.headers().contains_key(UPGRADE);
            let options = if is_upgradable { "upgrade, close" } else { "close" };
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static(options));
        }
        if is_head {
            // hyper would send the body over HTTP/2.
            let length = std::mem::take(response.body_mut()).len();
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        (response, agreed)
    }

    fn over_http1(&self, mut head: Parts) -> Result<Answer, Refusal> {
        let hosts = head.headers.get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
            return Err(bad("a request has one Host field"));
        }
        if !has_element(&head.headers, UPGRADE, "websocket") {
            return plain(&head, false);
        }
        if head.method != Method::GET {
            return Err(wrong_method());
        }
        let has_body = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if has_body || head.headers.contains_key(TRANSFER_ENCODING) {
            return Err(bad("a request for a WebSocket has no body"));
        }
        if !has_version_13(&head.headers) {
            return Err(wrong_version());
        }
        if head.headers.get_all(SEC_WEBSOCKET_KEY).iter().count() > 1 {
            return Err(bad("a request has one Sec-WebSocket-Key field"));
        }
        // tungstenite looks at the first of several fields; they make one list (RFC 9110 5.3).
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if has_element(&head.headers, CONNECTION, "upgrade") {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let request = Request::from_parts(head, ());
        let response = create_response(&request).map_err(|error| broken(&error))?;
        self.agree(request.headers(), response.map(|()| Bytes::new()))
    }

    /// RFC 8441 section 5: an extended CONNECT, and 200 where HTTP/1.1 has 101.
    fn over_http2(&self, head: &Parts) -> Result<Answer, Refusal> {
        if head.method != Method::CONNECT {
            return plain(head, true);
        }
        match head.extensions.get::<h2::ext::Protocol>() {
            None => return Err(wrong_method()),
            Some(protocol) if protocol.as_str() != "websocket" => {
                let why = "the only :protocol here is websocket".to_owned();
                return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, why, field: None });
            }
            Some(_) => {}
        }
        if !has_version_13(&head.headers) {
            return Err(wrong_version());
        }
        self.agree(&head.headers, Response::new(Bytes::new()))
    }

    /// Fills in what is negotiated, if the client may have a WebSocket at all.
    fn agree(&self, headers: &HeaderMap, response: Response<Bytes>) -> Result<Answer, Refusal> {
        let origins = &self.policy.origins;
        if !origins.is_empty()
            && let Some(origin) = headers.get(ORIGIN)
            && !origins
                .iter()
                .any(|allowed| origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes()))
        {
            let why = "this origin may not connect".to_owned();
            return Err(Refusal { status: StatusCode::FORBIDDEN, why, field: None });
        }
        let subprotocol = self.subprotocol(headers)?;
        let offers: Vec<&str> = elements(headers, SEC_WEBSOCKET_EXTENSIONS).collect();
        let deflate = deflate::accept(&offers).and_then(|value| HeaderValue::try_from(value).ok());
        let mut response = response;
        for (name, value) in
            [(SEC_WEBSOCKET_PROTOCOL, &subprotocol), (SEC_WEBSOCKET_EXTENSIONS, &deflate)]
        {
            if let Some(value) = value {
                response.headers_mut().insert(name, value.clone());
            }
        }
        Ok((response, Some(Agreed { subprotocol, deflate })))
    }

    /// The client's first choice among those that may be spoken. An echo server speaks all, unless
    /// it is told otherwise.
    fn subprotocol(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let offers: Vec<&str> = elements(headers, SEC_WEBSOCKET_PROTOCOL).collect();
        if !offers.iter().all(|offer| is_token(offer)) {
            return Err(bad("a subprotocol's name is a token"));
        }
        let spoken = &self.policy.subprotocols;
        let is_spoken =
            |offer: &&&str| spoken.is_empty() || spoken.iter().any(|one| one == **offer);
        let selected = offers.iter().find(is_spoken);
        Ok(selected.and_then(|name| HeaderValue::from_str(name).ok()))
    }
}

/// A request for no WebSocket.
fn plain(head: &Parts, is_http2: bool) -> Result<Answer, Refusal> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Err(wrong_method());
    }
    if head.uri.path() == "/" {
        return Ok((page::response(), None));
    }
    let why = "there is a page at /, and a WebSocket at every path".to_owned();
    if is_http2 || head.uri.path() == "/favicon.ico" {
        return Err(Refusal { status: StatusCode::NOT_FOUND, why, field: None });
    }
    Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, why, field: None })
}

/// The answer to a stream that there is no place for.
pub(crate) fn full() -> Response<Bytes> {
    let why = "there are as many connections as there may be".to_owned();
    Refusal { status: StatusCode::SERVICE_UNAVAILABLE, why, field: None }.into()
}

/// One version is asked for, and it is 13.
fn has_version_13(headers: &HeaderMap) -> bool {
    elements(headers, SEC_WEBSOCKET_VERSION).eq(["13"])
}

/// What an upgrade lacks.
fn broken(error: &Error) -> Refusal {
    match error {
        Error::Protocol(ProtocolError::WrongHttpVersion) => Refusal {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            why: "a WebSocket needs HTTP/1.1 or HTTP/2".to_owned(),
            field: None,
        },
        error => bad(&error.to_string()),
    }
}

fn wrong_version() -> Refusal {
    Refusal {
        status: StatusCode::UPGRADE_REQUIRED,
        why: "the WebSocket version spoken here is 13".to_owned(),
        field: Some((SEC_WEBSOCKET_VERSION, "13")),
    }
}

fn wrong_method() -> Refusal {
    let why = "the methods here are GET and HEAD".to_owned();
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, why, field: Some((ALLOW, "GET, HEAD")) }
}

fn bad(why: &str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, why: why.to_owned(), field: None }
}

impl From<Refusal> for Response<Bytes> {
    fn from(refusal: Refusal) -> Self {
        let Refusal { status, why, field } = refusal;
        let mut response =
            Response::new(format!("This is a WebSocket echo server: {why}.\n").into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        if status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some((name, value)) = field {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}
