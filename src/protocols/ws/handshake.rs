//! The response to an HTTP request on a WebSocket port: an upgrade (RFC 6455 section 4.2, RFC 8441
//! section 5), the page, or an error. This module does no I/O and knows no connections.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    TRANSFER_ENCODING, UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use hyper::{header::HeaderName, header::HeaderValue};
use tokio_tungstenite::tungstenite::error::{Error, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::create_response;

use super::fields::{elements, has_element, is_token};
use super::{deflate, page};
use crate::config::WebSocketPolicy;
use crate::facts;

/// What a client and the server have negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Agreed {
    /// The subprotocol, if the client offered an allowed one.
    pub(crate) subprotocol: Option<HeaderValue>,
    /// The response to the permessage-deflate offer, if it was accepted.
    pub(crate) deflate: Option<HeaderValue>,
}

/// A response, and what was negotiated if it opens a WebSocket.
pub(crate) type Answer = (Response<Bytes>, Option<Agreed>);

/// Writes what the server saw of a request; `None` if its client may not know.
pub(crate) type Facts<'a> = Option<&'a dyn Fn() -> String>;

/// Answers requests according to a policy.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    policy: Arc<WebSocketPolicy>,
    /// What the server does wrong on purpose, for the page.
    faults: Option<Arc<str>>,
}

/// Why a request does not open a WebSocket.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    why: String,
    /// A further field of the response.
    field: Option<(HeaderName, &'static str)>,
}

impl Answers {
    pub(crate) fn new(policy: &WebSocketPolicy, faults: Option<String>) -> Self {
        Answers { policy: Arc::new(policy.clone()), faults: faults.map(Arc::from) }
    }

    /// The response to the request with this head. `facts` writes what the server saw of it, if its
    /// client may know.
    pub(crate) fn answer(&self, head: Parts, facts: Facts<'_>) -> Answer {
        let (version, is_head) = (head.version, head.method == Method::HEAD);
        let answered = match version {
            Version::HTTP_2 => self.over_http2(&head, facts),
            _ => self.over_http1(head, facts),
        };
        let (mut response, agreed) = answered.unwrap_or_else(|refusal| (refusal.into(), None));
        if version == Version::HTTP_2 {
            // HTTP/2 forbids the field (RFC 9113 section 8.2.2).
            response.headers_mut().remove(UPGRADE);
        }
        if agreed.is_none() && version != Version::HTTP_2 {
            let is_upgradable = response.headers().contains_key(UPGRADE);
            let options = if is_upgradable { "upgrade, close" } else { "close" };
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static(options));
        }
        if is_head {
            // Over HTTP/2, hyper would send the body even in response to HEAD.
            let length = std::mem::take(response.body_mut()).len();
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        (response, agreed)
    }

    fn over_http1(&self, mut head: Parts, facts: Facts<'_>) -> Result<Answer, Refusal> {
        let hosts = head.headers.get_all(HOST).iter().count();
        if hosts > 1 || (hosts == 0 && head.version == Version::HTTP_11) {
            return Err(bad_request("a request must have exactly one Host field"));
        }
        if !has_element(&head.headers, UPGRADE, "websocket") {
            return self.without_upgrade(&head, facts);
        }
        if head.method != Method::GET {
            return Err(wrong_method());
        }
        let has_body = head.headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        if has_body || head.headers.contains_key(TRANSFER_ENCODING) {
            return Err(bad_request("a request for a WebSocket must not have a body"));
        }
        if !has_version_13(&head.headers) {
            return Err(wrong_version());
        }
        if head.headers.get_all(SEC_WEBSOCKET_KEY).iter().count() > 1 {
            return Err(bad_request("a request must have only one Sec-WebSocket-Key field"));
        }
        // tungstenite reads only the first of several fields, but they form one list (RFC 9110
        // section 5.3).
        head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if has_element(&head.headers, CONNECTION, "upgrade") {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let request = Request::from_parts(head, ());
        let response = create_response(&request).map_err(|error| invalid_upgrade(&error))?;
        self.negotiate(request.headers(), response.map(|()| Bytes::new()))
    }

    /// RFC 8441 section 5: the request is an extended CONNECT, and success is 200 instead of 101.
    fn over_http2(&self, head: &Parts, facts: Facts<'_>) -> Result<Answer, Refusal> {
        if head.method != Method::CONNECT {
            return self.without_upgrade(head, facts);
        }
        match head.extensions.get::<h2::ext::Protocol>() {
            None => return Err(wrong_method()),
            Some(protocol) if protocol.as_str() != "websocket" => {
                let why = "the only supported :protocol is websocket".to_owned();
                return Err(Refusal { status: StatusCode::NOT_IMPLEMENTED, why, field: None });
            }
            Some(_) => {}
        }
        if !has_version_13(&head.headers) {
            return Err(wrong_version());
        }
        self.negotiate(&head.headers, Response::new(Bytes::new()))
    }

    /// The response to a request that does not ask for a WebSocket.
    fn without_upgrade(&self, head: &Parts, facts: Facts<'_>) -> Result<Answer, Refusal> {
        if head.method != Method::GET && head.method != Method::HEAD {
            return Err(wrong_method());
        }
        match (head.uri.path(), facts) {
            ("/", _) => return Ok((page::response(self.faults.as_deref()), None)),
            (facts::PATH, Some(facts)) => {
                self.check_origin(&head.headers)?;
                return Ok((facts_response(&facts()), None));
            }
            (facts::PATH, None) => {
                let why = "it tells no facts; the flag --facts makes it".to_owned();
                return Err(Refusal { status: StatusCode::NOT_FOUND, why, field: None });
            }
            _ => {}
        }
        let why = "the page is at /, and a WebSocket can be opened at every path".to_owned();
        if head.version == Version::HTTP_2 || head.uri.path() == "/favicon.ico" {
            return Err(Refusal { status: StatusCode::NOT_FOUND, why, field: None });
        }
        Err(Refusal { status: StatusCode::UPGRADE_REQUIRED, why, field: None })
    }

    /// Checks the origin, and adds the negotiated subprotocol and extension to the response.
    fn negotiate(&self, headers: &HeaderMap, response: Response<Bytes>) -> Result<Answer, Refusal> {
        self.check_origin(headers)?;
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

    /// Checks that the page that a browser has asked for may connect.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        // RFC 6454 section 7.3 allows one. With several, it depends on who reads the request which
        // of them counts.
        if headers.get_all(ORIGIN).iter().count() > 1 {
            return Err(bad_request("a request must have only one Origin field"));
        }
        let origins = &self.policy.origins;
        if !origins.is_empty()
            && let Some(origin) = headers.get(ORIGIN)
            && !origins.iter().any(|allowed| is_of(origin.as_bytes(), allowed))
        {
            let why = "this origin is not allowed to connect".to_owned();
            return Err(Refusal { status: StatusCode::FORBIDDEN, why, field: None });
        }
        Ok(())
    }

    /// The first offered subprotocol that is allowed. All are, unless the policy lists some.
    fn subprotocol(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
        let offers: Vec<&str> = elements(headers, SEC_WEBSOCKET_PROTOCOL).collect();
        if !offers.iter().all(|offer| is_token(offer)) {
            return Err(bad_request(
                "the name of a subprotocol must be a token (RFC 9110 section 5.6.2)",
            ));
        }
        let allowed = &self.policy.subprotocols;
        let is_allowed =
            |offer: &&&str| allowed.is_empty() || allowed.iter().any(|one| one == **offer);
        let selected = offers.iter().find(is_allowed);
        Ok(selected.and_then(|name| HeaderValue::from_str(name).ok()))
    }
}

/// Whether an allowed origin stands for `origin`. One with `*.` stands for every subdomain, but not
/// for the domain itself, as in certificates and in the Content-Security-Policy.
fn is_of(origin: &[u8], allowed: &str) -> bool {
    let Some((scheme, domain)) = allowed.split_once("://*.") else {
        return origin.eq_ignore_ascii_case(allowed.as_bytes());
    };
    let Some((prefix, host)) = origin.split_at_checked(scheme.len() + 3) else { return false };
    let Some(at) = host.len().checked_sub(domain.len() + 1) else { return false };
    prefix.eq_ignore_ascii_case(format!("{scheme}://").as_bytes())
        && at > 0
        && host[at] == b'.'
        && host[at + 1..].eq_ignore_ascii_case(domain.as_bytes())
}

/// Whether a request asks for what the server saw of it, or for a WebSocket over HTTP/2, which begins
/// with that.
pub(super) fn needs_facts(method: &Method, uri: &Uri) -> bool {
    uri.path() == facts::PATH || method == Method::CONNECT
}

/// The response to a request over HTTP/2 that asks for facts and has a body.
pub(super) fn has_body() -> Response<Bytes> {
    bad_request("a request for facts must not have a body").into()
}

/// What the server saw of the request, for nobody else.
fn facts_response(facts: &str) -> Response<Bytes> {
    let mut response = Response::new(format!("{facts}\n").into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// A response of another module that refuses a request.
pub(super) fn error(status: StatusCode, why: String) -> Response<Bytes> {
    Refusal { status, why, field: None }.into()
}

/// The response to a stream beyond the connection limit.
pub(crate) fn full() -> Response<Bytes> {
    let why = "the limit on connections is reached".to_owned();
    Refusal { status: StatusCode::SERVICE_UNAVAILABLE, why, field: None }.into()
}

/// Whether the request asks for version 13 and no other.
fn has_version_13(headers: &HeaderMap) -> bool {
    elements(headers, SEC_WEBSOCKET_VERSION).eq(["13"])
}

/// The refusal of an upgrade request in which tungstenite found an error.
fn invalid_upgrade(error: &Error) -> Refusal {
    match error {
        Error::Protocol(ProtocolError::WrongHttpVersion) => Refusal {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            why: "a WebSocket needs HTTP/1.1 or HTTP/2".to_owned(),
            field: None,
        },
        Error::Protocol(ProtocolError::MissingConnectionUpgradeHeader) => {
            bad_request("the Connection field must have the option Upgrade")
        }
        Error::Protocol(ProtocolError::MissingSecWebSocketKey) => {
            bad_request("the Sec-WebSocket-Key field is missing")
        }
        Error::Protocol(ProtocolError::InvalidSecWebSocketKey) => {
            bad_request("the Sec-WebSocket-Key field must have 16 bytes in base64")
        }
        _ => bad_request("it is not a valid request for a WebSocket (RFC 6455 section 4.2.1)"),
    }
}

fn wrong_version() -> Refusal {
    Refusal {
        status: StatusCode::UPGRADE_REQUIRED,
        why: "the only supported WebSocket version is 13".to_owned(),
        field: Some((SEC_WEBSOCKET_VERSION, "13")),
    }
}

fn wrong_method() -> Refusal {
    let why = "the only supported methods are GET and HEAD".to_owned();
    Refusal { status: StatusCode::METHOD_NOT_ALLOWED, why, field: Some((ALLOW, "GET, HEAD")) }
}

fn bad_request(why: &str) -> Refusal {
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
