//! Inherited sockets: which of them a listener takes, and whether they are of the right kind.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use socket2::{Domain, SockRef, Socket, Type};

use super::bind::{self, Options, SharedAddress};
use super::{AnyListener, TcpListener, UnixListener};
use crate::address::Address;
use crate::config::{Descriptor, Inherited, Protocol, State};

/// A line names at most this many descriptors.
const MAX_NAMES: usize = 5;

/// Takes the stream sockets for `flag`, and registers them with the current runtime. The flag is
/// that of a protocol, or of the admin endpoint, without its dashes.
///
/// # Errors
/// A line that says why there is none, or what is wrong with one.
pub(crate) fn listeners(
    flag: &str,
    name: Option<&str>,
    inherited: &Inherited,
    options: &Options,
) -> Result<Vec<(Address, AnyListener)>, String> {
    each(flag, Type::STREAM, name, inherited, |socket| {
        let address = check_listener(flag, &socket)?;
        Ok((address.clone(), listener(address, socket, options).map_err(refused)?))
    })
}

/// Takes the UDP sockets. They are non-blocking and not registered with a runtime.
///
/// # Errors
/// A line that says why there is none, or what is wrong with one.
pub(crate) fn datagrams(
    name: Option<&str>,
    inherited: &Inherited,
    options: &Options,
) -> Result<Vec<SharedAddress>, String> {
    each(Protocol::Udp.name(), Type::DGRAM, name, inherited, |socket| {
        if socket.domain().map_err(refused)? == Domain::UNIX {
            return Err("is a Unix datagram socket, and only those of UDP are echoed".to_owned());
        }
        if socket.peer_addr().is_ok() {
            return Err("is connected to one peer; a UDP listener needs one that is not".to_owned());
        }
        let address = socket.local_addr().map_err(refused)?.as_socket();
        let address = address.ok_or("is no UDP socket")?;
        if address.port() == 0 {
            return Err("is bound to no port, so that nobody could send to it".to_owned());
        }
        bind::enlarge_buffers(&socket, address, options.recv_buffer);
        socket.set_nonblocking(true).map_err(refused)?;
        Ok((address, vec![UdpSocket::from(socket)]))
    })
}

fn refused(error: std::io::Error) -> String {
    format!("cannot be used: {error}")
}

/// Takes the sockets of `kind` for `flag`, and passes each to `open`, whose error follows the socket's
/// name.
fn each<T>(
    flag: &str,
    kind: Type,
    name: Option<&str>,
    inherited: &Inherited,
    open: impl Fn(Socket) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut descriptors = inherited.descriptors();
    if descriptors.is_empty() {
        return Err(inherited.absence().to_owned());
    }
    let mut opened = Vec::new();
    for at in select(flag, kind, name, &descriptors)? {
        let Descriptor { name, state } = &mut descriptors[at];
        let State::Free(socket) = std::mem::replace(state, State::Taken) else {
            unreachable!("only free sockets are selected")
        };
        opened.push(
            open(socket.into()).map_err(|problem| format!("the descriptor '{name}' {problem}"))?,
        );
    }
    Ok(opened)
}

/// The indices of the sockets that `flag` takes: those with the name `wanted` and the type `kind`.
/// Without `wanted`, the flag's own name is looked for. If nothing has that, the only socket of the
/// type will do.
fn select(
    flag: &str,
    kind: Type,
    wanted: Option<&str>,
    descriptors: &[Descriptor],
) -> Result<Vec<usize>, String> {
    let named = |name: &str| -> Vec<usize> {
        (0..descriptors.len()).filter(|at| descriptors[*at].name == name).collect()
    };
    let mut found = named(wanted.unwrap_or(flag));
    let is_by_name = wanted.is_some() || !found.is_empty();
    if !is_by_name {
        found = (0..descriptors.len()).collect();
    }
    if let (true, Some(wanted)) = (found.is_empty(), wanted) {
        let names = names(descriptors.iter());
        return Err(format!("no descriptor has the name '{wanted}'; there are {names}"));
    }
    let mut problem = None;
    let mut usable = Vec::new();
    for at in found {
        let Descriptor { name, state } = &descriptors[at];
        match state {
            State::Free(socket) => match mismatch(flag, kind, socket) {
                None => usable.push(at),
                Some(mismatch) => problem = Some(format!("the descriptor '{name}' {mismatch}")),
            },
            State::Taken => {
                let taken = format!("another listener has the descriptor '{name}' already");
                problem.get_or_insert(taken);
            }
            State::Unusable(why) => problem = Some(format!("the descriptor '{name}': {why}")),
        }
    }
    match (&usable[..], problem) {
        ([], problem) => Err(problem.unwrap_or_default()),
        ([_, _, ..], _) if !is_by_name => {
            let names = names(usable.iter().map(|at| &descriptors[*at]));
            Err(format!(
                "none of the descriptors has the name '{flag}', and several could be meant: \
                 {names}; systemd:NAME says which"
            ))
        }
        _ => Ok(usable),
    }
}

fn names<'a>(descriptors: impl Iterator<Item = &'a Descriptor>) -> String {
    let mut names: Vec<_> = descriptors.map(|one| format!("'{}'", one.name)).collect();
    names.dedup();
    // A process may inherit thousands.
    let more = names.len().saturating_sub(MAX_NAMES);
    names.truncate(MAX_NAMES);
    match more {
        0 => names.join(", "),
        more => format!("{} and {more} more", names.join(", ")),
    }
}

/// How the type of a socket is not `kind`, which `flag` needs.
fn mismatch(flag: &str, kind: Type, socket: &OwnedFd) -> Option<String> {
    match SockRef::from(socket).r#type() {
        Ok(found) if found == kind => None,
        Ok(Type::STREAM) => Some(format!(
            "is a stream socket, and --{flag} needs a datagram socket (ListenDatagram=)"
        )),
        Ok(Type::DGRAM) => Some(format!(
            "is a datagram socket, and --{flag} needs a stream socket (ListenStream=)"
        )),
        Ok(_) => Some("is neither a stream nor a datagram socket".to_owned()),
        Err(error) => Some(refused(error)),
    }
}

/// Checks that `socket` listens, and returns its address.
fn check_listener(flag: &str, socket: &Socket) -> Result<Address, String> {
    if !socket.is_listener().map_err(refused)? {
        return Err(match socket.peer_addr() {
            Ok(_) => "is a connection and no listener: its socket unit has Accept=yes, and this \
                      server needs Accept=no"
                .to_owned(),
            Err(_) => format!("does not listen, which --{flag} needs it to"),
        });
    }
    let is_tcp = || socket.protocol().is_ok_and(|found| found == Some(socket2::Protocol::TCP));
    let local = socket.local_addr().map_err(refused)?;
    match local.as_socket() {
        Some(address) if is_tcp() => Ok(address.into()),
        _ => super::unix::named(&local)
            .map(Address::Unix)
            .ok_or_else(|| "is neither a TCP nor a Unix socket".to_owned()),
    }
}

fn listener(address: Address, socket: Socket, options: &Options) -> std::io::Result<AnyListener> {
    socket.set_nonblocking(true)?;
    Ok(match address {
        Address::Ip(_) => {
            bind::set_stream_options(&socket, options)?;
            AnyListener::Tcp(TcpListener::from_std(socket.into())?)
        }
        Address::Unix(_) => AnyListener::Unix(UnixListener::inherited(socket.into())?),
    })
}

#[cfg(test)]
mod tests {
    use std::net;
    use std::os::unix::net::{UnixDatagram, UnixListener as Listener};

    use super::*;
    use crate::address::UnixAddress;

    const OPTIONS: Options =
        Options { stall: None, unix_mode: None, workers: 1, recv_buffer: None };

    const SURPLUS: &str = "no listener uses these inherited descriptors: tcp";

    fn tcp() -> OwnedFd {
        net::TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn udp() -> OwnedFd {
        UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    fn inherited<const N: usize>(descriptors: [(&str, OwnedFd); N]) -> Inherited {
        Inherited::new(descriptors.map(|(name, socket)| (name.to_owned(), Ok(socket))))
    }

    /// How many sockets `protocol` takes, or why none.
    fn taken(protocol: Protocol, name: Option<&str>, from: &Inherited) -> Result<usize, String> {
        match protocol {
            Protocol::Udp => Ok(datagrams(name, from, &OPTIONS)?.len()),
            _ => Ok(listeners(protocol.name(), name, from, &OPTIONS)?.len()),
        }
    }

    #[tokio::test]
    async fn a_listener_takes_what_has_its_name_and_its_type() {
        let from = inherited([("tcp", tcp()), ("web", tcp()), ("web", udp()), ("web", tcp())]);
        assert_eq!(taken(Protocol::Ws, Some("web"), &from), Ok(2));
        assert_eq!(taken(Protocol::Udp, Some("web"), &from), Ok(1));
        assert_eq!(from.check_all_taken().unwrap_err().to_string(), SURPLUS);
        assert_eq!(taken(Protocol::Tcp, None, &from), Ok(1));
        assert!(from.check_all_taken().is_ok());
    }

    #[tokio::test]
    async fn the_admin_endpoint_has_a_name_of_its_own() {
        let from = inherited([("tcp", tcp()), ("admin", tcp()), ("x", udp())]);
        assert_eq!(listeners("admin", None, &from, &OPTIONS).unwrap().len(), 1);
        assert_eq!(taken(Protocol::Tcp, None, &from), Ok(1));
        let said = "the descriptor 'x' is a datagram socket, and --admin needs a stream socket \
                    (ListenStream=)";
        assert_eq!(listeners("admin", Some("x"), &from, &OPTIONS).unwrap_err(), said);
    }

    #[tokio::test]
    async fn the_only_socket_of_a_type_needs_no_name() {
        let from = inherited([("echo.socket", tcp()), ("echo.socket", udp())]);
        assert_eq!(taken(Protocol::Tls, None, &from), Ok(1));
        assert_eq!(taken(Protocol::Udp, None, &from), Ok(1));
    }

    #[tokio::test]
    async fn whatever_is_wrong_is_said() {
        let (connected, _other_end) = net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| Ok((net::TcpStream::connect(listener.local_addr()?)?, listener)))
            .unwrap();
        let unbound = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let names_its_peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        names_its_peer.connect("127.0.0.1:9").unwrap();
        let unbound_udp = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        let seqpacket = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        let both = || inherited([("a", tcp()), ("b", tcp())]);
        for (protocol, name, from, said) in [
            (Protocol::Tcp, None, Inherited::default(), "no descriptors were handed over"),
            (Protocol::Tcp, None, Inherited::none("why"), "why"),
            (
                Protocol::Tcp,
                Some("web"),
                both(),
                "no descriptor has the name 'web'; there are 'a', 'b'",
            ),
            (
                Protocol::Tcp,
                None,
                both(),
                "none of the descriptors has the name 'tcp', and several could be meant: 'a', 'b'; \
                 systemd:NAME says which",
            ),
            (
                Protocol::Udp,
                None,
                inherited([("x", tcp())]),
                "the descriptor 'x' is a stream socket, and --udp needs a datagram socket \
                 (ListenDatagram=)",
            ),
            (
                Protocol::Wss,
                Some("x"),
                inherited([("x", udp())]),
                "the descriptor 'x' is a datagram socket, and --wss needs a stream socket \
                 (ListenStream=)",
            ),
            (
                Protocol::Tcp,
                None,
                inherited([("connection", connected.into())]),
                "the descriptor 'connection' is a connection and no listener: its socket unit has \
                 Accept=yes, and this server needs Accept=no",
            ),
            (
                Protocol::Tcp,
                None,
                inherited([("x", unbound.into())]),
                "the descriptor 'x' does not listen, which --tcp needs it to",
            ),
            (
                Protocol::Tcp,
                None,
                inherited([("x", seqpacket.into())]),
                "the descriptor 'x' is neither a stream nor a datagram socket",
            ),
            (
                Protocol::Udp,
                None,
                inherited([("x", UnixDatagram::unbound().unwrap().into())]),
                "the descriptor 'x' is a Unix datagram socket, and only those of UDP are echoed",
            ),
            (
                Protocol::Udp,
                None,
                inherited([("x", names_its_peer.into())]),
                "the descriptor 'x' is connected to one peer; a UDP listener needs one that is not",
            ),
            (
                Protocol::Udp,
                None,
                inherited([("x", unbound_udp.into())]),
                "the descriptor 'x' is bound to no port, so that nobody could send to it",
            ),
            (
                Protocol::Tcp,
                Some("x"),
                Inherited::new([("x".to_owned(), Err("it is no socket".to_owned()))]),
                "the descriptor 'x': it is no socket",
            ),
        ] {
            assert_eq!(taken(protocol, name, &from), Err(said.to_owned()));
        }
    }

    #[tokio::test]
    async fn a_socket_serves_one_listener() {
        let from = inherited([("web", tcp())]);
        assert_eq!(taken(Protocol::Tcp, Some("web"), &from), Ok(1));
        let again = Err("another listener has the descriptor 'web' already".to_owned());
        assert_eq!(taken(Protocol::Ws, Some("web"), &from), again);
        assert_eq!(taken(Protocol::Ws, None, &from), again);
    }

    #[tokio::test]
    async fn the_name_of_a_unix_socket_stays_when_its_listener_goes() {
        let there = tempfile::tempdir().unwrap();
        let path = there.path().join("echo.sock");
        let from = inherited([("x", Listener::bind(&path).unwrap().into())]);
        let taken = listeners("tcp", None, &from, &OPTIONS).unwrap();
        assert_eq!(taken[0].0, UnixAddress::Path(path.clone()).into());
        drop(taken);
        assert!(path.exists(), "it belongs to whoever has bound it");
    }
}
