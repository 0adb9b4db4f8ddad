//! What each path of the admin endpoint answers.

use std::fmt::Display;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderValue,
    REFRESH, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use super::encode::{Encoder, Format};
use super::mesh::{self, Mesh, Page};
use crate::server::{Health, Metrics, Readiness};

const PATHS: &str = "This is the admin endpoint of an echo server: /metrics, /livez, /readyz";
const PATHS_OF_MESH: &str =
    "This is the admin endpoint of a mesh: /mesh, /metrics, /livez, /readyz";

/// Answers requests.
#[derive(Debug)]
pub(super) struct Responder {
    encoder: Encoder,
    /// `None` without a server.
    health: Option<Health>,
    mesh: Option<Mesh>,
}

impl Responder {
    pub(super) fn new(metrics: Metrics, health: Health) -> Self {
        Responder { encoder: Encoder::new(Some(metrics), None), health: Some(health), mesh: None }
    }

    /// That of a watch without a server.
    pub(super) fn of_watch(mesh: Mesh) -> Self {
        let encoder = Encoder::new(None, Some(mesh.board().clone()));
        Responder { encoder, health: None, mesh: Some(mesh) }
    }

    /// Tells what a watch knows, too.
    pub(super) fn add_watch(&mut self, mesh: Mesh) {
        self.encoder.add_watch(mesh.board().clone());
        self.mesh = Some(mesh);
    }

    pub(super) async fn respond<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let paths = if self.mesh.is_some() { PATHS_OF_MESH } else { PATHS };
        let is_of_mesh = self.mesh.is_some() && matches!(path, "/mesh" | "/mesh/row");
        if !is_of_mesh && !matches!(path, "/" | "/metrics" | "/livez" | "/readyz") {
            return text(StatusCode::NOT_FOUND, paths);
        }
        // hyper sends no body in response to HEAD.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match (path, &self.mesh) {
            ("/mesh", Some(mesh)) => {
                html(&*mesh.page().await, request.uri().query() == Some("paused"))
            }
            ("/mesh/row", Some(mesh)) => with_type(mesh.row(), "application/json"),
            ("/metrics", _) => self.metrics(request.headers()),
            ("/livez", _) => self.livez().await,
            ("/readyz", _) => self.readyz(),
            _ => text(StatusCode::OK, paths),
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
        let Some(health) = &self.health else { return text(StatusCode::OK, "ok") };
        match health.stuck_thread().await {
            None => text(StatusCode::OK, "ok"),
            Some(thread) => {
                let why =
                    format!("thread {thread} is stuck: it has run no new task for half a second");
                text(StatusCode::SERVICE_UNAVAILABLE, why)
            }
        }
    }

    fn readyz(&self) -> Response<Full<Bytes>> {
        match self.health.as_ref().map_or(Readiness::Ready, Health::readiness) {
            Readiness::Ready => text(StatusCode::OK, "ok"),
            Readiness::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining"),
        }
    }
}

/// A line of text.
fn text(status: StatusCode, line: impl Display) -> Response<Full<Bytes>> {
    let mut response = with_type(format!("{line}\n"), "text/plain; charset=utf-8");
    *response.status_mut() = status;
    response
}

/// The page of the mesh.
fn html(page: &Page, is_paused: bool) -> Response<Full<Bytes>> {
    let mut response = with_type(page.to_html(is_paused), "text/html; charset=utf-8");
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, mesh::CONTENT_SECURITY_POLICY.clone());
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if !is_paused {
        headers.insert(REFRESH, page.refresh().into());
    }
    response
}

/// What no cache may keep.
fn with_type(body: String, content_type: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
