//! Datagrams in batches on Linux: recvmmsg and sendmmsg, trains in (UDP_GRO) and out (UDP_SEGMENT),
//! and replies from the request's destination address (IP_PKTINFO).
//!
//! Three peculiarities of nix shape this file. Its `recvmmsg` does not reset the space for control
//! messages when headers are reused (nix issue 2813), so each call makes new headers, at a cost too
//! small to measure. Its `sendmmsg` has one set of control messages for all messages (nix issue
//! 1954), and tells how many were sent only through an iterator that reads memory that was never
//! written. So nix sends one message in a call. Datagrams that need no control message are sent
//! together by rustix, whose `sendmmsg` returns a number, but which has no control messages for IP.

use std::array;
use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, SockaddrIn6,
    SockaddrLike, recvmmsg, sendmmsg, setsockopt, sockopt,
};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrAny};
use tokio::net::UdpSocket;

use super::batch::{Ancillary, Batch, LIMIT, Received};

/// A socket's system calls.
#[derive(Debug)]
pub(super) struct Calls {
    is_v6: bool,
    /// The address that the socket is bound to. Such a socket needs no IP_PKTINFO. `None` if it is
    /// bound to all addresses.
    fixed: Option<IpAddr>,
}

impl Calls {
    /// Has the kernel report the ancillary data of each datagram, with its TTL if it may be `asked`
    /// for.
    pub(super) fn prepare(socket: &UdpSocket, asked: bool) -> io::Result<Self> {
        let local = socket.local_addr()?.ip();
        let (is_v6, asks) = (local.is_ipv6(), local.is_unspecified());
        if is_v6 {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &asks)?;
            setsockopt(socket, sockopt::Ipv6RecvTClass, &true)?;
            if asked {
                setsockopt(socket, sockopt::Ipv6RecvHopLimit, &true)?;
            }
        }
        // A dual-stack socket needs these too. On an IPv6-only socket they may fail.
        let v4 = setsockopt(socket, sockopt::Ipv4PacketInfo, &asks)
            .and_then(|()| setsockopt(socket, sockopt::IpRecvTos, &true))
            .and_then(
                |()| if asked { setsockopt(socket, sockopt::Ipv4RecvTtl, &true) } else { Ok(()) },
            );
        if !is_v6 {
            v4?;
        }
        // If this fails, trains arrive as single datagrams, which is only slower. Each datagram of a
        // train may be a question, so a socket that gets questions has them one by one.
        let _ = setsockopt(socket, sockopt::UdpGroSegment, &!asked);
        Ok(Calls { is_v6, fixed: (!asks).then_some(local) })
    }

    /// Receives what has come: up to a batch if `many` are to be expected, else up to two, since
    /// headers for a batch cost more than a single datagram. Returns how many messages came.
    pub(super) fn receive<const ASKED: bool>(
        &self,
        socket: &UdpSocket,
        batch: &mut Batch,
        many: bool,
    ) -> io::Result<usize> {
        if many {
            self.receive_up_to::<LIMIT, ASKED>(socket, batch)
        } else {
            self.receive_up_to::<2, ASKED>(socket, batch)
        }
    }

    /// The last control message that there is space for is either the size of a train's segments or
    /// the TTL: no socket reports both.
    fn receive_up_to<const N: usize, const ASKED: bool>(
        &self,
        socket: &UdpSocket,
        batch: &mut Batch,
    ) -> io::Result<usize> {
        if self.is_v6 {
            let space = cmsg_space!(in6_pktinfo, in_pktinfo, i32, u8, i32);
            receive::<SockaddrIn6, N, ASKED>(socket, space, self.fixed, batch, |peer| {
                SocketAddrV6::new(peer.ip(), peer.port(), peer.flowinfo(), peer.scope_id()).into()
            })
        } else {
            let space = cmsg_space!(in_pktinfo, u8, i32);
            receive::<SockaddrIn, N, ASKED>(socket, space, self.fixed, batch, |peer| {
                SocketAddrV4::new(peer.ip(), peer.port()).into()
            })
        }
    }

    /// Sends as many of the next messages as one system call can. `ends[i]` is set to where the
    /// i-th of them ends in the batch. Returns how many were sent.
    pub(super) fn send(
        &self,
        socket: &UdpSocket,
        batch: &Batch,
        ends: &mut [usize; LIMIT],
    ) -> io::Result<usize> {
        let at = batch.answered;
        if let [received] = &batch.received[at..] {
            ends[0] = at + 1;
            let slice = [IoSlice::new(batch.payload(received))];
            return self.send_message(socket, &slice, received.peer, received.ancillary);
        }
        if self.fixed.is_some() {
            let run = batch.without_ancillary(at);
            if run.len() > 1 {
                for (message_end, i) in ends.iter_mut().zip(run.clone()) {
                    *message_end = i + 1;
                }
                return send_without_ancillary(socket, batch, &batch.received[run]);
            }
        }
        let received = &batch.received[at];
        let end = batch.train(at);
        ends[0] = end;
        if end == at + 1 {
            let slice = [IoSlice::new(batch.payload(received))];
            return self.send_message(socket, &slice, received.peer, received.ancillary);
        }
        let mut slices = [IoSlice::new(&[]); LIMIT];
        for (slice, received) in slices.iter_mut().zip(&batch.received[at..end]) {
            *slice = IoSlice::new(batch.payload(received));
        }
        let ancillary = Ancillary { segment: received.length as u16, ..received.ancillary };
        self.send_message(socket, &slices[..end - at], received.peer, ancillary)
    }

    /// Sends one datagram by itself.
    pub(super) fn send_one(
        &self,
        socket: &UdpSocket,
        payload: &[u8],
        peer: SocketAddr,
        ancillary: Ancillary,
    ) -> io::Result<()> {
        let slice = [IoSlice::new(payload)];
        let ancillary = Ancillary { segment: 0, ..ancillary };
        self.send_message(socket, &slice, peer, ancillary).map(drop)
    }

    /// Sends one message: a datagram, or a train if its ancillary data has a segment size. Returns
    /// that one was sent.
    fn send_message(
        &self,
        socket: &UdpSocket,
        payload: &[IoSlice<'_>],
        peer: SocketAddr,
        ancillary: Ancillary,
    ) -> io::Result<usize> {
        let Ancillary { source, interface, tos, segment } = ancillary;
        let shape = match ancillary {
            Ancillary { segment: 1.., .. } => 2,
            Ancillary { tos: 0, .. } if self.fixed.is_some() => 0,
            _ => 1,
        };
        let used = [0, 2, 3][shape];
        let mut headers = HEADERS.take().unwrap_or_default();
        let sent = if self.is_v6 {
            let source = to_v6(source);
            let interface = if source.is_unicast_link_local() { interface } else { 0 };
            let info = in6_pktinfo {
                ipi6_addr: in6_addr { s6_addr: source.octets() },
                ipi6_ifindex: interface,
            };
            let class = i32::from(tos);
            let control = [
                ControlMessage::Ipv6PacketInfo(&info),
                if source.to_ipv4_mapped().is_some() {
                    ControlMessage::Ipv4Tos(&tos)
                } else {
                    ControlMessage::Ipv6TClass(&class)
                },
                ControlMessage::UdpGsoSegments(&segment),
            ];
            let peer = match peer {
                SocketAddr::V6(peer) => SockaddrIn6::from(peer),
                SocketAddr::V4(peer) => {
                    SocketAddrV6::new(peer.ip().to_ipv6_mapped(), peer.port(), 0, 0).into()
                }
            };
            send(socket, &mut headers.v6[shape], payload, peer, &control[..used])
        } else {
            let (IpAddr::V4(source), SocketAddr::V4(peer)) = (source, peer) else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
                ipi_addr: in_addr { s_addr: 0 },
            };
            let control = [
                ControlMessage::Ipv4PacketInfo(&info),
                ControlMessage::Ipv4Tos(&tos),
                ControlMessage::UdpGsoSegments(&segment),
            ];
            send(socket, &mut headers.v4[shape], payload, SockaddrIn::from(peer), &control[..used])
        };
        HEADERS.set(Some(headers));
        sent
    }
}

/// Whether a train may have been refused for being one, so that its datagrams can be sent one by
/// one: the path's MTU is smaller than the segments, or the device does not support UDP_SEGMENT.
pub(super) fn is_segmentation_error(error: &io::Error) -> bool {
    use nix::libc::{EINVAL, EIO, EMSGSIZE, EOPNOTSUPP};
    matches!(error.raw_os_error(), Some(EINVAL | EIO | EMSGSIZE | EOPNOTSUPP))
}

/// A thread's headers for sending. nix always sends all of the control space that headers have, so
/// each set of control messages has its own headers: none; address and TOS; address, TOS and
/// segment.
#[derive(Debug)]
struct Headers {
    v4: [MultiHeaders<SockaddrIn>; 3],
    v6: [MultiHeaders<SockaddrIn6>; 3],
}

impl Default for Headers {
    fn default() -> Self {
        let v4 = [None, Some(cmsg_space!(in_pktinfo, u8)), Some(cmsg_space!(in_pktinfo, u8, u16))];
        let v6 =
            [None, Some(cmsg_space!(in6_pktinfo, i32)), Some(cmsg_space!(in6_pktinfo, i32, u16))];
        Headers {
            v4: v4.map(|space| MultiHeaders::preallocate(1, space)),
            v6: v6.map(|space| MultiHeaders::preallocate(1, space)),
        }
    }
}

thread_local! {
    static HEADERS: Cell<Option<Box<Headers>>> = const { Cell::new(None) };
}

fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn send<S: SockaddrLike + Copy>(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<S>,
    payload: &[IoSlice<'_>],
    peer: S,
    control: &[ControlMessage<'_>],
) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT;
    // The results are not looked at: the call fails if the first message was not sent.
    sendmmsg(socket.as_raw_fd(), headers, &[payload], [Some(peer)], control, flags)?;
    Ok(1)
}

/// Sends datagrams that need no control message. Returns how many were sent. It is out of line because
/// a single datagram would pay for its arrays.
#[inline(never)]
fn send_without_ancillary(
    socket: &UdpSocket,
    batch: &Batch,
    datagrams: &[Received],
) -> io::Result<usize> {
    let at = |i: usize| datagrams.get(i).unwrap_or(&Received::NOTHING);
    let peers: [_; LIMIT] = array::from_fn(|i| SocketAddrAny::from(at(i).peer));
    let slices: [_; LIMIT] = array::from_fn(|i| [IoSlice::new(batch.payload(at(i)))]);
    let mut control: [_; LIMIT] = array::from_fn(|_| SendAncillaryBuffer::default());
    let mut addressed = peers.iter().zip(&slices);
    let mut messages = control.each_mut().map(|none| {
        let (peer, slice) = addressed.next().expect("the three arrays have one length");
        MMsgHdr::new_with_addr(peer, slice, none)
    });
    Ok(rustix::net::sendmmsg(socket, &mut messages[..datagrams.len()], SendFlags::DONTWAIT)?)
}

fn receive<S: SockaddrLike + Copy, const N: usize, const ASKED: bool>(
    socket: &UdpSocket,
    space: Vec<u8>,
    fixed: Option<IpAddr>,
    batch: &mut Batch,
    address: fn(S) -> SocketAddr,
) -> io::Result<usize> {
    let mut headers = MultiHeaders::<S>::preallocate(N, Some(space));
    let (mut slots, received) = batch.begin();
    let mut slices: [[IoSliceMut<'_>; 1]; N] =
        std::array::from_fn(|_| [IoSliceMut::new(slots.next().unwrap_or_default())]);
    let messages =
        recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)?;
    for (slot, message) in messages.enumerate() {
        let mut datagram = Received { slot, length: message.bytes, ..Received::NOTHING };
        datagram.ancillary.source = fixed.unwrap_or(datagram.ancillary.source);
        if let Some(peer) = message.address {
            datagram.peer = address(peer);
        }
        for control in message.cmsgs()? {
            apply::<ASKED>(&mut datagram, control);
        }
        received.push(datagram);
    }
    Ok(received.len())
}

/// Records the content of one control message in `datagram`.
fn apply<const ASKED: bool>(datagram: &mut Received, control: ControlMessageOwned) {
    let ancillary = &mut datagram.ancillary;
    let v4 = |address: in_addr| IpAddr::V4(Ipv4Addr::from(address.s_addr.to_ne_bytes()));
    match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            ancillary.source = v4(info.ipi_addr);
            ancillary.interface = info.ipi_ifindex as u32;
            // For broadcast and multicast, ipi_spec_dst is a local address and differs from the
            // destination. It is 0 if the datagram came before IP_PKTINFO was set.
            let ours = info.ipi_spec_dst.s_addr;
            datagram.is_to_many |= ours != 0 && ours != info.ipi_addr.s_addr;
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => {
            let asked = Ipv6Addr::from(info.ipi6_addr.s6_addr);
            ancillary.source = IpAddr::V6(asked);
            ancillary.interface = info.ipi6_ifindex;
            datagram.is_to_many |= asked.is_multicast();
        }
        ControlMessageOwned::Ipv4Tos(tos) => ancillary.tos = tos,
        ControlMessageOwned::Ipv6TClass(class) => ancillary.tos = class as u8,
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) if ASKED => {
            datagram.ttl = u8::try_from(ttl).ok();
        }
        ControlMessageOwned::UdpGroSegments(size) if (size as usize) < datagram.length => {
            ancillary.segment = size as u16;
        }
        _ => {}
    }
}
