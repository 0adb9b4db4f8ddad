//! What each path of the admin endpoint answers.

use std::fmt::Display;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::encode::{Encoder, Format};
use crate::server::{Health, Metrics, Readiness};

const PATHS: &str = "This is the admin endpoint of an echo server: /metrics, /livez, /readyz";

/// Answers requests.
#[derive(Debug)]
pub(super) struct Responder {
    encoder: Encoder,
    health: Health,
}

impl Responder {
    pub(super) fn new(metrics: Metrics, health: Health) -> Self {
        Responder { encoder: Encoder::new(metrics), health }
    }

    pub(super) async fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/" | "/metrics" | "/livez" | "/readyz") {
            return text(StatusCode::NOT_FOUND, PATHS);
        }
        // hyper sends no body in response to HEAD.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/metrics" => self.metrics(request.headers()),
            "/livez" => self.livez().await,
            "/readyz" => self.readyz(),
            _ => text(StatusCode::OK, PATHS),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let accept = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let format = Format::preferred(accept);
        let mut response = Response::new(Full::from(self.encoder.encode(format)));
        let content_type = HeaderValue::from_static(format.content_type());
        response.headers_mut().insert(CONTENT_TYPE, content_type);
        response
    }

    async fn livez(&self) -> Response<Full<Bytes>> {
        match self.health.stuck_thread().await {
            None => text(StatusCode::OK, "ok"),
            Some(thread) => {
                let why =
                    format!("thread {thread} is stuck: it has run no new task for half a second");
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        match self.health.readiness() {
            Readiness::Ready => text(StatusCode::OK, "ok"),
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        }
    }
}

/// A line of text, which no cache may keep.
fn text(status: StatusCode, line: impl Display) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{line}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
