//! The floor for TCP on io_uring: one thread, one ring, no runtime. Accepting and receiving are
//! multishot, received bytes come in buffers that the ring was provided with, and a buffer is sent
//! from where it lies.
//!
//! It is to show what io_uring can give, and does not do all that a server has to: a peer that sends
//! and does not read can take all buffers, for a multishot receive goes on until it is cancelled.
//!
//! All `unsafe` is in this file, of three kinds: entries of the submission queue, whose pointers have
//! to stay valid until their completion; the ring of buffers, which the kernel reads; and the buffers,
//! which the kernel writes. [`Buffers`] owns both for as long as the process lives.
#![expect(unsafe_code, reason = "io_uring shares memory with the kernel")]

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::process::{Resource, getrlimit};

/// Entries of the submission queue, and of the completion queue.
const SUBMISSIONS: u32 = 4096;
const COMPLETIONS: u32 = 4 * SUBMISSIONS;

/// The buffers, a power of two of them. The kernel takes them in turn, and so each out of cold memory
/// if there are many: with 64 MiB of them, an echo of 16 KiB took 1.4 to 1.9 times bare epoll's CPU.
const BUFFERS: u16 = 512;
const SIZE: usize = 16 * 1024;

/// The number of the group of buffers. There is only one.
const GROUP: u16 = 0;

/// The most connections. The kernel allows no table that is larger than the limit on descriptors.
const CONNECTIONS: u32 = 32 * 1024;

/// Whether the kernel offers what is needed. A container's seccomp filter often refuses it.
pub fn check() -> Result<(), String> {
    Floor::new().map(drop).map_err(|error| {
        format!(
            "{error}; it needs Linux 6.1, kernel.io_uring_disabled = 0, \
             and a container whose seccomp profile permits io_uring_setup"
        )
    })
}

pub fn serve() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    // Accepted sockets inherit it.
    set_tcp_nodelay(&listener, true)?;
    let mut floor = Floor::new()?;
    super::announce(listener.local_addr()?)?;
    floor.accept(&listener)?;
    let mut completed = Vec::with_capacity(COMPLETIONS as usize);
    loop {
        // One system call submits what the last turn asked for, and waits for the next completion.
        match floor.ring.submit_and_wait(1) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        completed.extend(floor.ring.completion());
        for entry in completed.drain(..) {
            floor.complete(&entry, &listener)?;
        }
        floor.rearm()?;
    }
}

/// What a completion is of. The upper half of its user data; the lower half is the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Accept,
    Receive,
    Send,
    /// A shutdown or a close, whose results change nothing.
    End,
}

impl Kind {
    fn mark(self, slot: u32) -> u64 {
        (self as u64) << 32 | u64::from(slot)
    }

    fn of(mark: u64) -> Kind {
        match mark >> 32 {
            0 => Kind::Accept,
            1 => Kind::Receive,
            2 => Kind::Send,
            _ => Kind::End,
        }
    }
}

struct Floor {
    ring: IoUring,
    buffers: Buffers,
    /// Indexed by slot of the ring's table of sockets.
    peers: Vec<Peer>,
    /// Peers whose receive ended for lack of a buffer.
    starved: Vec<u32>,
}

#[derive(Default)]
struct Peer {
    /// Received and not sent yet: buffers, and how many bytes are in each. The first is being sent.
    owed: VecDeque<(u16, u32)>,
    /// The multishot receive has ended for good.
    is_over: bool,
    /// The peer takes nothing any more.
    is_broken: bool,
}

impl Floor {
    fn new() -> io::Result<Floor> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let slots = CONNECTIONS.min(u32::try_from(limit).unwrap_or(u32::MAX));
        ring.submitter().register_files_sparse(slots)?;
        let buffers = Buffers::register(&ring)?;
        let peers = (0..slots).map(|_| Peer::default()).collect();
        Ok(Floor { ring, buffers, peers, starved: Vec::new() })
    }

    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true);
        self.push(accept.build(), Kind::Accept, 0)
    }

    fn receive(&mut self, slot: u32) -> io::Result<()> {
        self.push(opcode::RecvMulti::new(Fixed(slot), GROUP).build(), Kind::Receive, slot)
    }

    /// Sends the first buffer that is owed. With MSG_WAITALL the kernel goes on until all of it is
    /// sent.
    fn send(&mut self, slot: u32) -> io::Result<()> {
        let Some((buffer, length)) = self.peers[slot as usize].owed.front() else { return Ok(()) };
        let flags = libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
        let send = opcode::Send::new(Fixed(slot), self.buffers.at(*buffer), *length).flags(flags);
        self.push(send.build(), Kind::Send, slot)
    }

    fn push(&mut self, entry: squeue::Entry, kind: Kind, slot: u32) -> io::Result<()> {
        let entry = entry.user_data(kind.mark(slot));
        if self.ring.submission().is_full() {
            self.ring.submit()?;
        }
        // SAFETY: the only pointers are those of sends. They point into a buffer that is given back
        // to the kernel when the send has completed, and buffers live as long as the process.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.map_err(io::Error::other)
    }

    fn complete(&mut self, entry: &cqueue::Entry, listener: &TcpListener) -> io::Result<()> {
        let slot = entry.user_data() as u32;
        let has_more = cqueue::more(entry.flags());
        match Kind::of(entry.user_data()) {
            Kind::Accept => {
                if let Ok(slot) = u32::try_from(entry.result()) {
                    self.peers[slot as usize] = Peer::default();
                    self.receive(slot)?;
                }
                if has_more { Ok(()) } else { self.accept(listener) }
            }
            Kind::Receive => self.received(slot, entry, has_more),
            Kind::Send => {
                let peer = &mut self.peers[slot as usize];
                let sent = peer.owed.pop_front();
                self.buffers.put(sent.map(|(buffer, _)| buffer));
                // All of it, or an error: MSG_WAITALL.
                let is_sent = sent.is_some_and(|(_, length)| entry.result() == length as i32);
                if !is_sent && !peer.is_broken {
                    self.give_up(slot)?;
                }
                self.go_on(slot)
            }
            Kind::End => Ok(()),
        }
    }

    fn received(&mut self, slot: u32, entry: &cqueue::Entry, has_more: bool) -> io::Result<()> {
        let peer = &mut self.peers[slot as usize];
        let buffer = cqueue::buffer_select(entry.flags());
        self.buffers.out += u16::from(buffer.is_some());
        match (entry.result(), buffer) {
            (1.., Some(buffer)) if !peer.is_broken => {
                peer.owed.push_back((buffer, entry.result() as u32));
                if peer.owed.len() == 1 {
                    self.send(slot)?;
                }
            }
            (_, buffer) => self.buffers.put(buffer),
        }
        if has_more {
            return Ok(());
        }
        if entry.result() > 0 || entry.result() == -libc::ENOBUFS {
            // The receive ended, the stream did not. It begins anew behind this turn, when buffers
            // have come back.
            self.starved.push(slot);
            return Ok(());
        }
        self.peers[slot as usize].is_over = true;
        if self.peers[slot as usize].owed.is_empty() { self.close(slot) } else { Ok(()) }
    }

    /// Ends the receive of a peer that takes nothing any more.
    fn give_up(&mut self, slot: u32) -> io::Result<()> {
        let peer = &mut self.peers[slot as usize];
        peer.is_broken = true;
        let owed: Vec<_> = peer.owed.drain(..).collect();
        for (buffer, _) in owed {
            self.buffers.put(Some(buffer));
        }
        let shutdown = opcode::Shutdown::new(Fixed(slot), libc::SHUT_RDWR);
        self.push(shutdown.build(), Kind::End, slot)
    }

    /// Sends what is owed next, or closes if there will be nothing.
    fn go_on(&mut self, slot: u32) -> io::Result<()> {
        let peer = &self.peers[slot as usize];
        match (peer.owed.is_empty(), peer.is_over) {
            (false, _) => self.send(slot),
            (true, true) => self.close(slot),
            (true, false) => Ok(()),
        }
    }

    fn close(&mut self, slot: u32) -> io::Result<()> {
        self.push(opcode::Close::new(Fixed(slot)).build(), Kind::End, slot)
    }

    /// Receives again where there was no buffer. If there still is none, sends are on their way whose
    /// completions bring some.
    fn rearm(&mut self) -> io::Result<()> {
        self.buffers.publish();
        if self.buffers.out < BUFFERS {
            for slot in std::mem::take(&mut self.starved) {
                self.receive(slot)?;
            }
        }
        Ok(())
    }
}

/// The buffers, and the ring in which the kernel finds those that are free.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    memory: NonNull<u8>,
    /// Where the next buffer that comes back is put.
    tail: u16,
    /// How many the kernel has filled that have not come back.
    out: u16,
}

impl Buffers {
    fn register(ring: &IoUring) -> io::Result<Buffers> {
        // The kernel asks for a ring that begins with a page.
        let page = rustix::param::page_size();
        let entries = allocate(usize::from(BUFFERS) * size_of::<BufRingEntry>(), page).cast();
        let memory = allocate(usize::from(BUFFERS) * SIZE, page);
        // SAFETY: the memory has room for that many entries, and is never freed.
        unsafe {
            let address = entries.as_ptr() as u64;
            ring.submitter().register_buf_ring_with_flags(address, BUFFERS, GROUP, 0)?;
        }
        let mut buffers = Buffers { entries, memory, tail: 0, out: BUFFERS };
        (0..BUFFERS).for_each(|buffer| buffers.put(Some(buffer)));
        buffers.publish();
        Ok(buffers)
    }

    fn at(&self, buffer: u16) -> *const u8 {
        self.start_of(buffer).as_ptr()
    }

    fn start_of(&self, buffer: u16) -> NonNull<u8> {
        debug_assert!(buffer < BUFFERS);
        // SAFETY: there are that many buffers.
        unsafe { self.memory.add(usize::from(buffer) * SIZE) }
    }

    /// Takes back a buffer. The kernel sees it with the next [`publish`](Buffers::publish).
    fn put(&mut self, buffer: Option<u16>) {
        let Some(buffer) = buffer else { return };
        let start = self.start_of(buffer);
        // SAFETY: the place is within the ring, and the kernel does not read it before the tail has
        // passed it: no more buffers are in the ring than it has places.
        let entry = unsafe { self.entries.add(usize::from(self.tail % BUFFERS)).as_mut() };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(SIZE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
        self.out -= 1;
    }

    /// Shows the kernel what has come back.
    fn publish(&mut self) {
        // SAFETY: the tail is a field of the first entry, aligned, and the kernel only reads it.
        let tail = unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr());
            AtomicU16::from_ptr(tail.cast_mut())
        };
        tail.store(self.tail, Ordering::Release);
    }
}

/// Zeroed memory that is never freed.
fn allocate(length: usize, align: usize) -> NonNull<u8> {
    let layout = Layout::from_size_align(length, align).expect("a page's size is a power of two");
    // SAFETY: the length is not 0.
    NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap_or_else(|| handle_alloc_error(layout))
}
