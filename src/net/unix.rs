//! Listeners on Unix sockets, their streams, and their socket files.

use std::ffi::OsString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::net::UnixStream;
use tracing::debug;

use super::accept::AcceptSocket;
use super::bind::BACKLOG;
use super::{Listener, Peer, SocketFacts, Stream};
use crate::address::{Address, UnixAddress};

/// A listener on a Unix socket. Dropping it removes its socket file, if it has one.
#[derive(Debug)]
pub(crate) struct UnixListener {
    // Dropped first: without its name, no client can connect to a socket that is about to close.
    file: Option<SocketFile>,
    socket: AcceptSocket,
}

impl UnixListener {
    /// Registers `socket`, which must be non-blocking and listen. Its socket file, if it has one,
    /// belongs to whoever has bound it.
    #[cfg(target_os = "linux")]
    pub(super) fn inherited(socket: std::os::fd::OwnedFd) -> io::Result<Self> {
        Ok(UnixListener { file: None, socket: AcceptSocket::register(socket)? })
    }

    /// Listens on `address`. A socket file gets the permission bits `mode` before anybody can
    /// connect. A stale socket file, on which nobody listens, is replaced.
    ///
    /// # Errors
    /// AddrInUse if somebody listens there, or if the file is not a socket.
    pub(super) fn bind(address: &UnixAddress, mode: Option<u32>) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        let file = match address {
            UnixAddress::Abstract(name) => {
                let mut path = OsString::from("\0");
                path.push(name);
                bind_abstract(&socket, Path::new(&path))?;
                None
            }
            UnixAddress::Path(path) => Some(bind_file(&socket, path, mode)?),
        };
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(UnixListener { file, socket: AcceptSocket::register(socket.into())? })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn bind_abstract(socket: &Socket, name: &Path) -> io::Result<()> {
    socket.bind(&sockaddr(name)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn bind_abstract(_socket: &Socket, _name: &Path) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "only Linux has abstract Unix sockets"))
}

/// `path` as a socket address, whose length the system limits.
fn sockaddr(path: &Path) -> io::Result<SockAddr> {
    SockAddr::unix(path).map_err(|error| match error.kind() {
        io::ErrorKind::InvalidInput => {
            let limit = if cfg!(target_os = "macos") { 103 } else { 107 };
            let why = format!("the name of a Unix socket may have at most {limit} bytes");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        }
        _ => error,
    })
}

/// Binds `socket` to a file, replacing a stale socket file.
fn bind_file(socket: &Socket, path: &Path, mode: Option<u32>) -> io::Result<SocketFile> {
    let address = sockaddr(path)?;
    match socket.bind(&address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            remove_stale(path, &address)?;
            socket.bind(&address)?;
        }
        bound => bound?,
    }
    let file = SocketFile::at(path)?;
    if let Some(mode) = mode {
        fs::set_permissions(path, Permissions::from_mode(mode))?;
    }
    Ok(file)
}

/// Removes the socket file at `path` if connecting to it shows that nobody listens.
fn remove_stale(path: &Path, address: &SockAddr) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if !found.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is a file that is no socket"));
    }
    let client = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A blocking connect would wait for a listener whose backlog is full.
    client.set_nonblocking(true)?;
    match client.connect(address) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "the address is in use: another program listens there",
            ));
        }
    }
    remove_if(path, id(&found))
}

/// Removes `path` if it is still the expected file: another server may have replaced it.
fn remove_if(path: &Path, expected: (u64, u64)) -> io::Result<()> {
    if id(&fs::symlink_metadata(path)?) == expected { fs::remove_file(path) } else { Ok(()) }
}

/// A socket file that we created. Dropping this removes it.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        // The working directory may change before the file is removed.
        let path = std::path::absolute(path)?;
        let id = id(&fs::symlink_metadata(&path)?);
        Ok(SocketFile { path, id })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // If it fails, the next server replaces the stale file.
        let _ = remove_if(&self.path, self.id);
    }
}

/// The credentials with which the peer has connected.
#[cfg(target_os = "linux")]
fn peer(stream: &net::UnixStream) -> io::Result<Peer> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let credentials = getsockopt(stream, PeerCredentials)?;
    Ok(Peer::Unix { uid: credentials.uid(), pid: Some(credentials.pid()).filter(|pid| *pid != 0) })
}

/// The credentials with which the peer has connected. tokio knows how each system tells them, but
/// asks only for a stream that is registered; therefore the copy.
#[cfg(not(target_os = "linux"))]
fn peer(stream: &net::UnixStream) -> io::Result<Peer> {
    let credentials = UnixStream::from_std(stream.try_clone()?)?.peer_cred()?;
    Ok(Peer::Unix { uid: credentials.uid(), pid: credentials.pid().filter(|pid| *pid != 0) })
}

/// The name of a Unix socket; `None` if it has none.
pub(super) fn named(address: &SockAddr) -> Option<UnixAddress> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = address.as_abstract_namespace() {
        return Some(UnixAddress::Abstract(String::from_utf8_lossy(name).into_owned()));
    }
    address.as_pathname().map(|path| UnixAddress::Path(path.to_owned()))
}

/// An accepted stream with its peer. `None` if the peer is not to be known: that concerns only this
/// connection, which is closed, and not the listener.
fn identified<S>(
    accepted: io::Result<S>,
    peer: impl FnOnce(&S) -> io::Result<Peer>,
) -> Option<io::Result<(S, Peer)>> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => return Some(Err(error)),
    };
    match peer(&stream) {
        Ok(peer) => Some(Ok((stream, peer))),
        Err(error) => {
            debug!(%error, "A connection was closed: the system did not say who its peer is");
            None
        }
    }
}

impl Stream for UnixStream {
    type Detached = net::UnixStream;

    fn attach(stream: net::UnixStream) -> io::Result<Self> {
        UnixStream::from_std(stream)
    }

    fn facts(&self) -> SocketFacts {
        let name = SockRef::from(self).local_addr().ok();
        let local = name.and_then(|name| named(&name)).map(Address::from);
        SocketFacts { local, mss: None }
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(net::UnixStream, Peer)> {
        loop {
            let accepted = self.socket.accept().await.map(|(stream, _)| stream.into());
            if let Some(identified) = identified(accepted, peer) {
                return identified;
            }
        }
    }

    fn into_backlog(
        self,
    ) -> io::Result<impl Iterator<Item = io::Result<(net::UnixStream, Peer)>> + Send> {
        let UnixListener { file, socket } = self;
        drop(file);
        let streams =
            socket.into_backlog()?.map(|accepted| accepted.map(|(stream, _)| stream.into()));
        Ok(streams.filter_map(|accepted| identified(accepted, peer)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_identified_is_no_failure_of_the_listener() {
        let error = || io::Error::from(io::ErrorKind::NotConnected);
        let known = |_: &u8| Ok(Peer::Unix { uid: 1, pid: None });
        assert!(identified(Ok(7), |_| Err(error())).is_none());
        assert!(matches!(identified(Ok(7), known), Some(Ok((7, _)))));
        let failed = identified(Err(error()), known).and_then(Result::err);
        assert_eq!(failed.map(|error| error.kind()), Some(io::ErrorKind::NotConnected));
    }
}
