//! What faults on purpose make of a request, before it is answered.

use bytes::Bytes;
use hyper::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, UPGRADE};
use hyper::http::request::Parts;
use hyper::{Method, Response, StatusCode};

use super::fields::has_element;
use super::handshake;
use crate::config::{Fault, FaultError, UpgradeFault};
use crate::faults::{Control, Plan};

/// What becomes of a request.
pub(super) enum Request {
    /// It is answered as ever.
    Answered(Parts),
    /// It gets this response.
    Refused(Response<Bytes>),
    /// It gets none.
    Stalled,
}

/// What becomes of the request `head` on a connection of HTTP/1.1 with faults, which `control` knows.
pub(super) fn apply(control: Option<&Control>, head: Parts) -> Request {
    let Some(control) = control else { return Request::Answered(head) };
    match control.ask(head.uri.query()) {
        Ok((planned, asked)) => {
            let request = become_of(head, planned, &asked);
            if let (Request::Refused(_) | Request::Stalled, Some(upgrade)) =
                (&request, asked.upgrade().or(planned.upgrade()))
            {
                control.count(Fault::Upgrade(upgrade));
            }
            match request {
                Request::Refused(response) => Request::Refused(last(response)),
                request => request,
            }
        }
        Err(error) => Request::Refused(last(unreadable(&error))),
    }
}

/// The response is the last on its connection, as all are: another request would find the faults of
/// this one.
fn last(mut response: Response<Bytes>) -> Response<Bytes> {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The same, with the faults of the connection, and those that the request asks for.
pub(super) fn become_of(mut head: Parts, planned: &Plan, asked: &Plan) -> Request {
    let is_websocket =
        has_element(&head.headers, UPGRADE, "websocket") || head.method == Method::CONNECT;
    // Whoever looks at the page does not ask for an upgrade.
    let planned_upgrade = planned.upgrade().filter(|_| is_websocket);
    match asked.upgrade().or(planned_upgrade) {
        Some(UpgradeFault::Stall) => return Request::Stalled,
        Some(UpgradeFault::Status(status)) => return Request::Refused(refusal(status)),
        None => {}
    }
    // What is compressed has no UTF-8 that could be broken.
    let has = |fault| planned.has(fault) || asked.has(fault);
    if has(Fault::WsUtf8) {
        head.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    }
    Request::Answered(head)
}

/// The response to a request whose faults cannot be.
pub(super) fn unreadable(error: &FaultError) -> Response<Bytes> {
    handshake::error(StatusCode::BAD_REQUEST, format!("the query asks for a fault; {error}"))
}

fn refusal(status: u16) -> Response<Bytes> {
    let status = StatusCode::from_u16(status).expect("it was checked when it was read");
    match status {
        // These have no content (RFC 9110 sections 15.3.5, 15.3.6 and 15.4.5).
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = status;
            response
        }
        _ => handshake::error(status, "this response is a fault on purpose".to_owned()),
    }
}
