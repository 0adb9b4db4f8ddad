//! The same for tests without an async runtime.

use std::net::SocketAddr;
use std::sync::mpsc;

use super::thread::{self, Started, Thread};
use crate::config::{Config, Protocol};
use crate::error::StartError;
use crate::server::{LocalAddr, Summary};

/// An echo server in a thread of its own, for tests without an async runtime.
///
/// Dropping it stops the server at once and resets what is still connected; [`shutdown`] lets
/// every connection finish first. Either way its addresses are free again afterwards.
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
    /// Starts an echo server for `protocols`, each on a free port of 127.0.0.1. Its certificate is
    /// for 127.0.0.1 and localhost, and made anew. A shutdown waits a second for connections that
    /// the test has left open.
    ///
    /// # Panics
    /// If the server does not start.
    pub fn start(protocols: impl IntoIterator<Item = Protocol>) -> Self {
        let started = TestServer::with(thread::config_for(protocols));
        started.unwrap_or_else(|error| panic!("the echo server did not start: {error}"))
    }

    /// Starts an echo server that is told everything.
    ///
    /// # Errors
    /// The configuration is unusable, or the system refused an address.
    ///
    /// # Panics
    /// If the server's thread panics.
    pub fn with(config: Config) -> Result<Self, StartError> {
        let (tell_start, start) = mpsc::channel();
        let (tell_end, ended) = mpsc::channel();
        // The test may have gone by then.
        let thread = Thread::spawn(
            config,
            move |started| _ = tell_start.send(started),
            move |summary| _ = tell_end.send(summary),
        )?;
        let started = start.recv().expect("the echo server's thread tells how it started")?;
        Ok(TestServer { thread, started, ended })
    }

    /// Where `protocol` listens; the first of its listeners, if there are several.
    ///
    /// # Panics
    /// If it was not started, or listens on a Unix socket.
    pub fn addr(&self, protocol: Protocol) -> SocketAddr {
        self.started.addr(protocol)
    }

    /// The URL of `protocol`, as `ws://127.0.0.1:40123`: the scheme is the protocol's name.
    ///
    /// # Panics
    /// If it was not started, or listens on a Unix socket.
    pub fn url(&self, protocol: Protocol) -> String {
        self.started.url(protocol)
    }

    /// Where everything listens.
    pub fn local_addrs(&self) -> &[LocalAddr] {
        &self.started.local_addrs
    }

    /// The certificate that a client has to trust to trust this server, as DER.
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

    /// Shuts down: every connection gets what it is owed and its protocol's farewell, until the
    /// drain timeout is over.
    ///
    /// # Panics
    /// If the server's thread has panicked.
    pub fn shutdown(self) -> Summary {
        self.thread.shut_down();
        self.ended.recv().expect("the echo server's thread does not panic")
    }
}
