//! The thread that runs a test's server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use crate::config::{Config, Protocol};
use crate::error::StartError;
use crate::server::{LocalAddr, Server, Summary};
use crate::tls;

/// The drain timeout: how long connections that a test has left open delay a shutdown.
const DRAIN: Duration = Duration::from_secs(1);

/// How long dropping a server waits for its thread to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// The configuration of a server for `protocols`.
pub(super) fn config_for(protocols: impl IntoIterator<Item = Protocol>) -> Config {
    let config = Config::new().timeouts(|timeouts| timeouts.drain = DRAIN);
    let listen = |config: Config, protocol| config.listen(protocol, (Ipv4Addr::LOCALHOST, 0));
    protocols.into_iter().fold(config, listen)
}

/// What the server is to do, in the order in which it can change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Order {
    Serve,
    ShutDown,
    StopNow,
}

/// A server's thread. Dropping this stops the server and frees its addresses.
#[derive(Debug)]
pub(super) struct Thread {
    orders: watch::Sender<Order>,
    /// Disconnected when the thread has dropped everything.
    ended: mpsc::Receiver<()>,
}

impl Thread {
    /// Starts a thread for the server that `config` describes. The thread calls `started` once, and
    /// `stopped` after an orderly shutdown.
    pub(super) fn spawn(
        config: Config,
        started: impl FnOnce(Result<Started, StartError>) + Send + 'static,
        stopped: impl FnOnce(Summary) + Send + 'static,
    ) -> Result<Self, StartError> {
        let (orders, mut received) = watch::channel(Order::Serve);
        let (end, ended) = mpsc::channel();
        let serve = async move {
            let server = match Server::bind(config).await {
                Ok(server) => server,
                Err(error) => return started(Err(error)),
            };
            started(Ok(Started::of(&server)));
            let mut shut_down = received.clone();
            // An error means that the sender is gone, so the server is to shut down too.
            let running = server.run(async move {
                let _ = shut_down.wait_for(|order| *order >= Order::ShutDown).await;
            });
            tokio::select! {
                biased;
                _ = received.wait_for(|order| *order == Order::StopNow) => {}
                summary = running => stopped(summary),
            }
        };
        let runtime = runtime().map_err(thread_error)?;
        let run = move || {
            // Declared first so that it is dropped last, even if the server panics.
            let _end: mpsc::Sender<()> = end;
            let runtime = runtime;
            runtime.block_on(serve);
        };
        thread::Builder::new().name("echo-server".to_owned()).spawn(run).map_err(thread_error)?;
        Ok(Thread { orders, ended })
    }

    /// Asks the server to shut down.
    pub(super) fn shut_down(&self) {
        self.orders.send_replace(Order::ShutDown);
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.orders.send_replace(Order::StopNow);
        // Nothing is ever sent: this waits for the thread's end of the channel to be dropped.
        let _ = self.ended.recv_timeout(STOP_TIMEOUT);
    }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

fn thread_error(error: io::Error) -> StartError {
    StartError::System { problem: "could not start a thread".to_owned(), source: error }
}

/// What is known about a server once it has started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) local_addrs: Vec<LocalAddr>,
    /// The certificate of the TLS protocols, DER.
    certificate: Option<Vec<u8>>,
}

impl Started {
    fn of(server: &Server) -> Self {
        Started {
            local_addrs: server.local_addrs().to_vec(),
            certificate: server.certificate_chain().first().map(|certificate| certificate.to_vec()),
        }
    }

    pub(super) fn addr(&self, protocol: Protocol) -> SocketAddr {
        let local = self.local_addrs.iter().find(|local| local.protocol == protocol);
        let Some(local) = local else { panic!("the echo server was not asked for {protocol}") };
        let address = local.address.ip();
        address.unwrap_or_else(|| panic!("{} is not an IP address", local.address))
    }

    pub(super) fn url(&self, protocol: Protocol) -> String {
        let address = self.addr(protocol);
        // A client cannot connect to a wildcard address on every system, but it can to loopback.
        let ip = match address.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        format!("{protocol}://{}", SocketAddr::new(ip, address.port()))
    }

    pub(super) fn certificate_der(&self) -> &[u8] {
        let certificate = self.certificate.as_deref();
        certificate.expect("the echo server was asked for no protocol over TLS")
    }

    pub(super) fn certificate_pem(&self) -> String {
        tls::pem::encode_certificate(self.certificate_der())
    }
}
