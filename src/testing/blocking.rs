//! A test server for tests without an async runtime.

use std::net::SocketAddr;
use std::sync::mpsc;

use super::thread::{self, Started, Thread};
use crate::config::{Config, Protocol};
use crate::error::StartError;
use crate::server::{LocalAddr, Summary};

/// An echo server in a thread of its own, for tests without an async runtime.
///
/// Dropping it stops the server at once and resets open connections; [`shutdown`] lets every
/// connection finish first. Either way its addresses are free again afterwards.
///
/// ```
/// use std::io::{Read, Write};
///
/// use echo_server::{Protocol, blocking};
///
/// let server = blocking::TestServer::start([Protocol::Tcp]);
/// let mut client = std::net::TcpStream::connect(server.addr(Protocol::Tcp))?;
/// client.write_all(b"hello")?;
/// let mut echo = [0; 5];
/// client.read_exact(&mut echo)?;
/// assert_eq!(&echo, b"hello");
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// [`shutdown`]: TestServer::shutdown
#[derive(Debug)]
pub struct TestServer {
    thread: Thread,
    started: Started,
    ended: mpsc::Receiver<Summary>,
}

impl TestServer {
    /// Starts an echo server for `protocols`, each on a free port of 127.0.0.1. It makes a new
    /// certificate for 127.0.0.1 and localhost. Its drain timeout is one second.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start(protocols: impl IntoIterator<Item = Protocol>) -> Self {
        let started = TestServer::with(thread::config_for(protocols));
        started.unwrap_or_else(|error| panic!("the echo server did not start: {error}"))
    }

    /// Starts an echo server with the configuration `config`.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// If the server's thread panics.
    pub fn with(config: Config) -> Result<Self, StartError> {
        let (started_sender, started) = mpsc::channel();
        let (ended_sender, ended) = mpsc::channel();
        // Sending fails only if the test has dropped the receiver, and then nobody waits.
        let thread = Thread::spawn(
            config,
            move |result| _ = started_sender.send(result),
            move |summary| _ = ended_sender.send(summary),
        )?;
        let started = started.recv().expect("the echo server's thread reports its start")?;
        Ok(TestServer { thread, started, ended })
    }

    /// The address of `protocol`; the first one, if it has several listeners.
    ///
    /// # Panics
    /// If `protocol` was not started, or listens on a Unix socket.
    pub fn addr(&self, protocol: Protocol) -> SocketAddr {
        self.started.addr(protocol)
    }

    /// The URL of `protocol`, as `ws://127.0.0.1:40123`: the scheme is the protocol's name.
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
    pub fn shutdown(self) -> Summary {
        self.thread.shut_down();
        self.ended.recv().expect("the echo server's thread does not panic")
    }
}
