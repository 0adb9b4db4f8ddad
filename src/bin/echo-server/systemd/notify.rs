//! The notify socket of the service manager, as sd_notify(3) has it. The crate sd-notify was not
//! taken: it blocks while nobody reads, and it knows no abstract names.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::warn;

const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells the service manager about the service. Clones tell the same one.
#[derive(Debug, Clone)]
pub struct Notifier {
    address: Arc<SocketAddr>,
    /// A failure is logged once: nobody can mend it while the service runs.
    has_failed: Arc<AtomicBool>,
}

impl Notifier {
    /// The socket that NOTIFY_SOCKET names. A name that cannot be one is logged and ignored.
    pub fn from_environment() -> Option<Self> {
        let name = env::var_os(VARIABLE).filter(|name| !name.is_empty())?;
        match address(&name) {
            Ok(address) => {
                Some(Notifier { address: Arc::new(address), has_failed: Arc::default() })
            }
            Err(error) => {
                warn!(%error, "{VARIABLE}={} is not used", name.display());
                None
            }
        }
    }

    /// Sends `state`, the lines of one message. While the socket's queue is full it waits.
    pub async fn tell(&self, state: &str) {
        if let Err(error) = self.send(state).await
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            warn!(%error, "The service manager cannot be told anything ({VARIABLE})");
        }
    }

    /// Messages are rare, and a socket for each needs no care if the service manager starts anew.
    async fn send(&self, state: &str) -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect_addr(&self.address)?;
        tokio::net::UnixDatagram::from_std(socket)?.send(state.as_bytes()).await?;
        Ok(())
    }
}

/// `/path`, or `@name` in the abstract namespace.
fn address(name: &OsString) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected an absolute path, or @name for the abstract namespace",
        )),
    }
}
