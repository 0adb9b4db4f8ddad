//! Connecting to Unix sockets.

use std::io;

use crate::address::UnixAddress;
use crate::probe::link::ByteStream;

#[cfg(unix)]
pub(super) async fn connect(address: &UnixAddress) -> io::Result<Box<dyn ByteStream>> {
    use std::path::Path;
    use std::time::Duration;

    use tokio::net::UnixStream;

    /// How long to wait before a listener with a full backlog is tried again.
    const RETRY: Duration = Duration::from_millis(5);

    let abstract_name;
    let path = match address {
        UnixAddress::Path(path) => path.as_path(),
        UnixAddress::Abstract(_) if !cfg!(any(target_os = "linux", target_os = "android")) => {
            let problem = "only Linux has abstract Unix sockets";
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        // tokio takes a leading NUL for the abstract namespace, as the kernel does.
        UnixAddress::Abstract(name) => {
            abstract_name = format!("\0{name}");
            Path::new(&abstract_name)
        }
    };
    loop {
        match UnixStream::connect(path).await {
            // A listener whose backlog is full answers a non-blocking connect with EAGAIN
            // (connect(2)), and nothing reports when it has room again. TCP would send another SYN.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                tokio::time::sleep(RETRY).await;
            }
            connected => return Ok(Box::new(connected?)),
        }
    }
}

#[cfg(not(unix))]
#[expect(clippy::unused_async, reason = "it is async where there are Unix sockets")]
pub(super) async fn connect(_address: &UnixAddress) -> io::Result<Box<dyn ByteStream>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}
