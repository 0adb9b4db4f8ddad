//! An echo server for tests of network code, over TCP, TLS, UDP, WebSocket, and WebSocket over TLS.
//! What comes in goes back unchanged, in order, to where it came from.
//!
//! One line in a test starts it on free ports, in a thread of its own; it ends with the test.
//! ```
//! use echo_server::{Protocol, TestServer};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start([Protocol::Tcp]).await;
//!
//! let mut client = TcpStream::connect(server.addr(Protocol::Tcp)).await?;
//! client.write_all(b"hello").await?;
//! client.shutdown().await?;
//! let mut echo = String::new();
//! client.read_to_string(&mut echo).await?;
//! assert_eq!(echo, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! # WebSocket, with tokio-tungstenite
//! ```
//! use echo_server::{Protocol, TestServer};
//! use futures::{SinkExt, StreamExt};
//! use tokio::net::TcpStream;
//! use tokio_tungstenite::{client_async, tungstenite::Message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start([Protocol::Ws]).await;
//!
//! let tcp = TcpStream::connect(server.addr(Protocol::Ws)).await?;
//! let (mut socket, _response) = client_async(server.url(Protocol::Ws), tcp).await?;
//! socket.send(Message::text("hello")).await?;
//! let echo = socket.next().await.expect("an echo")?;
//! assert_eq!(echo, Message::text("hello"));
//! socket.close(None).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # TLS, with a client that trusts the server's certificate
//! ```
//! use std::sync::Arc;
//!
//! use echo_server::{Protocol, TestServer};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::TcpStream;
//! use tokio_rustls::TlsConnector;
//! use tokio_rustls::rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start([Protocol::Tls]).await;
//!
//! let mut roots = RootCertStore::empty();
//! roots.add(server.certificate_der().to_vec().into())?;
//! let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
//! let tcp = TcpStream::connect(server.addr(Protocol::Tls)).await?;
//! let name = ServerName::try_from("localhost")?;
//! let mut client = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
//! client.write_all(b"hello").await?;
//! client.flush().await?;
//! let mut echo = [0; 5];
//! client.read_exact(&mut echo).await?;
//! assert_eq!(&echo, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # UDP
//! ```
//! use echo_server::{Protocol, TestServer};
//! use tokio::net::UdpSocket;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = TestServer::start([Protocol::Udp]).await;
//!
//! let client = UdpSocket::bind("127.0.0.1:0").await?;
//! client.connect(server.addr(Protocol::Udp)).await?;
//! client.send(b"hello").await?;
//! let mut echo = [0; 1500];
//! let length = client.recv(&mut echo).await?;
//! assert_eq!(&echo[..length], b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! # Without a runtime
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! use echo_server::{Protocol, blocking};
//!
//! let server = blocking::TestServer::start([Protocol::Tcp]);
//!
//! let mut client = TcpStream::connect(server.addr(Protocol::Tcp))?;
//! client.write_all(b"hello")?;
//! let mut echo = [0; 5];
//! client.read_exact(&mut echo)?;
//! assert_eq!(&echo, b"hello");
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # Further
//! - [`TestServer::with`] takes a whole [`Config`]: limits, timeouts, certificates of your own, client
//!   certificates, Unix sockets.
//! - [`Server`] is the server itself, for programs that bring their own runtime. [`Server::metrics`]
//!   tells what it counts, [`Server::health`] whether its threads make progress, and `Admin`, of the
//!   feature `admin`, tells both over HTTP.
//! - [`probe`] is the other end of the wire: it says what a path does to messages, once or, with
//!   [`probe::Watch`], for ever. With `Admin::with_watch`, servers that watch each other show a matrix.
//! - [`Config::proxy`] expects PROXY headers, and [`Config::facts`] tells each client what the server saw
//!   of it; [`probe::Probe::facts`] asks, and says what has changed on the way.
//! - [`Config::fault`] makes the server misbehave: late, slow, cut off, reset, stalled, with an expired
//!   certificate; the same [`FaultPolicy::seed`] gives the same faults again.
//! - [`certs`] makes a private CA, and certificates that it has signed.
//! - The feature `cli`, on by default, is the command, and includes `admin`; a library does without:
//!   `echo-server = { version = "0.1", default-features = false }`.
//!
//! # The modules
//! The names are the field's, and each means one thing: a *listener* is a bound socket that accepts
//! streams; a *transport* carries a protocol's bytes over such a stream, as they are or over TLS; a
//! *protocol* is what is spoken there; a *connection* is one peer's stream from accept to close; a
//! *session* is the future that drives its echo.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `server` | binds everything; accepts; places connections on threads; ends all together |
//! | [`probe`] | pings and loads an echo service |
//! | `testing` | the server for the length of a test |
//! | `admin` | metrics, health checks and the matrix of a mesh over HTTP |
//! | `protocols` | one protocol a module: bytes (TCP and TLS), UDP, WebSocket |
//! | `transport` | what carries bytes: the stream itself, TLS with its record layer; a stream with bytes read ahead |
//! | `tls` | certificates and rustls' settings, and their reload |
//! | `faults` | misbehaves on purpose: plans, delays, flipped bits, bad ends |
//! | `connection` | one connection's life: session, deadlines, end; and what all share: admission, drain, counts, limits on memory and log |
//! | `net` | sockets: binding, inherited descriptors, listeners whatever their family, who the peer is |
//! | `proxy_protocol` | parses and writes PROXY headers; no sockets |
//! | `echo` | the core: byte streams, WebSocket frames rewritten in place, datagrams |
//! | [`certs`] | makes certificates |
//! | `causes` | what the TLS libraries say, in words for people |
//! | `config`, `address`, `error` | plain data: what a server is told, where it listens, why it did not start |
//!
//! Imports point inward: `testing, admin -> server -> protocols -> transport -> facts, faults -> tls ->
//! connection -> net -> error -> address, config`, with the echo core and `proxy_protocol` below `connection`; `probe`
//! uses `tls` and the deadlines of `connection`, and `admin` reads what its watch knows. The command is `src/bin/echo-server/`, and uses the library as anybody
//! does.

#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod address;
#[cfg(feature = "admin")]
mod admin;
mod causes;
pub mod certs;
mod config;
mod connection;
mod echo;
mod error;
mod facts;
mod faults;
#[cfg(test)]
mod logged;
mod net;
#[cfg(test)]
mod noise;
mod pace;
pub mod probe;
mod protocols;
mod proxy_protocol;
mod server;
mod testing;
mod tls;
mod transport;

pub use address::{
    Address, Cidr, CidrError, ListenAddress, ListenAddressError, UnixAddress, UnixAddressError,
};
#[cfg(feature = "admin")]
pub use admin::Admin;
pub use config::{
    CertificateFault, ClientAuth, Config, Credentials, DEFAULT_BUFFER_SIZE, Fault, FaultError,
    FaultGroup, FaultPolicy, HandshakeFault, Identity, Inherited, Limits, Listen, Probability,
    Protocol, ProxyPolicy, Source, Timeouts, TlsPolicy, TlsVersion, UdpPolicy, UpgradeFault,
    WebSocketPolicy, When,
};
pub use error::{BoxError, Credential, CredentialError, Cure, Setting, StartError};
pub use server::{
    Connections, Durations, Expiry, Health, LocalAddr, Metrics, Progress, ProtocolSnapshot,
    Readiness, Server, Snapshot, Summary, TlsSnapshot, UdpSnapshot,
};
pub use testing::{TestServer, blocking};
pub use tls::{Fingerprint, FingerprintError, TlsReloader};
