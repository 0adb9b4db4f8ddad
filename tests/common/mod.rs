//! What the tests share: a server that stops with its test, a client for every protocol, and the
//! search for real clients.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod binary;
pub mod browser;
#[cfg(target_os = "linux")]
pub mod cable;
pub mod client;
pub mod http;
pub mod impair;
pub mod log;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod prometheus;
pub mod prometheus_server;
pub mod schema;
pub mod tools;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use echo_server::{Config, Identity, Protocol, Server, Summary};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

/// A file of `certs/`.
pub fn cert(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("certs").join(name)
}

/// The test certificate.
pub fn identity() -> Identity {
    Identity::files(cert("server.pem"), cert("server.key"))
}

/// A server in this process, on ports that the system chose. It ends with the test.
pub struct TestServer {
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Summary>,
}

impl TestServer {
    /// A server with one listener, for `protocol`, and the test certificate.
    pub async fn start(protocol: Protocol) -> Self {
        TestServer::with(Config::new().listen(protocol, ([127, 0, 0, 1], 0))).await
    }

    /// A server with the test certificate. `address` is its first listener's.
    pub async fn with(config: Config) -> Self {
        TestServer::run(Server::bind(config.identity(identity())).await.expect("the server binds"))
    }

    /// Runs `server`. `address` is its first listener's.
    pub fn run(server: Server) -> Self {
        let address = server.local_addrs()[0].address.ip().expect("an IP address");
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        TestServer { address, stop, running }
    }

    /// Shuts the server down, and waits until it has ended.
    pub async fn stop(self) -> Summary {
        drop(self.stop);
        self.running.await.expect("the server does not panic")
    }
}

/// TLS to a server with the test certificate.
pub async fn tls_connect(
    address: SocketAddr,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsStream<TcpStream> {
    tls_connect_trusting(address, ca_certificates(), versions).await
}

/// The test CA.
pub fn ca_certificates() -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_file_iter(cert("ca.pem")).unwrap().map(Result::unwrap)
}

/// TLS to a server whose certificate one of `roots` has signed.
pub async fn tls_connect_trusting(
    address: SocketAddr,
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsStream<TcpStream> {
    tls_over(TcpStream::connect(address).await.expect("TCP connects"), roots, versions).await
}

/// Like [`tls_connect_trusting`], on a stream that is connected already.
pub async fn tls_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    roots: impl IntoIterator<Item = CertificateDer<'static>>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsStream<S> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root).unwrap();
    }
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS connects")
}
