//! The floor for TCP: epoll, read, write, on one thread and without a runtime.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// The most events for one epoll_wait.
const EVENTS: usize = 1024;

/// The listener's epoll data. A connection's is its descriptor.
const LISTENER: u64 = u64::MAX;

pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    // Level-triggered, so an echo takes one read and one write, without a read that gets EAGAIN.
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    super::announce(listener.local_addr()?)?;
    let mut floor = Floor { epoll, peers: Vec::new(), buffer: vec![0; 64 * 1024] };
    let mut events = Vec::<Event>::with_capacity(EVENTS);
    loop {
        events.clear();
        epoll::wait(&floor.epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                LISTENER => floor.accept_all(&listener)?,
                descriptor => floor.echo(descriptor as usize),
            }
        }
    }
}

struct Floor {
    epoll: OwnedFd,
    /// Indexed by descriptor, since these are small numbers.
    peers: Vec<Option<Peer>>,
    buffer: Vec<u8>,
}

struct Peer {
    stream: TcpStream,
    /// What the peer has not taken yet. Meanwhile nothing is read from it.
    owed: Vec<u8>,
}

impl Floor {
    fn accept_all(&mut self, listener: &TcpListener) -> io::Result<()> {
        loop {
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let descriptor = stream.as_raw_fd() as usize;
            epoll::add(
                &self.epoll,
                &stream,
                EventData::new_u64(descriptor as u64),
                EventFlags::IN,
            )?;
            if self.peers.len() <= descriptor {
                self.peers.resize_with(descriptor + 1, || None);
            }
            self.peers[descriptor] = Some(Peer { stream, owed: Vec::new() });
        }
    }

    /// Reads once and writes once. At its end or on an error the peer is dropped, and closing its
    /// socket removes it from epoll.
    fn echo(&mut self, descriptor: usize) {
        let Some(peer) = &mut self.peers[descriptor] else { return };
        let had_owed = !peer.owed.is_empty();
        if peer.turn(&mut self.buffer).is_err() {
            self.peers[descriptor] = None;
            return;
        }
        let has_owed = !peer.owed.is_empty();
        if had_owed != has_owed {
            let wanted = if has_owed { EventFlags::OUT } else { EventFlags::IN };
            let mark = EventData::new_u64(descriptor as u64);
            if epoll::modify(&self.epoll, &peer.stream, mark, wanted).is_err() {
                self.peers[descriptor] = None;
            }
        }
    }
}

impl Peer {
    fn turn(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        if !self.owed.is_empty() {
            let sent = unless_blocked(self.stream.write(&self.owed))?;
            self.owed.drain(..sent);
            if self.owed.is_empty() {
                self.owed = Vec::new();
            }
            return Ok(());
        }
        let length = match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            result => unless_blocked(result)?,
        };
        if length > 0 {
            let sent = unless_blocked(self.stream.write(&buffer[..length]))?;
            self.owed.extend_from_slice(&buffer[sent..length]);
        }
        Ok(())
    }
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
        result => result,
    }
}
