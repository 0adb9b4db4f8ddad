//! An echo server for the duration of a test: one line starts it on free ports, and it ends with
//! the test. It runs in a thread of its own, so that the test cannot stall it with a blocking call,
//! a paused clock or a panic.
//!
//! [`TestServer`] is for async tests, [`blocking::TestServer`] for tests without a runtime.

pub mod blocking;
mod thread;

use std::net::SocketAddr;

use tokio::sync::oneshot;

use crate::config::{Config, Protocol};
use crate::error::StartError;
use crate::server::{LocalAddr, Summary};
use thread::{Started, Thread};

/// An echo server in a thread of its own, for async tests.
///
/// Dropping it stops the server at once and resets open connections; [`shutdown`] lets every
/// connection finish first. Either way its addresses are free again afterwards.
///
/// ```
/// use echo_server::{Protocol, TestServer};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = TestServer::start([Protocol::Tcp]).await;
/// let mut client = tokio::net::TcpStream::connect(server.addr(Protocol::Tcp)).await?;
/// client.write_all(b"hello").await?;
/// let mut echo = [0; 5];
/// client.read_exact(&mut echo).await?;
/// assert_eq!(&echo, b"hello");
/// drop(client);
/// assert_eq!(server.shutdown().await.aborted, 0);
/// # Ok(())
/// # }
/// ```
///
/// [`shutdown`]: TestServer::shutdown
#[derive(Debug)]
pub struct TestServer {
    thread: Thread,
    started: Started,
    ended: oneshot::Receiver<Summary>,
}

impl TestServer {
    /// Starts an echo server for `protocols`, each on a free port of 127.0.0.1. It makes a new
    /// certificate for 127.0.0.1 and localhost. Its drain timeout is one second.
    ///
    /// # Panics
    /// If the server does not start.
    pub async fn start(protocols: impl IntoIterator<Item = Protocol>) -> Self {
        let started = TestServer::with(thread::config_for(protocols)).await;
        started.unwrap_or_else(|error| panic!("the echo server did not start: {error}"))
    }

    /// Starts an echo server with the configuration `config`.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// If the server's thread panics.
    pub async fn with(config: Config) -> Result<Self, StartError> {
        let (started_sender, started) = oneshot::channel();
        let (ended_sender, ended) = oneshot::channel();
        // Sending fails only if the test has dropped the receiver, and then nobody waits.
        let thread = Thread::spawn(
            config,
            |result| _ = started_sender.send(result),
            |summary| _ = ended_sender.send(summary),
        )?;
        let started = started.await.expect("the echo server's thread reports its start")?;
        Ok(TestServer { thread, started, ended })
    }

    /// The address of `protocol`; the first one, if it has several listeners.
    ///
    /// # Panics
    /// If `protocol` was not started, or listens on a Unix socket.
    pub fn addr(&self, protocol: Protocol) -> SocketAddr {
        self.started.addr(protocol)
    }

    /// The URL of `protocol`, as `ws://127.0.0.1:40123`: the scheme is the protocol's name. A
    /// [`Target`](crate::probe::Target) can be parsed from it.
    ///
    /// # Panics
    /// If `protocol` was not started, or listens on a Unix socket.
    pub fn url(&self, protocol: Protocol) -> String {
        self.started.url(protocol)
    }

    /// All bound addresses.
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.started.local_addrs
    }

    /// The certificate that a client has to trust, as DER.
    ///
    /// # Panics
    /// If no protocol over TLS was started.
    pub fn certificate_der(&self) -> &[u8] {
        self.started.certificate_der()
    }

    /// The same certificate as PEM (RFC 7468).
    ///
    /// # Panics
    /// If no protocol over TLS was started.
    pub fn certificate_pem(&self) -> String {
        self.started.certificate_pem()
    }

    /// Shuts down: until the drain timeout expires, every connection is sent the rest of its echo
    /// and closed as its protocol prescribes.
    ///
    /// # Panics
    /// If the server's thread has panicked.
    pub async fn shutdown(self) -> Summary {
        self.thread.shut_down();
        self.ended.await.expect("the echo server's thread does not panic")
    }
}
