//! The floor for UDP: batches in, batches out, no runtime, and a thread that waits in the kernel.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};

/// Datagrams in a batch.
const BATCH: usize = 32;

/// The largest datagram.
const SIZE: usize = 64 * 1024;

pub fn serve() -> io::Result<()> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    super::announce(socket.local_addr()?)?;
    let mut buffers = vec![vec![0; SIZE]; BATCH];
    // Receiving and sending need separate headers: sendmmsg leaves pointers to its addresses in
    // them, and recvmmsg would write there.
    let mut headers_in = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut headers_out = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut received: Vec<(usize, Option<SockaddrIn>)> = Vec::with_capacity(BATCH);
    loop {
        receive(&socket, &mut headers_in, &mut buffers, &mut received)?;
        send(&socket, &mut headers_out, &buffers, &received)?;
    }
}

/// Waits for a datagram, and receives all that have come by then.
fn receive(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    buffers: &mut [Vec<u8>],
    received: &mut Vec<(usize, Option<SockaddrIn>)>,
) -> io::Result<()> {
    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let flags = MsgFlags::MSG_WAITFORONE;
    let messages = recvmmsg(socket.as_raw_fd(), headers, slices.iter_mut(), flags, None)?;
    received.clear();
    received.extend(messages.map(|message| (message.bytes, message.address)));
    Ok(())
}

/// Sends back what was received.
fn send(
    socket: &UdpSocket,
    headers: &mut MultiHeaders<SockaddrIn>,
    buffers: &[Vec<u8>],
    received: &[(usize, Option<SockaddrIn>)],
) -> io::Result<()> {
    let slices: Vec<_> = received
        .iter()
        .zip(buffers)
        .map(|((length, _), b)| [IoSlice::new(&b[..*length])])
        .collect();
    let addresses: Vec<_> = received.iter().map(|(_, address)| *address).collect();
    let mut sent = 0;
    while sent < received.len() {
        let rest = (slices[sent..].iter(), &addresses[sent..]);
        let flags = MsgFlags::empty();
        sent += sendmmsg(socket.as_raw_fd(), headers, rest.0, rest.1, [], flags)?.count();
    }
    Ok(())
}
