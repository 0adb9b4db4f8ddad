//! The admin endpoint: metrics and health checks over HTTP/1.1, for those who run a server. It is
//! no part of the echo, and shares no limits with it.

mod encode;
mod families;
mod mesh;
mod places;
mod probes;
mod process;
mod respond;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;
use tracing::{debug, info};

use crate::address::{Address, ListenAddress};
use crate::config::Config;
use crate::error::StartError;
use crate::net::{AnyListener, Listener, Stream};
use crate::probe::Board;
use crate::server::{self, Server};
use mesh::Mesh;
use places::{Place, Places};
use respond::Responder;

/// How long a client may take for the head of a request, and how long it may stay away between two.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may last, whatever it does: a client that takes no response holds a place,
/// too.
const LIFETIME: Duration = Duration::from_secs(60);

/// The most that is read of a request's head.
const MAX_HEAD: usize = 16 * 1024;

/// How long accepting pauses after it has failed.
const BACKOFF: Duration = Duration::from_millis(100);

/// The admin endpoint of a [`Server`]: an HTTP/1.1 server with metrics and health checks.
///
/// | path | what |
/// | --- | --- |
/// | `/metrics` | what [`Server::metrics`] counts, and what the process uses: OpenMetrics if the client asks for it, else Prometheus' text format |
/// | `/livez` | 200; 503 if a thread is stuck |
/// | `/readyz` | 200 while the server is [ready](crate::Readiness), else 503 |
/// | `/mesh` | with a [`Watch`](crate::probe::Watch): a page with the matrix of who reaches whom |
/// | `/mesh/row` | this host's row of it, as JSON |
///
/// At most 16 connections are served at a time, each for a minute at most. If more come, those that
/// have waited longest for a request are closed.
///
/// ```
/// use echo_server::{Admin, Config, Protocol, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut server = Server::bind(Config::new().listen(Protocol::Tcp, ([127, 0, 0, 1], 0))).await?;
/// let admin = Admin::bind(&mut server, &"127.0.0.1:0".parse()?).await?;
/// println!("http://{}/metrics", admin.local_addrs()[0]);
/// let serving = tokio::spawn(admin.serve());
/// // … server.run(…).await, and then, as it answers as long as it can:
/// serving.abort();
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Admin {
    listeners: Vec<AnyListener>,
    local_addrs: Vec<Address>,
    responder: Responder,
}

impl Admin {
    /// Binds the endpoint to `address`, in the current runtime, which has to be the one that polls
    /// [`Admin::serve`]. From now on `server` counts what is to be told.
    ///
    /// # Errors
    /// The address cannot be used, or the system refused it.
    ///
    /// # Panics
    /// If called outside a tokio runtime whose I/O driver and timers are enabled.
    pub async fn bind(server: &mut Server, address: &ListenAddress) -> Result<Admin, StartError> {
        let bound = server.bind_admin(address).await?;
        let (local_addrs, listeners) = bound.into_iter().unzip();
        let responder = Responder::new(server.metrics(), server.health());
        Ok(Admin { listeners, local_addrs, responder })
    }

    /// Binds an endpoint of a watch without a server to `address`, in the current runtime, which has to
    /// be the one that polls [`Admin::serve`].
    ///
    /// # Errors
    /// The address cannot be used, or the system refused it.
    ///
    /// # Panics
    /// If called outside a tokio runtime whose I/O driver and timers are enabled.
    pub async fn bind_watch(board: Board, address: &ListenAddress) -> Result<Admin, StartError> {
        let bound = server::bind_admin(&Config::new(), &[], address).await?;
        let (local_addrs, listeners) = bound.into_iter().unzip();
        let responder = Responder::of_watch(Mesh::new(board, None));
        Ok(Admin { listeners, local_addrs, responder })
    }

    /// Tells what a watch of this server's peers knows, too. The page `/mesh` asks each peer for its
    /// row, at the port of this endpoint.
    #[must_use]
    pub fn with_watch(mut self, board: Board) -> Admin {
        let port = self.local_addrs.iter().find_map(|address| Some(address.ip()?.port()));
        self.responder.add_watch(Mesh::new(board, port));
        self
    }

    /// The bound addresses.
    pub fn local_addrs(&self) -> &[Address] {
        &self.local_addrs
    }

    /// Serves for ever.
    pub async fn serve(self) {
        for address in &self.local_addrs {
            info!(%address, "Metrics and health at {address}");
        }
        let places = Arc::new(Places::default());
        let responder = Arc::new(self.responder);
        let accepting = self.listeners.into_iter().map(|listener| {
            let (places, responder) = (Arc::clone(&places), Arc::clone(&responder));
            async move {
                match listener {
                    AnyListener::Tcp(listener) => accept(listener, places, responder).await,
                    #[cfg(unix)]
                    AnyListener::Unix(listener) => accept(listener, places, responder).await,
                }
            }
        });
        join_all(accepting).await;
    }
}

/// Accepts connections, as there are places for them.
async fn accept<L: Listener>(listener: L, places: Arc<Places>, responder: Arc<Responder>) {
    loop {
        let accepted = listener.accept().await;
        let stream = match accepted.and_then(|(stream, _)| L::Stream::attach(stream)) {
            Ok(stream) => stream,
            Err(error) => {
                debug!(%error, "A connection to the admin endpoint could not be accepted");
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
        };
        // Nobody has to go before somebody has come.
        let place = places.take().await;
        let responder = Arc::clone(&responder);
        tokio::spawn(async move {
            // A client that has to go loses nothing but its connection.
            tokio::select! {
                _ = timeout(LIFETIME, serve(stream, &place, &responder)) => {}
                () = place.dismissed() => debug!("A connection to the admin endpoint made room"),
            }
        });
    }
}

/// Answers the requests of one connection.
async fn serve<S: Stream>(stream: S, place: &Place, responder: &Responder) {
    let service = service_fn(async |request: Request<Incoming>| {
        place.set_answering(true);
        let mut response: Response<Full<Bytes>> = responder.respond(&request).await;
        place.set_answering(false);
        if place.is_one_of_all() {
            // Others may wait.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(response)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        // A client may send FIN behind its request.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        debug!(%error, "A connection to the admin endpoint failed");
    }
}
